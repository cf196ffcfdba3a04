//! For the fuzzer of this repository (`fuzz/`). Not part of the API.

pub use crate::telemetry::logging::fuzzing::log_line;
