//! [`RequestLayer`]: the [`Context`] of a request, its access line, and the headers of its response
//! for the id and the timings.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, Version,
    header::{TE, TRAILER},
};
use http_body::{Body, Frame, SizeHint};
use tokio::task::futures::TaskLocalFuture;
use tower::{Layer, Service};

use super::{
    access::{AccessLine, Connection, End},
    request_context::context_of,
    tonic_quirks,
};
use crate::{
    Context,
    body::DroppableBody,
    methods::{Deadlines, Methods, declared_in},
    protocol::Protocol,
    timings::Timings,
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Gives each request a [`Context`], runs the layers below and the body of the response in it, and
/// logs the request when its response has left.
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use common::server::layers::{GuardLayer, ProblemLayer, RequestLayer};
/// use http::Request;
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let router = Router::new().route("/", get(|| async { "Hello!" })).layer(
///     ServiceBuilder::new()
///         .layer(RequestLayer::http(Duration::from_secs(10)))
///         .layer(ProblemLayer::default())
///         .layer(GuardLayer),
/// );
/// let request = Request::get("/").header("x-request-id", "order-17").body(Body::empty());
/// let response = router.oneshot(request.unwrap()).await.unwrap();
/// assert_eq!(response.headers()["x-request-id"], "order-17");
/// assert!(response.headers().contains_key("server-timing"));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RequestLayer {
    connection: Arc<Connection>,
}

impl RequestLayer {
    /// A layer for HTTP. `deadline` is that of every request.
    pub fn http(deadline: Duration) -> Self {
        let deadlines = Deadlines::of_methods(deadline, &Methods::new());
        Self::of_connection(Connection::unknown(Protocol::Http, deadlines))
    }

    /// A layer for gRPC. `descriptors` is the encoded file descriptor set of the services, which
    /// declares the deadlines of methods; those of all others is `deadline`.
    ///
    /// # Panics
    ///
    /// If the descriptors are not an encoded file descriptor set, or declare an invalid deadline.
    pub fn grpc(deadline: Duration, descriptors: &[u8]) -> Self {
        let methods =
            declared_in(descriptors).unwrap_or_else(|error| panic!("descriptors: {error}"));
        let deadlines = Deadlines::of_methods(deadline, &methods);
        Self::of_connection(Connection::unknown(Protocol::Grpc, deadlines))
    }

    /// Tells the layer where the server puts the address of the client, for the access line.
    #[must_use]
    pub fn peer(self, find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        let connection = Arc::unwrap_or_clone(self.connection);
        Self::of_connection(connection.with_peer(find))
    }

    pub(crate) fn of_connection(connection: Connection) -> Self {
        Self {
            connection: Arc::new(connection),
        }
    }
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestService {
            inner,
            connection: self.connection.clone(),
        }
    }
}

/// The service of [`RequestLayer`].
#[derive(Debug, Clone)]
pub struct RequestService<S> {
    inner: S,
    connection: Arc<Connection>,
}

impl<S, B, R> Service<Request<B>> for RequestService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Connection {
            port,
            deadlines,
            peer,
            ..
        } = &*self.connection;
        let (mut context, faults) = context_of(&request, *port, deadlines);
        context.peer.clone_from(peer);
        let line = AccessLine::new(&request, self.connection.clone(), context.clone());
        let takes_trailers = takes_trailers(request.version(), request.headers());
        let future = context.clone().sync_scope(|| {
            faults.warn();
            self.inner.call(request)
        });
        ResponseFuture {
            inner: Some(context.scope(future)),
            line: Some(line),
            takes_trailers,
        }
    }
}

/// Whether the client takes trailers. Over HTTP/1.1 it has to ask for them.
fn takes_trailers(version: Version, headers: &HeaderMap) -> bool {
    version >= Version::HTTP_2 || headers.get(TE).is_some_and(|te| te == "trailers")
}

pin_project_lite::pin_project! {
    /// The response future of [`RequestLayer`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<TaskLocalFuture<Context, F>>,
        // `None` once there is a response.
        line: Option<AccessLine>,
        takes_trailers: bool,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(line) = this.line {
                this.inner.set(None);
                line.context.clone().sync_scope(|| line.write());
            }
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        const NOT_DONE: &str = "the future is not polled after its end";
        let this = self.project();
        let inner = this.inner.as_pin_mut().expect(NOT_DONE);
        let mut response = ready!(inner.poll(cx))?;
        let mut line = this.line.take().expect(NOT_DONE);
        line.see_response(&response);
        let is_stream = response.body().size_hint().exact().is_none();
        let headers = response.headers_mut();
        let Context {
            protocol,
            request_id,
            timings,
            ..
        } = &line.context;
        headers.insert(protocol.request_id_header(), request_id.header_value());
        let mut trailer = None;
        if let Some(timings) = timings {
            headers.extend(server_timing(timings));
            if is_stream && *this.takes_trailers {
                headers.insert(TRAILER, HeaderValue::from_static("server-timing"));
                trailer = Some(timings.clone());
            }
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody {
            body: DroppableBody::new(body),
            line,
            trailer,
            error: None,
        })))
    }
}

fn server_timing(timings: &Timings) -> Option<(HeaderName, HeaderValue)> {
    Some((SERVER_TIMING, timings.header_value()?))
}

pin_project_lite::pin_project! {
    /// A body that is polled and dropped in the context of its request.
    pub struct ResponseBody<B: Body> {
        #[pin]
        body: DroppableBody<B>,
        line: AccessLine,
        // The timings to send as a trailer.
        trailer: Option<Timings>,
        error: Option<B::Error>,
    }

    impl<B: Body> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            this.line.context.clone().sync_scope(|| {
                this.body.drop_body();
                this.line.write();
            });
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let context = this.line.context.clone();
        let frame = context.sync_scope(|| this.body.as_mut().poll_frame(cx));
        let mut frame = match ready!(frame) {
            None => {
                this.line.end = End::Complete;
                let timing = this
                    .trailer
                    .take()
                    .and_then(|timings| server_timing(&timings));
                let trailers = timing.map(|timing| HeaderMap::from_iter([timing]));
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Some(Err(error)) => {
                this.line.end = End::Cut;
                // At an error, hyper drops what it has buffered. So it may write that first, and
                // gets the error at the next poll.
                *this.error = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            this.line.size += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_mut() {
            tonic_quirks::correct(trailers);
            this.line.see_grpc_status(trailers);
            this.line.end = End::Complete;
        }
        if this.body.is_end_stream() {
            this.line.end = End::Complete;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.trailer.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
