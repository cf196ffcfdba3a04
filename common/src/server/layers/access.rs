//! [`AccessLine`]: counts and logs a request when its response has left.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{Extensions, HeaderMap, Method, Request, StatusCode, Version, uri::PathAndQuery};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

#[cfg(feature = "traces")]
use crate::traces;
use crate::{
    Context,
    methods::Deadlines,
    metrics::{self, Kind},
    problem::CLIENT_CLOSED_REQUEST,
    protocol::{Protocol, code_name, is_fault_of_service, rpc_method},
    server::capacity::{
        cause::{self, Cause},
        open::Open,
    },
    timings::Timings,
    tls::Identity,
};

/// A response extension that logs the access line at `debug`: health probes come every few seconds,
/// and one line a second is enough for refused requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet;

/// The values that all requests of a connection share.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// The protocol of the port.
    pub(super) port: Protocol,
    /// The methods of the port, with their deadlines.
    pub(super) deadlines: Deadlines,
    /// The peer that mutual TLS has shown.
    pub(super) peer: Option<Identity>,
    remote_address: RemoteAddress,
}

/// Where the address of the client is.
#[derive(Debug, Clone)]
enum RemoteAddress {
    Known(String),
    /// In the extensions of each request.
    In(fn(&Extensions) -> Option<IpAddr>),
}

impl Connection {
    pub(crate) fn new(port: Protocol, deadlines: Deadlines, open: &Open) -> Self {
        Self {
            port,
            deadlines,
            peer: open.peer.get().map(|peer| peer.identity.clone()),
            remote_address: RemoteAddress::Known(open.address.to_string()),
        }
    }

    /// The connections of another server, whose clients are not known.
    pub(super) fn unknown(port: Protocol, deadlines: Deadlines) -> Self {
        Self {
            port,
            deadlines,
            peer: None,
            remote_address: RemoteAddress::In(|_| None),
        }
    }

    /// The same, with clients whose address is in the extensions of their requests.
    pub(super) fn with_peer(self, find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        Self {
            remote_address: RemoteAddress::In(find),
            ..self
        }
    }
}

/// How a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection took the whole response.
    Complete,
    /// The body ended with an error, which the client sees.
    Cut,
    /// The response was dropped before its end.
    Dropped,
}

/// The values of an access line, as they become known.
#[derive(Debug)]
pub(super) struct AccessLine {
    pub(super) context: Context,
    connection: Arc<Connection>,
    /// The address of the client, if the connection does not know it.
    peer: Option<IpAddr>,
    method: Method,
    path: Option<PathAndQuery>,
    version: Version,
    status: u16,
    grpc_code: Option<Code>,
    quiet: bool,
    /// Bytes of the body that the connection took.
    pub(super) size: u64,
    pub(super) end: End,
}

/// How a request ended, as in its access line.
struct Outcome {
    status: u16,
    grpc_code: Option<Code>,
    reason: Option<&'static str>,
    level: Level,
}

enum Level {
    Debug,
    Info,
    Warn,
}

impl AccessLine {
    pub(super) fn new<B>(
        request: &Request<B>,
        connection: Arc<Connection>,
        context: Context,
    ) -> Self {
        Self {
            context,
            peer: match connection.remote_address {
                RemoteAddress::Known(_) => None,
                RemoteAddress::In(find) => find(request.extensions()),
            },
            connection,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            status: CLIENT_CLOSED_REQUEST,
            grpc_code: None,
            quiet: false,
            size: 0,
            end: End::Dropped,
        }
    }

    /// Takes the values from the head of the response.
    pub(super) fn see_response<B: http_body::Body>(&mut self, response: &http::Response<B>) {
        self.status = response.status().as_u16();
        self.quiet = response.extensions().get::<Quiet>().is_some();
        self.see_grpc_status(response.headers());
        // The body of a response to HEAD is never sent.
        if response.body().is_end_stream() || self.method == Method::HEAD {
            self.end = End::Complete;
        }
    }

    /// Takes the gRPC status from the trailers, or from the headers of a response without a body.
    pub(super) fn see_grpc_status(&mut self, headers: &HeaderMap) {
        if self.context.protocol == Protocol::Grpc
            && let Some(code) = headers.get(Status::GRPC_STATUS)
        {
            self.grpc_code = Some(Code::from_bytes(code.as_bytes()));
        }
    }

    /// Counts and logs the request. Must run in the context of the request.
    pub(super) fn write(&self) {
        let outcome = self.outcome();
        let took = self.context.arrived.elapsed();
        self.count(&outcome, took);
        #[cfg(feature = "traces")]
        self.record(&outcome, took);
        self.log(&outcome, took);
    }

    fn outcome(&self) -> Outcome {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        let cause = cause::current();
        let (status, reason) = match (self.end, cause) {
            (End::Complete, _) => (self.status, None),
            (End::Cut, _) => (self.status, Some("the response broke off")),
            (End::Dropped, Cause::Stop) => (
                unavailable,
                Some("the service stopped before the response was over"),
            ),
            (End::Dropped, Cause::GivesWay) => (
                unavailable,
                Some("the client took nothing, and others needed the place"),
            ),
            (End::Dropped, Cause::Client) => (CLIENT_CLOSED_REQUEST, Some("the client went away")),
        };
        let grpc_code = match (self.context.protocol, self.end) {
            (Protocol::Http, _) => None,
            (Protocol::Grpc, End::Dropped) => Some(Code::Cancelled),
            (Protocol::Grpc, _) => Some(self.grpc_code.unwrap_or(Code::Unknown)),
        };
        let is_stopped = self.end == End::Dropped && cause == Cause::Stop;
        let level = match grpc_code {
            Some(Code::Ok) => Level::Debug,
            _ if self.quiet => Level::Debug,
            _ if self.end == End::Cut => Level::Warn,
            Some(code) if is_stopped || is_fault_of_service(code) => Level::Warn,
            _ => Level::Info,
        };
        Outcome {
            status,
            grpc_code,
            reason,
            level,
        }
    }

    /// The route as it is in the router or in the descriptors, if the request has one. It is never the
    /// path that the client sent: clients must not choose the labels of the metrics.
    fn route(&self) -> Option<&str> {
        match self.context.protocol {
            Protocol::Http => self.context.timings.as_ref().and_then(Timings::route),
            Protocol::Grpc => {
                let path = self.path.as_ref().map_or("", PathAndQuery::path);
                let known = self.connection.deadlines.find(path);
                known.map(|(path, _)| rpc_method(path))
            }
        }
    }

    fn count(&self, outcome: &Outcome, took: Duration) {
        let (kind, status) = match outcome.grpc_code {
            Some(code) => (Kind::RpcServer, code as u16),
            None => (Kind::http(&self.method), outcome.status),
        };
        metrics::count_duration(kind, self.route().unwrap_or(metrics::OTHER), status, took);
    }

    /// Records the span of the request, if it is sampled.
    #[cfg(feature = "traces")]
    fn record(&self, outcome: &Outcome, took: Duration) {
        let trace = self.context.trace.as_deref();
        let trace = trace.filter(|trace| trace.recording.is_some() && !self.quiet);
        let Some(trace) = trace else {
            return;
        };
        let peer = self.peer.as_ref().map(ToString::to_string);
        traces::Request {
            trace,
            request_id: self.context.request_id.as_str(),
            method: &self.method,
            path: self.path.as_ref().map_or("*", PathAndQuery::path),
            version: self.version,
            route: self.route(),
            client: self.remote_address(peer.as_deref()),
            status: outcome.status,
            grpc_code: outcome.grpc_code,
            took,
        }
        .record();
    }

    fn remote_address<'a>(&'a self, peer: Option<&'a str>) -> &'a str {
        match &self.connection.remote_address {
            RemoteAddress::Known(address) => address,
            RemoteAddress::In(_) => peer.unwrap_or("unknown"),
        }
    }

    fn log(&self, outcome: &Outcome, took: Duration) {
        let path = self.path.as_ref().map_or("*", PathAndQuery::as_str);
        let peer = self.peer.as_ref().map(ToString::to_string);
        let remote_address = self.remote_address(peer.as_deref());
        // A macro, because the level of an event is static.
        macro_rules! log_at {
            ($level:ident) => {
                $level!(
                    remote_address,
                    peer = self.context.peer.as_ref().map(Identity::as_str),
                    first_request_line =
                        %format_args!("{} {path} {:?}", self.method, self.version),
                    response_status = outcome.status,
                    response_size = self.size,
                    request_time_frac = seconds(took),
                    grpc_code = outcome.grpc_code.map(code_name),
                    reason = outcome.reason,
                    "request"
                )
            };
        }
        match outcome.level {
            Level::Debug => log_at!(debug),
            Level::Info => log_at!(info),
            Level::Warn => log_at!(warn),
        }
    }
}

/// Seconds, rounded down to the microsecond: more digits would be noise.
fn seconds(elapsed: Duration) -> f64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros).as_secs_f64()
}
