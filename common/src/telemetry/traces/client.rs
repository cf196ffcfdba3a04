//! [`OtlpClient`]: sends exports to a collector, over HTTP/1.1 or gRPC, on one connection.
//!
//! The clients of hyper-util and tonic have a pool, and the compiler makes HTTP/2 anew for each: 0.7 MB of the
//! program, for one request after the other.

use std::{fmt, future::poll_fn, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{Reason, client as http2};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, TE},
    uri::Scheme,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{io::BufReader, net::TcpStream, sync::Mutex};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::{last_failure::LastFailure, settings::Protocol};
use crate::{limits, transport::Transport};

/// The gRPC method that takes spans (`trace_service.proto` of OTLP).
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The most bytes of a response, as for the clients of opentelemetry-http.
const MAX_RESPONSE: usize = 4 * 1_024 * 1_024;

/// Sends requests to the collector, one after the other.
pub(crate) struct OtlpClient {
    protocol: Protocol,
    tls: Option<Arc<ClientConfig>>,
    failure: LastFailure,
    open: Mutex<Option<Open>>,
}

/// An open connection. Its task ends with it: one that a silent collector holds up would go on, with its socket,
/// until the system gives up.
struct Open {
    sender: Sender,
    _connection: AbortOnDropHandle<()>,
}

/// What sends requests on a connection.
enum Sender {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Bytes>),
}

impl fmt::Debug for OtlpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpClient").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl HttpClient for OtlpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.failure.forget();
        let end = self.send(request).await;
        if let Err(error) = &end {
            self.failure.set_innermost(&**error);
        }
        end
    }
}

impl OtlpClient {
    /// A client that tells `failure` why a request has failed. It can have `tls` for an endpoint with `https`.
    pub(crate) fn new(
        protocol: Protocol,
        mut tls: Option<ClientConfig>,
        failure: LastFailure,
    ) -> Self {
        if let (Protocol::Grpc, Some(tls)) = (protocol, &mut tls) {
            tls.alpn_protocols = vec![b"h2".to_vec()];
        }
        Self {
            protocol,
            tls: tls.map(Arc::new),
            failure,
            open: Mutex::default(),
        }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut open = self.open.lock().await;
        let known = match open.take() {
            Some(known) => known.ready().await.ok(),
            None => None,
        };
        let mut connection = match known {
            Some(known) => known,
            None => self.connect(request.uri()).await?.ready().await?,
        };
        let response = match &mut connection.sender {
            Sender::Http(sender) => send_http(sender, request).await?,
            Sender::Grpc(sender) => match send_grpc(sender, request).await? {
                Ok(response) => response,
                Err(status) => {
                    self.failure.set(status.to_string());
                    as_http(status.code())
                }
            },
        };
        *open = Some(connection);
        Ok(response)
    }

    async fn connect(&self, uri: &Uri) -> Result<Open, HttpError> {
        let host = uri.host().ok_or("the endpoint has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']'); // of an IPv6 address
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        let mut io = Transport::Tcp(socket);
        if is_secure {
            let tls = self.tls.clone().ok_or("the endpoint has https")?;
            let name = ServerName::try_from(host.to_owned())?;
            let io_below = BufReader::with_capacity(limits::TLS_READ_BUFFER, io);
            let stream = TlsConnector::from(tls).connect(name, io_below).await?;
            io = Transport::tls(TlsStream::Client(stream));
        }
        Ok(match self.protocol {
            Protocol::HttpProtobuf => {
                let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
                Open::new(Sender::Http(sender), connection)
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::handshake(io).await?;
                Open::new(Sender::Grpc(sender), connection)
            }
        })
    }
}

impl Open {
    fn new(sender: Sender, connection: impl Future<Output: Send> + Send + 'static) -> Self {
        Self {
            sender,
            _connection: AbortOnDropHandle::new(tokio::spawn(connection.map(drop))),
        }
    }

    /// Waits until it takes a request. A connection that has ended never does.
    async fn ready(mut self) -> Result<Self, HttpError> {
        match &mut self.sender {
            Sender::Http(sender) => sender.ready().await?,
            Sender::Grpc(sender) => poll_fn(|cx| sender.poll_ready(cx)).await?,
        }
        Ok(self)
    }
}

async fn send_http(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    if let Some(authority) = head.uri.authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        head.headers.insert(HOST, HeaderValue::from_str(host)?);
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse()?;
    let request = Request::from_parts(head, Full::new(body));
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_RESPONSE).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Sends the message of a request over gRPC. Returns the message of the response, or the status of the call.
async fn send_grpc(
    sender: &mut http2::SendRequest<Bytes>,
    request: Request<Bytes>,
) -> Result<Result<Response<Bytes>, Status>, HttpError> {
    let (mut head, message) = request.into_parts();
    let mut uri = head.uri.into_parts();
    uri.path_and_query = Some(EXPORT.parse()?);
    head.uri = Uri::from_parts(uri)?;
    head.method = Method::POST;
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers.insert(CONTENT_TYPE, grpc);
    head.headers
        .insert(TE, HeaderValue::from_static("trailers"));

    let (response, stream) = sender.send_request(Request::from_parts(head, ()), false)?;
    // If the collector ends the call before it has read all, its response says why.
    let _ = send_message(stream, &message).await;
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    let mut data = BytesMut::new();
    while let Some(some) = body.data().await {
        let some = some?;
        body.flow_control().release_capacity(some.len())?;
        if data.len() + some.len() > MAX_RESPONSE {
            return Err("the response is too long".into());
        }
        data.put(some);
    }
    let trailers = body.trailers().await?;
    let status = |headers: &HeaderMap| Status::from_header_map(headers);
    let status = trailers
        .as_ref()
        .and_then(status)
        .or_else(|| status(&head.headers));
    Ok(match status {
        Some(status) if status.code() == Code::Ok => {
            let message = data.freeze();
            Ok(Response::new(message.slice(PREFIX.min(message.len())..)))
        }
        Some(status) => Err(status),
        None => Err(Status::unknown(format!("HTTP {}", head.status))),
    })
}

/// The bytes before a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

async fn send_message(mut stream: h2::SendStream<Bytes>, message: &Bytes) -> Result<(), h2::Error> {
    let mut rest = BytesMut::with_capacity(PREFIX + message.len());
    rest.put_u8(0);
    rest.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    rest.put_slice(message);
    let mut rest = rest.freeze();
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.ok_or(Reason::CANCEL)??;
        let some = rest.split_to(room.min(rest.len()));
        stream.send_data(some, rest.is_empty())?;
    }
    Ok(())
}

/// The status that makes the exporter repeat a request, or not, as OTLP says of the code (opentelemetry.io/docs/
/// specs/otlp, "Failures").
fn as_http(code: Code) -> Response<Bytes> {
    let may_repeat = matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    );
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = if may_repeat {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::BAD_REQUEST
    };
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use h2::server;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        runtime::Handle,
        time::timeout,
    };

    use super::*;

    fn client(protocol: Protocol) -> (OtlpClient, LastFailure) {
        let failure = LastFailure::default();
        (OtlpClient::new(protocol, None, failure.clone()), failure)
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, format!("http://{address}/v1/traces"))
    }

    fn request(uri: &str, body: Bytes) -> Request<Bytes> {
        Request::post(uri).body(body).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_fails_leaves_its_cause() {
        for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
            let (client, failure) = client(protocol);
            let (listener, uri) = listener().await;
            drop(listener);
            let end = client.send_bytes(request(&uri, Bytes::new())).await;
            assert!(end.is_err());
            let text = failure.take().unwrap();
            assert!(text.contains("refused"), "{text}");
            assert_eq!(failure.take(), None);
        }
    }

    /// Reads a request with a body of one byte.
    async fn read(socket: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\nx") {
            assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
        }
        String::from_utf8(bytes).unwrap().to_lowercase()
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_leaves_no_connection() {
        for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
            let (client, _) = client(protocol);
            let (_reads_nothing, uri) = listener().await;
            let body = Bytes::from(vec![7; 16 * 1_024 * 1_024]);
            let sending = client.send_bytes(request(&uri, body));
            assert!(timeout(Duration::from_millis(200), sending).await.is_err());
            let tasks = || Handle::current().metrics().num_alive_tasks();
            let ended = async {
                while tasks() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), ended).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_serves_until_the_collector_closes_it() {
        const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (client, _) = client(Protocol::HttpProtobuf);
        let (listener, uri) = listener().await;
        let host = format!("\r\nhost: {}\r\n", listener.local_addr().unwrap());
        let collector = async {
            for requests in [2, 1] {
                let (mut socket, _) = listener.accept().await.unwrap();
                for _ in 0..requests {
                    let head = read(&mut socket).await;
                    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
                    assert!(head.contains(&host), "{head}");
                    socket.write_all(RESPONSE).await.unwrap();
                }
                socket.shutdown().await.unwrap();
                assert_eq!(
                    socket.read(&mut [0]).await.unwrap(),
                    0,
                    "the client closes, too"
                );
            }
        };
        let exporter = async {
            for _ in 0..3 {
                let response = client.send_bytes(request(&uri, Bytes::from_static(b"x")));
                assert_eq!(response.await.unwrap().body(), "ok");
                tokio::time::sleep(Duration::from_millis(50)).await; // as between two exports
            }
            drop(client);
        };
        let both = async { tokio::join!(collector, exporter) };
        timeout(Duration::from_secs(10), both).await.unwrap();
    }

    /// Serves calls over gRPC with a response of these bytes and this status each. Returns the longest request.
    async fn serve(listener: &TcpListener, responses: &[(&'static [u8], &str)]) -> Bytes {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(socket).await.unwrap();
        let mut longest = Bytes::new();
        for (message, status) in responses {
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), EXPORT);
            assert_eq!(request.headers()[CONTENT_TYPE], "application/grpc");
            let mut body = request.into_body();
            let mut read = BytesMut::new();
            let reading = async {
                while let Some(some) = body.data().await {
                    let some = some.unwrap();
                    body.flow_control().release_capacity(some.len()).unwrap();
                    read.put(some);
                }
            };
            tokio::select! {
                () = reading => {}
                end = connection.accept() => panic!("{end:?}"),
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream
                .send_data(Bytes::from_static(message), false)
                .unwrap();
            let trailers = HeaderMap::from_iter([
                ("grpc-status".parse().unwrap(), status.parse().unwrap()),
                (
                    "grpc-message".parse().unwrap(),
                    "no%20room".parse().unwrap(),
                ),
            ]);
            stream.send_trailers(trailers).unwrap();
            longest = longest.max(read.freeze());
        }
        connection.graceful_shutdown();
        while connection.accept().await.is_some() {}
        longest
    }

    #[tokio::test]
    async fn a_message_over_grpc_may_be_longer_than_the_window() {
        let (client, failure) = client(Protocol::Grpc);
        let (listener, uri) = listener().await;
        let message = Bytes::from(vec![7; 1_000_000]);
        let exporter = async {
            let response = client.send_bytes(request(&uri, message.clone())).await;
            assert_eq!(response.unwrap().body(), "ok");
            let response = client.send_bytes(request(&uri, Bytes::new())).await;
            assert_eq!(response.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
            let cause = failure.take().unwrap();
            assert!(cause.contains("no room"), "{cause}");
            let response = client.send_bytes(request(&uri, Bytes::new())).await;
            assert_eq!(response.unwrap().status(), StatusCode::BAD_REQUEST);
            drop(client);
        };
        let responses: &[(&[u8], _)] = &[(b"\0\0\0\0\x02ok", "0"), (b"", "14"), (b"", "8")];
        let both = async { tokio::join!(serve(&listener, responses), exporter) };
        let (sent, ()) = timeout(Duration::from_secs(10), both).await.unwrap();
        assert_eq!(sent[..PREFIX], [0, 0, 15, 66, 64]);
        assert_eq!(sent[PREFIX..], message);
    }
}
