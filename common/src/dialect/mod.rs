//! What the protocols are: how requests, errors and ends look on the wire.

pub(crate) mod length_prefixed;
pub(crate) mod tonic_quirks;
