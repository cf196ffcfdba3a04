//! [`Target`]: where a service is.

use std::str::FromStr;

use http::{Uri, uri::Scheme};

/// The address of a gRPC service: `host:port`, or a URL of the form `http://host:port`.
///
/// ```
/// use common::client::Target;
///
/// assert!("service1:50051".parse::<Target>().is_ok());
/// assert!("http://[::1]:50051".parse::<Target>().is_ok());
/// assert!("https://service1:50051".parse::<Target>().is_err());
/// assert!("service1".parse::<Target>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Uri);

impl Target {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

/// The text is not an address of a gRPC service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be host:port or http://host:port")]
pub struct InvalidTarget;

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let uri: Uri = url.parse().map_err(|_| InvalidTarget)?;
        let is_whole = uri.scheme() == Some(&Scheme::HTTP)
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some()
            && uri.path_and_query().is_none_or(|path| path == "/");
        is_whole.then_some(Self(uri)).ok_or(InvalidTarget)
    }
}
