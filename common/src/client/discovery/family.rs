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

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [&str; 2] = ["192.0.2.1:1", "192.0.2.2:1"];
    const V6: [&str; 2] = ["[2001:db8::1]:1", "[2001:db8::2]:1"];

    fn addresses(families: &[[&str; 2]]) -> Vec<SocketAddr> {
        let all = families.iter().flatten();
        all.map(|one| one.parse().unwrap()).collect()
    }

    /// The families that are chosen while those of `states` are in another state than connecting.
    fn choose(
        family: &mut Family,
        states: &[(&str, State)],
        now: Instant,
    ) -> (Vec<String>, Option<Instant>) {
        let all = addresses(&[V4, V6]);
        let state = |address: &SocketAddr| {
            let known = states.iter().find(|(one, _)| *one == address.to_string());
            known.map_or(State::Connecting, |(_, state)| *state)
        };
        let (chosen, again) = family.choose(&all, state, now);
        (chosen.iter().map(ToString::to_string).collect(), again)
    }

    #[test]
    fn ipv4_is_tried_alone_for_a_moment_and_then_both_are() {
        let (mut family, now) = (Family::default(), Instant::now());
        let until = now + HEAD_START;
        for (at, expected) in [
            (now, (V4.to_vec(), Some(until))),
            (until - Duration::from_millis(1), (V4.to_vec(), Some(until))),
            (until, ([V4, V6].concat(), None)),
        ] {
            let (chosen, again) = choose(&mut family, &[], at);
            assert_eq!((chosen.iter().map(|it| &**it).collect(), again), expected);
        }
    }

    #[test]
    fn a_name_of_one_family_has_all_its_addresses_at_once() {
        for one in [V4, V6] {
            let all = addresses(&[one]);
            let mut family = Family::default();
            let chosen = family.choose(&all, |_| State::Connecting, Instant::now());
            assert_eq!(chosen, (&all[..], None));
        }
    }

    #[test]
    fn both_are_tried_at_once_where_no_ipv4_address_can_be_connected() {
        let (mut family, now) = (Family::default(), Instant::now());
        let one = [(V4[0], State::Unreachable)];
        assert_eq!(choose(&mut family, &one, now).0, V4, "the other one may be");
        let both = V4.map(|it| (it, State::Unreachable));
        assert_eq!(
            choose(&mut family, &both, now),
            (
                [V4, V6].concat().iter().map(ToString::to_string).collect(),
                None
            )
        );
    }

    #[test]
    fn the_family_of_a_connection_is_the_only_one_until_the_other_has_the_only_one() {
        let (mut family, now) = (Family::default(), Instant::now());
        let v4 = [(V4[1], State::Up)];
        let v6 = [(V6[0], State::Up)];
        let both = [v4[0], v6[0]];
        for (states, expected) in [
            (&v4[..], V4),
            (&both, V4),
            (&v6, V6),
            (&both, V6),
            (&v4, V4),
        ] {
            let (chosen, again) = choose(&mut family, states, now);
            assert_eq!(
                (chosen, again),
                (expected.map(str::to_owned).to_vec(), None)
            );
        }
    }

    #[test]
    fn the_head_start_begins_anew_when_the_connections_are_lost() {
        let (mut family, now) = (Family::default(), Instant::now());
        choose(&mut family, &[], now);
        choose(&mut family, &[(V4[0], State::Up)], now);
        let later = now + 2 * HEAD_START;
        let (chosen, again) = choose(&mut family, &[], later);
        assert_eq!(chosen, V4);
        assert_eq!(again, Some(later + HEAD_START));
    }
}
