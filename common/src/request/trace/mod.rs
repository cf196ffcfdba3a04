//! [`Trace`]: the W3C trace context of a request: `traceparent` and `tracestate`.
//!
//! See <https://www.w3.org/TR/trace-context/>. Both headers go on to every call of a request, whether
//! this service records spans or not.

#[cfg(feature = "traces")]
mod made;
#[cfg(feature = "server")]
mod read;

use http::{HeaderMap, HeaderName, HeaderValue};

#[cfg(feature = "traces")]
pub(crate) use self::made::Recording;

/// The trace and the place in it.
pub(crate) const PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the tracing systems of the way add to it.
pub(crate) const STATE: HeaderName = HeaderName::from_static("tracestate");

/// A trace, and a span in it.
///
/// It is kept as the text of the header, which each log line and each call has: with numbers, their
/// conversion took a third of what a trace costs a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// `00-…-…-…`, 55 digits and dashes.
    parent: HeaderValue,
    state: Option<HeaderValue>,
    /// `None` unless this process records the span.
    #[cfg(feature = "traces")]
    pub(crate) recording: Option<Recording>,
}

impl Trace {
    /// Returns the ids as text: those of the trace and of the span, and the flags.
    pub(crate) fn ids(&self) -> [&[u8]; 3] {
        let parent = self.parent.as_bytes();
        [&parent[3..35], &parent[36..52], &parent[53..55]]
    }

    /// Writes the headers.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(PARENT, self.parent.clone());
        match &self.state {
            Some(state) => headers.insert(STATE, state.clone()),
            None => headers.remove(STATE),
        };
    }
}
