//! The pool: the replicas of a service as one worker sees them, and the choice among them.
//!
//! | file | contents |
//! |---|---|
//! | `state` | the state of a replica, and the events that change it |
//! | `members` | the replicas by state, and the pick |
//! | `balance` | the members, shared by tasks and calls, and the calls that wait for a replica |
//! | `cost` | the cost of one more call on a replica |
//! | `replica` | a connected replica, and what each response says about it |
//! | `keeper` | the task that keeps a replica connected |
//! | `question` | when a replica gets a health check, and what its response says |
//! | `discovery` | from names to addresses, and how many of them a worker connects to |
//! | `backoff` | pauses that grow |

mod backoff;
mod balance;
mod cost;
mod discovery;
mod keeper;
mod members;
mod question;
mod replica;
mod state;

pub(super) use self::{
    backoff::Backoff,
    balance::{Balance, Waiting},
    discovery::{Names, Share, keep_replicas},
    keeper::keep_io,
    replica::{Measured, Replica, ReplicaBody},
};
