//! Bunyan JSON records on stdout, one a line, each with the id of its request.
//!
//! [`tracing_bunyan_formatter`] defines the format, and keeps the fields of spans: inside a span,
//! `msg` has the name of the span, and the record has the span's fields. `record` writes the same
//! JSON without the map in which the formatter collects the fields of an event (its cost:
//! bench/README.md). A test compares the two.
//!
//! Five things differ from the formatter:
//!
//! - **Spans have no lines.** The formatter would write a START and an END record for each span.
//! - **A record has at most 8 KiB**, whatever a client or a handler puts in, because Docker cuts a
//!   line at 16 KiB. A text of more than 2 KiB is cut, and ends with `…`. If there is no room for
//!   further fields, `fields_left_out` has their number.
//! - **No key comes twice**: JSON leaves open which of the two counts. A field of the event wins over
//!   that of a span.
//! - **The `request_id` field comes from the [`Context`](crate::Context)**, not from a span. So it
//!   has one source, no filter can switch it off, and a request pays for no span. It is the last
//!   field of a record; outside of a request it is `""`.
//! - **Each worker has a buffer.** The worker writes it to stdout when it runs out of work, at
//!   32 KiB, at its end and on panic. So no line waits while the worker is idle, and a
//!   line costs no system call of its own under load. Other threads write at once. A slow reader of
//!   stdout delays a write by at most 10 ms: lines that wait longer than a second are dropped and
//!   counted (`stdout`).
//!
//! Bunyan reserves the field names `name`, `msg`, `level`, `time`, `pid`, `hostname` and `v`. Each
//! record has its own `target`, `line`, `file`, `request_id`, `trace_id`, `span_id` and
//! `trace_flags`. Fields of an event or a span with one of these names are dropped.

mod dependencies;
mod filter;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod json;
mod record;
mod stdout;

pub use self::filter::{InvalidFilter, parse_filter};
pub use self::record::init;
pub(crate) use self::{
    json::Cut,
    record::{install, subscriber},
    stdout::{buffer_this_thread, finish, flush},
};
