//! [`Family`]: which addresses of a name are connected, if it has some of IPv4 and some of IPv6.
//!
//! Both are the addresses of the same replicas, and DNS does not tell which belong together. So one
//! family is connected at a time, and the other only where none of the first can be: an idea of
//! Happy Eyeballs (RFC 8305).

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::client::ejection::state::State;

/// The time that the first family has alone before the other one is tried (RFC 8305, 8: 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);

/// The family that a worker connects to, of a name. It begins with IPv4: in containers and clusters,
/// IPv6 is the one that is set up in part.
#[derive(Debug, Default)]
pub(crate) struct Family {
    is_v6: bool,
    /// While no address is connected: when the other family is tried as well.
    alone_until: Option<Instant>,
}

impl Family {
    /// Returns those of the `addresses` to connect now, and when to ask again if nothing changes.
    /// The addresses are sorted.
    pub(crate) fn choose<'a>(
        &mut self,
        addresses: &'a [SocketAddr],
        state: impl Fn(&SocketAddr) -> State,
        now: Instant,
    ) -> (&'a [SocketAddr], Option<Instant>) {
        let families = addresses.split_at(addresses.partition_point(SocketAddr::is_ipv4));
        if families.0.is_empty() || families.1.is_empty() {
            self.alone_until = None;
            return (addresses, None);
        }
        let has_connection =
            |of_family: &[SocketAddr]| of_family.iter().any(|one| state(one).is_connected());
        let in_order = |is_v6| match families {
            (v4, v6) if is_v6 => (v6, v4),
            both => both,
        };
        let (first, other) = in_order(self.is_v6);
        if has_connection(first) {
            self.alone_until = None;
            return (first, None);
        }
        if has_connection(other) {
            *self = Self {
                is_v6: !self.is_v6,
                alone_until: None,
            };
            return (other, None);
        }
        let until = *self.alone_until.get_or_insert(now + HEAD_START);
        let is_hopeless = first.iter().all(|one| state(one) == State::Unreachable);
        if is_hopeless || until <= now {
            (addresses, None)
        } else {
            (first, Some(until))
        }
    }
}
