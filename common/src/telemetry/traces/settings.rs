//! [`Settings`]: what the variables `OTEL_…` say. The specification asks to ignore what is malformed,
//! with a warning.

use std::env;

use tracing::warn;

use crate::request::trace::Trace;

/// The settings of spans.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) sampler: Sampler,
    pub(crate) protocol: Protocol,
}

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// Which requests have spans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampler {
    /// Whether the caller decides, if there is one.
    follows_parent: bool,
    /// The share of the others, as a bound on the low half of the trace id.
    bound: u64,
}

impl Sampler {
    fn new(follows_parent: bool, ratio: f64) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss
        )] // saturates at both ends
        let bound = (ratio * (1_u64 << 63) as f64) as u64;
        Self {
            follows_parent,
            bound,
        }
    }

    /// Whether a new trace has spans. An id has the same fate in every service with this ratio.
    pub(crate) fn samples(&self, trace_id: u128) -> bool {
        #[allow(clippy::cast_possible_truncation)] // the low half is meant
        let low = trace_id as u64 >> 1;
        low < self.bound
    }

    /// Whether a request with this trace has spans.
    pub(crate) fn follows(&self, trace: &Trace) -> bool {
        if self.follows_parent {
            trace.is_sampled()
        } else {
            self.samples(trace.numbers().0)
        }
    }
}

/// The settings of the environment, or `None` if spans go nowhere.
pub(crate) fn of_environment() -> Option<Settings> {
    read(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Settings> {
    let is =
        |name, expected: &str| variable(name).is_some_and(|it| it.eq_ignore_ascii_case(expected));
    let has = |name| variable(name).is_some();
    let has_endpoint =
        has("OTEL_EXPORTER_OTLP_ENDPOINT") || has("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    if !has_endpoint || is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    Some(Settings {
        sampler: sampler(&variable),
        protocol: match protocol.as_deref() {
            Some("grpc") => Protocol::Grpc,
            Some("http/protobuf") | None => Protocol::HttpProtobuf,
            Some(other) => {
                ignored(
                    "OTEL_EXPORTER_OTLP_PROTOCOL",
                    other,
                    "grpc or http/protobuf",
                );
                Protocol::HttpProtobuf
            }
        },
    })
}

fn sampler(variable: impl Fn(&str) -> Option<String>) -> Sampler {
    let name = variable("OTEL_TRACES_SAMPLER");
    let ratio = || {
        let Some(text) = variable("OTEL_TRACES_SAMPLER_ARG") else {
            return 1.0;
        };
        let ratio = text
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.unwrap_or_else(|| {
            ignored("OTEL_TRACES_SAMPLER_ARG", &text, "a number from 0 to 1");
            1.0
        })
    };
    match name.as_deref() {
        Some("always_on") => Sampler::new(false, 1.0),
        Some("always_off") => Sampler::new(false, 0.0),
        Some("traceidratio") => Sampler::new(false, ratio()),
        Some("parentbased_always_on") => Sampler::new(true, 1.0),
        Some("parentbased_always_off") => Sampler::new(true, 0.0),
        Some("parentbased_traceidratio") | None => Sampler::new(true, ratio()),
        Some(other) => {
            ignored(
                "OTEL_TRACES_SAMPLER",
                other,
                "parentbased_traceidratio or another of OpenTelemetry's",
            );
            Sampler::new(true, 1.0)
        }
    }
}

fn ignored(variable: &str, value: &str, expected: &str) {
    warn!(
        action = "traces",
        status = "ignored",
        variable,
        value,
        expected,
        "a variable of OpenTelemetry is not usable; it is as if it were not set"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Option<Settings> {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
        read(|name| {
            let mut all = [endpoint].into_iter().chain(variables.iter().copied());
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        })
    }

    fn parent(is_sampled: bool) -> Trace {
        Trace::new(1, 2, is_sampled)
    }

    #[test]
    fn spans_need_an_endpoint_and_may_be_turned_off() {
        assert!(read(|_| None).is_none());
        assert!(settings(&[]).is_some());
        assert!(settings(&[("OTEL_SDK_DISABLED", "TRUE")]).is_none());
        assert!(settings(&[("OTEL_TRACES_EXPORTER", "none")]).is_none());
        let protocol = |text| {
            let settings = settings(&[("OTEL_EXPORTER_OTLP_PROTOCOL", text)]);
            settings.unwrap().protocol
        };
        assert_eq!(protocol("grpc"), Protocol::Grpc);
        assert_eq!(protocol("smoke signals"), Protocol::HttpProtobuf);
    }

    #[test]
    fn the_sampler_follows_the_caller_unless_told_otherwise() {
        let sampler = |name, arg| {
            let name = ("OTEL_TRACES_SAMPLER", name);
            let settings = settings(&[name, ("OTEL_TRACES_SAMPLER_ARG", arg)]);
            settings.unwrap().sampler
        };
        let (yes, no) = (parent(true), parent(false));
        let by_default = settings(&[]).unwrap().sampler;
        assert!(by_default.samples(u128::MAX));
        assert!(by_default.follows(&yes) && !by_default.follows(&no));
        let always = sampler("always_on", "");
        assert!(always.follows(&no));
        let never = sampler("parentbased_always_off", "");
        assert!(!never.samples(1) && never.follows(&yes));
        assert_eq!(sampler("parentbased_traceidratio", "2"), by_default);
        assert_eq!(sampler("dice", ""), by_default);
        assert!(!sampler("traceidratio", "0").follows(&yes));
    }

    #[test]
    fn a_ratio_is_the_share_of_the_traces() {
        let sampler = Sampler::new(true, 0.01);
        let ids = (0..100_000).map(|_| fastrand::u128(..));
        let count = ids.filter(|id| sampler.samples(*id)).count();
        assert!((700..1_300).contains(&count), "{count}");
    }
}
