//! One connection and its calls, over a duplex, against an `h2` server.

mod calls;
mod raw;
mod settings;
mod streams;
mod watch;

use std::{
    future::{Future, pending},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tokio::{io::duplex, runtime, time::timeout};
use tonic::{Code, Status};

use super::{
    attempt::{ReadUntil, ResponseBody},
    connection::Connection,
    in_flight::InFlight,
    origin::Origin,
    request_body::RequestBody,
};
use crate::client::{
    config::RequestIdNames,
    ending::{class::Ending, failure::Failure},
};

type Streams = server::Connection<tokio::io::DuplexStream, Bytes>;
type Stream = (Request<RecvStream>, server::SendResponse<Bytes>);

const PATIENCE: Duration = Duration::from_secs(30);

/// A connection whose other end runs `serve`.
async fn connection<F>(serve: impl FnOnce(Streams) -> F + Send + 'static) -> Arc<Connection>
where
    F: Future<Output = ()> + Send,
{
    let (ours, theirs) = duplex(64 * 1_024);
    tokio::spawn(async move {
        serve(server::handshake(theirs).await.expect("it speaks HTTP/2")).await;
    });
    Connection::with_io(
        ours,
        Origin::in_memory(RequestIdNames::Both),
        Arc::default(),
    )
    .await
    .unwrap()
}

impl Connection {
    /// Makes an attempt without a look at the streams of the others.
    async fn attempt(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        until: ReadUntil,
    ) -> Result<Response<ResponseBody>, Failure> {
        let in_flight = InFlight::begin(self.clone());
        in_flight.attempt(Box::new(request), until).await
    }
}

fn request() -> Request<RequestBody> {
    let message = RequestBody::Message(Bytes::from_static(b"message"));
    Request::post("/a.Service/Method").body(message).unwrap()
}

async fn next(streams: &mut Streams) -> Stream {
    streams.accept().await.expect("a call").expect("a stream")
}

/// Responds with a head, one frame of data and the status OK.
fn respond(mut stream: Stream) {
    let mut body = stream.1.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"data"), false).unwrap();
    let status = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from(0))]);
    body.send_trailers(status).unwrap();
}

async fn drive(mut streams: Streams) {
    while let Some(Ok(_)) = streams.accept().await {}
}

/// Listens on a thread of its own. Questions are answered after a moment, and calls never.
pub(crate) fn listen() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            let mut streams = server::handshake(socket).await.unwrap();
            let mut calls = Vec::new();
            while let Some(Ok((request, mut stream))) = streams.accept().await {
                if request.uri().path().starts_with("/grpc.health") {
                    thread::sleep(Duration::from_millis(20));
                    let response = Response::builder().header("grpc-status", "12").body(());
                    stream.send_response(response.unwrap(), true).unwrap();
                } else {
                    calls.push(stream);
                }
            }
        });
    });
    address
}
