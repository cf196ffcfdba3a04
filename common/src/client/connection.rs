//! [`Connection`]: an open connection to a replica, and one attempt of a call over it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout},
};
use tonic::Status;

use crate::metrics::Replica;

use super::{
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

/// What a call sends: a whole message that can be sent again, or whatever its caller gave.
pub(super) type RequestBody = Either<Full<Bytes>, tonic::body::Body>;

/// An open connection to a replica.
#[derive(Debug)]
pub(super) struct Connection {
    replica: Arc<Replica>,
    authority: Authority,
    sender: http2::SendRequest<RequestBody>,
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
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        let lost = Arc::new(Notify::new());
        tokio::spawn({
            let lost = lost.clone();
            async move {
                // Why it ended does not matter: the calls on it know.
                let _ = connection.await;
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

    pub(super) fn cost(&self) -> f64 {
        self.load.cost()
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
            let response = self.sender.clone().send_request(request).await?;
            let (head, mut rest) = response.into_parts();
            let first = rest.frame().await.transpose()?;
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

/// The URI of a call, which tonic makes of the path alone.
fn with_authority(path: &Uri, authority: &Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    let path = path.path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).expect("it has all three")
}

pin_project_lite::pin_project! {
    /// The body of an answer whose first frame is there. The call is in flight as long as it is.
    #[derive(Debug)]
    pub struct Answer {
        first: Option<Frame<Bytes>>,
        #[pin]
        rest: Incoming,
        _in_flight: InFlight,
    }
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = ready!(this.rest.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(status_of)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
