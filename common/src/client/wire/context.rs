//! Per attempt: the request's [`Context`](crate::Context) goes out with the call.

use http::HeaderMap;

use crate::{Deadline, RequestId, context, deadline::format_timeout};

/// Writes `request_id`, and `grpc-timeout`, which is what is left of the deadline now.
pub(in crate::client) fn write(headers: &mut HeaderMap) {
    if let Some(context) = context::current() {
        headers.insert(RequestId::GRPC_METADATA, context.request_id.header_value());
        let left = context.deadline.remaining().unwrap_or_default();
        headers.insert(Deadline::GRPC_TIMEOUT, format_timeout(left));
    }
}
