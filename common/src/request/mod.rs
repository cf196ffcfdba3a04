//! What belongs to one request: its id, its deadline, its calls and their times, the protocol of
//! its client, and what its method declares. [`context`] carries them.

pub mod context;
pub mod deadline;
pub mod id;
pub(crate) mod methods;
pub(crate) mod protocol;
pub mod timings;
