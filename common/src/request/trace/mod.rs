//! [`Trace`]: the W3C trace context of a request: `traceparent` and `tracestate`.
//!
//! See <https://www.w3.org/TR/trace-context/>. Both headers go on to every call of a request, whether
//! this service records spans or not.

#[cfg(feature = "server")]
mod read;

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

#[cfg(feature = "server")]
pub(crate) use self::read::InvalidTrace;

/// The trace and the place in it.
pub(crate) const PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the tracing systems of the way add to it.
pub(crate) const STATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag that says that the caller records.
#[cfg(feature = "traces")]
const SAMPLED: u8 = 1;

/// A trace, and a span in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // the names of the specification
pub(crate) struct Trace {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) flags: u8,
    pub(crate) state: Option<HeaderValue>,
    /// `None` unless this process records the span.
    #[cfg(feature = "traces")]
    pub(crate) recording: Option<Recording>,
}

/// How a span that is recorded hangs together with the others of its trace.
#[cfg(feature = "traces")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recording {
    /// The span above, if there is one.
    pub(crate) parent: Option<u64>,
    /// Whether another process has the span above.
    pub(crate) is_remote: bool,
}

impl Trace {
    /// The flags of a trace that is sampled, or not.
    #[cfg(feature = "traces")]
    pub(crate) fn flags_of(is_sampled: bool) -> u8 {
        if is_sampled { SAMPLED } else { 0 }
    }

    #[cfg(feature = "traces")]
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Writes the headers.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        let parent = HeaderValue::try_from(self.to_string()).expect("it is ASCII");
        headers.insert(PARENT, parent);
        match &self.state {
            Some(state) => headers.insert(STATE, state.clone()),
            None => headers.remove(STATE),
        };
    }
}

/// The value of `traceparent`.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
            ..
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}
