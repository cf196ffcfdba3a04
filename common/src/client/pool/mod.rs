//! The pool: the replicas of a service as one worker sees them, and the choice among them.
//!
//! | file | contents |
//! |---|---|
//! | `state` | the state of a replica, and the events that change it |
//! | `members` | the replicas by state, and the pick |
//! | `balance` | the members, shared by tasks and calls, and the calls that wait for a replica |
//! | `memory` | what the process remembers of the replicas, and which are ejected |
//! | `record` | what it remembers of one |
//! | `cost` | the cost of one more call on a replica |
//! | `replica` | a connected replica, and what it learns from each attempt |
//! | `attempt` | one attempt of a call, from its start to its end |
//! | `tally` | the successes of a worker that are still to be added to a record |
//! | `connections` | the connections to one replica |
//! | `keeper` | the task that keeps a replica connected |
//! | `names` | the addresses of the service, looked up once for the process |
//! | `discovery` | the task of a worker that connects to its share of the addresses |
//! | `family` | IPv4 or IPv6, where a name has both |
//! | `subset` | which replicas a worker connects to, if there are more than its share |
//! | `backoff` | pauses that grow |

mod attempt;
mod backoff;
mod balance;
mod connections;
mod cost;
mod discovery;
mod family;
mod keeper;
mod members;
mod memory;
mod names;
mod record;
mod replica;
mod state;
mod subset;
mod tally;

pub(super) use self::{
    attempt::{Measured, ReplicaBody},
    backoff::Backoff,
    balance::{Balance, Waiting},
    discovery::keep_replicas,
    keeper::keep_io,
    memory::Memory,
    names::Names,
    replica::Replica,
    subset::Share,
};
