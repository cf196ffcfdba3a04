//! The values of one request: its id, its deadline, its dialect, its trace, the timings of its
//! calls, its record, its log fields, and [`Context`](context::Context), which carries them; and the
//! declarations of methods.

pub(crate) mod context;
pub(crate) mod dialect;
pub(crate) mod draining;
pub(crate) mod id;
pub(crate) mod identity;
pub(crate) mod log_fields;
pub(crate) mod methods;
pub(crate) mod timings;
pub(crate) mod trace;
