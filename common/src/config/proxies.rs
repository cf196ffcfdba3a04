//! [`TrustedProxies`]: the networks of the proxies whose word on the address of a client counts.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use http::HeaderName;

/// The networks of trusted proxies: addresses and networks in CIDR notation, separated by commas. The
/// empty text is none.
///
/// ```
/// use common::config::TrustedProxies;
///
/// let proxies: TrustedProxies = "10.0.0.0/8, 192.168.1.7, fd00::/8".parse()?;
/// assert!(proxies.contains("10.1.2.3".parse()?));
/// assert!(!proxies.contains("192.168.1.8".parse()?));
/// assert!("10.0.0.0/33".parse::<TrustedProxies>().is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies(Arc<[Network]>);

/// The text is not a list of networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network: it must be one or more of them separated by commas, such as 10.0.0.0/8, \
     fd00::/8 or 192.168.1.7"
)]
pub struct InvalidNetwork(String);

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    first: IpAddr,
    length: u32,
}

impl TrustedProxies {
    /// Whether an address is that of a trusted proxy. An IPv4 address that is mapped into IPv6 is the
    /// IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let networks = text.split(',').map(str::trim);
        let read = |text: &str| Network::read(text).ok_or_else(|| InvalidNetwork(text.to_owned()));
        networks.map(read).collect::<Result<_, _>>().map(Self)
    }
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (first, length) = match text.split_once('/') {
            Some((first, length)) => (first, Some(length)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().ok()?;
        let bits = bits_of(first).1;
        let length = match length {
            Some(length) if length.starts_with('+') => return None,
            Some(length) => length.parse().ok()?,
            None => bits,
        };
        let mapped = bits - bits_of(first.to_canonical()).1;
        (mapped..=bits).contains(&length).then(|| Self {
            first: first.to_canonical(),
            length: length - mapped,
        })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let ((first, bits), (address, other_bits)) = (bits_of(self.first), bits_of(address));
        // A shift by all bits is none of the shifts that Rust knows.
        let differs = (first ^ address).checked_shr(bits - self.length);
        bits == other_bits && differs.unwrap_or(0) == 0
    }
}

/// An address as a number, and its number of bits.
fn bits_of(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// Reads the name of a header that lists addresses.
#[cfg(feature = "cli")]
pub(super) fn header_of_addresses(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text.parse().map_err(|_| "it is not the name of a header")?;
    if name == http::header::FORWARDED {
        return Err(
            "Forwarded has a syntax of its own, which is not read; name a header that lists \
             addresses, such as x-forwarded-for"
                .to_owned(),
        );
    }
    Ok(name)
}

/// The header that nearly all proxies write.
pub(super) fn default_header() -> HeaderName {
    HeaderName::from_static("x-forwarded-for")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(networks: &str, address: &str) -> bool {
        let proxies: TrustedProxies = networks.parse().unwrap();
        proxies.contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_with_its_bits() {
        for (networks, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.9/8", "10.0.0.1", true),
            ("172.16.0.0/12", "172.31.255.255", true),
            ("172.16.0.0/12", "172.32.0.0", false),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7/32", "192.168.1.6", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fe80::1", true),
            ("::/0", "1.2.3.4", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("2001:db8::/64", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::/64", "2001:db8:0:1::1", false),
            ("::1", "::1", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("1.1.1.1 , 2.2.2.0/24", "2.2.2.9", true),
        ] {
            assert_eq!(
                contains(networks, address),
                is_in,
                "{address} in {networks}"
            );
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            ",",
            "10.0.0.0/8,",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "/8",
            "10.0.0/8",
            "proxy",
            "10.0.0.1:80",
            "[::1]",
            "10.0.0.0/8/8",
            "10.0.0.0/4294967295",
            "::ffff:10.0.0.0/95",
        ] {
            assert!(text.parse::<TrustedProxies>().is_err(), "{text}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_header_must_list_addresses() {
        assert_eq!(header_of_addresses("X-Real-IP").unwrap(), "x-real-ip");
        assert!(header_of_addresses("forwarded").is_err());
        assert!(header_of_addresses("a header").is_err());
    }
}
