//! [`Head`]: what a connection adds to the head of each call.

use http::{
    HeaderMap, HeaderValue, Request, Uri,
    header::USER_AGENT,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{Deadline, RequestId, client::RequestIdNames, context, deadline::format_timeout};

/// What calls from here call themselves, unless their callers say something else.
const MESH: HeaderValue = HeaderValue::from_static(concat!("mesh/", env!("CARGO_PKG_VERSION")));

/// What all calls on a connection have in their heads.
#[derive(Debug, Clone)]
pub(in crate::client) struct Head {
    pub(in crate::client) authority: Authority,
    pub(in crate::client) request_id_names: RequestIdNames,
}

impl Head {
    /// For a connection that nobody has to find.
    pub(in crate::client) fn in_memory(request_id_names: RequestIdNames) -> Self {
        Self {
            authority: Authority::from_static("in-memory"),
            request_id_names,
        }
    }

    /// Completes the head of an attempt that leaves now.
    pub(super) fn complete<B>(&self, request: &mut Request<B>) {
        let uri = request.uri_mut();
        *uri = with_authority(uri, &self.authority);
        let headers = request.headers_mut();
        write_context(headers, self.request_id_names);
        headers.entry(USER_AGENT).or_insert(MESH);
    }
}

/// Writes the request's [`Context`](crate::Context): its id, and `grpc-timeout`, which is what is
/// left of the deadline now.
pub(in crate::client) fn write_context(headers: &mut HeaderMap, names: RequestIdNames) {
    if let Some(context) = context::current() {
        let id = context.request_id.header_value();
        if names == RequestIdNames::Both {
            headers.insert(RequestId::GRPC_METADATA, id.clone());
        } else {
            headers.remove(RequestId::GRPC_METADATA);
        }
        headers.insert(RequestId::HTTP_HEADER, id);
        let left = context.deadline.remaining().unwrap_or_default();
        headers.insert(Deadline::GRPC_TIMEOUT, format_timeout(left));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Context;

    fn completed(names: RequestIdNames, request: http::request::Builder) -> HeaderMap {
        let head = Head {
            authority: Authority::from_static("service1:50051"),
            request_id_names: names,
        };
        let mut request = request.uri("/a.Service/Method").body(()).unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        let context = Context::new("the-request".parse().unwrap(), deadline);
        context.sync_scope(|| head.complete(&mut request));
        assert_eq!(request.uri(), "http://service1:50051/a.Service/Method");
        std::mem::take(request.headers_mut())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_its_id_under_both_names_and_says_who_calls() {
        let headers = completed(RequestIdNames::Both, Request::builder());
        assert_eq!(headers["request_id"], "the-request");
        assert_eq!(headers["x-request-id"], "the-request");
        assert_eq!(headers["grpc-timeout"], "10000m");
        assert_eq!(headers["user-agent"], MESH);
    }

    #[tokio::test]
    async fn a_setting_leaves_the_name_out_that_some_proxies_refuse() {
        let request = Request::builder().header("request_id", "the-caller-s");
        let headers = completed(RequestIdNames::XRequestId, request);
        assert!(!headers.contains_key("request_id"));
        assert_eq!(headers["x-request-id"], "the-request");
    }

    #[tokio::test]
    async fn a_caller_may_say_who_calls() {
        let request = Request::builder().header("user-agent", "orders/7");
        assert_eq!(
            completed(RequestIdNames::Both, request)["user-agent"],
            "orders/7"
        );
    }
}
