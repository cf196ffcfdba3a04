//! Layer 5: calls of methods that may take longer than the deadline of all others are bounded in
//! number, and end when the service drains.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::{Layer, Service};
use tracing::warn;

use super::shed::{Overloaded, TELL_INTERVAL};
use crate::{
    body::DroppableBody, context, limited::Limited, methods::Deadlines, protocol::Protocol,
};

/// The part of the requests in flight that may be long-lived; the others are for those that end.
const SHARE: usize = 4;

/// How long after the drain began they end: a client that watches the health of the service has
/// heard by then that it does not serve any more.
const GRACE: Duration = Duration::from_secs(1);

/// The long-lived calls of a worker.
#[derive(Debug, Clone)]
pub(super) struct LongLived {
    places: Arc<Semaphore>,
    limit: usize,
    telling: Arc<Limited>,
    draining: CancellationToken,
    grace: Duration,
}

impl LongLived {
    /// For a worker that may have `max_in_flight` requests, and drains for `drain_timeout`.
    pub(super) fn new(max_in_flight: usize, drain_timeout: Duration) -> Self {
        let limit = max_in_flight.div_ceil(SHARE).min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(limit)),
            limit,
            telling: Arc::new(Limited::to_once_in(TELL_INTERVAL)),
            draining: CancellationToken::new(),
            grace: GRACE.min(drain_timeout / 2),
        }
    }

    /// Ends them all, soon.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    /// The layer for methods with these deadlines.
    pub(super) fn layer(self, deadlines: Deadlines) -> LongLivedLayer {
        LongLivedLayer {
            deadlines,
            calls: self,
        }
    }

    fn begin(&self) -> Result<Call, Overloaded> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let is_told = self.telling.is_due();
            if is_told {
                warn!(
                    action = "long_lived",
                    status = "failure",
                    limit = self.limit,
                    "more long-lived calls than this worker may have; they are refused"
                );
            }
            return Err(Overloaded { is_told });
        };
        let (draining, grace) = (self.draining.clone(), self.grace);
        Ok(Call {
            end: Box::pin(async move {
                draining.cancelled().await;
                sleep(grace).await;
            }),
            _place: place,
        })
    }
}

/// A long-lived call, which is one of so many.
struct Call {
    /// When it has to end.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
}

/// The service drains, and a call that may last for ever must not hold it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the service is about to stop; call again to reach another")]
pub(super) struct Draining;

/// Bounds the calls of long-lived methods.
#[derive(Debug, Clone)]
pub(super) struct LongLivedLayer {
    deadlines: Deadlines,
    calls: LongLived,
}

impl<S> Layer<S> for LongLivedLayer {
    type Service = LongLivedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LongLivedService {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct LongLivedService<S> {
    inner: S,
    layer: LongLivedLayer,
}

impl<S, B, R> Service<Request<B>> for LongLivedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<LongLivedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_long_lived = self.layer.deadlines.is_long_lived(request.uri().path());
        match is_long_lived.then(|| self.layer.calls.begin()).transpose() {
            Ok(call) => ResponseFuture::Admitted {
                inner: self.inner.call(request),
                call,
            },
            Err(error) => ResponseFuture::Refused { error },
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`LongLivedService`].
    #[project = Projection]
    pub(super) enum ResponseFuture<F> {
        Admitted {
            #[pin]
            inner: F,
            call: Option<Call>,
        },
        Refused {
            error: Overloaded,
        },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<LongLivedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Admitted { inner, call } => {
                if has_to_end(call, cx) {
                    return Poll::Ready(Err(Draining.into()));
                }
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let call = call.take();
                Poll::Ready(Ok(response.map(|body| LongLivedBody {
                    body: DroppableBody::new(body),
                    call,
                })))
            }
            Projection::Refused { error } => Poll::Ready(Err((*error).into())),
        }
    }
}

fn has_to_end(call: &mut Option<Call>, cx: &mut Context<'_>) -> bool {
    call.as_mut()
        .is_some_and(|call| call.end.as_mut().poll(cx).is_ready())
}

pin_project_lite::pin_project! {
    /// The body of a response; that of a long-lived call ends with the drain.
    pub(super) struct LongLivedBody<B> {
        #[pin]
        body: DroppableBody<B>,
        call: Option<Call>,
    }
}

impl<B> Body for LongLivedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if has_to_end(this.call, cx) {
            *this.call = None;
            this.body.drop_body();
            let protocol = context::protocol().unwrap_or(Protocol::Http);
            return Poll::Ready(Some(protocol.break_off(Code::Unavailable, Draining)));
        }
        let frame = ready!(this.body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
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
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::Instant;
    use tonic::Status;
    use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

    use super::*;
    use crate::{
        Context as RequestContext, Deadline, RequestId,
        methods::{Method, Methods},
    };

    type Frames = StreamBody<futures_util::stream::Pending<Result<Frame<Bytes>, Infallible>>>;

    /// A service of which `/Watch` is long-lived; `/Wait` is, too, and has no response.
    fn service(
        calls: &LongLived,
    ) -> BoxCloneSyncService<Request<()>, Response<LongLivedBody<Frames>>, BoxError> {
        let long = Method {
            deadline: Some(Duration::MAX),
            ..Method::default()
        };
        let methods = ["/Watch", "/Wait"].map(|path| (path.to_owned(), long));
        let deadlines = Deadlines::new(Duration::from_secs(10), &Methods::from(methods));
        let service = service_fn(async |request: Request<()>| {
            if request.uri().path() == "/Wait" {
                std::future::pending::<()>().await;
            }
            let frames = StreamBody::new(futures_util::stream::pending());
            Ok::<_, Infallible>(Response::new(frames))
        });
        let layer = calls.clone().layer(deadlines);
        BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service(service))
    }

    fn call(path: &str) -> Request<()> {
        Request::post(path).body(()).unwrap()
    }

    #[tokio::test]
    async fn they_are_a_part_of_all_and_the_rest_is_for_others() {
        let calls = LongLived::new(8, Duration::ZERO);
        let service = service(&calls);
        let ask = |path| service.clone().oneshot(call(path));
        let open = [ask("/Watch").await.unwrap(), ask("/Watch").await.unwrap()];
        let refused = ask("/Watch").await.map(drop).unwrap_err();
        assert!(refused.downcast::<Overloaded>().unwrap().is_told);
        assert!(ask("/Other").await.is_ok());
        drop(open);
        assert!(ask("/Watch").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn they_end_soon_after_the_drain_began() {
        let calls = LongLived::new(8, Duration::from_secs(10));
        let service = service(&calls);
        let begin = Instant::now();
        let other = service.clone().oneshot(call("/Other")).await.unwrap();
        let watch = service.clone().oneshot(call("/Watch")).await.unwrap();
        let waiting = tokio::spawn(service.oneshot(call("/Wait")));
        tokio::task::yield_now().await;
        calls.drain();

        let mut context = RequestContext::new(RequestId::fresh(), Deadline::after(Duration::MAX));
        context.protocol = Protocol::Grpc;
        let end = context.scope(watch.into_body().collect()).await.unwrap();
        assert_eq!(end.trailers().unwrap()[Status::GRPC_STATUS], "14");
        let error = waiting.await.unwrap().map(drop).unwrap_err();
        assert!(error.is::<Draining>());
        assert_eq!(begin.elapsed(), GRACE);
        let other = tokio::time::timeout(GRACE * 5, other.into_body().collect());
        assert!(other.await.is_err(), "others go on until their deadline");
    }
}
