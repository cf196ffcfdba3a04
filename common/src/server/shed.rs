//! Layer 5: what is more than the service can carry is refused at once, so that the rest is
//! served in time.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};
use tracing::warn;

use super::probe::is_probe;
use crate::{
    limited::Limited,
    metrics::{self, Counters},
};

/// How often refusals are told: once in that time by each worker, however many they are.
pub(super) const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Refuses requests beyond the limit of a worker. A request is in flight until the last of its
/// answer has left.
#[derive(Debug, Clone)]
pub(super) struct ShedLayer(Arc<Worker>);

#[derive(Debug)]
struct Worker {
    limit: i64,
    counters: Arc<Counters>,
    telling: Limited,
}

impl ShedLayer {
    /// For the requests of this worker.
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Worker {
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            counters: metrics::of_this_thread(),
            telling: Limited::to_once_in(TELL_INTERVAL),
        }))
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ShedService {
            inner,
            worker: self.0.clone(),
        }
    }
}

/// There are as many requests in flight as there may be.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("there are as many requests in flight as there may be")]
pub(super) struct Overloaded {
    /// Whether this one is told of in the log.
    pub(super) is_told: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ShedService<S> {
    inner: S,
    worker: Arc<Worker>,
}

impl<S, B, R> Service<Request<B>> for ShedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ShedBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let in_flight = InFlight::begin(&self.worker);
        // Whoever asks how the service is must get an answer now above all.
        if in_flight.others < self.worker.limit || is_probe(request.uri().path()) {
            return ResponseFuture::Admitted {
                inner: self.inner.call(request),
                in_flight: Some(in_flight),
            };
        }
        let refused = self.worker.counters.shed.add(1);
        let is_told = self.worker.telling.is_due();
        if is_told {
            warn!(
                action = "shed",
                status = "failure",
                limit = self.worker.limit,
                refused,
                "more requests in flight than this worker may have; they are refused"
            );
        }
        ResponseFuture::Refused {
            error: Overloaded { is_told },
        }
    }
}

/// A request in flight.
#[derive(Debug)]
struct InFlight {
    worker: Arc<Worker>,
    /// How many there were before it.
    others: i64,
}

impl InFlight {
    fn begin(worker: &Arc<Worker>) -> Self {
        Self {
            worker: worker.clone(),
            others: worker.counters.in_flight.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let in_flight = &self.worker.counters.in_flight;
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ShedService`].
    #[project = Projection]
    pub(super) enum ResponseFuture<F> {
        Admitted {
            #[pin]
            inner: F,
            in_flight: Option<InFlight>,
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
    type Output = Result<Response<ShedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Admitted { inner, in_flight } => {
                let response = ready!(inner.poll(cx)).map_err(Into::into)?;
                let in_flight = in_flight.take();
                Poll::Ready(Ok(response.map(|body| ShedBody { body, in_flight })))
            }
            Projection::Refused { error } => Poll::Ready(Err((*error).into())),
        }
    }
}

pin_project_lite::pin_project! {
    /// A body whose request is in flight as long as it is there.
    pub(super) struct ShedBody<B> {
        #[pin]
        body: B,
        in_flight: Option<InFlight>,
    }
}

impl<B: Body> Body for ShedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
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

    use http_body_util::Empty;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    async fn answer(_: Request<()>) -> Result<Response<Empty<&'static [u8]>>, Infallible> {
        Ok(Response::default())
    }

    fn get(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    #[tokio::test]
    async fn beyond_the_limit_requests_are_refused_and_one_of_them_is_told() {
        let service = ServiceBuilder::new()
            .layer(ShedLayer::new(2))
            .service(service_fn(answer));
        let ask = |path| service.clone().oneshot(get(path));
        let in_flight = [ask("/").await.unwrap(), ask("/").await.unwrap()];
        let told = async || {
            let error = ask("/").await.map(drop).unwrap_err();
            error.downcast::<Overloaded>().unwrap().is_told
        };
        assert!(told().await);
        assert!(!told().await);
        assert!(
            ask("/readyz").await.is_ok(),
            "a probe is answered all the same"
        );
        drop(in_flight);
        assert!(ask("/").await.is_ok());
    }
}
