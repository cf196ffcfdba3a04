//! Layer 1: the request's [`Context`], made from its headers.

use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::{task::futures::TaskLocalFuture, time::Instant};
use tower::{Layer, Service};
use tracing::warn;

use crate::{
    Context, Deadline, RequestId,
    body::DroppableBody,
    deadline::{InvalidTimeout, parse_timeout},
    limited::Limited,
    methods::Deadlines,
    protocol::Protocol,
    request_id::InvalidRequestId,
    timings::Timings,
};

/// Gives each request its id and its deadline, runs all below in that context, the body of the
/// response too, and puts the id on the response.
#[derive(Debug, Clone)]
pub(super) struct ContextLayer {
    /// What is spoken on the port.
    pub(super) port: Protocol,
    /// The longest that a request may take.
    pub(super) deadlines: Deadlines,
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ContextService<S> {
    inner: S,
    layer: ContextLayer,
}

impl<S, B, R> Service<Request<B>> for ContextService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ContextBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let protocol = Protocol::of(&request, self.layer.port);
        let (request_id, is_ambiguous) = request_id_of(request.headers(), protocol);
        let timeout = timeout_of(request.headers(), protocol);
        let longest = self.layer.deadlines.of(request.uri().path());
        let arrived = Instant::now(); // once for all that asks for it
        let context = Context {
            request_id: match &request_id {
                Ok(Some(id)) => id.clone(),
                Ok(None) | Err(_) => RequestId::fresh(),
            },
            deadline: Deadline::after_from(
                arrived,
                match timeout {
                    Ok(Some(timeout)) => timeout.min(longest),
                    Ok(None) | Err(_) => longest,
                },
            ),
            arrived,
            protocol,
            // For `Server-Timing`, which gRPC does not have.
            timings: (protocol == Protocol::Http).then(|| Timings::since(arrived.into_std())),
        };
        let is_odd = request_id.is_err() || is_ambiguous || timeout.is_err();
        let untold = is_odd.then(|| WARNINGS.with(Limited::tell)).flatten();
        let future = context.clone().sync_scope(|| {
            if let Some(untold) = untold {
                warn_of(request_id.err(), is_ambiguous, timeout.err(), untold);
            }
            self.inner.call(request)
        });
        ResponseFuture {
            inner: context.scope(future),
        }
    }
}

/// Warnings that a worker writes in a second of what its clients send, at the most.
const MAX_WARNINGS: u32 = 10;

thread_local! {
    static WARNINGS: Limited = Limited::per_second(MAX_WARNINGS);
}

/// Warns of what is wrong with a request's headers; `untold` requests before it had the same, and
/// no warning.
fn warn_of(
    request_id: Option<InvalidRequestId>,
    is_ambiguous: bool,
    timeout: Option<InvalidTimeout>,
    untold: u64,
) {
    if let Some(reason) = request_id {
        warn!(
            action = "request_id",
            status = "replaced",
            %reason,
            untold,
            "the request's id is not usable; it has this fresh one instead"
        );
    }
    if is_ambiguous {
        warn!(
            action = "request_id",
            status = "ambiguous",
            untold,
            "the request has another id in x-request-id; it goes by its request_id"
        );
    }
    if let Some(reason) = timeout {
        warn!(
            action = "grpc_timeout",
            status = "ignored",
            %reason,
            untold,
            "the request's grpc-timeout is not usable"
        );
    }
}

/// The id that a request brings along, if it does, and whether there is another beside it.
fn request_id_of(
    headers: &HeaderMap,
    protocol: Protocol,
) -> (Result<Option<RequestId>, InvalidRequestId>, bool) {
    if protocol == Protocol::Grpc {
        let own = id_under(RequestId::GRPC_METADATA, headers);
        // Proxies drop names with an underscore.
        if let Ok(Some(_)) | Err(_) = own {
            let other = headers.get(RequestId::HTTP_HEADER);
            let differs = |id: &RequestId| other.is_some_and(|other| other != id.as_str());
            let is_ambiguous = matches!(&own, Ok(Some(id)) if differs(id));
            return (own, is_ambiguous);
        }
    }
    (id_under(RequestId::HTTP_HEADER, headers), false)
}

fn id_under(name: HeaderName, headers: &HeaderMap) -> Result<Option<RequestId>, InvalidRequestId> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => RequestId::try_from(value).map(Some),
        (Some(_), Some(_)) => Err(InvalidRequestId::Repeated),
        (None, _) => Ok(None),
    }
}

/// The time that the client of a gRPC call leaves for it, if it says so.
fn timeout_of(headers: &HeaderMap, protocol: Protocol) -> Result<Option<Duration>, InvalidTimeout> {
    let timeout = headers.get(Deadline::GRPC_TIMEOUT);
    let timeout = timeout.filter(|_| protocol == Protocol::Grpc);
    timeout.map(parse_timeout).transpose()
}

pin_project_lite::pin_project! {
    /// The future of [`ContextService`].
    pub(super) struct ResponseFuture<F> {
        #[pin]
        inner: TaskLocalFuture<Context, F>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ContextBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut response = ready!(this.inner.as_mut().poll(cx))?;
        let context = this
            .inner
            .take_value()
            .expect("only taken here, at the end");
        response.headers_mut().insert(
            context.protocol.request_id_header(),
            context.request_id.header_value(),
        );
        Poll::Ready(Ok(response.map(|body| ContextBody {
            body: DroppableBody::new(body),
            context,
        })))
    }
}

pin_project_lite::pin_project! {
    /// A body that is made, and dropped, in the context of its request.
    pub(super) struct ContextBody<B> {
        #[pin]
        body: DroppableBody<B>,
        context: Context,
    }

    impl<B> PinnedDrop for ContextBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            this.context.clone().sync_scope(|| this.body.drop_body());
        }
    }
}

impl<B: Body> Body for ContextBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let context = this.context.clone();
        context.sync_scope(|| this.body.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append::<http::HeaderName>(name, value);
                headers
            })
    }

    fn id(
        protocol: Protocol,
        pairs: &[(&'static str, &'static str)],
    ) -> Result<Option<String>, InvalidRequestId> {
        let (id, _) = request_id_of(&headers(pairs), protocol);
        id.map(|id| id.map(|id| id.to_string()))
    }

    #[test]
    fn grpc_metadata_wins_over_the_http_header() {
        let both = [("x-request-id", "http"), ("request_id", "grpc")];
        assert_eq!(id(Protocol::Grpc, &both), Ok(Some("grpc".into())));
        assert_eq!(id(Protocol::Http, &both), Ok(Some("http".into())));
        assert_eq!(id(Protocol::Grpc, &both[..1]), Ok(Some("http".into())));
        assert_eq!(id(Protocol::Http, &both[1..]), Ok(None));
    }

    #[test]
    fn ids_that_differ_are_noticed() {
        let both = [("x-request-id", "one"), ("request_id", "two")];
        let is_ambiguous = |pairs| request_id_of(&headers(pairs), Protocol::Grpc).1;
        assert!(is_ambiguous(&both));
        assert!(!is_ambiguous(&both[..1]));
        let same = [("x-request-id", "one"), ("request_id", "one")];
        assert!(!is_ambiguous(&same));
    }

    #[test]
    fn an_id_that_was_sent_twice_is_none() {
        let twice = [("x-request-id", "one"), ("x-request-id", "one")];
        assert_eq!(id(Protocol::Http, &twice), Err(InvalidRequestId::Repeated));
    }
}
