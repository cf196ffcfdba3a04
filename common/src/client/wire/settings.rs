//! The settings of h2's client, each with its reason. h2's defaults are those of a browser, whose
//! peers are not trusted and whose connections are short; a replica is trusted, and its connection
//! carries the calls of thousands of clients for days.
//!
//! | setting | value | reason |
//! |---|---|---|
//! | `initial_window_size` | [`RESPONSE_WINDOW`](limits::RESPONSE_WINDOW) | the speed of one stream, and the memory of a response that nobody reads |
//! | `initial_connection_window_size` | [`CONNECTION_WINDOW`](limits::CONNECTION_WINDOW) | a response that nobody reads stops no other one |
//! | `data_frame_budget` | [`DATA_FRAME_BUDGET`](limits::DATA_FRAME_BUDGET) | small messages that nobody reads end no connection; half of the window would be 1 GB |
//! | `max_header_list_size` | [`RESPONSE_HEAD`](limits::RESPONSE_HEAD), in place of 16 MB | memory. h2 fails a call with a longer response head by a *local* `PROTOCOL_ERROR` (proto/streams/streams.rs:580), cuts longer trailers without a word (proto/streams/recv.rs:430), and ends the connection at four times as much (frame/headers.rs:877) |
//! | `max_local_error_reset_streams` | none, in place of 1,024 | counts over the life of the connection (proto/streams/counts.rs:167), and late frames of calls that were given up count: impatient clients would end the calls of all others |
//! | `max_concurrent_reset_streams` | [`REMEMBERED_RESETS`](limits::REMEMBERED_RESETS), in place of 50 | h2 ignores late frames of the calls that it remembers, and answers those of others with a reset each (proto/streams/streams.rs:500, 630) |
//! | `reset_stream_duration` | 1 s, the default | late frames come within a round trip of the reset. Later ones, of a replica that stood still, cost a reset each and nothing else |
//! | `initial_max_send_streams` | no limit, the default | no call leaves before the reply to the first health check, which follows the replica's own settings |
//! | `max_send_buffer_size` | [`SEND_BUFFER`](limits::SEND_BUFFER), in place of 400 KB | the memory of an upload to a slow replica, as of a download to a slow client |
//! | `enable_push` | off | nobody reads what is pushed |
//! | `max_concurrent_streams`, `max_pending_accept_reset_streams` | the defaults | they bound pushed streams |
//! | `max_frame_size` | 16 KiB, the default | longer frames keep the other streams waiting |
//! | `header_table_size` | 4 KiB, the default | holds the names that repeat |
//!
//! h2 has one more limit without a setting: 100 DATA frames without data in the life of a connection
//! (`MAX_RECV_EMPTY_DATA_FRAMES`, proto/mod.rs:40). The calls on the connection fail then.

use h2::client::Builder;

use crate::limits;

/// The settings of each connection.
pub(crate) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits::RESPONSE_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .data_frame_budget(limits::DATA_FRAME_BUDGET)
        .max_header_list_size(limits::RESPONSE_HEAD)
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(limits::REMEMBERED_RESETS)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .enable_push(false);
    builder
}
