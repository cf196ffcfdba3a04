//! [`Trace`]: the W3C trace context of a request, and how it is read from `traceparent` and `tracestate`.
//!
//! See <https://www.w3.org/TR/trace-context/>. Every call of a request carries both headers, whether
//! this service records spans or not.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::headers::all;

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

/// The longest `tracestate` that is passed on, in bytes. The specification asks for as much.
const MAX_STATE: usize = 512;

/// The most members of a `tracestate`, by the specification.
const MAX_MEMBERS: usize = 32;

/// The first members to go from a `tracestate` that is too long are those beyond this length.
const LONG_MEMBER: usize = 128;

/// Why trace headers are not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTrace {
    #[error("traceparent is there more than once")]
    Repeated,
    #[error("traceparent is not version-traceid-spanid-flags in lower-case hex")]
    Parent,
    #[error("an id in traceparent is zero")]
    Zero,
    #[error("tracestate is not a list of at most {MAX_MEMBERS} different keys with values")]
    State,
}

impl Trace {
    /// The trace that a request came with, if any. A fault of `tracestate` leaves the trace as it
    /// is, without the state.
    pub(crate) fn of(headers: &HeaderMap) -> (Option<Self>, Option<InvalidTrace>) {
        let name = PARENT;
        let mut parents = all(headers, &name);
        let Some(parent) = parents.next() else {
            return (None, None); // without it, tracestate means nothing
        };
        if parents.next().is_some() {
            return (None, Some(InvalidTrace::Repeated));
        }
        let trace = match Self::parse(parent) {
            Ok(trace) => trace,
            Err(fault) => return (None, Some(fault)),
        };
        match state_of(headers) {
            Ok(state) => (Some(Self { state, ..trace }), None),
            Err(fault) => (Some(trace), Some(fault)),
        }
    }

    pub(crate) fn parse(header: &HeaderValue) -> Result<Self, InvalidTrace> {
        let parent = header.as_bytes();
        let is_later_version = !parent.starts_with(b"00");
        // A later version may have more parts.
        let has_length = match parent.get(55) {
            None => parent.len() == 55,
            Some(next) => is_later_version && *next == b'-',
        };
        if !has_length || parent.starts_with(b"ff") {
            return Err(InvalidTrace::Parent);
        }
        let is_well_formed = parent[..55]
            .iter()
            .enumerate()
            .all(|(index, byte)| match index {
                2 | 35 | 52 => *byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if !is_well_formed {
            return Err(InvalidTrace::Parent);
        }
        let is_zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
        if is_zero(&parent[3..35]) || is_zero(&parent[36..52]) {
            return Err(InvalidTrace::Zero);
        }
        let mut known = if is_later_version {
            let rest = [b"00", &parent[2..55]].concat();
            HeaderValue::from_bytes(&rest).expect("it is ASCII")
        } else {
            header.clone()
        };
        known.set_sensitive(true); // as a request id: it never repeats
        Ok(Self {
            parent: known,
            state: None,
            #[cfg(feature = "traces")]
            recording: None,
        })
    }
}

/// The state, joined from all its headers.
fn state_of(headers: &HeaderMap) -> Result<Option<HeaderValue>, InvalidTrace> {
    let mut members = Vec::new();
    for header in headers.get_all(STATE) {
        let header = header.to_str().map_err(|_| InvalidTrace::State)?;
        for member in header
            .split(',')
            .map(|member| member.trim_matches([' ', '\t']))
        {
            if member.is_empty() {
                continue; // the specification allows it
            }
            let (key, value) = member.split_once('=').ok_or(InvalidTrace::State)?;
            let is_taken = members.iter().any(|(known, _)| *known == key);
            if is_taken || members.len() == MAX_MEMBERS || !is_key(key) || !is_value(value) {
                return Err(InvalidTrace::State);
            }
            members.push((key, member));
        }
    }
    let mut members: Vec<_> = members.into_iter().map(|(_, member)| member).collect();
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    // The newest members are first. The specification says which go.
    while length(&members) > MAX_STATE + 1 {
        let long = members
            .iter()
            .rposition(|member| member.len() > LONG_MEMBER);
        members.remove(long.unwrap_or(members.len() - 1));
    }
    let state = (!members.is_empty()).then(|| members.join(","));
    Ok(state.map(|state| HeaderValue::try_from(state).expect("it is made of headers")))
}

/// `key`, or `tenant@system`.
fn is_key(key: &str) -> bool {
    let is_part = |part: &str, longest: usize| {
        let is_inner = |letter: u8| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"_-*/".contains(&letter)
        };
        let begins_well = |letter: &u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        part.len() <= longest
            && part.as_bytes().first().is_some_and(begins_well)
            && part.bytes().all(is_inner)
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_part(tenant, 241) && is_part(system, 14),
        None => is_part(key, 256),
    }
}

fn is_value(value: &str) -> bool {
    let is_inner = |letter: u8| matches!(letter, b' '..=b'~') && letter != b'=';
    value.len() <= 256 && !value.is_empty() && value.bytes().all(is_inner)
}

#[cfg(all(test, feature = "traces"))]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

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

    const PARENT_TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(headers: &[(HeaderName, &str)]) -> (Option<Trace>, Option<InvalidTrace>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        Trace::of(&map)
    }

    fn state(values: &[&str]) -> Result<Option<String>, InvalidTrace> {
        let states = values.iter().map(|value| (STATE, *value));
        let headers: Vec<_> = [(PARENT, PARENT_TEXT)].into_iter().chain(states).collect();
        match read(&headers) {
            (Some(trace), None) => Ok(trace.state.map(|it| it.to_str().unwrap().to_owned())),
            (_, fault) => Err(fault.unwrap()),
        }
    }

    #[test]
    fn a_trace_goes_on_as_it_came() {
        let (trace, fault) = read(&[(PARENT, PARENT_TEXT), (STATE, "a=1"), (STATE, "b@c=2")]);
        let trace = trace.unwrap();
        assert!(fault.is_none());
        let mut headers = HeaderMap::new();
        trace.write_to(&mut headers);
        assert_eq!(headers[PARENT], PARENT_TEXT);
        assert_eq!(headers[STATE], "a=1,b@c=2");
        // A later version is read as this one.
        let later = format!("cc{}-what-comes-later", &PARENT_TEXT[2..]);
        assert_eq!(read(&[(PARENT, &later)]).0.unwrap().parent, PARENT_TEXT);
    }

    #[test]
    fn a_malformed_parent_is_dropped_with_its_state() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (parent, expected) in [
            (format!("ff{}", &PARENT_TEXT[2..]), InvalidTrace::Parent),
            (format!("{PARENT_TEXT}-more"), InvalidTrace::Parent),
            (PARENT_TEXT.to_uppercase(), InvalidTrace::Parent),
            (PARENT_TEXT[..54].to_owned(), InvalidTrace::Parent),
            (format!("00-{id}-00f067aa0ba902b7"), InvalidTrace::Parent),
            (format!("00-{id}-00f067aa0ba902b-+1"), InvalidTrace::Parent),
            (String::new(), InvalidTrace::Parent),
            (
                format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
                InvalidTrace::Zero,
            ),
            (format!("00-{id}-0000000000000000-01"), InvalidTrace::Zero),
        ] {
            let read = read(&[(PARENT, &parent), (STATE, "a=1")]);
            assert_eq!(read, (None, Some(expected)), "{parent}");
        }
        let twice = read(&[(PARENT, PARENT_TEXT), (PARENT, PARENT_TEXT)]);
        assert_eq!(twice, (None, Some(InvalidTrace::Repeated)));
        assert_eq!(read(&[(STATE, "a=1")]), (None, None));
    }

    #[test]
    fn a_state_has_bounds() {
        assert_eq!(
            state(&["a=1 ,\tb=2,,", "c=3"]),
            Ok(Some("a=1,b=2,c=3".to_owned()))
        );
        assert_eq!(state(&["", " "]), Ok(None));
        let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>();
        assert!(state(&[&members(32).join(",")]).is_ok());
        for wrong in [
            &*members(33).join(","),
            "a",
            "=1",
            "A=1",
            "a=",
            "a=b=c",
            "a=1,a=2",
            "a@b@c=1",
            "@a=1",
        ] {
            assert_eq!(state(&[wrong]), Err(InvalidTrace::State), "{wrong}");
        }
        // Long members go first, and then the oldest, which are last.
        let long = format!("long={}", "x".repeat(200));
        let filler: Vec<_> = (0..6).map(|n| format!("k{n}={}", "y".repeat(90))).collect();
        let all = format!("first=1,{long},{}", filler.join(","));
        let kept = state(&[&all]).unwrap().unwrap();
        assert!(
            kept.len() <= MAX_STATE && kept.starts_with("first=1,k0="),
            "{kept}"
        );
        assert!(kept.contains("k4=") && !kept.contains("k5="), "{kept}");
    }

    proptest! {
        #[test]
        fn any_headers_are_read_without_a_panic(
            parent in "[0-9a-f-]{0,60}|\\PC{0,60}",
            state in "[a-z0-9=,@ ]{0,80}|\\PC{0,700}",
        ) {
            let mut headers = HeaderMap::new();
            if let (Ok(parent), Ok(state)) = (
                HeaderValue::from_bytes(parent.as_bytes()),
                HeaderValue::from_bytes(state.as_bytes()),
            ) {
                headers.insert(PARENT, parent);
                headers.insert(STATE, state);
                if let (Some(trace), _) = Trace::of(&headers) {
                    let mut sent = HeaderMap::new();
                    trace.write_to(&mut sent);
                    prop_assert_eq!(Trace::of(&sent), (Some(trace), None));
                }
            }
        }
    }
}
