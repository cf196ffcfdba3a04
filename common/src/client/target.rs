//! [`Target`]: the addresses of a service.

use std::{fmt, str::FromStr};

use http::uri::{Authority, Scheme, Uri};

/// The addresses of a gRPC service: `host:port` or `http://host:port`, or several separated by
/// commas. Each IP address of a host name is a replica. `http://` says plain text, and is refused where
/// calls are mutual TLS.
///
/// ```
/// use common::client::Target;
///
/// assert!("service1:50051".parse::<Target>().is_ok());
/// assert!("http://[::1]:50051".parse::<Target>().is_ok());
/// let two: Target = "10.0.0.1:50051, 10.0.0.2:50051".parse().unwrap();
/// assert_eq!(two.to_string(), "10.0.0.1:50051,10.0.0.2:50051");
/// assert!("https://service1:50051".parse::<Target>().is_err());
/// assert!("service1".parse::<Target>().is_err());
/// assert!("service1:50051,".parse::<Target>().is_err());
/// assert!("service1:0".parse::<Target>().is_err());
/// assert!("user:password@service1:50051".parse::<Target>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    authorities: Vec<Authority>,
    says_http: bool,
}

impl Target {
    /// The host and port of each address.
    pub(crate) fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// Whether one of the addresses begins with `http://`.
    pub(crate) fn says_http(&self) -> bool {
        self.says_http
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for authority in &self.authorities {
            write!(formatter, "{separator}{authority}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// The text is not an address of a gRPC service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be host:port or http://host:port, or several of them separated by commas")]
pub struct InvalidTarget;

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let authorities = text.split(',').map(|address| authority(address.trim()));
        Ok(Self {
            authorities: authorities.collect::<Option<_>>().ok_or(InvalidTarget)?,
            says_http: text.contains("://"), // there is no other scheme
        })
    }
}

fn authority(address: &str) -> Option<Authority> {
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let uri: Uri = url.parse().ok()?;
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse() != Ok(0_u16);
    let is_whole = uri.scheme() == Some(&Scheme::HTTP)
        && !url.contains(['@', '#'])
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.port().is_some_and(|port| is_port(port.as_str()))
        && uri.path_and_query().is_none_or(|path| path == "/");
    is_whole.then(|| uri.into_parts().authority)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_host_and_port_is_refused() {
        for text in [
            "x:0",
            "x:+1",
            "x:",
            "x:65536",
            "u:p@x:1",
            "http://x:1#f",
            "http://x:1/a",
            ":1",
        ] {
            assert_eq!(text.parse::<Target>(), Err(InvalidTarget), "{text}");
        }
    }
}
