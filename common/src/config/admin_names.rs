//! [`AdminNames`]: the host names that the port for operators answers to.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

/// The ends of the names of Services, which only the DNS of a cluster resolves.
const KUBERNETES: [&str; 2] = [".svc", ".svc.cluster.local"];

/// Host names that the port for operators answers to, separated by commas. It answers to addresses,
/// `localhost`, names without a dot, and names of Services of Kubernetes (`*.svc`, `*.svc.cluster.local`)
/// besides.
///
/// ```
/// use common::config::AdminNames;
///
/// assert!("orders.ops.example, ops.example".parse::<AdminNames>().is_ok());
/// assert!("https://ops.example".parse::<AdminNames>().is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminNames(Arc<[String]>);

/// The text is not a list of host names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host name: it must be one or more of them separated by commas, without scheme and port, \
     such as orders.ops.example"
)]
pub struct InvalidName(String);

impl AdminNames {
    /// Whether the port answers to a host, as in the header `Host`: with a port or without.
    pub(crate) fn answer_to(&self, host: &str) -> bool {
        if let Some(rest) = host.strip_prefix('[') {
            let address = rest.split_once(']').map(|(address, _)| address);
            return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name);
        if !name.contains('.') || name.parse::<Ipv4Addr>().is_ok() {
            return true;
        }
        let name = name.to_ascii_lowercase();
        let is_of_kubernetes = KUBERNETES.iter().any(|end| name.ends_with(end));
        is_of_kubernetes || self.0.contains(&name)
    }
}

impl FromStr for AdminNames {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let names = text.split(',').map(|name| {
            let name = name.trim();
            let name = name.strip_suffix('.').unwrap_or(name);
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let is_name = !name.is_empty() && name.bytes().all(is_plain);
            let name = is_name.then(|| name.to_ascii_lowercase());
            name.ok_or_else(|| InvalidName(text.to_owned()))
        });
        names.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_outside_can_resolve_pass_and_those_that_are_set() {
        let names: AdminNames = "ops.example, Orders.ops.example.".parse().unwrap();
        for (host, answers) in [
            ("127.0.0.1:9080", true),
            ("10.0.0.7", true),
            ("[::1]:9080", true),
            ("[fd00::7]", true),
            ("localhost:9080", true),
            ("LOCALHOST", true),
            ("localhost.", true),
            ("service1:9080", true),
            ("", true),
            ("service1.mesh.svc:9080", true),
            ("service1.mesh.svc.cluster.local", true),
            ("Service1.Mesh.SVC.", true),
            ("ops.example:9080", true),
            ("ORDERS.ops.example", true),
            ("evil.example", false),
            ("evil.example.:9080", false),
            ("ops.example.evil.example", false),
            ("svc.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1.nip.io:9080", false),
            ("a.ops.example", false),
            ("localhost.evil.example", false),
            ("[evil.example]:9080", false),
            ("[::1", false),
            ("user@evil.example", false),
            (".", true),
        ] {
            assert_eq!(names.answer_to(host), answers, "{host}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "https://a.b",
            "a.b:80",
            "a.b,",
            ",",
            "*.a.b",
            "a b",
            "a.b/c",
        ] {
            assert!(text.parse::<AdminNames>().is_err(), "{text}");
        }
    }
}
