//! A replica for tests: HTTP/2 over a duplex, with a script of what it does with each call.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::{
    io::duplex,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{Code, Status};

use super::{
    choice::balancer::Balancer, config::RequestIdNames, discovery::reconnect::keep_open_connection,
    ending::reading::ENCODING, replicas::replica::Replica, wire::origin::Origin,
};
use crate::problem::PUSHBACK;

/// What a replica does with a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    /// Responds after this time.
    Respond(Duration),
    /// Fails at once, with a pushback if there is one.
    Fail(Code, Option<&'static str>),
    /// Fails at once with `INTERNAL` and these details.
    FailWith(&'static str),
    /// Reads the request to its end, and then fails.
    ReadAndFail(Code),
    /// Refuses the call without processing it.
    Refuse,
    /// Resets the call.
    Reset(Reason),
    /// Responds at once with these parts, and resets the call at the end if there is a reason.
    Send(Parts),
    /// Responds at once with this data, and with nothing more.
    Hold(&'static [u8]),
    /// Refuses the call and sends GOAWAY.
    GoAway,
    /// Neither reads nor writes from now on.
    Freeze,
}

/// The parts of a response. The last one ends the stream, if nothing resets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) http: u16,
    pub(crate) content_type: &'static str,
    pub(crate) data: &'static [u8],
    pub(crate) status: Option<Code>,
    /// The details of the status.
    pub(crate) details: Option<&'static str>,
    /// The compression of messages.
    pub(crate) encoding: Option<&'static str>,
    pub(crate) reset: Option<Reason>,
}

impl Parts {
    /// A good response.
    pub(crate) const GOOD: Self = Self {
        http: 200,
        content_type: GRPC,
        data: MESSAGE,
        status: Some(Code::Ok),
        details: None,
        encoding: None,
        reset: None,
    };
}

const GRPC: &str = "application/grpc";

/// A message of three bytes with its prefix.
pub(crate) const MESSAGE: &[u8] = &[0, 0, 0, 0, 3, b'a', b'b', b'c'];

/// What a replica has served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    calls: Arc<AtomicUsize>,
    received: Arc<AtomicUsize>,
    health_checks: Arc<AtomicUsize>,
}

impl Served {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// The bytes of the requests that were read.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Relaxed)
    }

    pub(crate) fn health_checks(&self) -> usize {
        self.health_checks.load(Relaxed)
    }
}

/// Adds a replica to a balancer. `script` maps the number of each call, from 0, to what the replica
/// does.
pub(crate) fn replica(
    balancer: &Balancer<Replica>,
    tasks: &mut JoinSet<()>,
    script: impl Fn(usize) -> Does + Send + 'static,
) -> Served {
    let served = Served::default();
    let (ours, theirs) = duplex(64 * 1_024);
    let port = u16::try_from(tasks.len()).expect("few");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let head = Origin::in_memory(RequestIdNames::Both);
    tasks.spawn(keep_open_connection(ours, address, head, balancer.clone()));
    tokio::spawn(serve(theirs, served.clone(), script));
    served
}

async fn serve(io: tokio::io::DuplexStream, served: Served, script: impl Fn(usize) -> Does) {
    // Tests send many small requests at once.
    let mut streams = server::Builder::new()
        .data_frame_budget(1_024 * 1_024)
        .handshake(io)
        .await
        .expect("it speaks HTTP/2");
    let mut responses = JoinSet::new();
    while let Some(Ok((request, mut stream))) = streams.accept().await {
        if request.uri().path().starts_with("/grpc.health.v1") {
            served.health_checks.fetch_add(1, Relaxed);
            fail(&mut stream, Code::Unimplemented, None);
            continue;
        }
        match script(served.calls.fetch_add(1, Relaxed)) {
            Does::Respond(after) => {
                let received = served.received.clone();
                responses.spawn(async move {
                    let at = Instant::now() + after;
                    read(request, &received).await;
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => respond(&mut stream),
                        _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => {}
                    }
                });
            }
            Does::Fail(code, pushback) => fail(&mut stream, code, pushback),
            Does::FailWith(details) => {
                let mut response = Response::new(());
                *response.headers_mut() = detailed(Code::Internal, Some(details));
                let _ = stream.send_response(response, true);
            }
            Does::ReadAndFail(code) => {
                let received = served.received.clone();
                responses.spawn(async move {
                    read(request, &received).await;
                    fail(&mut stream, code, None);
                });
            }
            Does::Refuse => stream.send_reset(Reason::REFUSED_STREAM),
            Does::Reset(reason) => stream.send_reset(reason),
            Does::Send(parts) => {
                responses.spawn(async move { send(stream, parts).await });
            }
            Does::Hold(data) => {
                responses.spawn(async move {
                    if let Ok(mut body) = stream.send_response(head(200, GRPC), false) {
                        let _ = body.send_data(Bytes::from_static(data), false);
                        pending::<()>().await;
                    }
                });
            }
            Does::GoAway => {
                streams.graceful_shutdown();
                stream.send_reset(Reason::REFUSED_STREAM);
            }
            Does::Freeze => sleep(Duration::from_hours(1)).await,
        }
    }
}

/// Reads a request to its end.
async fn read(request: Request<RecvStream>, received: &AtomicUsize) {
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        received.fetch_add(data.len(), Relaxed);
        let _ = body.flow_control().release_capacity(data.len());
    }
}

fn respond(stream: &mut server::SendResponse<Bytes>) {
    let Ok(mut body) = stream.send_response(head(200, GRPC), false) else {
        return; // the client is gone
    };
    let _ = body.send_data(Bytes::from_static(MESSAGE), false);
    let _ = body.send_trailers(status(Code::Ok));
}

/// Sends the parts of a response.
async fn send(mut stream: server::SendResponse<Bytes>, parts: Parts) {
    let mut head = head(parts.http, parts.content_type);
    let encoding = parts.encoding.map(HeaderValue::from_static);
    let encoding = encoding.map(|it| (ENCODING, it));
    head.headers_mut().extend(encoding);
    let Ok(mut body) = stream.send_response(head, false) else {
        return; // the client is gone
    };
    let _ = body.send_data(Bytes::from_static(parts.data), false);
    if let Some(reason) = parts.reset {
        // A reset drops what was not sent yet.
        sleep(Duration::from_millis(1)).await;
        body.send_reset(reason);
    } else if let Some(code) = parts.status {
        let _ = body.send_trailers(detailed(code, parts.details));
    } else {
        let _ = body.send_data(Bytes::new(), true);
    }
}

fn head(http: u16, content_type: &'static str) -> Response<()> {
    let head = Response::builder().status(http);
    let head = head.header(CONTENT_TYPE, content_type).body(());
    head.expect("it is valid")
}

fn fail(stream: &mut server::SendResponse<Bytes>, code: Code, pushback: Option<&'static str>) {
    let mut response = Response::new(());
    *response.headers_mut() = status(code);
    if let Some(pushback) = pushback {
        let pushback = HeaderValue::from_static(pushback);
        response.headers_mut().insert(PUSHBACK, pushback);
    }
    let _ = stream.send_response(response, true);
}

fn status(code: Code) -> HeaderMap {
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from(code as u16))])
}

fn detailed(code: Code, details: Option<&'static str>) -> HeaderMap {
    let details = details.map(HeaderValue::from_static);
    let mut status = status(code);
    status.extend(details.map(|details| (Status::GRPC_STATUS_DETAILS, details)));
    status
}
