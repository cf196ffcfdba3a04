//! Clients and servers: through `common`, or of plain tonic.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use axum::{BoxError, extract::Request as HttpRequest, middleware};
use common::{
    Deadline, RequestId,
    client::{self, Channel, Target},
    context,
};
use http::{HeaderMap, Request, Response};
use tokio::{net::TcpListener, runtime};
use tonic::{
    body::Body,
    service::Routes,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::{
    proto::FILE_DESCRIPTOR_SET,
    service::{echo, services},
};

/// A client over which any generated client calls.
pub type Service = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Makes clients of one kind, each with a connection of its own.
pub type Connect = Box<dyn Fn() -> Service + Send + Sync>;

/// The deadline of a call that sets none.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The configuration of a channel. A call waits for a replica as long as its deadline lets it, as a
/// thousand connections at once take seconds on a busy machine.
fn config() -> client::Config {
    client::Config {
        failfast: DEADLINE,
        ..client::Config::default()
    }
}

/// Clients of `common`.
///
/// # Panics
///
/// When the address is invalid.
pub fn ours(address: &str) -> Connect {
    let target: Target = address.parse().expect("an address");
    let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config(), DEADLINE);
    Box::new(move || {
        let client = channel
            .connect()
            .map_response(|response| response.map(Body::new));
        BoxCloneSyncService::new(client.map_err(BoxError::from))
    })
}

/// Clients of plain tonic, with the id and the deadline of the current request.
///
/// # Panics
///
/// When the address is invalid.
pub fn plain(address: SocketAddr) -> Connect {
    let endpoint = Endpoint::try_from(format!("http://{address}")).expect("a URL");
    Box::new(move || {
        let channel = endpoint.connect_lazy();
        let channel = channel.map_request(|mut request: Request<Body>| {
            let headers = request.headers_mut();
            if let Some(context) = context::current() {
                let id = context.request_id().header_value();
                headers.insert(RequestId::GRPC_METADATA, id);
                let left = context.deadline.remaining().unwrap_or_default();
                let left = common::deadline::format_timeout(left);
                headers.entry(Deadline::GRPC_TIMEOUT).or_insert(left);
            }
            request
        });
        BoxCloneSyncService::new(channel.map_err(BoxError::from))
    })
}

/// A server of plain tonic on a thread of its own. It records the headers of all calls.
#[derive(Debug)]
pub struct PlainServer {
    /// The address of the server.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
}

impl PlainServer {
    /// Starts a server that ends with this process.
    ///
    /// # Panics
    ///
    /// When the server can't be started.
    pub fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = {
            let seen: Arc<Mutex<Vec<HeaderMap>>> = seen.clone();
            move |request: HttpRequest| {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(request.headers().clone());
                std::future::ready(request)
            }
        };
        let (test_service, calls) = services();
        let router = Routes::new(test_service)
            .add_service(calls)
            .prepare()
            .into_axum_router()
            .layer(middleware::from_fn(echo))
            .layer(middleware::map_request(record));
        let (started, address) = mpsc::channel();
        let serve = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it listens");
            started.send(address).expect("somebody waits");
            let server = Server::builder().add_routes(Routes::from(router));
            server
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
        };
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve)
        });
        let address = address.recv().expect("it starts");
        Self { address, seen }
    }

    /// The headers of the calls with this id.
    pub fn seen(&self, id: &str) -> Vec<HeaderMap> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let has_id = |headers: &&HeaderMap| {
            let is = |name| headers.get(name).is_some_and(|value| value == id);
            is(RequestId::GRPC_METADATA)
        };
        seen.iter().filter(has_id).cloned().collect()
    }
}
