//! The pair as real processes over real sockets.

mod admin;
mod api_docs;
mod bad_input;
mod call;
mod channel;
mod context;
mod cors;
mod drain;
mod failures;
mod floors;
mod goodbye;
mod items;
mod limits;
mod log;
mod matrix;
mod names;
mod overload;
mod page;
mod readme;
mod run;
mod shared_connection;
mod sources;
mod start;
mod trace;
mod units;
mod user_metrics;
