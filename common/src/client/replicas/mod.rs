//! Connected replicas, and the attempts on them.
//!
//! | file | contents |
//! |---|---|
//! | `replica` | a connected replica, and what it learns from each attempt |
//! | `attempt` | one attempt of a call, from its start to its end |
//! | `connections` | the connections to one replica |

pub(crate) mod attempt;
pub(crate) mod connections;
pub(crate) mod replica;
