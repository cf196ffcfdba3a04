//! Which replicas there are, and the tasks that keep them connected.
//!
//! | file | contents |
//! |---|---|
//! | `names` | the addresses of the service, looked up once for the process |
//! | `family` | IPv4 or IPv6, where a name has both |
//! | `subset` | which replicas a worker connects to, if there are more than its subset |
//! | `keeper` | the task of a worker that connects to its subset of the replicas |
//! | `reconnect` | the task that keeps a replica connected |

pub(crate) mod family;
pub(crate) mod keeper;
pub(crate) mod names;
pub(crate) mod reconnect;
pub(crate) mod subset;
