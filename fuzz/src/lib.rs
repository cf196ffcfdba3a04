//! What holds for any input of a client: a module a fuzz target. `tests/tests/corpus.rs` runs them on
//! the committed inputs.

pub mod grpc_timeout;
pub mod log_line;
pub mod query;
pub mod request_id;
pub mod stack;
pub mod target;
