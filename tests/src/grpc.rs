//! A client for HTTP/2 and gRPC that sends exactly the given headers and bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, runtime, time::timeout};

use crate::PATIENCE;

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status; 200 for every gRPC status.
    pub status: StatusCode,
    /// The headers: for gRPC the initial metadata.
    pub headers: HeaderMap,
    /// The trailers, if there were any.
    pub trailers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The gRPC code, in the trailers or in the headers.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn code(&self) -> i32 {
        let code = self
            .trailers
            .get("grpc-status")
            .or(self.headers.get("grpc-status"));
        let code = code.expect("there is a gRPC status");
        code.to_str().expect("a number").parse().expect("a number")
    }

    /// The gRPC message, still percent-encoded; `""` where there is none.
    pub fn message(&self) -> &str {
        let message = self
            .trailers
            .get("grpc-message")
            .or(self.headers.get("grpc-message"));
        message.map_or("", |message| message.to_str().expect("visible ASCII"))
    }

    /// The request id in the initial metadata.
    ///
    /// # Panics
    ///
    /// When it is missing, or there twice.
    pub fn id(&self) -> &str {
        let mut ids = self.headers.get_all("request_id").iter();
        let id = ids.next().expect("every response has an id");
        assert!(ids.next().is_none(), "the id is there twice");
        id.to_str().expect("visible ASCII")
    }
}

/// Calls `ProcessName` with this name.
pub fn process_name(address: SocketAddr, name: &str, headers: &[(&str, &[u8])]) -> Response {
    let length = u8::try_from(name.len()).ok().filter(|length| *length < 128);
    let mut message = vec![0x0A]; // field 1, length-delimited
    match length {
        Some(length) => message.push(length),
        None => message.extend([
            u8::try_from(name.len() & 0x7F).expect("seven bits") | 0x80,
            u8::try_from(name.len() >> 7).expect("names of tests are shorter"),
        ]),
    }
    message.extend(name.bytes());
    call(address, "/app.grpc.Service1/ProcessName", headers, &message)
}

/// Calls a method with this message, which may be anything but protobuf.
pub fn call(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &[u8])],
    message: &[u8],
) -> Response {
    let length = u32::try_from(message.len()).expect("messages of tests are shorter");
    let framed = [&[0], &length.to_be_bytes()[..], message].concat();
    let grpc: [(&str, &[u8]); 2] = [("content-type", b"application/grpc"), ("te", b"trailers")];
    request(
        address,
        Method::POST,
        path,
        &[&grpc, headers].concat(),
        framed,
    )
}

/// Sends a request over HTTP/2 without TLS.
///
/// # Panics
///
/// When there is no response.
pub fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &[u8])],
    body: Vec<u8>,
) -> Response {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).expect("HTTP/2 carries it");
        request = request.header(*name, value);
    }
    let request = request.body(Full::<Bytes>::from(body)).expect("a request");
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let exchange = async {
        let connection = TcpStream::connect(address).await.expect("somebody listens");
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(connection))
                .await
                .expect("it speaks HTTP/2");
        tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .expect("there is a response");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the response is whole");
        Response {
            status: parts.status,
            headers: parts.headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        }
    };
    runtime.block_on(async { timeout(PATIENCE, exchange).await.expect("in time") })
}
