//! [`Visit`]: the connection of an HTTP client, and its requests.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use common::RequestId;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    network::{Host, Socket},
    service::id_of,
    trace::{Event, Trace},
};

/// How a response ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was whole.
    Whole,
    /// It broke off.
    Broken,
    /// The client had enough.
    Left,
}

/// What a client got of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Got {
    /// The status.
    pub status: u16,
    /// The bytes of the body.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its number, which makes its id.
    pub call: u64,
    path: String,
    /// The chunks of its body, and the time between two of them; none for a GET.
    sends: Option<(u32, Duration)>,
    /// The bytes after which the client leaves.
    leaves_after: Option<u64>,
    /// The time that the client takes for each part of the response.
    reads_for: Duration,
}

impl Ask {
    /// A request as some client may make it.
    pub fn draw(call: u64, random: &mut fastrand::Rng) -> Self {
        let bytes = match random.u8(..4) {
            0 | 1 => random.u32(..200),
            2 => random.u32(..20_000),
            _ => random.u32(..300_000),
        };
        let millis = random.u32(..300);
        let mut sends = None;
        let path = match random.u8(..10) {
            0..4 => format!("/get/{call}/{millis}/{bytes}"),
            4 | 5 => format!("/list/{call}/{millis}/{bytes}"),
            6 => format!("/stream/{}/{bytes}/{millis}", random.u32(..6)),
            7 => format!("/fixed/{bytes}"),
            8 => "/nowhere".to_owned(),
            _ => {
                sends = Some((random.u32(..5), Duration::from_millis(millis.into())));
                "/count".to_owned()
            }
        };
        Self {
            call,
            path,
            sends,
            leaves_after: (random.u8(..8) == 0).then(|| random.u64(..20_000)),
            reads_for: match random.u8(..6) {
                0 => Duration::from_millis(random.u64(..300)),
                _ => Duration::ZERO,
            },
        }
    }
}

/// A connection of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visit {
    /// Over HTTP/1.1, one request after the other.
    Http1(Vec<Ask>),
    /// Over HTTP/2, all at once.
    Http2(Vec<Ask>),
    /// Two requests at once over HTTP/1.1, of which the client only counts the responses.
    Pipelined(u64, u64),
    /// Half a head, and then nothing.
    HalfHead,
}

impl Visit {
    /// A visit as some client may make it. `next` counts its requests.
    pub fn draw(random: &mut fastrand::Rng, next: impl Fn() -> u64) -> Self {
        let mut asks = || {
            let count = random.usize(1..=4);
            (0..count).map(|_| Ask::draw(next(), random)).collect()
        };
        let asks: Vec<_> = asks();
        match random.u8(..10) {
            0..5 => Self::Http1(asks),
            5..8 => Self::Http2(asks),
            8 => Self::Pipelined(next(), next()),
            _ => Self::HalfHead,
        }
    }

    /// Makes the visit, and notes what comes of it.
    pub async fn run(self, host: Host, edge: SocketAddr, trace: Trace) {
        let Ok(socket) = host.open(edge).await else {
            return;
        };
        match self {
            Self::Http1(asks) => over_http1(socket, asks, &trace).await,
            Self::Http2(asks) => over_http2(socket, asks, &trace).await,
            Self::Pipelined(one, other) => pipelined(socket, [one, other], &trace).await,
            Self::HalfHead => half_head(socket, &trace).await,
        }
    }
}

type Body = Either<
    Empty<Bytes>,
    StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>,
>;

fn request(ask: &Ask) -> Request<Body> {
    let body = match ask.sends {
        None => Either::Left(Empty::new()),
        Some((chunks, pause)) => {
            let data = stream::iter(0..chunks).then(move |_| async move {
                sleep(pause).await;
                Ok(Frame::data(Bytes::from_static(&[b'y'; 500])))
            });
            Either::Right(StreamBody::new(data.boxed()))
        }
    };
    let method = if ask.sends.is_some() { "POST" } else { "GET" };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://edge{}", ask.path))
        .header("host", "edge")
        .header(RequestId::HTTP_HEADER, id_of(ask.call));
    request.body(body).expect("its parts are valid")
}

async fn over_http1(socket: Socket, asks: Vec<Ask>, trace: &Trace) {
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(socket)).await else {
        return;
    };
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    for ask in asks {
        if sender.ready().await.is_err() {
            return;
        }
        trace.note(Event::Asks(ask.clone()));
        let begin = trace.now();
        let response = sender.send_request(request(&ask)).await;
        if !finish(&ask, response, begin, trace).await {
            return;
        }
    }
}

async fn over_http2(socket: Socket, asks: Vec<Ask>, trace: &Trace) {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let Ok((sender, connection)) = handshake else {
        return;
    };
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let all = asks.into_iter().map(|ask| {
        let mut sender = sender.clone();
        async move {
            if sender.ready().await.is_err() {
                return;
            }
            trace.note(Event::Asks(ask.clone()));
            let begin = trace.now();
            let response = sender.send_request(request(&ask)).await;
            finish(&ask, response, begin, trace).await;
        }
    });
    futures_util::future::join_all(all).await;
}

/// The most parts of a response that a slow client reads.
const MOST_SLOW_PARTS: u32 = 30;

/// Reads a response. Returns whether the client goes on.
async fn finish(
    ask: &Ask,
    response: hyper::Result<Response<Incoming>>,
    begin: Duration,
    trace: &Trace,
) -> bool {
    let Ok(response) = response else {
        return false;
    };
    let id = response.headers().get(RequestId::HTTP_HEADER);
    if id.is_none_or(|id| id != id_of(ask.call).as_str()) {
        trace.violation(format!("the response to {} has the id {id:?}", ask.call));
    }
    let mut got = Got {
        status: response.status().as_u16(),
        bytes: 0,
        end: End::Whole,
    };
    let mut body = response.into_body();
    let mut parts = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            got.end = End::Broken;
            break;
        };
        got.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        parts += 1;
        let has_enough = ask.leaves_after.is_some_and(|after| got.bytes > after);
        if has_enough || (parts > MOST_SLOW_PARTS && !ask.reads_for.is_zero()) {
            got.end = End::Left;
            break;
        }
        if !ask.reads_for.is_zero() {
            sleep(ask.reads_for).await;
        }
    }
    trace.note(Event::Got {
        call: ask.call,
        took: trace.since(begin),
        got,
    });
    got.end == End::Whole
}

/// The time after which a server has closed what it has no patience with.
const PATIENCE: Duration = Duration::from_secs(100);

async fn read_to_end(mut socket: Socket) -> Option<Vec<u8>> {
    let mut response = Vec::new();
    let reading = timeout(PATIENCE, socket.read_to_end(&mut response)).await;
    reading.is_ok().then_some(response)
}

async fn pipelined(mut socket: Socket, calls: [u64; 2], trace: &Trace) {
    let request = |call: u64, close: &str| {
        let id = id_of(call);
        format!("GET /fixed/1000 HTTP/1.1\r\nhost: edge\r\nx-request-id: {id}\r\n{close}\r\n")
    };
    let [one, other] = calls;
    let both = request(one, "") + &request(other, "connection: close\r\n");
    if socket.write_all(both.as_bytes()).await.is_err() {
        return;
    }
    let Some(response) = read_to_end(socket).await else {
        return trace.violation(format!("the connection of {one} and {other} never ends"));
    };
    let text = String::from_utf8_lossy(&response);
    for call in calls {
        let times = text
            .matches(&format!("x-request-id: {}\r\n", id_of(call)))
            .count();
        if times > 1 {
            trace.violation(format!("request {call} got {times} responses"));
        }
    }
}

async fn half_head(mut socket: Socket, trace: &Trace) {
    if socket
        .write_all(b"GET /fixed/1 HTTP/1.1\r\nho")
        .await
        .is_err()
    {
        return;
    }
    if read_to_end(socket).await.is_none() {
        trace.violation("half a head keeps its connection for ever");
    }
}
