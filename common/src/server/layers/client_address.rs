//! [`Forwarding`]: who the client behind a trusted proxy is.
//!
//! A proxy passes on each header that it does not write, and appends to those that it does: so one
//! header is read, the one that the operator has named, from its end to the first address that is not
//! that of a trusted proxy. All before it was written by the client.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::{config::proxies::TrustedProxies, limits};

/// The header of the scheme that the client has used.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whose word on the address of a client counts, and in which header.
#[derive(Debug, Clone)]
pub(crate) struct Forwarding {
    pub(crate) trusted: TrustedProxies,
    pub(crate) header: HeaderName,
}

impl Forwarding {
    /// The address of the client of a request that `proxy`, which is trusted, has sent.
    pub(super) fn address(&self, headers: &HeaderMap, proxy: IpAddr) -> IpAddr {
        let lines = headers.get_all(&self.header).iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let mut client = proxy;
        for entry in entries.take(limits::FORWARDED_ENTRIES) {
            let Some(address) = address_of(entry) else {
                break;
            };
            client = address;
            if !self.trusted.contains(client) {
                break;
            }
        }
        client
    }
}

/// The scheme that a trusted proxy says the client has used: that of one header with one value.
pub(super) fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    let mut values = headers.get_all(FORWARDED_PROTO).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let is_it = |scheme: &&str| value.as_bytes().eq_ignore_ascii_case(scheme.as_bytes());
    ["https", "http"].into_iter().find(is_it)
}

/// The address of an entry, which may have a port: `1.2.3.4:5`, `[::1]:5`.
fn address_of(entry: &[u8]) -> Option<IpAddr> {
    let entry = str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = entry.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => match entry.parse() {
            Ok(address) => address,
            Err(_) => entry.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn address(name: &'static str, lines: &[&[u8]]) -> String {
        let forwarding = Forwarding {
            trusted: "10.0.0.0/8,fd00::/8".parse().unwrap(),
            header: HeaderName::from_static("x-forwarded-for"),
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line).unwrap());
        }
        let found = forwarding.address(&headers, PROXY.parse().unwrap());
        found.to_string()
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_of_a_trusted_proxy() {
        for (lines, client) in [
            (&[][..], PROXY),
            (&[&b"1.2.3.4"[..]], "1.2.3.4"),
            (&[b"6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            (&[b"6.6.6.6,1.2.3.4\t, 10.0.0.2"], "1.2.3.4"),
            (&[b"10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            // Lines are one list.
            (&[b"6.6.6.6", b"1.2.3.4", b"10.0.0.2, 10.0.0.3"], "1.2.3.4"),
            (&[b"1.2.3.4", b"2.3.4.5"], "2.3.4.5"),
            // Forms of an address.
            (&[b"1.2.3.4:5"], "1.2.3.4"),
            (&[b"2001:db8::1"], "2001:db8::1"),
            (&[b"[2001:db8::1]:5"], "2001:db8::1"),
            (&[b"[2001:db8::1]"], "2001:db8::1"),
            (&[b"2001:db8::1, fd00::2"], "2001:db8::1"),
            (&[b"::ffff:1.2.3.4"], "1.2.3.4"),
            (&[b"1.2.3.4, ::ffff:10.0.0.2"], "1.2.3.4"),
        ] {
            assert_eq!(address("x-forwarded-for", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        for garbage in [
            "unknown",
            "_hidden",
            "",
            " ",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:70000",
            "[1.2.3.4]",
            "[::1",
            "for=1.2.3.4",
            "\"1.2.3.4\"",
            "1.2.3.4;5",
            "fe80::1%eth0",
            "01.2.3.4",
            "\u{e4}",
        ] {
            let line = format!("6.6.6.6, {garbage}");
            assert_eq!(
                address("x-forwarded-for", &[line.as_bytes()]),
                PROXY,
                "{line}"
            );
            let line = format!("6.6.6.6, {garbage}, 10.0.0.2");
            assert_eq!(
                address("x-forwarded-for", &[line.as_bytes()]),
                "10.0.0.2",
                "{line}"
            );
        }
        assert_eq!(address("x-forwarded-for", &[b"6.6.6.6, \xFF"]), PROXY);
    }

    #[test]
    fn other_headers_are_not_read() {
        for name in ["forwarded", "x-real-ip", "x-client-ip", "cf-connecting-ip"] {
            assert_eq!(address(name, &[b"6.6.6.6"]), PROXY, "{name}");
        }
    }

    #[test]
    fn a_long_list_is_read_no_further_than_its_limit() {
        let proxies = ["10.0.0.2"; limits::FORWARDED_ENTRIES].join(",");
        let long = format!("6.6.6.6,{proxies}");
        assert_eq!(address("x-forwarded-for", &[long.as_bytes()]), "10.0.0.2");
        let fits = format!("1.2.3.4,{}", &proxies["10.0.0.2,".len()..]);
        assert_eq!(address("x-forwarded-for", &[fits.as_bytes()]), "1.2.3.4");
        let junk = format!("1.2.3.4,{}", "x".repeat(60_000));
        assert_eq!(address("x-forwarded-for", &[junk.as_bytes()]), PROXY);
        let many = vec![&b"10.0.0.2"[..]; 2_000];
        assert_eq!(address("x-forwarded-for", &many), "10.0.0.2");
    }

    #[test]
    fn the_scheme_is_one_value() {
        let of = |values: &[&'static str]| {
            let values = values.iter().map(|it| HeaderValue::from_static(it));
            let headers = values.map(|value| (FORWARDED_PROTO, value)).collect();
            scheme(&headers)
        };
        assert_eq!(of(&["https"]), Some("https"));
        assert_eq!(of(&["HTTP"]), Some("http"));
        for values in [
            &[][..],
            &["https", "https"],
            &["https, http"],
            &["wss"],
            &[""],
        ] {
            assert_eq!(of(values), None, "{values:?}");
        }
    }
}
