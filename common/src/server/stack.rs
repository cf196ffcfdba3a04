//! The inbound stack: every layer that a request passes, top to bottom, over HTTP and gRPC alike.

use std::{convert::Infallible, sync::Arc};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tower::{Service, ServiceBuilder};
use tower_http::limit::RequestBodyLimitLayer;

use super::{
    connection::state::ConnectionState,
    layers::{
        access::ConnectionInfo, guard::GuardLayer, http1, problem::ProblemLayer,
        request::RequestLayer, shed::ShedLayer,
    },
    service::listener::ServedPort,
};
use crate::dialect::{grpc::with_visible_reset, messages::Messages};

/// The inbound stack for the requests of one connection to a port. `keep_alive` is a header of its
/// responses over HTTP/1.
///
/// The body of a response has three wrappers, outermost first: those of the request layer, the shed
/// layer and the guard layer. A failure that the problem layer writes has the first only.
pub(super) fn inbound<B>(
    port: ServedPort,
    connection: Arc<ConnectionState>,
    keep_alive: Option<HeaderValue>,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let ServedPort {
        router,
        dialect,
        paths,
        body_limit,
    } = port;
    let (router_limit, message_limit) = if dialect.has_messages() {
        (usize::MAX, Some(body_limit))
    } else {
        (body_limit, None)
    };
    let reading = connection.clone();
    ServiceBuilder::new()
        // Id, deadline, timings, access line. First, so that the log lines of all layers below have
        // the id, and the access line has the status that the client sees.
        .layer(RequestLayer::new(ConnectionInfo::new(
            dialect,
            paths,
            connection.clone(),
            keep_alive,
        )))
        // Failures become problem+json or a gRPC status. Above every layer that can fail.
        .layer(ProblemLayer::new(Some(body_limit)))
        // HTTP/1: reads the rest of a request after an early response. Above every layer that may
        // respond early.
        .map_request(move |request| http1::read_to_end(request, &reading))
        // The rules for heads, and the limits on requests in flight. Above every layer that waits,
        // to refuse requests at once.
        .layer(ShedLayer::new(connection))
        // The deadline, and panics. Below the layer that turns them into responses, above every
        // layer that waits.
        .layer(GuardLayer)
        // The limits on a body and its messages. Next to the router, which reads the body.
        .map_request(move |request: Request<_>| {
            request.map(|body| Messages::new(with_visible_reset(body), message_limit))
        })
        .layer(RequestBodyLimitLayer::new(router_limit))
        .service(router)
}
