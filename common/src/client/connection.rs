//! [`Connection`]: an open connection to a replica, and one attempt of a call over it.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::{Buf, Bytes};
use h2::{
    Ping, PingPong, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{
    Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    select,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use crate::metrics::Replica;

use super::{
    balance::Cost,
    context,
    failure::{Failure, status_of},
    load::{InFlight, Load},
};

/// A connection attempt that takes longer is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// When a replica that does not answer an HTTP/2 ping is given up, also while nothing is asked
/// of it. The server sends pings of its own with the same figures.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What an answer may send before it is read, in bytes, and what all on a connection may: the
/// figures of hyper.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;

/// What a call sends: a whole message that can be sent again, or whatever its caller gave.
#[derive(Debug)]
pub(super) enum RequestBody {
    Message(Bytes),
    Stream(tonic::body::Body),
}

/// An open connection to a replica.
#[derive(Debug)]
pub(super) struct Connection {
    replica: Arc<Replica>,
    authority: Authority,
    sender: SendRequest<Bytes>,
    load: Arc<Load>,
    /// The connection has come to its end, or is found to be stuck.
    lost: Arc<Notify>,
}

impl Connection {
    /// Opens a connection and asks a first question on it, `probe`, whose latency is the first
    /// that is known of the replica.
    pub(super) async fn open<F>(
        address: SocketAddr,
        authority: Authority,
        replica: &Arc<Replica>,
        probe: impl FnOnce(Self) -> F,
    ) -> io::Result<Self>
    where
        F: Future<Output = Result<(), Status>>,
    {
        let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        Self::over(socket, authority, replica, probe).await
    }

    /// The same over a connection that is there.
    pub(super) async fn over<F>(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        authority: Authority,
        replica: &Arc<Replica>,
        probe: impl FnOnce(Self) -> F,
    ) -> io::Result<Self>
    where
        F: Future<Output = Result<(), Status>>,
    {
        let (sender, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        let pings = connection.ping_pong().expect("asked for once");
        let lost = Arc::new(Notify::new());
        tokio::spawn({
            let lost = lost.clone();
            async move {
                // Why it ended does not matter: the calls on it know.
                select! {
                    _ = connection => {}
                    () = unanswered(pings) => {}
                }
                lost.notify_one();
            }
        });
        let open = |latency| Self {
            replica: replica.clone(),
            authority: authority.clone(),
            sender: sender.clone(),
            load: Arc::new(Load::new(latency)),
            lost: lost.clone(),
        };
        let begin = Instant::now();
        probe(open(Duration::ZERO))
            .await
            .map_err(io::Error::other)?;
        Ok(open(begin.elapsed()))
    }

    /// Waits until no more calls should be made on it.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Makes one attempt of a call. With a `limit` it is over when the first of the answer has
    /// not come by then, and the connection is taken for lost: others may be faster.
    pub(super) async fn call(
        &self,
        mut request: Request<RequestBody>,
        limit: Option<Duration>,
    ) -> Result<Response<Answer>, Failure> {
        self.replica.picks.add(1);
        let in_flight = self.load.begin();
        let path = request.uri_mut();
        *path = with_authority(path, &self.authority);
        context::write(request.headers_mut());
        let begin = Instant::now();
        let attempt = async {
            let sender = self.sender.clone().ready().await?;
            let response = send(sender, request)?.await?;
            let (head, rest) = response.into_parts();
            let mut rest = Rest::Data(rest);
            let first = poll_fn(|cx| rest.poll_frame(cx)).await.transpose()?;
            Ok((head, first, rest))
        };
        let outcome = match limit {
            Some(limit) => timeout(limit, attempt).await,
            None => Ok(attempt.await),
        };
        match outcome {
            Ok(Ok((head, first, rest))) => {
                self.load.observe(begin.elapsed());
                let answer = Answer {
                    first,
                    rest,
                    _in_flight: in_flight,
                };
                Ok(Response::from_parts(head, answer))
            }
            Ok(Err(error)) => {
                // As slow as can be: whoever fails fast must not look idle.
                self.load.observe(limit.unwrap_or(CONNECT_TIMEOUT));
                Err(Failure::broken(error))
            }
            Err(_) => {
                self.load.observe(begin.elapsed());
                self.lost.notify_one();
                Err(Failure::attempt_timeout())
            }
        }
    }
}

impl Cost for Connection {
    fn cost(&self) -> f64 {
        self.load.cost()
    }
}

/// Sends pings until one is not answered in time.
async fn unanswered(mut pings: PingPong) {
    loop {
        sleep(KEEPALIVE_INTERVAL).await;
        let pong = pings.ping(Ping::opaque());
        if !matches!(timeout(KEEPALIVE_TIMEOUT, pong).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Sends a request, with all of its message where that is there.
fn send(
    mut sender: SendRequest<Bytes>,
    request: Request<RequestBody>,
) -> Result<ResponseFuture, h2::Error> {
    let (head, body) = request.into_parts();
    let (response, mut stream) = sender.send_request(Request::from_parts(head, ()), false)?;
    match body {
        RequestBody::Message(message) => stream.send_data(message, true)?,
        RequestBody::Stream(body) => {
            tokio::spawn(send_body(body, stream));
        }
    }
    Ok(response)
}

/// Sends a body as the replica takes it.
async fn send_body(
    mut body: tonic::body::Body,
    mut stream: SendStream<Bytes>,
) -> Result<(), BoxError> {
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else {
            continue; // a client has no trailers to send
        };
        while data.has_remaining() {
            stream.reserve_capacity(data.len());
            let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return Ok(()); // the answer says why
            };
            stream.send_data(data.split_to(room?.min(data.len())), false)?;
        }
    }
    stream.send_data(Bytes::new(), true)?;
    Ok(())
}

/// The URI of a call, which tonic makes of the path alone.
fn with_authority(path: &Uri, authority: &Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    let path = path.path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).expect("it has all three")
}

/// What is still to come of an answer.
#[derive(Debug)]
enum Rest {
    Data(RecvStream),
    Trailers(RecvStream),
    Over,
}

impl Rest {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        loop {
            match self {
                Self::Data(stream) => match ready!(stream.poll_data(cx)) {
                    Some(Ok(data)) => {
                        // What is read makes room for more.
                        let _ = stream.flow_control().release_capacity(data.len());
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        if let Self::Data(stream) = std::mem::replace(self, Self::Over) {
                            *self = Self::Trailers(stream);
                        }
                    }
                },
                Self::Trailers(stream) => {
                    let trailers = ready!(stream.poll_trailers(cx));
                    *self = Self::Over;
                    let trailers = trailers.transpose();
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
                }
                Self::Over => return Poll::Ready(None),
            }
        }
    }
}

/// The body of an answer whose first frame is there. The call is in flight as long as it is.
#[derive(Debug)]
pub struct Answer {
    first: Option<Frame<Bytes>>,
    rest: Rest,
    _in_flight: InFlight,
}

impl Answer {
    /// Its first frame, if it has any.
    pub(super) fn first(&self) -> Option<&Frame<Bytes>> {
        self.first.as_ref()
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = ready!(self.rest.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(status_of)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && matches!(self.rest, Rest::Over)
    }
}
