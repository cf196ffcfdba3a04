//! [`Identity`]: who a peer is.

use std::{fmt, sync::Arc};

/// Who a peer is, as its certificate says: a SPIFFE ID such as `spiffe://mesh.local/service2`, or
/// else its first DNS name, or its first IP address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
