//! [`builder`]: hyper's settings for the connections of a port.

use hyper_util::{rt::TokioTimer, server::conn::auto};

use super::streams::StreamExecutor;
use crate::{limits, request::dialect::Dialect};

/// The settings for a connection with these streams to a port of this dialect. `max_in_flight` is the
/// limit of the process.
pub(crate) fn builder(
    port: &dyn Dialect,
    max_in_flight: usize,
    streams: StreamExecutor,
) -> auto::Builder<StreamExecutor> {
    let max_streams = if port.serves_mesh() {
        u32::try_from(max_in_flight)
            .unwrap_or(u32::MAX)
            .clamp(limits::MAX_STREAMS, limits::MAX_GRPC_STREAMS)
    } else {
        limits::MAX_STREAMS
    };
    // Room for the windows of all streams: requests that no handler reads must not block the
    // others. From this window h2 derives the memory for small frames that wait to be read
    // (RUSTSEC-2026-0258), half as much; hyper has no setting for it.
    let connection_window = limits::STREAM_WINDOW * max_streams;
    // StreamExecutor that the client resets before they are served. More are an attack (CVE-2023-44487,
    // "rapid reset"). A peer whose calls all reach their deadline at once resets no more streams
    // than it may have open.
    let max_pending_resets = max_streams as usize;
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .max_buf_size(limits::HTTP1_BUFFER)
        // hyper's timeout also runs while a connection is idle; that of `Lifetime` does not.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(limits::READ_HEAD)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_pending_accept_reset_streams(max_pending_resets)
        // h2 counts them over the life of a connection, which many clients of a proxy may share.
        // `StreamErrors` bounds their rate.
        .max_local_error_reset_streams(None)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    builder
}
