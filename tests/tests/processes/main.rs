//! The pair as real processes over real sockets.

mod admin;
mod api_docs;
mod bad_input;
mod call;
mod channel;
mod context;
mod drain;
mod failures;
mod items;
mod limits;
mod log;
mod overload;
mod page;
mod readme;
mod start;
