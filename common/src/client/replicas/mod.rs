//! Connected replicas, and the attempts on them.
//!
//! | file | contents |
//! |---|---|
//! | `replica` | a connected replica, up to its end, and what it learns from its attempts |
//! | `attempt` | one attempt of a call, up to its response |
//! | `judged_attempt` | the attempt up to its end, and what its replica and its metrics learn from it |
//! | `body` | the body of its response: what is read ahead, and how it ends |
//! | `call_metrics` | the call as a whole, with all of its attempts |
//! | `connections` | the connections to one replica |

mod attempt;
pub(crate) mod body;
pub(crate) mod call_metrics;
pub(crate) mod connections;
mod judged_attempt;
pub(crate) mod replica;
