//! [`Status`]: the page `/status`, which shows operators the state of the process.
//!
//! | file | contents |
//! |---|---|
//! | `verdict` | the headline and what is wrong, from the facts |
//! | `rows` | the rows of the tables |
//! | `words` | figures and times in words |

mod rows;
mod verdict;
mod words;

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFRESH},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::{
    rows::{CallsRow, Route, use_of},
    verdict::{Facts, Verdict},
};
use super::{health::quiet, process::Process, query::Query};
use crate::{
    config::about::{About, Setting, about},
    endpoints,
    pages::{self, Links},
    sync::lock,
    telemetry::metrics::{self, Recent, RouteSummary, Side, Usage},
    tls,
};

/// Allows only our own style sheet and icon, and no script.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The seconds after which the page may load itself again.
const REFRESH_SECONDS: RangeInclusive<u64> = 1..=3_600;

/// The seconds in the link with which the page loads itself again.
const USUAL_REFRESH: u64 = 10;

/// The facts of the page that are no metrics. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    process: Process,
    workers: usize,
    recent: Arc<Mutex<Recent>>,
}

impl Status {
    pub(crate) fn new(process: Process, workers: usize) -> Self {
        Self {
            process,
            workers,
            recent: Arc::default(),
        }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Takes snapshots of the counters while polled, on the thread for operators.
    pub(crate) async fn keep_snapshots(self) {
        let mut ticks = interval(metrics::SNAPSHOT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            lock(&self.recent).add(now, metrics::snapshot());
        }
    }
}

/// Serves the page.
pub(crate) async fn page(
    State(status): State<Status>,
    request_headers: HeaderMap,
    query: Query,
) -> Response {
    let refresh = Refresh::of(&query);
    let html = Page::of(&status, &request_headers, refresh)
        .render()
        .expect("writing to a String cannot fail");
    let headers = [
        (CONTENT_TYPE, pages::HTML),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    quiet((headers, refresh.header(), html).into_response())
}

/// Whether the page loads itself again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    Off,
    Every(u64),
    /// The query asks for what the page does not do. An operator needs the page all the same.
    Invalid,
}

impl Refresh {
    fn of(query: &Query) -> Self {
        let seconds = match query.get("refresh") {
            Ok(None) => return Self::Off,
            Ok(Some(text)) => text.parse().ok(),
            Err(_) => None,
        };
        match seconds.filter(|seconds| REFRESH_SECONDS.contains(seconds)) {
            Some(seconds) => Self::Every(seconds),
            None => Self::Invalid,
        }
    }

    fn header(self) -> Option<[(HeaderName, HeaderValue); 1]> {
        match self {
            Self::Every(seconds) => Some([(REFRESH, seconds.into())]),
            Self::Off | Self::Invalid => None,
        }
    }
}

/// The page.
#[derive(Template)]
#[template(path = "status.html")]
struct Page {
    links: Links,
    about: &'static About,
    verdict: Verdict,
    at: String,
    refresh: Refresh,
    started: String,
    uptime: String,
    workers: usize,
    usage: Vec<(&'static str, String)>,
    /// The period that the figures of routes and calls cover.
    window: String,
    routes: Vec<Route>,
    calls: CallsRow,
    certificates: Vec<Certificate>,
}

/// A certificate or an authority, and when it expires.
struct Certificate {
    file: String,
    expires: String,
    left: String,
}

impl Page {
    fn of(status: &Status, request_headers: &HeaderMap, refresh: Refresh) -> Self {
        let now = SystemTime::now();
        let snapshot = metrics::snapshot();
        let (window, all) = lock(&status.recent).summaries(Instant::now(), &snapshot);
        let is_served = |it: &RouteSummary| it.side == Side::Served;
        let (mut own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_own);
        let troubled = others.clone();
        let (mut routes, mut called): (Vec<_>, Vec<_>) = others.into_iter().partition(is_served);
        routes.extend(own.extract_if(.., |it| is_served(it)));
        called.append(&mut own);
        let (in_flight, connections) = metrics::open();
        let Usage { files, memory, .. } = Usage::now();
        let certificates = certificates();
        let facts = Facts {
            now,
            readiness: status.process.readiness().state(),
            missing: status.process.readiness().missing(),
            fault: status.process.readiness().vitals().fault(),
            targets: metrics::targets(),
            replicas: metrics::replicas(),
            routes: troubled,
            in_flight,
            connections,
            files,
            memory,
            certificates: certificates.clone(),
        };
        let started = metrics::process_start();
        let ports = status.process.ports();
        Self {
            links: Links::new(&ports, pages::Page::Status, request_headers),
            about: about(),
            verdict: Verdict::of(&facts),
            at: words::date(now),
            refresh,
            started: words::date(started),
            uptime: words::age(now, started),
            workers: status.workers,
            usage: use_of(&facts),
            window: window_of(window),
            routes: routes.iter().map(Route::of).collect(),
            calls: CallsRow::of(&facts, &called),
            certificates: certificates
                .into_iter()
                .map(|(file, expiry)| Certificate {
                    file,
                    expires: words::date(expiry),
                    left: match expiry.duration_since(now) {
                        Ok(left) => words::span(left),
                        Err(_) => "expired".into(),
                    },
                })
                .collect(),
        }
    }
}

/// Whether every service has the route or the method. Of the calls, those are health checks: no
/// descriptor has them.
fn is_own(it: &RouteSummary) -> bool {
    let name = it.name.as_str();
    let route = name.split_once(' ').map_or(name, |(_method, route)| route);
    match it.side {
        Side::Served => endpoints::is_own(route),
        Side::Called => route == metrics::OTHER,
    }
}

/// The period that the figures cover: a minute, or less just after the start.
fn window_of(window: Duration) -> String {
    let usual = metrics::SNAPSHOT_INTERVAL * 11..=metrics::SNAPSHOT_INTERVAL * 12;
    if usual.contains(&window) {
        "minute".into()
    } else {
        words::span(window)
    }
}

/// The value of a setting in words. An empty default means what its help says.
fn value_of(setting: &Setting) -> String {
    let without = setting.without.as_deref();
    match (setting.value.as_deref(), without) {
        (None, None) => "not set".into(),
        (None, Some(without)) => format!("not set: {without}"),
        (Some(""), Some(default)) if setting.source == "default" => default.into(),
        (Some(""), _) => "(empty)".into(),
        (Some(value), _) => value.into(),
    }
}

/// The certificates, each with when it expires.
fn certificates() -> Vec<(String, SystemTime)> {
    let files = tls::facts().into_iter().flat_map(|facts| {
        let directory = facts.directory;
        facts.expiries.into_iter().map(move |(file, expiry)| {
            let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(expiry);
            (format!("{directory}: {file}"), expiry)
        })
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;

    use super::*;

    async fn refresh(query: &str) -> Refresh {
        let request = http::Request::get(format!("/status{query}")).body(());
        let (mut parts, ()) = request.expect("a request").into_parts();
        let Ok(query) = Query::from_request_parts(&mut parts, &()).await;
        Refresh::of(&query)
    }

    #[tokio::test]
    async fn the_page_reloads_within_bounds_or_says_that_it_does_not() {
        assert_eq!(refresh("").await, Refresh::Off);
        assert_eq!(refresh("?other=1").await, Refresh::Off);
        for seconds in [1, 10, 3_600] {
            let query = format!("?refresh={seconds}");
            assert_eq!(refresh(&query).await, Refresh::Every(seconds));
        }
        for bad in [
            "0",
            "3601",
            "-1",
            "",
            "soon",
            "1.5",
            "%zz",
            "1&refresh=2",
            "99999999999999999999",
        ] {
            let query = format!("?refresh={bad}");
            assert_eq!(refresh(&query).await, Refresh::Invalid, "{bad}");
        }
    }

    #[test]
    fn routes_of_every_service_and_health_checks_are_its_own() {
        let is_own = |side, name: &str| {
            is_own(&RouteSummary {
                side,
                name: name.into(),
                count: 1,
                failed: 0,
                recent: None,
            })
        };
        for own in [
            "GET /healthz",
            "HEAD /readyz",
            "GET /status",
            "GET /status.css",
            "GET /metrics",
            "GET /docs",
            "GET /openapi.json",
            "grpc.health.v1.Health/Check",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(is_own(Side::Served, own), "{own}");
        }
        for other in [
            "GET /",
            "GET /statuses",
            "other",
            "GET other",
            "api.Api/getAll",
        ] {
            assert!(!is_own(Side::Served, other), "{other}");
        }
        assert!(is_own(Side::Called, "other"));
        assert!(!is_own(Side::Called, "api.Api/getAll"));
    }

    #[test]
    fn a_setting_without_a_value_says_what_that_means() {
        let words = |value: Option<&str>, without: Option<&str>| {
            value_of(&Setting {
                name: "NAME".into(),
                value: value.map(Into::into),
                without: without.map(Into::into),
                source: "default",
            })
        };
        assert_eq!(words(None, Some("no TLS")), "not set: no TLS");
        assert_eq!(words(None, None), "not set");
        assert_eq!(words(Some(""), Some("info")), "info");
        assert_eq!(words(Some(""), None), "(empty)");
        assert_eq!(words(Some("10s"), None), "10s");
    }

    #[test]
    fn a_window_of_about_a_minute_is_one() {
        for (seconds, text) in [(7, "7s"), (57, "minute"), (200, "3m 20s")] {
            assert_eq!(window_of(Duration::from_secs(seconds)), text);
        }
    }
}
