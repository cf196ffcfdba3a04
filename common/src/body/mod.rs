//! Bodies and futures that both stacks wrap around others.

pub(crate) mod deadline;
pub(crate) mod wrappers;
