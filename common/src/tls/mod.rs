//! TLS: mutual between services, and with a server certificate only at the edge. New files take
//! effect without a restart.
//!
//! | file | contents |
//! |---|---|
//! | `material` | the files of a directory, checked |
//! | `generation` | the settings for rustls, from one reading of the directory |
//! | `plain_calls` | whether calls would be plain text although nobody has said so |
//! | `reload` | [`Tls`]: the last reading that passed, and the thread that looks for new files |
//! | `identity` | who a peer is, and who may call |

mod generation;
pub(crate) mod identity;
mod material;
pub(crate) mod plain_calls;
mod reload;

pub(crate) use self::{
    generation::is_of_other_name,
    identity::Peer,
    reload::{expiries, time_to_drain},
};
pub use self::{
    identity::{AllowedPeers, InvalidPeers},
    material::InvalidTls,
    reload::Tls,
};
pub use crate::request::identity::Identity;
