//! [`Origin`]: a name of the service, as connections are opened and requests are addressed to it.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Request, Uri,
    header::USER_AGENT,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{
    client::{config::RequestIdNames, network::Network},
    dialect::http::write_onward,
    request::{context, id::RequestId},
    tls::ClientTls,
};

/// The default `user-agent`.
const MESH: HeaderValue = HeaderValue::from_static(concat!("mesh/", env!("CARGO_PKG_VERSION")));

/// A host and port (HTTP's "origin", with the scheme that TLS implies): how connections to it are opened,
/// and the headers that all requests to it share.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) authority: Authority,
    pub(crate) request_id_names: RequestIdNames,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) network: Option<Arc<dyn Network>>,
}

impl Origin {
    /// The head for a connection that has no address.
    pub(crate) fn in_memory(request_id_names: RequestIdNames) -> Self {
        Self {
            authority: Authority::from_static("in-memory"),
            request_id_names,
            tls: None,
            network: None,
        }
    }

    /// Completes the head of a request, just before it is sent.
    pub(crate) fn write_to<B>(&self, request: &mut Request<B>) {
        // The URI of a generated client has only a path.
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(match self.tls {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        });
        uri.authority = Some(self.authority.clone());
        let path = uri.path_and_query;
        uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are set");
        let headers = request.headers_mut();
        write_context(headers, self.request_id_names);
        headers.entry(USER_AGENT).or_insert(MESH);
    }
}

/// Writes the [`Context`](crate::Context) of the request in hand: its id, and as `grpc-timeout`
/// what is left of its deadline; and its trace.
pub(crate) fn write_context(headers: &mut HeaderMap, names: RequestIdNames) {
    if let Some(context) = context::current() {
        let id = context.request_id().header_value();
        if names == RequestIdNames::Both {
            headers.insert(RequestId::GRPC_METADATA, id.clone());
        } else {
            headers.remove(RequestId::GRPC_METADATA);
        }
        headers.insert(RequestId::HTTP_HEADER, id);
        write_onward(&context, headers);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::request::context::{Context, Deadline};

    fn written(names: RequestIdNames, request: http::request::Builder) -> HeaderMap {
        let head = Origin {
            authority: Authority::from_static("service1:50051"),
            request_id_names: names,
            tls: None,
            network: None,
        };
        let mut request = request.uri("/a.Service/Method").body(()).unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        let context = Context::new("the-request".parse().unwrap(), deadline);
        context.sync_scope(|| head.write_to(&mut request));
        assert_eq!(request.uri(), "http://service1:50051/a.Service/Method");
        std::mem::take(request.headers_mut())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_carries_its_id_under_both_names_and_a_user_agent() {
        let headers = written(RequestIdNames::Both, Request::builder());
        assert_eq!(headers["request_id"], "the-request");
        assert_eq!(headers["x-request-id"], "the-request");
        assert_eq!(headers["grpc-timeout"], "10000m");
        assert_eq!(headers["user-agent"], MESH);
    }

    #[tokio::test]
    async fn a_setting_omits_the_name_that_some_proxies_refuse() {
        let request = Request::builder().header("request_id", "the-caller-s");
        let headers = written(RequestIdNames::XRequestId, request);
        assert!(!headers.contains_key("request_id"));
        assert_eq!(headers["x-request-id"], "the-request");
    }

    #[tokio::test]
    async fn a_caller_may_set_the_user_agent() {
        let request = Request::builder().header("user-agent", "orders/7");
        assert_eq!(
            written(RequestIdNames::Both, request)["user-agent"],
            "orders/7"
        );
    }
}
