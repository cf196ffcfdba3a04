//! hyper's settings for a connection: HTTP/1.1 or HTTP/2, whichever the client speaks.

use hyper_util::{rt::TokioTimer, server::conn::auto};

use super::streams::Streams;
use crate::{limits, protocol::Protocol};

/// For connections to a port for this protocol, in a process that may have `max_in_flight` requests in
/// flight.
pub(crate) fn builder(protocol: Protocol, max_in_flight: usize) -> auto::Builder<Streams> {
    let max_streams = match protocol {
        Protocol::Http => limits::MAX_STREAMS,
        Protocol::Grpc => u32::try_from(max_in_flight)
            .unwrap_or(u32::MAX)
            .clamp(limits::MAX_STREAMS, limits::MAX_GRPC_STREAMS),
    };
    // Room for all streams of a connection: requests that no handler reads must not stop the
    // others. Half of it is the memory for small frames that wait to be read (RUSTSEC-2026-0258),
    // which h2 derives from it, as hyper has no setting.
    let connection_window = limits::STREAM_WINDOW * max_streams;
    // Streams that a client opened and reset before they were served; more is an attack
    // (CVE-2023-44487, "rapid reset"). A peer whose calls all reach their deadline at once is none,
    // as it resets no more than it may have in flight.
    let max_pending_resets = max_streams as usize;
    let mut builder = auto::Builder::new(Streams);
    builder
        .http1()
        .max_buf_size(limits::HTTP1_BUFFER)
        // `Drive` has a timeout for heads that does not run while a connection idles.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(limits::READ_HEAD)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_pending_accept_reset_streams(max_pending_resets)
        .max_local_error_reset_streams(limits::MAX_LOCAL_ERROR_RESETS)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT);
    builder
}
