//! [`CallTiming`]: the time of each call goes into the timings of its request, and into the metrics.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::Service;

use crate::{
    context,
    methods::Deadlines,
    metrics::{self, Kind},
    protocol::rpc_method,
    timings::Running,
};

/// Measures each call up to the end of its response, for the `Server-Timing` of its request and for
/// the metrics.
#[derive(Debug, Clone)]
pub struct CallTiming<S> {
    inner: S,
    methods: Deadlines,
}

impl<S> CallTiming<S> {
    pub(in crate::client) fn new(inner: S, methods: Deadlines) -> Self {
        Self { inner, methods }
    }
}

/// A call whose time is measured until this is dropped.
#[derive(Debug)]
struct Measured {
    /// Measures for the request of the call, if that is timed.
    _timing: Option<Running>,
    methods: Deadlines,
    path: Option<PathAndQuery>,
    begin: Instant,
    /// How the call has ended; until then, as if its caller gave it up.
    code: Code,
}

impl Measured {
    /// Takes the status from the trailers, or from the head of a response that is nothing else.
    fn see_status(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            self.code = Code::from_bytes(code.as_bytes());
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        let known = self.methods.find(path);
        let method = known.map_or(metrics::OTHER, |(path, _)| rpc_method(path));
        let took = self.begin.elapsed();
        metrics::count_duration(Kind::RpcClient, method, self.code as u16, took);
    }
}

impl<S, B, R> Service<Request<B>> for CallTiming<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Status>,
    R: Body<Data = Bytes, Error = BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Status;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            measured: Some(Measured {
                _timing: context::timings().map(|timings| timings.begin(request.uri())),
                methods: self.methods.clone(),
                path: request.uri().path_and_query().cloned(),
                begin: Instant::now(),
                code: Code::Cancelled,
            }),
            inner: self.inner.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`CallTiming`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        measured: Option<Measured>,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.inner.poll(cx));
        let mut measured = this.measured.take();
        if let Some(measured) = &mut measured {
            match &outcome {
                Ok(response) => measured.see_status(response.headers()),
                Err(status) => measured.code = status.code(),
            }
        }
        Poll::Ready(outcome.map(|response| response.map(|body| ResponseBody { body, measured })))
    }
}

pin_project_lite::pin_project! {
    /// The body of a response, which ends its call.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        body: B,
        measured: Option<Measured>,
    }
}

impl<B: Body<Data = Bytes, Error = BoxError>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(measured) = this.measured {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        measured.see_status(trailers);
                    }
                }
                Some(Err(error)) => {
                    let status = error.downcast_ref::<Status>();
                    measured.code = status.map_or(Code::Unknown, Status::code);
                }
                None => {}
            }
        }
        let may_go_on = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !may_go_on || this.body.is_end_stream() {
            *this.measured = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
