//! [`RequestId`]: the value that ties the log lines of one request together.

use std::{cell::RefCell, fmt};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Builder;

/// A request id: 1 to [`RequestId::MAX_LEN`] visible ASCII characters (0x21 to 0x7E).
///
/// The id is a [`HeaderValue`]: cloning it increments a reference count, and sending it copies
/// nothing.
///
/// ```
/// use common::RequestId;
///
/// let id: RequestId = "order-17".parse().unwrap();
/// assert_eq!(id.as_str(), "order-17");
/// assert!("two words".parse::<RequestId>().is_err());
/// assert_eq!(RequestId::fresh().as_str().len(), 36); // a UUID v4
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(HeaderValue);

thread_local! {
    /// The generator of this thread. Ids have to be unique, not secret: a client may choose them.
    static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
}

impl RequestId {
    /// The longest id that is accepted, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The HTTP header that carries the id, in requests and in responses.
    pub const HTTP_HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// The gRPC metadata key that carries the id, in requests and in responses.
    pub const GRPC_METADATA: HeaderName = HeaderName::from_static("request_id");

    /// A new random id, a UUID v4 in its usual text form.
    pub fn fresh() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let random: u128 = RANDOM.with_borrow_mut(SmallRng::random);
        let uuid = Builder::from_random_bytes(random.to_ne_bytes()).into_uuid();
        uuid.hyphenated().encode_lower(&mut text);
        // Shared from the beginning: a value of its own bytes allocates once more when it is cloned.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        Self::from_valid(value.expect("a UUID's text is hex digits and hyphens"))
    }

    fn from_valid(mut value: HeaderValue) -> Self {
        // Ids do not repeat. A sensitive value stays out of HTTP/2's header tables, where it would
        // evict values that do.
        value.set_sensitive(true);
        Self(value)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Reads eight bytes at a time, unlike `HeaderValue::to_str`.
        str::from_utf8(self.0.as_bytes()).expect("checked to be visible ASCII when it was made")
    }

    /// The id as the value of a header or of metadata.
    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl TryFrom<&HeaderValue> for RequestId {
    type Error = InvalidRequestId;

    fn try_from(value: &HeaderValue) -> Result<Self, InvalidRequestId> {
        let bytes = value.as_bytes();
        if bytes.is_empty() {
            Err(InvalidRequestId::Empty)
        } else if bytes.len() > Self::MAX_LEN {
            Err(InvalidRequestId::TooLong)
        } else if !is_graphic(bytes) {
            Err(InvalidRequestId::Characters)
        } else {
            Ok(Self::from_valid(value.clone()))
        }
    }
}

/// Whether all bytes are visible ASCII. Without an early end, several are compared at a time.
fn is_graphic(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .fold(true, |so_far, byte| so_far & byte.is_ascii_graphic())
}

impl std::str::FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        let value = HeaderValue::from_str(text).map_err(|_| InvalidRequestId::Characters)?;
        Self::try_from(&value)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// Why an inbound request id was replaced. The text never shows the id, which may be hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequestId {
    /// The id has no characters.
    #[error("it is empty")]
    Empty,
    /// The id has more than [`RequestId::MAX_LEN`] bytes.
    #[error("it is longer than {} bytes", RequestId::MAX_LEN)]
    TooLong,
    /// The id has a space, a control character or a byte outside ASCII.
    #[error("it has bytes other than visible ASCII")]
    Characters,
    /// The header or the metadata key was sent more than once, and no value takes precedence.
    #[error("it was sent more than once")]
    Repeated,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn visible_ascii_up_to_the_limit_is_unchanged(text in "[!-~]{1,128}") {
            let id: RequestId = text.parse().unwrap();
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(id.header_value(), text.as_str());
        }

        #[test]
        fn only_visible_ascii_up_to_the_limit_is_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let valid = (1..=128).contains(&bytes.len())
                && bytes.iter().all(|byte| (0x21..=0x7E).contains(byte));
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                prop_assert_eq!(RequestId::try_from(&value).is_ok(), valid);
            } else {
                prop_assert!(!valid);
            }
        }
    }

    #[test]
    fn an_invalid_id_is_refused_with_the_reason() {
        let refusal = |text: &str| text.parse::<RequestId>().unwrap_err();
        assert_eq!(refusal(""), InvalidRequestId::Empty);
        assert_eq!(refusal(&"x".repeat(129)), InvalidRequestId::TooLong);
        assert_eq!(refusal("two words"), InvalidRequestId::Characters);
        assert_eq!(refusal("línea"), InvalidRequestId::Characters);
        assert_eq!(refusal("a\nb"), InvalidRequestId::Characters);
    }

    #[test]
    fn fresh_ids_are_version_4_uuids_and_differ() {
        let [one, two] = [RequestId::fresh(), RequestId::fresh()];
        let uuid = uuid::Uuid::parse_str(one.as_str()).unwrap();
        assert_eq!(uuid.get_version(), Some(uuid::Version::Random));
        assert_ne!(one, two);
    }
}
