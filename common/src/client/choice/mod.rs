//! The choice of a replica for an attempt.
//!
//! | file | contents |
//! |---|---|
//! | `balancer` | the replicas, shared by tasks and calls, and the calls that wait for a replica |
//! | `replica_set` | the replicas by state, and the pick |
//! | `cost` | the cost of one more call on a replica |

pub(crate) mod balancer;
pub(crate) mod cost;
pub(crate) mod replica_set;
