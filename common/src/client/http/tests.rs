use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ::http::Method;
use axum::body::to_bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::*;
use crate::request::timings::Timings;

const PATIENCE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(10);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

/// A service that answers each request, by its number from 0, with these bytes; with none, it
/// closes the connection.
struct Peer {
    uri: String,
    heads: Arc<std::sync::Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Peer {
    async fn start(script: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/path", listener.local_addr().unwrap());
        let (heads, connections) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let peer = Self {
            uri,
            heads: Arc::clone(&heads),
            connections: connections.clone(),
        };
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                tokio::spawn(serve(socket, script.clone(), heads.clone()));
            }
        });
        peer
    }

    fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

async fn serve(
    mut socket: TcpStream,
    script: Arc<impl Fn(usize) -> String>,
    heads: Arc<std::sync::Mutex<Vec<String>>>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = socket.read_u8().await else {
                return;
            };
            head.push(byte);
        }
        let number = {
            let mut heads = heads.lock().unwrap();
            heads.push(String::from_utf8(head).unwrap());
            heads.len() - 1
        };
        let response = script(number);
        let sent = socket.write_all(response.as_bytes()).await;
        if response.is_empty() || sent.is_err() {
            return;
        }
    }
}

fn client(deadline: Duration) -> Client {
    Client::new("peer", deadline)
}

fn context(deadline: Duration) -> Context {
    Context::new("order-17".parse().unwrap(), Deadline::after(deadline))
}

/// The status of the response to a request of this method without a body.
async fn status(peer: &Peer, method: Method) -> Result<u16, Error> {
    let request = Request::builder().method(method).uri(&peer.uri);
    let response = client(DEADLINE).call(request.body(Body::empty()).unwrap());
    let response = timeout(PATIENCE, response).await.expect("in time")?;
    Ok(response.status().as_u16())
}

#[tokio::test]
async fn a_call_carries_the_id_of_its_request_and_no_other() {
    let peer = Peer::start(|_| OK.into()).await;
    let request = Request::get(&peer.uri).header("x-request-id", "another");
    let call = client(DEADLINE).call(request.body(Body::empty()).unwrap());
    call.await.unwrap(); // outside of a request, the id is fresh
    let request = Request::get(&peer.uri).header("x-request-id", "another");
    let request = request.body(Body::empty()).unwrap();
    let call = async { client(DEADLINE).call(request).await };
    let response = context(DEADLINE).scope(call).await.unwrap();
    let body = to_bytes(response.into_body(), 10).await.unwrap();
    assert_eq!(body, "hi");
    let heads = peer.heads.lock().unwrap();
    assert!(!heads[0].contains("another"), "{}", heads[0]);
    assert!(heads[0].contains("x-request-id: "), "{}", heads[0]);
    assert!(
        heads[1].contains("x-request-id: order-17\r\n"),
        "{}",
        heads[1]
    );
}

#[tokio::test]
async fn the_time_of_a_call_is_in_the_timings_of_its_request() {
    let peer = Peer::start(|_| OK.into()).await;
    let timings = Timings::since(std::time::Instant::now());
    context(DEADLINE)
        .with(|shared| shared.timings = Some(timings.clone()))
        .scope(client(DEADLINE).get(&peer.uri))
        .await
        .unwrap();
    let timing = timings.header_value().unwrap();
    assert!(
        timing.to_str().unwrap().starts_with("peer;dur="),
        "{timing:?}"
    );
}

#[tokio::test]
async fn safe_methods_are_retried() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let unavailable = Peer::start(|number| [UNAVAILABLE, OK][number.min(1)].into()).await;
        let status_of = status(&unavailable, method.clone()).await;
        assert_eq!(
            (status_of.unwrap(), unavailable.requests()),
            (200, 2),
            "{method}"
        );
    }
    let broken = Peer::start(|number| ["", "", OK][number].into()).await;
    assert_eq!(status(&broken, Method::GET).await.unwrap(), 200);
    let down = Peer::start(|_| UNAVAILABLE.into()).await;
    assert_eq!(status(&down, Method::GET).await.unwrap(), 503);
    assert_eq!(down.requests(), 3);
}

#[tokio::test]
async fn other_methods_and_requests_with_a_body_are_sent_once() {
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let peer = Peer::start(|_| UNAVAILABLE.into()).await;
        assert_eq!(status(&peer, method.clone()).await.unwrap(), 503);
        assert_eq!(peer.requests(), 1, "{method}");
    }
    let peer = Peer::start(|_| UNAVAILABLE.into()).await;
    let request = Request::get(&peer.uri).body(Body::from("a body")).unwrap();
    let response = client(DEADLINE).call(request).await.unwrap();
    assert_eq!((response.status().as_u16(), peer.requests()), (503, 1));
    let peer = Peer::start(|_| String::new()).await;
    let error = status(&peer, Method::POST).await.unwrap_err();
    assert!(matches!(error, Error::Broken(_)), "{error:?}");
    assert_eq!(peer.requests(), 1);
}

#[tokio::test]
async fn a_failure_that_no_retry_can_mend_is_found_in_time() {
    const LATER: &str =
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    let peer = Peer::start(|_| LATER.into()).await;
    assert_eq!(status(&peer, Method::GET).await.unwrap(), 503);
    assert_eq!(peer.requests(), 1, "the deadline comes before the retry");
    let peer = Peer::start(|_| LATER.replace("60", "+60")).await;
    assert_eq!(status(&peer, Method::GET).await.unwrap(), 503);
    assert_eq!(peer.requests(), 3, "it is no number");
}

#[tokio::test]
async fn many_failures_use_up_the_budget() {
    let peer = Peer::start(|_| UNAVAILABLE.into()).await;
    let client = client(DEADLINE);
    let calls = (0..100).map(|_| client.get(&peer.uri));
    for response in futures_util::future::join_all(calls).await {
        assert_eq!(response.unwrap().status(), 503);
    }
    let retries = peer.requests() - 100;
    assert!(
        (100..=180).contains(&retries),
        "{retries} retries of at most 200"
    );
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_wherever_it_is() {
    const BRIEF: Duration = Duration::from_millis(100);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", silent.local_addr().unwrap());
    let error = client(BRIEF).get(&uri).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");

    let slow = Peer::start(|_| "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi".into()).await;
    let call = async { client(DEADLINE).get(&slow.uri).await };
    let response = context(BRIEF).scope(call).await.unwrap();
    let body = timeout(PATIENCE, to_bytes(response.into_body(), 100)).await;
    let error = body.expect("in time").unwrap_err();
    let error = Error::broken(error);
    assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");
}

#[tokio::test]
async fn with_no_time_left_no_call_is_made() {
    let peer = Peer::start(|_| OK.into()).await;
    let call = async { client(DEADLINE).get(&peer.uri).await };
    let error = context(Duration::ZERO).scope(call).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");
    sleep(Duration::ZERO).await;
    assert_eq!(peer.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn what_is_no_response_breaks_the_call_off() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nx: {}",
        "a".repeat(2 * limits::HTTP1_BUFFER)
    );
    for response in [long, "SSH-2.0-OpenSSH\r\n".into()] {
        let peer = Peer::start(move |_| response.clone()).await;
        let error = status(&peer, Method::POST).await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)), "{error:?}");
    }
}

#[tokio::test]
async fn each_error_is_a_problem_without_internal_text() {
    let unreachable = client(DEADLINE)
        .get("http://127.0.0.1:1/")
        .await
        .unwrap_err();
    assert!(unreachable.to_string().contains("refused"), "{unreachable}");
    for (error, status) in [
        (unreachable, 503),
        (Error::broken("the cable"), 502),
        (Error::DeadlineExceeded, 504),
        (client(DEADLINE).get("/path").await.unwrap_err(), 500),
    ] {
        let text = error.to_string();
        let problem = crate::problem::Problem::from(error);
        assert_eq!(problem.status(), status, "{text}");
        assert!(!problem.detail().contains("refused"), "{problem:?}");
        assert!(!problem.detail().contains("cable"), "{problem:?}");
    }
}

#[test]
#[should_panic(expected = "not 1 to 64 letters")]
fn a_name_that_is_no_token_is_refused() {
    let _ = Client::new("a b", DEADLINE);
}
