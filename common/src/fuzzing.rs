//! What the fuzzer of this repository (`fuzz/`) needs of the inside. It is no part of the API.

pub use crate::telemetry::logging::fuzzing::log_line;
