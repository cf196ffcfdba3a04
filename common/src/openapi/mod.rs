//! [`Docs`]: the description of an API for programs, `/openapi.json`, and for people, `/docs`.
//!
//! The document comes from the code: annotate each handler with `utoipa::path`, and build the router
//! with `utoipa_axum`'s `OpenApiRouter`, so that router and document can't differ. This module adds
//! what is true of every operation: the request id, and the errors of the inbound stack; and the gRPC
//! methods of the service, from its descriptors.

mod example;
mod grpc;
mod markdown;
mod page;
pub mod query;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    response::{IntoResponse, Redirect},
    routing::get,
};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST},
};
use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

use self::page::DocsPage;
use crate::{
    endpoints,
    pages::{self, Links},
    ports::{Pages, Ports},
    request::id::RequestId,
    server::Routes,
};

/// The errors that every route can give, by the inbound stack.
const OF_THE_STACK: [StatusCode; 6] = [
    StatusCode::BAD_REQUEST,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// Allows only our own style sheet, icon and forms, and no script.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// The description of an API, of its HTTP operations and its gRPC methods.
///
/// ```
/// use axum::{Router, body::Body};
/// use common::{openapi::Docs, server::Ports};
/// use http::{Request, StatusCode};
/// use tower::ServiceExt;
/// use utoipa::openapi::OpenApi;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let document = OpenApi::default(); // in a service: of `OpenApiRouter::split_for_parts`
/// let ports = Ports::default(); // in a service: `process.ports()`
/// let router = Docs::new(document)
///     .errors(&[StatusCode::BAD_GATEWAY])
///     .add_to(Router::new(), &ports);
/// for (path, status) in [("/openapi.json", 200), ("/docs", 200), ("/", 303)] {
///     let request = Request::get(path).body(Body::empty()).unwrap();
///     assert_eq!(router.clone().oneshot(request).await.unwrap().status(), status);
/// }
/// # }
/// ```
pub struct Docs {
    document: OpenApi,
    errors: Vec<StatusCode>,
    descriptors: &'static [u8],
}

impl Docs {
    /// The description of the operations of this document.
    pub fn new(document: OpenApi) -> Self {
        Self {
            document,
            errors: Vec::new(),
            descriptors: &[],
        }
    }

    /// Adds statuses that operations can give beside those of the inbound stack, such as 502 where
    /// they call another service.
    #[must_use]
    pub fn errors(mut self, errors: &[StatusCode]) -> Self {
        self.errors.extend(errors);
        self
    }

    /// Adds the methods of the gRPC port. `descriptors` is their encoded file descriptor set, as
    /// [`Grpc::new`](crate::server::Grpc::new) takes it. As `mesh-build` writes it, it has the
    /// comments of the `.proto` files.
    #[must_use]
    pub fn grpc(self, descriptors: &'static [u8]) -> Self {
        Self {
            descriptors,
            ..self
        }
    }

    /// Adds `/openapi.json` (of version 3.1), and the page `/docs`, which is made from it. Where
    /// `router` has no `/`, that path leads to `/docs`; where it has no `/favicon.ico`, there is the
    /// icon of the page.
    ///
    /// # Panics
    ///
    /// If the descriptors are invalid, or the router has one of the two paths.
    pub fn add_to(self, router: Router, ports: &Ports) -> Router {
        let document = complete(self.document, &self.errors);
        let json = Bytes::from(serde_json::to_vec_pretty(&document).expect("it is JSON"));
        let page = Arc::new(DocsPage::of(&document, grpc::services(self.descriptors)));
        let table = Routes::new(&router, Duration::MAX);
        let has = |path| table.has(path);
        let (has_own, has_icon) = (has("/"), has(endpoints::ICON));
        ports.note_pages(Pages { has_own });
        let ports = ports.clone();
        let mut router = router
            .route(
                endpoints::OPENAPI,
                get(async move || ([(CONTENT_TYPE, "application/json")], json.clone())),
            )
            .route(
                endpoints::DOCS,
                get(async move |headers: HeaderMap| docs(&page, &ports, &headers)),
            )
            .route("/docs.css", get(async || pages::style()))
            .route("/docs.svg", get(async || pages::icon()));
        if !has_own {
            router = router.route("/", get(async || Redirect::to(endpoints::DOCS)));
        }
        if !has_icon {
            router = router.route(endpoints::ICON, get(async || pages::icon()));
        }
        router
    }
}

fn docs(page: &DocsPage, ports: &Ports, headers: &HeaderMap) -> impl IntoResponse + use<> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let links = Links::new(ports, pages::Page::Docs, headers);
    (
        [
            (CONTENT_TYPE, pages::HTML),
            (CONTENT_SECURITY_POLICY, POLICY),
        ],
        page.render_for(host.unwrap_or_default(), links, ports.bound()),
    )
}

/// Adds what is true of every operation.
fn complete(document: OpenApi, errors: &[StatusCode]) -> Value {
    let mut document = serde_json::to_value(document).expect("it is JSON");
    document["components"]["schemas"]["Problem"] = problem();
    document["components"]["parameters"]["RequestId"] = json!({
        "name": RequestId::HTTP_HEADER.as_str(),
        "in": "header",
        "description": "The id of the request, which the response and all log lines have. One that is \
                        not valid is replaced by a fresh one, as is a missing one.",
        "schema": { "type": "string" },
    });
    document["components"]["headers"]["RequestId"] = json!({
        "description": "The id of the request.",
        "required": true,
        "schema": { "type": "string", "minLength": 1, "maxLength": RequestId::MAX_LEN },
    });
    let mut statuses = [&OF_THE_STACK, errors].concat();
    statuses.sort_unstable();
    statuses.dedup();
    let paths = document["paths"].as_object_mut();
    let methods = paths.into_iter().flat_map(|paths| paths.values_mut());
    let operations = methods
        .filter_map(Value::as_object_mut)
        .flat_map(|methods| methods.values_mut());
    for operation in operations.filter(|it| it["responses"].is_object()) {
        for status in &statuses {
            let name = status.as_str();
            if operation["responses"][name].is_null() {
                operation["responses"][name] = error(*status);
            }
        }
        if let Some(responses) = operation["responses"].as_object_mut() {
            for response in responses.values_mut() {
                let name = RequestId::HTTP_HEADER;
                response["headers"][name.as_str()] =
                    json!({ "$ref": "#/components/headers/RequestId" });
            }
        }
        let id = json!({ "$ref": "#/components/parameters/RequestId" });
        match operation["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(id),
            None => operation["parameters"] = json!([id]),
        }
    }
    document
}

/// The schema of a [`Problem`](crate::Problem).
fn problem() -> Value {
    let text = |description| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "An error (RFC 9457).",
        "required": ["type", "title", "status", "detail", "error", "request_id"],
        "example": {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "The parameter name is given more than once; give it once.",
            "error": "Bad Request",
            "request_id": "order-17",
        },
        "properties": {
            "type": { "const": "about:blank" },
            "title": text("The name of the status."),
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": text("What is wrong, and what to do."),
            "error": text("The same as the title."),
            "request_id": text("The id of the request, for its log lines."),
        },
    })
}

fn error(status: StatusCode) -> Value {
    let description = match status {
        StatusCode::BAD_REQUEST => "A parameter is malformed, given twice, or beyond its limit.",
        StatusCode::FORBIDDEN => "The service behind does not let this one call it.",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is longer than the limit.",
        StatusCode::TOO_MANY_REQUESTS => "The service behind has spent a quota.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The head is longer than the limit.",
        StatusCode::INTERNAL_SERVER_ERROR => "The service failed on this request.",
        StatusCode::NOT_IMPLEMENTED => "The service behind does not know the method.",
        StatusCode::BAD_GATEWAY => "The service behind failed on this request.",
        StatusCode::SERVICE_UNAVAILABLE => {
            "The service, or one behind it, is overloaded or can't be reached; `Retry-After` says \
             when to try again."
        }
        StatusCode::GATEWAY_TIMEOUT => "There was no response before the deadline.",
        _ => status.canonical_reason().unwrap_or("An error."),
    };
    let mut response = json!({
        "description": description,
        "content": {
            "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } },
        },
    });
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response["headers"]["retry-after"] = json!({
            "description": "Seconds until another attempt may help.",
            "schema": { "type": "integer", "minimum": 0 },
        });
    }
    response
}
