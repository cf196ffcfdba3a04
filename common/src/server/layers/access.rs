//! [`AccessLine`]: counts and logs a request when its response has left.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Version,
    header::CONTENT_LENGTH, uri::PathAndQuery,
};
use tonic::Code;
use tracing::{Level, debug, info, warn};

use super::{
    cause::Cause,
    client_address::{Forwarding, scheme},
};
#[cfg(feature = "traces")]
use crate::telemetry::traces;
use crate::{
    headers::first,
    limits,
    problem::CLIENT_CLOSED_REQUEST,
    request::{
        context::Context,
        dialect::{Dialect, Ended, code_name},
        identity::Identity,
    },
    server::{connection::state::ConnectionState, routes::Paths},
    telemetry::{logging::Cut, metrics},
};

/// Marks a response so that its access line is logged at `debug`: health probes come every few seconds,
/// and one line a second is enough for refused requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogAtDebug;

/// What the configuration says of a port, and so of its connections.
#[derive(Debug, Clone)]
pub(crate) struct PortSettings {
    /// Whose word on the address of a client counts, if anybody's.
    pub(crate) forwarding: Option<Arc<Forwarding>>,
    pub(crate) speaks_tls: bool,
    /// Whether HTTP responses have `Server-Timing`.
    pub(crate) shows_timings: bool,
    /// The share of the access lines of 4xx that are logged.
    pub(crate) client_error_lines: f64,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            forwarding: None,
            speaks_tls: false,
            shows_timings: true,
            client_error_lines: 1.0,
        }
    }
}

/// The values that all requests of a connection share.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    /// The dialect of the port.
    pub(super) port: &'static dyn Dialect,
    /// The paths of the port.
    pub(super) paths: Paths,
    /// The peer that mutual TLS has shown.
    pub(super) peer: Option<Identity>,
    remote_address: RemoteAddress,
    /// Whether the peer is a service of the mesh or a trusted proxy, whose word on a trace counts.
    #[cfg_attr(not(feature = "traces"), allow(dead_code))]
    pub(super) is_inside: bool,
    /// The scheme that this server speaks, if it serves the connection.
    scheme: Option<&'static str>,
    /// Whether responses have `Server-Timing`, if they are timed.
    pub(super) shows_timings: bool,
    /// The share of the access lines of 4xx that are logged.
    client_error_lines: f64,
    /// The state of the connection, if this server serves it.
    pub(super) state: Option<Arc<ConnectionState>>,
    /// The `Keep-Alive` of responses over HTTP/1.
    pub(super) keep_alive: Option<HeaderValue>,
}

/// Where the address of the client is.
#[derive(Debug, Clone)]
enum RemoteAddress {
    Known {
        address: IpAddr,
        text: String,
    },
    /// In a header of each request, which this trusted proxy has written.
    Behind(IpAddr, Arc<Forwarding>),
    /// In the extensions of each request.
    In(fn(&Extensions) -> Option<IpAddr>),
}

impl ConnectionInfo {
    /// A connection that this crate serves. `keep_alive` is the header of responses over HTTP/1.
    pub(crate) fn new(
        port: &'static dyn Dialect,
        paths: Paths,
        state: Arc<ConnectionState>,
        keep_alive: Option<HeaderValue>,
        settings: PortSettings,
    ) -> Self {
        let address = state.handle.address;
        let is_trusted = |forwarding: &Arc<Forwarding>| forwarding.trusted.contains(address);
        let forwarding = settings.forwarding.filter(is_trusted);
        Self {
            port,
            paths,
            peer: state.peer.as_ref().map(|peer| peer.identity.clone()),
            is_inside: port.serves_mesh() || forwarding.is_some(),
            remote_address: match forwarding {
                Some(forwarding) => RemoteAddress::Behind(address, forwarding),
                None => RemoteAddress::Known {
                    address,
                    text: address.to_string(),
                },
            },
            scheme: Some(if settings.speaks_tls { "https" } else { "http" }),
            shows_timings: settings.shows_timings,
            client_error_lines: settings.client_error_lines,
            state: Some(state),
            keep_alive,
        }
    }

    /// All connections of another server, which knows its clients.
    pub(crate) fn of_other_server(port: &'static dyn Dialect, paths: Paths) -> Self {
        Self {
            port,
            paths,
            peer: None,
            is_inside: port.serves_mesh(),
            remote_address: RemoteAddress::In(|_| None),
            scheme: None,
            shows_timings: true,
            client_error_lines: 1.0,
            state: None,
            keep_alive: None,
        }
    }

    /// Takes the address of a client from the extensions of its requests.
    pub(crate) fn with_peer(self, find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        Self {
            remote_address: RemoteAddress::In(find),
            ..self
        }
    }

    /// The address of the client of a request.
    pub(super) fn client_of<B>(&self, request: &Request<B>) -> Option<IpAddr> {
        match &self.remote_address {
            RemoteAddress::Known { address, .. } => Some(*address),
            RemoteAddress::Behind(proxy, forwarding) => {
                Some(forwarding.address(request.headers(), *proxy))
            }
            RemoteAddress::In(find) => find(request.extensions()),
        }
    }

    /// The scheme of a request, as the client has sent it.
    pub(super) fn scheme_of<B>(&self, request: &Request<B>) -> Option<&'static str> {
        match &self.remote_address {
            RemoteAddress::Behind(..) => scheme(request.headers()).or(self.scheme),
            _ => self.scheme,
        }
    }
}

/// How a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The connection took the whole response.
    Complete,
    /// The body ended with an error, or with another length than announced. The client sees it.
    Cut(Cause),
    /// The response was dropped before its end.
    Dropped,
}

/// The values of an access line, as they become known.
#[derive(Debug, Clone)]
pub(super) struct AccessLine {
    pub(super) context: Context,
    pub(super) connection: Arc<ConnectionInfo>,
    method: Method,
    path: Option<PathAndQuery>,
    version: Version,
    status: u16,
    /// The code in the headers or trailers of the response.
    code: Option<Code>,
    quiet: bool,
    /// The length of the body, if the head announces it.
    length: Option<u64>,
    /// Bytes of the body that the connection took.
    size: u64,
    pub(super) end: End,
}

/// How a request ended, as in its access line.
struct Outcome<'a> {
    ended: Ended<'a>,
    reason: Option<&'static str>,
    level: Level,
    /// The call passed its deadline, and its caller had left it no time.
    is_expired: bool,
}

impl AccessLine {
    pub(super) fn new<B>(
        request: &Request<B>,
        connection: Arc<ConnectionInfo>,
        context: Context,
    ) -> Self {
        Self {
            context,
            connection,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            status: CLIENT_CLOSED_REQUEST,
            code: None,
            quiet: false,
            length: None,
            size: 0,
            end: End::Dropped,
        }
    }

    /// Takes the values from the head of the response.
    pub(super) fn see_response<B: http_body::Body>(&mut self, response: &http::Response<B>) {
        self.status = response.status().as_u16();
        self.quiet = response.extensions().get::<LogAtDebug>().is_some();
        self.see_code(response.headers());
        self.length = length_of(response);
        if response.body().is_end_stream() {
            self.end = End::Complete;
        } else {
            self.see_data(0);
        }
    }

    /// Counts data of the body that the connection takes.
    pub(super) fn see_data(&mut self, bytes: usize) {
        self.size += bytes as u64;
        // Over HTTP/1, hyper sends what the head announces. It drops the rest, and does not poll the
        // body for its end (dispatch.rs, `poll_write`).
        if let Some(length) = self.length
            && self.version < Version::HTTP_2
            && self.size >= length
        {
            self.size = length;
            self.end = End::Complete;
        }
    }

    /// Notes that the body has no further frame. A client takes a body of another length than the
    /// head announces for broken.
    pub(super) fn see_end(&mut self) {
        let is_whole = self.length.is_none_or(|length| length == self.size);
        self.end = if is_whole {
            End::Complete
        } else {
            End::Cut(Cause::Failure)
        };
    }

    /// Whether a response with this status has no body, whatever the handler returns (RFC 9110,
    /// 6.4.1).
    pub(super) fn has_no_body(&self, status: StatusCode) -> bool {
        let never = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        never || self.method == Method::HEAD
    }

    /// Whether the head announces the length of the body.
    pub(super) fn has_length(&self) -> bool {
        self.length.is_some()
    }

    /// Takes the code from the headers or the trailers of the response, if they have it.
    pub(super) fn see_code(&mut self, headers: &HeaderMap) {
        self.code = self.dialect().code_in(headers).or(self.code);
    }

    /// The dialect of the request.
    pub(super) fn dialect(&self) -> &'static dyn Dialect {
        let dialect = self.context.shared.dialect;
        dialect.expect("the context of an inbound request has one")
    }

    /// Writes the line at the end of the body. Over HTTP/1, hyper takes the end of a body while the
    /// socket may still have to take the bytes before it: then the line waits for that.
    pub(super) fn finish(&self) {
        let has_rest = self.end == End::Complete
            && self.size > limits::SENT_AT_ONCE
            && self.version < Version::HTTP_2;
        let state = self.connection.state.as_ref().filter(|_| has_rest);
        match state.map(|state| &state.outbound) {
            Some(outbound) if outbound.is_watched() => {
                let line = self.clone();
                outbound.add_rest(move |has_left| {
                    let line = if has_left { line } else { line.dropped() };
                    line.context.clone().sync_scope(|| line.write());
                });
            }
            Some(outbound) if outbound.has_lost_a_rest() => self.clone().dropped().write(),
            _ => self.write(),
        }
    }

    fn dropped(self) -> Self {
        Self {
            end: End::Dropped,
            ..self
        }
    }

    /// Counts and logs the request. Must run in the context of the request.
    pub(super) fn write(&self) {
        self.find_route();
        let outcome = self.outcome();
        if outcome.is_expired {
            // Among the others it would be a failure of the service.
            metrics::count(|counters| &counters.expired);
        } else {
            self.dialect().count(&outcome.ended);
        }
        #[cfg(feature = "traces")]
        self.record(&outcome.ended);
        self.log(&outcome);
    }

    /// Why a response was dropped. hyper drops it together with its stream or connection, and can't pass
    /// on a reason.
    fn cause_of_drop(&self) -> Cause {
        match &self.connection.state {
            Some(state) if state.handle.is_preempted() => Cause::Preempted,
            Some(state) if state.capacity.stops() => Cause::Stop,
            _ => Cause::Client,
        }
    }

    fn outcome(&self) -> Outcome<'_> {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        let cause = match self.end {
            End::Complete => None,
            End::Cut(cause) => Some(cause),
            End::Dropped => Some(self.cause_of_drop()),
        };
        let (status, reason) = match (self.end, cause) {
            (_, None) => (self.status, None),
            (End::Cut(_), _) => (self.status, Some("the response broke off")),
            (_, Some(Cause::Stop)) => (
                unavailable,
                Some("the service stopped before the response was over"),
            ),
            (_, Some(Cause::Preempted)) => (
                unavailable,
                Some("the client took nothing, and others needed the place"),
            ),
            (_, Some(_)) => (CLIENT_CLOSED_REQUEST, Some("the client went away")),
        };
        let dialect = self.dialect();
        let code = dialect.code_at_end(self.code, self.end == End::Dropped);
        let ended = Ended {
            method: &self.method,
            path: self.path.as_ref().map_or("*", PathAndQuery::path),
            version: self.version,
            scheme: self.context.shared.scheme,
            route: self.route(),
            status,
            code,
            cut_by: cause.map(Cause::name),
            is_stopped: cause == Some(Cause::Stop),
            took: self.context.shared.arrived.elapsed(),
        };
        let is_late = match code {
            Some(code) => code == Code::DeadlineExceeded,
            None => status == StatusCode::GATEWAY_TIMEOUT,
        };
        let is_expired = is_late && self.had_no_time();
        let level = match self.end {
            _ if self.quiet => Level::DEBUG,
            _ if is_expired => Level::INFO,
            End::Cut(_) => Level::WARN,
            _ if code.is_none() && (400..500).contains(&status) && self.is_left_out() => {
                Level::DEBUG
            }
            End::Complete | End::Dropped => dialect.level(&ended),
        };
        Outcome {
            ended,
            reason,
            level,
            is_expired,
        }
    }

    /// Whether the configuration leaves out this access line of a client's error.
    fn is_left_out(&self) -> bool {
        let share = self.connection.client_error_lines;
        share < 1.0 && fastrand::f64() >= share
    }

    /// Whether the caller left the service no time.
    fn had_no_time(&self) -> bool {
        let deadline = self.context.deadline.instant();
        deadline.saturating_duration_since(self.context.shared.arrived) < limits::LEAST_TIME
    }

    /// Finds the route of a request that was refused before the router.
    fn find_route(&self) {
        if let (Some(timings), Some(path)) = (&self.context.shared.timings, &self.path)
            && timings.route().is_none()
            && let Some(route) = self.connection.paths.route_of(path.path())
        {
            timings.set_route(route);
        }
    }

    /// The route as it is in the router or in the descriptors, if the request has one.
    fn route(&self) -> Option<&str> {
        let shared = &self.context.shared;
        let method = self.connection.paths.method_of(&shared.terms);
        method.or_else(|| shared.timings.as_ref()?.route())
    }

    /// Records the span of the request, if it is sampled.
    #[cfg(feature = "traces")]
    fn record(&self, ended: &Ended<'_>) {
        let trace = self.context.shared.trace.as_deref();
        let trace = trace.filter(|trace| trace.recording.is_some() && !self.quiet);
        let Some(trace) = trace else {
            return;
        };
        traces::RequestSpan {
            trace,
            request_id: self.context.request_id().as_str(),
            client: &self.remote_address(),
            dialect: self.dialect(),
            ended: *ended,
        }
        .record();
    }

    fn remote_address(&self) -> Cow<'_, str> {
        match (&self.connection.remote_address, self.context.shared.address) {
            (RemoteAddress::Known { text, .. }, _) => text.into(),
            (_, Some(address)) => address.to_string().into(),
            (_, None) => "unknown".into(),
        }
    }

    /// The first line of the request. It is joined here, as formatting it costs twice as much.
    fn first_request_line(&self) -> String {
        // Each is cut for itself: the client chooses both, and the version is to follow.
        let method = Cut {
            text: self.method.as_str(),
            most: limits::LOG_METHOD,
        };
        let target = Cut {
            text: self.path.as_ref().map_or("*", PathAndQuery::as_str),
            most: limits::LOG_TARGET,
        };
        let ([method, method_mark], [target, target_mark]) = (method.parts(), target.parts());
        let version = match self.version {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_11 => "HTTP/1.1",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/3.0",
        };
        [method, method_mark, " ", target, target_mark, " ", version].concat()
    }

    fn log(&self, outcome: &Outcome<'_>) {
        let remote_address = self.remote_address();
        // A macro, because the level of an event is static.
        macro_rules! log_at {
            ($level:ident) => {
                $level!(
                    remote_address = &*remote_address,
                    peer = self.context.shared.peer.as_ref().map(Identity::as_str),
                    first_request_line = self.first_request_line(),
                    response_status = outcome.ended.status,
                    response_size = self.size,
                    request_time_frac = seconds(outcome.ended.took),
                    grpc_code = outcome.ended.code.map(code_name),
                    reason = outcome.reason,
                    "request"
                )
            };
        }
        match outcome.level {
            Level::WARN => log_at!(warn),
            Level::INFO => log_at!(info),
            _ => log_at!(debug),
        }
    }
}

/// The length of the body that the head of the response announces. Without the header, hyper
/// announces what the body knows.
pub(crate) fn length_of<B: http_body::Body>(response: &http::Response<B>) -> Option<u64> {
    match first(response.headers(), &CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => response.body().size_hint().exact(),
    }
}

/// Seconds, rounded down to the microsecond: more digits would be noise.
fn seconds(elapsed: Duration) -> f64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros).as_secs_f64()
}
