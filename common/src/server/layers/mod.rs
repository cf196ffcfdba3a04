//! The inbound layers, one file each. `stack` lists them in their order.
//!
//! Four of them also work below other servers, such as `axum::serve` or tonic's, in this order:
//!
//! | layer | what it does |
//! |---|---|
//! | [`RequestLayer`] | the id, the deadline and the [`Context`](crate::Context) of a request; its access line |
//! | [`ProblemLayer`] | failures become `problem+json` or a gRPC status |
//! | [`ShedLayer`] | a limit on requests in flight |
//! | [`GuardLayer`] | the deadline is enforced, and a panic fails one request |
//!
//! What only [`server::run`](crate::server::run) does: deadlines of routes, the limits on
//! connections and of what clients send, giving way at a limit, the reset of a stream that breaks off
//! over HTTP/1.0, and the drain.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, extract::ConnectInfo, routing::get};
//! use common::server::layers::{GuardLayer, ProblemLayer, RequestLayer, ShedLayer};
//! use std::net::SocketAddr;
//! use tokio::net::TcpListener;
//! use tower::ServiceBuilder;
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let request = RequestLayer::http(Duration::from_millis(50)).peer(|extensions| {
//!     let peer: &ConnectInfo<SocketAddr> = extensions.get()?;
//!     Some(peer.0.ip())
//! });
//! let router = Router::new()
//!     .route("/", get(|| async { "Hello!" }))
//!     .route("/late", get(|| std::future::pending::<()>()))
//!     .layer(
//!         ServiceBuilder::new()
//!             .layer(request)
//!             .layer(ProblemLayer::default())
//!             .layer(ShedLayer::http(100))
//!             .layer(GuardLayer),
//!     );
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let service = router.into_make_service_with_connect_info::<SocketAddr>();
//! tokio::spawn(async move { axum::serve(listener, service).await });
//! # let ask = async |path| -> std::io::Result<String> {
//! #     let mut connection = tokio::net::TcpStream::connect(address).await?;
//! #     let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
//! #     connection.write_all(request.as_bytes()).await?;
//! #     let mut response = String::new();
//! #     connection.read_to_string(&mut response).await?;
//! #     Ok(response)
//! # };
//! let response = ask("/").await?;
//! assert!(response.starts_with("HTTP/1.1 200 OK"));
//! assert!(response.contains("x-request-id: "));
//! let response = ask("/late").await?;
//! assert!(response.starts_with("HTTP/1.1 504 Gateway Timeout"));
//! assert!(response.contains("application/problem+json"));
//! # Ok(())
//! # }
//! ```
//!
//! Below tonic's server, the first and the third are [`RequestLayer::grpc`] and
//! [`ShedLayer::grpc`].

pub(crate) mod access;
pub(crate) mod error_response;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod http1;
pub(crate) mod messages;
mod problem;
pub(crate) mod request;
mod request_context;
pub(crate) mod shed;

pub use self::{guard::GuardLayer, problem::ProblemLayer, request::RequestLayer, shed::ShedLayer};
