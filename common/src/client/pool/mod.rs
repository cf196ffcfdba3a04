//! The pool: the replicas of a service as one worker sees them, and which of them a call goes to.
//!
//! | file | what is in it |
//! |---|---|
//! | `state` | what can be true of a replica, and what changes it |
//! | `members` | the replicas by state, and the pick |
//! | `balance` | what keepers and calls see of them; calls that wait for a replica |
//! | `cost` | how dear one more call on a replica is |
//! | `replica` | one replica that is up; what each response says about it |
//! | `keeper` | the task that keeps a replica connected |
//! | `question` | when a replica is asked whether it is there, and what its reply says |
//! | `discovery` | names to addresses, and how many of them a worker connects to |
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
    discovery::{Names, Share, keep},
    keeper::keep_io,
    replica::{Replica, ReplicaBody},
};
