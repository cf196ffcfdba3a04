//! Connected replicas, and the attempts on them.
//!
//! | file | contents |
//! |---|---|
//! | `replica` | a connected replica, up to its end, and what it learns from its attempts |
//! | `attempt` | one attempt of a call, from its start to its end |
//! | `connections` | the connections to one replica |

pub(crate) mod attempt;
pub(crate) mod connections;
pub(crate) mod replica;
