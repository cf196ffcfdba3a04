//! [`Trace`]: the W3C trace context of a request: `traceparent` and `tracestate`.
//!
//! See <https://www.w3.org/TR/trace-context/>. Every call of a request carries both headers, whether
//! this service records spans or not.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header with the ids of the trace and of the span.
pub(crate) const PARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with what tracing systems on the way have added.
pub(crate) const STATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag that says that the caller records.
#[cfg(feature = "traces")]
const SAMPLED: u8 = 1;

/// A trace, and a span in it.
///
/// It is kept as the text of the header, which each log line and each call has: with numbers, their
/// conversion took a third of what a trace costs a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// `00-…-…-…`, 55 digits and dashes.
    pub(super) parent: HeaderValue,
    pub(super) state: Option<HeaderValue>,
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

/// The parent of a recorded span.
#[cfg(feature = "traces")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recording {
    /// The id of the parent, if there is one.
    pub(crate) parent: Option<u64>,
    /// Whether the parent is a span of another process.
    pub(crate) is_remote: bool,
}

#[cfg(feature = "traces")]
impl Trace {
    /// A new trace, with its first span.
    pub(crate) fn new(trace_id: u128, span_id: u64, is_sampled: bool) -> Self {
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&trace_id.to_be_bytes(), &mut parent[3..35]);
        Self::with(parent, span_id, is_sampled)
    }

    /// The same trace at another span.
    pub(crate) fn at(&self, span_id: u64, is_sampled: bool) -> Self {
        let parent = self.parent.as_bytes().try_into();
        Self {
            state: self.state.clone(),
            ..Self::with(parent.expect("it has 55 bytes"), span_id, is_sampled)
        }
    }

    /// A recorded span of this process below the span with the id `parent`, or else below this one.
    pub(crate) fn child(&self, parent: Option<u64>) -> Self {
        let recording = Recording {
            parent: Some(parent.unwrap_or_else(|| self.numbers().1)),
            is_remote: false,
        };
        self.at(fastrand::u64(1..), true).recorded(recording)
    }

    fn with(mut parent: [u8; 55], span_id: u64, is_sampled: bool) -> Self {
        write_hex(&span_id.to_be_bytes(), &mut parent[36..52]);
        write_hex(&[if is_sampled { SAMPLED } else { 0 }], &mut parent[53..55]);
        let mut parent = HeaderValue::from_bytes(&parent).expect("it is ASCII");
        parent.set_sensitive(true); // as a request id: it never repeats
        Self {
            parent,
            state: None,
            recording: None,
        }
    }

    /// The same span, recorded by this process.
    pub(crate) fn recorded(self, recording: Recording) -> Self {
        Self {
            recording: Some(recording),
            ..self
        }
    }

    pub(crate) fn is_sampled(&self) -> bool {
        // The flag is the lowest bit, and so decides whether the last digit is odd.
        let last = self.parent.as_bytes()[54];
        let digit = (last as char).to_digit(16).unwrap_or_default();
        digit & u32::from(SAMPLED) != 0
    }

    /// The ids of the trace and of the span, as numbers.
    pub(crate) fn numbers(&self) -> (u128, u64) {
        const HEX: &str = "it has hex digits";
        let [trace_id, span_id, _] = self.ids().map(|id| str::from_utf8(id).expect(HEX));
        (
            u128::from_str_radix(trace_id, 16).expect(HEX),
            u64::from_str_radix(span_id, 16).expect(HEX),
        )
    }

    /// What tracing systems on the way have added.
    pub(crate) fn state(&self) -> Option<&str> {
        self.state.as_ref()?.to_str().ok()
    }
}

/// Writes two digits for each byte.
#[cfg(feature = "traces")]
fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, digits) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

#[cfg(all(test, feature = "traces"))]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_they_are() {
        let trace_id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        let trace = Trace::new(trace_id, 0x00f0_67aa_0ba9_02b7, true);
        let ids = ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "01"];
        assert_eq!(trace.ids(), ids.map(str::as_bytes));
        assert!(trace.is_sampled());
        assert_eq!(trace.numbers(), (trace_id, 0x00f0_67aa_0ba9_02b7));
        let other = trace.at(7, false);
        let ids = [ids[0], "0000000000000007", "00"];
        assert_eq!(other.ids(), ids.map(str::as_bytes));
        assert!(!other.is_sampled());
    }
}
