//! [`Settings`]: what the variables `OTEL_…` say. The specification asks to ignore what is malformed,
//! with a warning.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use tracing::warn;

use crate::{environment, request::trace::Trace};

/// The settings of spans.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) sampler: Sampler,
    pub(crate) collector: Collector,
}

/// Where a collector listens for gRPC, by default.
const GRPC_ENDPOINT: &str = "http://localhost:4317";

/// The longest that one export may take, by default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How spans get to the collector.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    pub(crate) protocol: Protocol,
    /// The longest that one export may take.
    pub(crate) timeout: Duration,
    /// Where the collector is, over gRPC. Over HTTP, the exporter finds that out.
    pub(crate) grpc_endpoint: Option<String>,
    pub(crate) tls: Option<SecureEndpoint>,
}

/// An endpoint with `https`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SecureEndpoint {
    /// The file with the authorities of the collector, if they are not those of the system.
    pub(crate) authorities: Option<PathBuf>,
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
    pub(super) fn new(follows_parent: bool, ratio: f64) -> Self {
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

    /// The same by chance, where the id is not to be trusted.
    pub(crate) fn draws(&self) -> bool {
        self.samples(fastrand::u128(..))
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
    read(environment::text)
}

/// The headers of the environment for a collector. The exporter reads them as well, but for it an empty
/// variable for traces hides the one for all signals.
pub(crate) fn headers_of_environment() -> HashMap<String, String> {
    headers(environment::text)
}

/// Reads `key=value` pairs, separated by commas. The values are percent-encoded: the exporter decodes them.
fn headers(variable: impl Fn(&str) -> Option<String>) -> HashMap<String, String> {
    let (_, text) = of_otlp(&variable, "HEADERS").unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    });
    pairs.collect()
}

/// The variable for traces, which has priority, or the one for all signals.
fn of_otlp(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Option<(String, String)> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"];
    let mut names = names.into_iter().map(|prefix| format!("{prefix}{name}"));
    names.find_map(|name| variable(&name).map(|value| (name, value)))
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Settings> {
    let is = |name, expected: &str| variable(name).is_some_and(|it| is(&it, expected));
    let of_otlp = |name: &str| of_otlp(&variable, name);
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    let is_asked_for = is("OTEL_TRACES_EXPORTER", "otlp");
    if let Some(other) = variable("OTEL_TRACES_EXPORTER").filter(|_| !is_asked_for) {
        ignored("OTEL_TRACES_EXPORTER", &other, "otlp or none");
    }
    let endpoint = of_otlp("ENDPOINT").map(|(_, uri)| uri);
    if endpoint.is_none() && !is_asked_for {
        return None;
    }
    let protocol = match of_otlp("PROTOCOL") {
        Some((_, it)) if it == "grpc" => Protocol::Grpc,
        Some((name, it)) if it != "http/protobuf" => {
            ignored(&name, &it, "grpc or http/protobuf");
            Protocol::HttpProtobuf
        }
        _ => Protocol::HttpProtobuf,
    };
    let timeout = of_otlp("TIMEOUT").map_or(TIMEOUT, |(name, text)| {
        let millis = text.parse().ok().filter(|millis| *millis > 0);
        millis.map_or_else(
            || {
                ignored(&name, &text, "a number of milliseconds");
                TIMEOUT
            },
            Duration::from_millis,
        )
    });
    if let Some((name, other)) = of_otlp("COMPRESSION").filter(|(_, it)| it != "none") {
        ignored(&name, &other, "none: spans are not compressed");
    }
    for name in ["CLIENT_CERTIFICATE", "CLIENT_KEY"] {
        if let Some((name, file)) = of_otlp(name) {
            ignored(&name, &file, "none: a collector gets no certificate");
        }
    }
    let endpoint = match protocol {
        Protocol::HttpProtobuf => endpoint,
        Protocol::Grpc => {
            let is_plain = of_otlp("INSECURE").is_some_and(|(_, it)| self::is(&it, "true"));
            Some(endpoint.map_or_else(|| GRPC_ENDPOINT.into(), |it| with_scheme(it, is_plain)))
        }
    };
    let is_secure = |uri: &String| {
        uri.get(..8)
            .is_some_and(|scheme| self::is(scheme, "https://"))
    };
    let is_secure = endpoint.as_ref().is_some_and(is_secure);
    Some(Settings {
        sampler: sampler(&variable),
        collector: Collector {
            protocol,
            timeout,
            grpc_endpoint: endpoint.filter(|_| protocol == Protocol::Grpc),
            tls: is_secure.then(|| SecureEndpoint {
                authorities: of_otlp("CERTIFICATE").map(|(_, file)| file.into()),
            }),
        },
    })
}

/// An endpoint of gRPC may have no scheme.
fn with_scheme(endpoint: String, is_plain: bool) -> String {
    match (endpoint.contains("://"), is_plain) {
        (true, _) => endpoint,
        (false, true) => format!("http://{endpoint}"),
        (false, false) => format!("https://{endpoint}"),
    }
}

/// Whether a value is this one; its case does not matter.
fn is(value: &str, expected: &str) -> bool {
    value.eq_ignore_ascii_case(expected)
}

fn sampler(variable: impl Fn(&str) -> Option<String>) -> Sampler {
    let name = variable("OTEL_TRACES_SAMPLER").map(|name| name.to_ascii_lowercase());
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
        assert!(settings(&[("OTEL_TRACES_EXPORTER", "console")]).is_some());
        let alone = |exporter: &str| {
            let is_it = |name: &str| name == "OTEL_TRACES_EXPORTER";
            read(|name| is_it(name).then(|| exporter.to_owned())).is_some()
        };
        assert!(alone("OTLP"), "at the collector's usual address");
        assert!(!alone("console"));
    }

    fn collector(variables: &[(&str, &str)]) -> Collector {
        settings(variables).unwrap().collector
    }

    #[test]
    fn the_variables_for_traces_have_priority() {
        let protocol = |text| collector(&[("OTEL_EXPORTER_OTLP_PROTOCOL", text)]).protocol;
        assert_eq!(protocol("grpc"), Protocol::Grpc);
        assert_eq!(protocol("smoke signals"), Protocol::HttpProtobuf);
        let general = ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "700");
        let timeout = |variables: &[_]| collector(variables).timeout.as_millis();
        assert_eq!(timeout(&[]), 10_000);
        assert_eq!(timeout(&[general]), 1_500);
        assert_eq!(timeout(&[general, own]), 700);
        for unusable in ["0", "-1", "10s", "99999999999999999999"] {
            assert_eq!(timeout(&[("OTEL_EXPORTER_OTLP_TIMEOUT", unusable)]), 10_000);
        }
    }

    #[test]
    fn a_collector_with_https_may_have_authorities_of_its_own() {
        assert_eq!(collector(&[]).tls, None);
        let endpoint = |uri| ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", uri);
        let secure = |uri, variables: &[(&'static str, &'static str)]| {
            collector(&[&[endpoint(uri)], variables].concat()).tls
        };
        for uri in ["https://collector:4318/v1/traces", "HTTPS://collector"] {
            let tls = secure(uri, &[]).unwrap();
            assert_eq!(tls.authorities, None, "{uri}");
        }
        let file = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.crt");
        let tls = secure("https://collector", &[file]).unwrap();
        assert_eq!(tls.authorities, Some("/ca.crt".into()));
        for uri in ["http://collector", "collector:4317", "htt", "äöüäöü"] {
            assert_eq!(secure(uri, &[file]), None, "{uri}");
        }
    }

    #[test]
    fn an_endpoint_over_grpc_may_have_no_scheme() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE");
        let of = |uri, variables: &[(&'static str, &'static str)]| {
            let endpoint = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", uri);
            let collector = collector(&[&[endpoint], variables].concat());
            (collector.grpc_endpoint, collector.tls.is_some())
        };
        let plain = (Some("http://collector:4317".into()), false);
        assert_eq!(of("http://collector:4317", &[grpc]), plain);
        assert_eq!(of("collector:4317", &[grpc, insecure]), plain);
        let secure = (Some("https://collector:4317".into()), true);
        assert_eq!(of("collector:4317", &[grpc]), secure);
        assert_eq!(of("https://collector:4317", &[grpc, insecure]), secure);
        assert_eq!(of("http://collector:4318", &[]), (None, false));
        let by_default = read(|name| match name {
            "OTEL_TRACES_EXPORTER" => Some("otlp".into()),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("grpc".into()),
            _ => None,
        });
        let by_default = by_default.unwrap().collector.grpc_endpoint;
        assert_eq!(by_default.as_deref(), Some(GRPC_ENDPOINT));
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
        assert_eq!(sampler("Parentbased_Always_On", ""), by_default);
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
