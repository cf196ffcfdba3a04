//! Spans: how they get to a collector, and which requests have them.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, Response};
use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use common::{
    Config,
    server::{self, Listener},
    tls::Tls,
};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tests::{Process, certificates::Certificates, grpc, http, serve_aside, wait_for};

const NAME: &str = "/api/v1/name?name=test";

/// A trace whose caller records it.
const SAMPLED: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector with `https`, which counts exports over HTTP and gRPC.
struct Collector {
    endpoint: String,
    exports: Arc<AtomicUsize>,
    /// The `authorization` of the last export.
    authorization: Arc<Mutex<Option<HeaderValue>>>,
}

impl Collector {
    fn start(certificates: &Certificates) -> Self {
        let exports = Arc::<AtomicUsize>::default();
        let authorization = Arc::<Mutex<Option<HeaderValue>>>::default();
        let tls = Tls::edge(certificates.directory("service1"));
        let config = Config {
            host: [127, 0, 0, 1].into(),
            workers: 1.try_into().expect("more than 0"),
            edge_tls: Some(tls.expect("they are valid")),
            ..Config::default()
        };
        let (counted, noted) = (exports.clone(), authorization.clone());
        let collector = server::bind(&config, move |_process| {
            let (counted, noted) = (counted.clone(), noted.clone());
            let note = move |headers: &HeaderMap| {
                *noted.lock().expect("no panic") = headers.get("authorization").cloned();
                counted.fetch_add(1, SeqCst);
            };
            let (over_http, over_grpc) = (note.clone(), note);
            let router = Router::new()
                .route(
                    "/v1/traces",
                    post(async move |headers: HeaderMap| over_http(&headers)),
                )
                .route(
                    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                    post(async move |headers: HeaderMap| {
                        over_grpc(&headers);
                        empty_message()
                    }),
                );
            [Listener::http(0, router)]
        });
        let collector = collector.expect("its port is free");
        let endpoint = format!("https://localhost:{}", collector.addresses()[0].port());
        serve_aside(collector);
        Self {
            endpoint,
            exports,
            authorization,
        }
    }
}

/// A response of gRPC.
fn empty_message() -> Response<Body> {
    let status = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [
        Frame::data(Bytes::from_static(&[0; 5])),
        Frame::trailers(status),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(body)).expect("it is valid")
}

#[test]
fn a_collector_with_https_gets_spans_over_both_protocols() {
    let certificates = Certificates::new();
    let authorities = format!("{}/ca.crt", certificates.directory("service1"));
    for protocol in ["http/protobuf", "grpc"] {
        let collector = Collector::start(&certificates);
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authorities),
        ];
        let service1 = Process::start("service1", &variables);
        assert_eq!(http::get(service1.http(), NAME).status, 200);
        wait_for("an export", || {
            let exported = service1.metric("spans_exported_total") > 0.0;
            (collector.exports.load(SeqCst) > 0 && exported).then_some(())
        });
        let log = service1.terminate();
        assert!(!log.has_line(&[("action", "traces")]), "{protocol}");
    }
}

#[test]
fn an_empty_variable_for_traces_hides_no_header_of_the_one_for_all_signals() {
    let certificates = Certificates::new();
    let authorities = format!("{}/ca.crt", certificates.directory("service1"));
    for protocol in ["http/protobuf", "grpc"] {
        for (of_traces, expected) in [("", "Basic all"), ("authorization=traces", "traces")] {
            let collector = Collector::start(&certificates);
            let variables = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authorities),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20all"),
                ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", of_traces),
            ];
            let service1 = Process::start("service1", &variables);
            assert_eq!(http::get(service1.http(), NAME).status, 200);
            wait_for("an export", || {
                (collector.exports.load(SeqCst) > 0).then_some(())
            });
            let authorization = collector.authorization.lock().expect("no panic").clone();
            assert_eq!(authorization.expect("it is sent"), expected, "{protocol}");
        }
    }
}

#[test]
fn a_collector_of_another_authority_gets_none() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let collector = Collector::start(&certificates);
    let authorities = format!("{}/ca.crt", others.directory("service1"));
    for (protocol, file, why) in [
        ("http/protobuf", authorities.as_str(), "UnknownIssuer"),
        ("grpc", authorities.as_str(), "UnknownIssuer"),
        ("grpc", "/nowhere/ca.crt", "/nowhere/ca.crt: No such file"),
    ] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.endpoint),
            ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", file),
        ];
        let service1 = Process::start("service1", &variables);
        assert_eq!(http::get(service1.http(), NAME).status, 200);
        let line = service1.line(&[("action", "traces"), ("status", "failure")]);
        assert!(format!("{line:?}").contains(why), "{line:?}");
    }
    assert_eq!(collector.exports.load(SeqCst), 0);
}

#[test]
fn a_variable_that_is_not_supported_is_named_in_the_log() {
    for (variable, value) in [
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/tls.key"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
    ] {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        let service1 = Process::start("service1", &[endpoint, (variable, value)]);
        let named = [
            ("status", "ignored"),
            ("variable", variable),
            ("value", value),
        ];
        service1.line(&named);
    }
}

/// How many of 20 requests have spans, where none would without their callers.
fn recorded(variables: &[(&str, &str)], ask: impl Fn(&Process)) -> f64 {
    let certificates = Certificates::new();
    let authorities = format!("{}/ca.crt", certificates.directory("service1"));
    let collector = Collector::start(&certificates);
    let never = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authorities),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("MAX_FOLLOWED_TRACES", "3"),
    ];
    let service1 = Process::start("service1", &[&never, variables].concat());
    (0..20).for_each(|_| ask(&service1));
    let mut before = -1.0;
    wait_for("all spans", || {
        thread::sleep(Duration::from_millis(500)); // longer than between two exports
        let exported = service1.metric("spans_exported_total");
        let is_all = (exported - before).abs() < 0.5;
        before = exported;
        is_all.then_some(exported)
    })
}

#[test]
fn a_stranger_decides_on_the_spans_of_few_requests() {
    let over_http = |service1: &Process| {
        let response = http::get_with(service1.http(), NAME, &[("traceparent", SAMPLED)]);
        assert_eq!(response.status, 200);
        let line = service1.access_line(response.id());
        assert_eq!(line.text("trace_id"), "4bf92f3577b34da6a3ce929d0e0e4736");
    };
    // 3 in each second that they take.
    let followed = recorded(&[], over_http);
    assert!((3.0..20.0).contains(&followed), "{followed}");
    let trusted = recorded(&[("TRUSTED_PROXIES", "127.0.0.0/8")], over_http);
    assert!((trusted - 20.0).abs() < 0.5, "{trusted}");
    let mesh = recorded(&[], |service1| {
        let response = grpc::process_name(service1.grpc(), "test", &[("traceparent", SAMPLED)]);
        assert_eq!(response.code(), 0);
    });
    assert!((mesh - 20.0).abs() < 0.5, "{mesh}");
}
