//! One connection: HTTP/1.1 or HTTP/2, whichever the client speaks, within limits.

use std::time::Duration;

use hyper_util::{rt::TokioTimer, server::conn::auto};

use super::streams::Streams;
use crate::protocol::Protocol;

/// A client that does not respond to an HTTP/2 PING is given up, also while it asks for nothing.
/// Clients do not mind PINGs, as servers do (gRFC A8).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests in flight on one HTTP/2 connection for HTTP. The usual 100 to 250 would make a proxy
/// queue that sends all its traffic over few of them; and one connection can't fill the limit of
/// requests in flight.
///
/// On a gRPC port a connection may have all of them, [`MAX_CALLS`] at most: a service is called by
/// few others, who would queue the calls of all their clients behind those of the slowest. Who has
/// to give way is decided at the limit, where it is known who takes nothing.
const MAX_CONCURRENT_STREAMS: u32 = 512;
const MAX_CALLS: u32 = 16_384;

/// The head of a request that is read, in bytes. One over [`HEAD_LIMIT`](super::head::HEAD_LIMIT)
/// is refused by the stack; one over this is answered with 431 by hyper, without an id or a line.
const MAX_HEADER_LIST_SIZE: u32 = 64 * 1_024;

/// The same over HTTP/1.1: what is read ahead of a connection, and what waits to be written to it.
/// hyper's own 400 KB would be for each slow client.
const MAX_HTTP1_BUFFER: usize = 24 * 1_024;

/// Bytes that a request may send before its handler reads them.
const STREAM_WINDOW: u32 = 64 * 1_024;

/// Streams that we reset for a client's errors; more is an attack (CVE-2025-8671, "made you
/// reset").
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;

/// Bytes that a stream may have waiting for a slow reader.
const MAX_SEND_BUFFER: usize = 64 * 1_024;

/// What a connection is served with, to a port for this protocol of a process that may have so many
/// requests in flight.
pub(super) fn builder(protocol: Protocol, max_in_flight: usize) -> auto::Builder<Streams> {
    let max_streams = match protocol {
        Protocol::Http => MAX_CONCURRENT_STREAMS,
        Protocol::Grpc => u32::try_from(max_in_flight)
            .unwrap_or(u32::MAX)
            .clamp(MAX_CONCURRENT_STREAMS, MAX_CALLS),
    };
    // Room for all streams of a connection: requests that no handler reads must not stop the
    // others. Half of it is the memory for small frames that wait to be read (RUSTSEC-2026-0258),
    // which h2 derives from it, as hyper has no setting.
    let connection_window = STREAM_WINDOW * max_streams;
    // Streams that a client opened and reset before they were served; more is an attack
    // (CVE-2023-44487, "rapid reset"). A peer whose calls all reach their deadline at once is none,
    // as it resets no more than it may have in flight.
    let max_pending_resets = max_streams as usize;
    let mut builder = auto::Builder::new(Streams);
    builder
        .http1()
        .max_buf_size(MAX_HTTP1_BUFFER)
        // `Drive` has a timeout for heads that does not run while a connection idles.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADER_LIST_SIZE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_pending_accept_reset_streams(max_pending_resets)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESET_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
