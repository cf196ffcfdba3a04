//! What is declared and known of a method.
//!
//! | file | contents |
//! |---|---|
//! | `called` | what a client knows of a method that it calls |
//! | `latencies` | how long a method usually takes |

pub(crate) mod called;
pub(crate) mod latencies;
