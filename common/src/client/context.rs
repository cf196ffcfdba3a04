//! Layer 3: the request's [`Context`](crate::Context) goes out with each call.

use std::task::{Context, Poll};

use http::Request;
use tower::Service;

use crate::{Deadline, RequestId, context, deadline::format_timeout};

/// Sends `request_id` and `grpc-timeout`, which is what is left of the deadline, with each call.
#[derive(Debug, Clone)]
pub struct ContextService<S> {
    inner: S,
}

impl<S> ContextService<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for ContextService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(context) = context::current() {
            let headers = request.headers_mut();
            headers.insert(RequestId::GRPC_METADATA, context.request_id.header_value());
            let left = context.deadline.remaining().unwrap_or_default();
            headers.insert(Deadline::GRPC_TIMEOUT, format_timeout(left));
        }
        self.inner.call(request)
    }
}
