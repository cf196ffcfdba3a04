//! What the settings of the edge change.

use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::{
    config::settings::Config,
    request::context::{self, Deadline},
    server::{in_memory::InMemory, service::listener::Listener},
};

/// The status, the headers and the text of the response to a request with these headers. The text is what
/// the handler knows of its client, and the time that it has.
async fn ask(config: &Config, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
    let whoami = async || {
        let address = context::peer_address().expect("a request has one");
        let left = context::deadline().and_then(Deadline::remaining);
        let left = left.map_or(0, |left| left.as_secs());
        format!("{address} {} {left}", context::scheme().unwrap_or("none"))
    };
    let router = Router::new()
        .route("/", get(whoami))
        .route("/hang", get(std::future::pending::<()>));
    let service = InMemory::new(config, |_process| [Listener::http(0, router)]).unwrap();
    let request = headers
        .iter()
        .fold(Request::get("/"), |request, (name, value)| match *name {
            "path" => request.uri(*value),
            _ => request.header(*name, *value),
        });
    let response = service
        .stack(0)
        .oneshot(request.body(Body::empty()).unwrap());
    let (head, body) = response.await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.into()).unwrap();
    (head.status, head.headers, text)
}

#[tokio::test(start_paused = true)]
async fn only_a_trusted_proxy_says_who_the_client_is() {
    let forwarded = [
        ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
        ("x-real-ip", "7.7.7.7"),
        ("x-forwarded-proto", "https"),
    ];
    let alone = Config::default();
    assert_eq!(ask(&alone, &forwarded).await.2, "127.0.0.1 http 10");
    let trusting = |networks: &str| Config {
        trusted_proxies: Some(networks.parse().unwrap()),
        ..Config::default()
    };
    let others = trusting("10.0.0.0/8");
    assert_eq!(ask(&others, &forwarded).await.2, "127.0.0.1 http 10");
    let behind = trusting("127.0.0.1");
    assert_eq!(ask(&behind, &forwarded).await.2, "1.2.3.4 https 10");
    assert_eq!(ask(&behind, &[]).await.2, "127.0.0.1 http 10");
    let real_ip = Config {
        forwarded_header: "x-real-ip".parse().unwrap(),
        ..behind
    };
    assert_eq!(ask(&real_ip, &forwarded).await.2, "7.7.7.7 https 10");
}

#[tokio::test(start_paused = true)]
async fn a_caller_over_http_shortens_the_deadline_and_never_lengthens_it() {
    let config = Config::default();
    for (timeout, left) in [("4S", 4), ("3000m", 3), ("1H", 10), ("soon", 10)] {
        let text = ask(&config, &[("grpc-timeout", timeout)]).await.2;
        assert_eq!(text, format!("127.0.0.1 http {left}"), "{timeout}");
    }
    let begun = tokio::time::Instant::now();
    let late = [("path", "/hang"), ("grpc-timeout", "2S")];
    assert_eq!(ask(&config, &late).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn the_edge_hides_its_timings_where_it_is_told_to() {
    let shows = async |server_timing| {
        let config = Config {
            server_timing,
            deadline: Duration::from_secs(10),
            ..Config::default()
        };
        ask(&config, &[]).await.1.contains_key("server-timing")
    };
    assert!(shows(true).await);
    assert!(!shows(false).await);
}
