//! [`face`]: the port for operators: `/metrics`, `/status`, `/healthz` and `/readyz`.

use std::time::{Duration, SystemTime};

use askama::Template;
use axum::{Router, body::Body, extract::State, response::Response, routing::get};
use http::{
    HeaderMap,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
};
use tower::util::MapRequestLayer;

use super::{
    health::{self, quiet},
    listener::Face,
    process::Process,
    readiness,
    route::note,
};
use crate::{
    config::{About, about},
    endpoints,
    methods::Deadlines,
    metrics::{self, ReplicaSummary, RequestSummary},
    pages,
    protocol::Protocol,
    tls,
};

/// The path of the style sheet of `/status`.
const STYLE: &str = "/status.css";

/// Allows only our own style sheet, and no script.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The port for operators, ready to serve.
pub(crate) fn face(status: Status, deadline: Duration) -> Face {
    let health = health::routes(status.process.readiness().clone());
    let router = Router::new()
        .route(endpoints::METRICS, get(metrics))
        .route(endpoints::STATUS, get(page))
        .route(STYLE, get(async || quiet(pages::style())))
        .with_state(status)
        .merge(health)
        .route_layer(MapRequestLayer::new(note::<Body>));
    Face {
        router,
        protocol: Protocol::Http,
        deadlines: Deadlines::of_routes(deadline, Vec::new()).expect("there is no route"),
        body_limit: 0,
    }
}

/// What the pages of the port show, beside the metrics.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    process: Process,
    workers: usize,
}

impl Status {
    pub(crate) fn new(process: Process, workers: usize) -> Self {
        Self { process, workers }
    }
}

async fn metrics(headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (media_type, text) = metrics::text(accept.unwrap_or_default());
    quiet(([(CONTENT_TYPE, media_type)], text))
}

async fn page(State(status): State<Status>) -> Response {
    let html = Page::of(&status).render().expect("a string takes it");
    quiet((
        [
            (CONTENT_TYPE, pages::HTML),
            (CACHE_CONTROL, "no-store"),
            (CONTENT_SECURITY_POLICY, POLICY),
        ],
        html,
    ))
}

/// The page `/status`.
#[derive(Template)]
#[template(path = "status.html")]
struct Page {
    about: &'static About,
    state: String,
    started: String,
    uptime: String,
    workers: usize,
    in_flight: i64,
    connections: i64,
    replicas: Vec<ReplicaSummary>,
    certificates: Vec<Certificate>,
    routes: Vec<RequestSummary>,
}

/// A certificate or an authority, and when it expires.
struct Certificate {
    file: String,
    expires: String,
    left: String,
}

impl Page {
    fn of(status: &Status) -> Self {
        let now = SystemTime::now();
        let (in_flight, connections) = metrics::open();
        let started = metrics::process_start();
        Self {
            about: about(),
            state: match status.process.readiness().state() {
                readiness::State::Ready => "ready".into(),
                readiness::State::Waiting(1) => "not ready: one condition is not met".into(),
                readiness::State::Waiting(count) => {
                    format!("not ready: {count} conditions are not met")
                }
                readiness::State::Draining => "draining".into(),
            },
            started: date(started),
            uptime: span(now.duration_since(started).unwrap_or_default()),
            workers: status.workers,
            in_flight,
            connections,
            replicas: metrics::replicas(),
            certificates: certificates(now),
            routes: metrics::requests(),
        }
    }
}

fn certificates(now: SystemTime) -> Vec<Certificate> {
    let all = tls::expiries().into_iter();
    let files = all.flat_map(|(directory, expiries)| {
        let files = ["tls.crt", "ca.crt"].into_iter().zip(expiries);
        files.map(move |(file, expiry)| (format!("{directory}: {file}"), expiry))
    });
    let certificate = |(file, expiry)| {
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(expiry);
        Certificate {
            file,
            expires: date(expires),
            left: match expires.duration_since(now) {
                Ok(left) => span(left),
                Err(_) => "expired".into(),
            },
        }
    };
    files.map(certificate).collect()
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A span of time: in days, or below two days in its two largest units.
fn span(span: Duration) -> String {
    let days = span.as_secs() / (24 * 60 * 60);
    if days >= 2 {
        return format!("{days} days");
    }
    let text = humantime::format_duration(Duration::from_secs(span.as_secs())).to_string();
    let units: Vec<_> = text.split(' ').take(2).collect();
    units.join(" ")
}

/// A duration in milliseconds.
fn millis(duration: &Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_one_unit_or_two() {
        assert_eq!(span(Duration::from_secs(0)), "0s");
        assert_eq!(span(Duration::from_secs(59)), "59s");
        assert_eq!(span(Duration::from_secs(3_600 * 25 + 61)), "1day 1h");
        assert_eq!(span(Duration::from_hours(9 * 24)), "9 days");
    }
}
