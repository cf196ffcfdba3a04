//! The inbound stack: every layer that a request passes, top to bottom, over HTTP and gRPC alike.
//!
//! [`inbound`] is the stack of a connection. A service may put layers of its own around what it
//! responds ([`Listener::layer`](super::Listener::layer)): then they and [`with_layers`] are the router
//! of that stack.

use std::{convert::Infallible, sync::Arc};

use axum::{BoxError, Router};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tower::{Service, ServiceBuilder};
use tower_http::limit::RequestBodyLimitLayer;

use super::{
    connection::state::ConnectionState,
    layers::{
        access::ConnectionInfo,
        guard::GuardLayer,
        http1,
        problem::ProblemLayer,
        request::RequestLayer,
        shed::{ShedLayer, admitted::AdmittedLayer},
    },
    service::listener::{Layers, ServedPort},
};
use crate::{
    body::DeadlineBody,
    dialect::{
        grpc::{Visible, with_visible_reset},
        messages::Messages,
    },
    request::dialect::Dialect,
};

/// The inbound stack for the requests of one connection to a port. `keep_alive` is a header of its
/// responses over HTTP/1.
///
/// The body of a response has three wrappers, outermost first: those of the request layer, the shed
/// layer and the guard layer. A failure that the problem layer writes has the first only; below layers of
/// the service, it has all three.
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
        has_layers,
        settings,
    } = port;
    // Below the layers of the service, the limits stand there.
    let body_limits = if has_layers {
        BodyLimits::NONE
    } else {
        BodyLimits::of(dialect, body_limit)
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
            settings,
        )))
        // Failures become problem+json or a gRPC status. Above every layer that can fail.
        .layer(ProblemLayer::new(Some(body_limit)))
        // HTTP/1: reads the rest of a request after an early response. Above every layer that may
        // respond early.
        .map_request(move |request| http1::read_to_end(request, &reading))
        // The rules for heads, and the limits on requests in flight. Above every layer that waits,
        // to refuse requests at once; and above those of the service, which may change the size of a
        // response: this layer counts what the connection has to send.
        .layer(ShedLayer::new(connection, has_layers))
        // The deadline, and panics. Below the layer that turns them into responses, above every
        // layer that waits.
        .layer(GuardLayer)
        // The limits on a body and its messages. Next to the router, which reads the body.
        .map_request(move |request| body_limits.checked(request))
        .layer(RequestBodyLimitLayer::new(body_limits.body))
        .service(router)
}

/// Puts the layers of a service around the router of a port, and between the two what turns failures
/// into responses: so that the layers see the response to every failure. Once for each worker.
pub(super) fn with_layers(port: ServedPort, layers: Layers) -> ServedPort {
    if layers.are_none() {
        return port;
    }
    let body_limits = BodyLimits::of(port.dialect, port.body_limit);
    let below = ServiceBuilder::new()
        // Failures become responses, as above the layers of the service: there, for theirs.
        .layer(ProblemLayer::new(Some(port.body_limit)))
        // What the shed layer above has refused fails here.
        .layer(AdmittedLayer)
        // The deadline up to the head of the response, and panics. The guard above ends the body.
        .map_response(|response: Response<DeadlineBody<_>>| response.map(DeadlineBody::into_body))
        .layer(GuardLayer)
        // The limits on a body and its messages, as a layer of the service may have changed it.
        .map_request(move |request| body_limits.checked(request))
        .layer(RequestBodyLimitLayer::new(body_limits.body))
        .service(port.router);
    ServedPort {
        router: layers.around(Router::new().fallback_service(below)),
        has_layers: true,
        ..port
    }
}

/// The limits of the body of a request, and of each message in it, in bytes.
#[derive(Debug, Clone, Copy)]
struct BodyLimits {
    body: usize,
    message: Option<usize>,
}

impl BodyLimits {
    const NONE: Self = Self {
        body: usize::MAX,
        message: None,
    };

    fn of(dialect: &dyn Dialect, limit: usize) -> Self {
        if dialect.has_messages() {
            Self {
                message: Some(limit),
                ..Self::NONE
            }
        } else {
            Self {
                body: limit,
                message: None,
            }
        }
    }

    /// The request with a body whose messages are checked.
    fn checked<B>(self, request: Request<B>) -> Request<Messages<Visible<B>>>
    where
        B: Body<Error: Into<BoxError>>,
    {
        request.map(|body| Messages::new(with_visible_reset(body), self.message))
    }
}
