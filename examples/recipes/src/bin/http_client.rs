//! A service that calls another over HTTP. The call carries the id, the deadline and the trace of its request,
//! ends at that deadline, and is sent again once where that is safe and may help.

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{Request, Response, StatusCode, Uri},
    response::IntoResponse,
    routing::get,
};
use clap::Parser;
use common::{
    Problem, context,
    server::{self, Listener},
};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tracing::warn;

/// The longest document that is read, in bytes.
const DOCUMENT: usize = 64 * 1_024;

/// The attempts of a call.
const ATTEMPTS: u32 = 2;

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    /// The port for HTTP
    #[arg(long, env, default_value_t = 8082)]
    port: u16,

    /// Where the rates are, such as <http://rates:8080/api/v1/rate>
    #[arg(long, env)]
    rates: Uri,
}

/// A client of the service with the rates, with connections of its own: one for each worker.
#[derive(Clone)]
struct Rates {
    client: Client<HttpConnector, Body>,
    address: Uri,
}

impl Rates {
    fn new(address: Uri) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new()) // closes idle connections
            .build_http();
        Self { client, address }
    }

    /// The current rate.
    ///
    /// No deadline is set here: at the deadline of the request, its handler is dropped, and the call
    /// with it. Work that is not part of a request needs a `tokio::time::timeout`.
    async fn current(&self) -> Result<Bytes, Problem> {
        let mut attempt = 1;
        loop {
            let outcome = self.ask().await;
            let may_help = match &outcome {
                Ok(response) => response.status() == StatusCode::SERVICE_UNAVAILABLE,
                Err(_) => true,
            };
            if may_help && attempt < ATTEMPTS {
                attempt += 1; // a GET may be sent again
                continue;
            }
            return read(outcome).await;
        }
    }

    async fn ask(&self) -> Result<Response<Body>, Error> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.address.clone();
        // Made for each attempt: a later one has less time.
        request.headers_mut().extend(context::outbound_headers());
        let response = self.client.request(request).await?;
        Ok(response.map(Body::new))
    }
}

/// The document of a response with 200. The reason for another goes to the log, not to the client.
async fn read(outcome: Result<Response<Body>, Error>) -> Result<Bytes, Problem> {
    let bad_gateway = |error: &dyn std::fmt::Display| {
        warn!(action = "ask_rates", status = "failure", %error);
        Problem::new(StatusCode::BAD_GATEWAY, "The rates can't be had.")
    };
    let response = outcome.map_err(|error| bad_gateway(&error))?;
    if response.status() != StatusCode::OK {
        return Err(bad_gateway(&response.status()));
    }
    let document = to_bytes(response.into_body(), DOCUMENT).await;
    document.map_err(|error| bad_gateway(&error))
}

async fn show_rate(State(rates): State<Rates>) -> Result<impl IntoResponse, Problem> {
    rates.current().await
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    server::run("http_client", &config.common, move |_process| {
        [listener(config.port, config.rates.clone())]
    })
}

fn listener(port: u16, rates: Uri) -> Listener {
    let router = Router::new().route("/api/v1/rate", get(show_rate));
    Listener::http(port, router.with_state(Rates::new(rates)))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    use axum::http::HeaderMap;
    use common::server::{InMemory, Server};
    use tower::ServiceExt;

    use super::*;

    /// The rates, which are not available at the first call. They are the id of the request.
    fn rates(calls: &Arc<AtomicU32>) -> Server {
        let calls = calls.clone();
        let config = common::Config {
            host: [127, 0, 0, 1].into(),
            ..common::Config::default()
        };
        let server = server::bind(&config, move |_process| {
            let calls = calls.clone();
            let rate = async move |headers: HeaderMap| {
                if calls.fetch_add(1, Relaxed) == 0 {
                    return Err(StatusCode::SERVICE_UNAVAILABLE);
                }
                assert!(headers.contains_key("grpc-timeout"));
                Ok(headers["x-request-id"].as_bytes().to_owned())
            };
            [Listener::http(0, Router::new().route("/", get(rate)))]
        });
        server.unwrap()
    }

    /// The status and the text of the response to a request with this id.
    async fn ask(rates: &str, id: &str) -> (StatusCode, String) {
        let rates = rates.parse().unwrap();
        let config = common::Config::default();
        let service = InMemory::new(&config, |_process| [listener(0, rates)]).unwrap();
        let request = Request::get("/api/v1/rate").header("x-request-id", id);
        let request = request.body(Body::empty()).unwrap();
        let response = service.stack(0).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), DOCUMENT);
        (
            status,
            String::from_utf8(body.await.unwrap().into()).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_call_has_the_id_of_its_request_and_is_sent_again() {
        let calls = Arc::default();
        let server = rates(&calls);
        let address = format!("http://{}/", server.addresses()[0]);
        tokio::spawn(server.serve(std::future::pending()));
        let seen = ask(&address, "order-17").await;
        assert_eq!(seen, (StatusCode::OK, "order-17".to_owned()));
        assert_eq!(calls.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn rates_that_can_t_be_had_are_a_bad_gateway() {
        let (status, problem) = ask("http://127.0.0.1:1/", "order-17").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(problem.contains("The rates can't be had."), "{problem}");
    }
}
