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
    network::{Host, Socket, Written},
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
    /// Whether only the head of the response is asked for.
    is_head: bool,
    /// Whether the head of the request is longer than the edge accepts.
    is_too_long: bool,
    /// The time on an idle connection before it is sent.
    waits: Duration,
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
        let path = match random.u8(..13) {
            0..4 => format!("/get/{call}/{millis}/{bytes}"),
            4 | 5 => format!("/list/{call}/{millis}/{bytes}"),
            6 => format!("/stream/{}/{bytes}/{millis}", random.u32(..6)),
            7 => format!("/fixed/{bytes}"),
            8 => "/nowhere".to_owned(),
            9 => format!("/sized/{}/{bytes}/{millis}", random.u32(1..6)),
            10 => "/jobs/all".to_owned(),
            11 => format!("/jobs/{millis}"),
            _ => {
                sends = Some((random.u32(..5), Duration::from_millis(millis.into())));
                "/count".to_owned()
            }
        };
        Self {
            call,
            path,
            is_head: sends.is_none() && random.u8(..8) == 0,
            is_too_long: sends.is_none() && random.u8(..20) == 0,
            waits: match random.u8(..6) {
                0 => Duration::from_millis(random.u64(..5_000)),
                _ => Duration::ZERO,
            },
            sends,
            leaves_after: (random.u8(..8) == 0).then(|| random.u64(..20_000)),
            reads_for: match random.u8(..6) {
                0 => Duration::from_millis(random.u64(..300)),
                _ => Duration::ZERO,
            },
        }
    }

    /// A request for this path, from a client that does nothing in particular.
    fn plain(call: u64, path: impl Into<String>) -> Self {
        Self {
            call,
            path: path.into(),
            is_head: false,
            is_too_long: false,
            waits: Duration::ZERO,
            sends: None,
            leaves_after: None,
            reads_for: Duration::ZERO,
        }
    }

    /// The status of the response, where it does not depend on the replicas.
    pub fn expected(&self) -> Option<u16> {
        let route = self.path.split('/').nth(1)?;
        match route {
            _ if self.is_too_long => Some(431),
            "stream" | "fixed" | "sized" | "endless" => Some(200),
            "jobs" if self.path.ends_with("all") => Some(200),
            "nowhere" => Some(404),
            _ => None,
        }
    }

    /// Whether the response has no body.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// Whether the response may take any time.
    pub fn is_endless(&self) -> bool {
        self.path.starts_with("/endless/")
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
    /// Half a head, behind a whole request or not, and then nothing.
    HalfHead(Option<u64>),
    /// A request over HTTP/1.1, and an open connection for so long.
    Idle(u64, Duration),
    /// A long response over HTTP/1.1, of which a part is read every so often.
    Steady(u64, Duration),
}

impl Visit {
    /// A visit as some client may make it. `next` counts its requests.
    pub fn draw(random: &mut fastrand::Rng, next: impl Fn() -> u64) -> Self {
        let mut asks = || {
            let count = random.usize(1..=4);
            (0..count).map(|_| Ask::draw(next(), random)).collect()
        };
        let asks: Vec<_> = asks();
        match random.u8(..27) {
            0..11 => Self::Http1(asks),
            11..18 => Self::Http2(asks),
            18 | 19 => Self::Pipelined(next(), next()),
            20 => Self::HalfHead(None),
            21 => Self::HalfHead(Some(next())),
            22 => Self::Steady(next(), Duration::from_millis(random.u64(400..700))),
            23 => Self::Http1(
                (0..8)
                    .map(|_| Ask {
                        waits: Duration::from_millis(random.u64(..1_000)),
                        ..Ask::draw(next(), random)
                    })
                    .collect(),
            ),
            _ => Self::Idle(next(), Duration::from_millis(random.u64(..70_000))),
        }
    }

    /// Two requests over HTTP/1.1 with a pause between.
    pub fn with_pause(one: u64, other: u64, pause: Duration) -> Self {
        let second = Ask {
            waits: pause,
            ..Ask::plain(other, "/fixed/100")
        };
        Self::Http1(vec![Ask::plain(one, "/fixed/100"), second])
    }

    /// Whether it may last for more than a minute.
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Idle(..) | Self::Steady(..))
    }

    /// Makes the visit, and notes what comes of it. Over HTTP/1.1, returns what to count at the end.
    pub async fn run(self, host: Host, edge: SocketAddr, trace: Trace) -> Option<Taken> {
        let Ok(socket) = host.open(edge).await else {
            return None;
        };
        let over_http1 =
            async |socket, asks, stays| Some(over_http1(socket, asks, stays, &trace).await);
        match self {
            Self::Http1(asks) => return over_http1(socket, asks, Duration::ZERO).await,
            Self::Http2(asks) => over_http2(socket, asks, &trace).await,
            Self::Pipelined(one, other) => pipelined(socket, [one, other], &trace).await,
            Self::HalfHead(after) => half_head(socket, after, &trace).await,
            Self::Idle(call, stays) => {
                let ask = Ask::plain(call, "/fixed/100");
                return over_http1(socket, vec![ask], stays).await;
            }
            Self::Steady(call, reads_for) => {
                let ask = Ask {
                    reads_for,
                    ..Ask::plain(call, "/endless/60/65536")
                };
                return over_http1(socket, vec![ask], Duration::ZERO).await;
            }
        }
        None
    }
}

/// What the edge writes on a connection with these requests.
#[derive(Debug)]
pub struct Taken {
    /// The numbers of the requests.
    pub calls: Vec<u64>,
    /// What is written.
    pub written: Written,
}

type Body = Either<
    Empty<Bytes>,
    StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>,
>;

/// A field for which no head of a request has room.
const TOO_LONG: usize = 17 * 1_024;

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
    let method = match ask.sends {
        Some(_) => "POST",
        None if ask.is_head => "HEAD",
        None => "GET",
    };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://edge{}", ask.path))
        .header("host", "edge")
        .header(RequestId::HTTP_HEADER, id_of(ask.call));
    if ask.is_too_long {
        request = request.header("x-long", "z".repeat(TOO_LONG));
    }
    request.body(body).expect("its parts are valid")
}

/// Sends requests one after the other, and keeps the connection for a while after the last one.
async fn over_http1(socket: Socket, asks: Vec<Ask>, stays: Duration, trace: &Trace) -> Taken {
    let written = socket.written_by_peer();
    let mut calls = Vec::new();
    let handshake = http1::handshake(TokioIo::new(socket)).await;
    if let Ok((mut sender, connection)) = handshake {
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut begin = trace.now();
        for ask in asks {
            if sender.ready().await.is_err() {
                break;
            }
            if let (Some(last), false) = (calls.last(), ask.waits.is_zero()) {
                sleep(ask.waits).await;
                if sender.is_closed() {
                    // The server may have been idle since it had the request.
                    let (call, idle) = (*last, trace.since(begin));
                    trace.note(Event::Closed { call, idle });
                    break;
                }
            }
            trace.note(Event::Asks(ask.clone()));
            let after = calls.last().copied();
            calls.push(ask.call);
            begin = trace.now();
            let response = sender.send_request(request(&ask)).await;
            let says_close = response.as_ref().is_ok_and(|response| {
                let connection = response.headers().get("connection");
                connection.is_some_and(|connection| connection == "close")
            });
            if !finish(&ask, response, after, begin, trace).await || says_close {
                break;
            }
        }
        let _ = timeout(stays, driver).await;
    }
    Taken { calls, written }
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
            finish(&ask, response, None, begin, trace).await;
        }
    });
    futures_util::future::join_all(all).await;
}

/// The most parts of a response that a slow client reads.
const MOST_SLOW_PARTS: u32 = 30;

/// Reads a response. `after` is the request before it on a connection over HTTP/1.1. Returns whether the
/// client goes on.
async fn finish(
    ask: &Ask,
    response: hyper::Result<Response<Incoming>>,
    after: Option<u64>,
    begin: Duration,
    trace: &Trace,
) -> bool {
    let response = match response {
        Ok(response) => response,
        Err(error) => {
            trace.note(Event::Unanswered {
                call: ask.call,
                after,
                took: trace.since(begin),
                error: format!("{error:?}"),
            });
            return false;
        }
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

async fn half_head(mut socket: Socket, after: Option<u64>, trace: &Trace) {
    let whole = after.map(|call| {
        let id = id_of(call);
        format!("GET /fixed/1 HTTP/1.1\r\nhost: edge\r\nx-request-id: {id}\r\n\r\n")
    });
    let text = whole.unwrap_or_default() + "GET /fixed/1 HTTP/1.1\r\nho";
    if socket.write_all(text.as_bytes()).await.is_err() {
        return;
    }
    let begin = trace.now();
    if read_to_end(socket).await.is_none() {
        trace.violation("half a head keeps its connection for ever");
    }
    let took = trace.since(begin);
    trace.note(Event::Hurried { took });
}
