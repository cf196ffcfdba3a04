//! Connected replicas, and the attempts on them.
//!
//! | file | contents |
//! |---|---|
//! | `replica` | a connected replica |
//! | `connected` | the same, as the task that connects it follows it until its end |
//! | `learn` | what a replica learns from its attempts |
//! | `attempt` | one attempt of a call, from its start to its end |
//! | `connections` | the connections to one replica |

pub(crate) mod attempt;
pub(crate) mod connected;
pub(crate) mod connections;
mod learn;
pub(crate) mod replica;
