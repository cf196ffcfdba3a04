//! [`Config`]: the settings that all services share.

use std::{net::IpAddr, num::NonZeroUsize, thread, time::Duration};

use http::HeaderName;
use tracing_subscriber::filter::Targets;

use super::{
    admin_names::AdminNames,
    proxies::{self, TrustedProxies},
};
use crate::{
    limits,
    telemetry::logging,
    tls::{AllowedPeers, Tls},
};

/// The settings of every service.
///
/// A `main` flattens them into its own flags, and reads them with `parse`. Tests, and programs
/// without the feature `cli`, begin with the default:
///
/// ```
/// use common::Config;
/// use std::time::Duration;
///
/// let config = Config { deadline: Duration::from_secs(2), ..Config::default() };
/// assert_eq!(config.max_in_flight.get(), 2_048);
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "cli", group(skip))] // its name would clash with a service's own `Config`
pub struct Config {
    /// The address that the HTTP and gRPC ports listen on
    #[cfg_attr(feature = "cli", arg(help_heading = group::PROCESS, long, env, default_value = defaults::HOST, value_parser = address))]
    pub host: IpAddr,

    /// The number of worker threads [default: the cores that the process may use]
    #[cfg_attr(feature = "cli", arg(help_heading = group::PROCESS, long, env, default_value_t = cores(), hide_default_value = true, value_parser = at_most::<1_024>))]
    pub workers: NonZeroUsize,

    /// Whether gRPC ports serve reflection, which lists the methods and their messages to all who may
    /// call: on or off
    #[cfg_attr(feature = "cli", arg(help_heading = group::PROCESS, long, env, default_value = defaults::REFLECTION, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub reflection: bool,

    /// The time limit of a request, from its arrival to the last byte of its response. A shorter
    /// grpc-timeout of the client takes precedence
    #[cfg_attr(feature = "cli", arg(help_heading = group::LIMITS, long, env, default_value = defaults::DEADLINE, value_parser = positive_duration))]
    pub deadline: Duration,

    /// The limit on requests in flight; further requests are refused at once. A higher limit means a
    /// longer queue: set it to the rate that the service can carry, times the latency that is
    /// acceptable
    #[cfg_attr(feature = "cli", arg(help_heading = group::LIMITS, long, env, default_value = defaults::MAX_IN_FLIGHT, value_parser = at_most::<1_000_000>))]
    pub max_in_flight: NonZeroUsize,

    /// The limit on calls to other services that wait for the first data of their response, over all
    /// channels. Further calls to a service that hangs fail at once, which leaves room for requests
    /// that do not need it. Calls of methods with a longer deadline of their own are counted apart
    /// [default: seven eighths of the requests in flight]
    #[cfg_attr(feature = "cli", arg(help_heading = group::LIMITS, long, env, value_parser = at_most::<1_000_000>))]
    pub max_calls: Option<NonZeroUsize>,

    /// The limit on open connections. At the limit, a new connection closes the one that has been
    /// idle for longest
    #[cfg_attr(feature = "cli", arg(help_heading = group::LIMITS, long, env, default_value = defaults::MAX_CONNECTIONS, value_parser = at_most::<1_000_000>))]
    pub max_connections: NonZeroUsize,

    /// How long a connection may be idle. Proxies in front must close idle connections sooner
    /// [default: 75s; none for HTTP/2 to a gRPC port]
    #[cfg_attr(feature = "cli", arg(help_heading = group::LIMITS, long, env, value_parser = positive_duration))]
    pub idle_timeout: Option<Duration>,

    /// How long a connection may last, so that clients spread over new replicas. Its requests in
    /// flight complete [default: for ever]
    #[cfg_attr(feature = "cli", arg(help_heading = group::LIMITS, long, env, value_parser = positive_duration))]
    pub max_connection_age: Option<Duration>,

    /// The networks of the proxies in front, in CIDR notation and separated by commas: what they say of
    /// the client counts. Name none but those of your proxies: whoever is in these networks chooses its own
    /// address [default: no proxies]
    #[cfg_attr(
        feature = "cli",
        arg(help_heading = group::EDGE, long, env, value_name = "NETWORKS")
    )]
    pub trusted_proxies: Option<TrustedProxies>,

    /// The one header in which these proxies list the addresses that a request has come from. It must be
    /// the one that they write: a proxy passes on what a client has put into others
    #[cfg_attr(feature = "cli", arg(help_heading = group::EDGE, long, env, default_value_t = proxies::default_header(), value_parser = proxies::header_of_addresses, value_name = "NAME"))]
    pub forwarded_header: HeaderName,

    /// Whether HTTP responses have a Server-Timing header, with the calls that they took: on or off. At an
    /// edge that strangers reach, it tells them the names of methods
    #[cfg_attr(feature = "cli", arg(help_heading = group::EDGE, long, env, default_value = "on", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub server_timing: bool,

    /// The limit a second on requests from outside whose traceparent asks for spans, and that have them for
    /// that. Beyond it, `OTEL_TRACES_SAMPLER` decides. A gRPC port and the trusted proxies are inside
    #[cfg_attr(feature = "cli", arg(help_heading = group::EDGE, long, env, default_value_t = defaults::MAX_FOLLOWED_TRACES))]
    pub max_followed_traces: u32,

    /// How long the service still accepts connections after SIGTERM, SIGINT or SIGHUP. Meanwhile
    /// /readyz reports not ready, for load balancers that poll it, and clients are told to leave
    #[cfg_attr(feature = "cli", arg(help_heading = group::DRAIN, long, env, default_value = defaults::DRAIN_DELAY, value_parser = duration))]
    pub drain_delay: Duration,

    /// How long requests in flight may take after the drain delay
    #[cfg_attr(feature = "cli", arg(help_heading = group::DRAIN, long, env, default_value = defaults::DRAIN_TIMEOUT, value_parser = duration))]
    pub drain_timeout: Duration,

    /// The directory with the certificates for calls between services: gRPC ports and calls speak
    /// mutual TLS. It has tls.crt, tls.key and ca.crt, and new files take effect without a restart
    /// [default: no TLS]
    #[cfg_attr(feature = "cli", arg(help_heading = group::TLS, long = "mesh-tls-dir", env = "MESH_TLS_DIR", value_name = "DIR", value_parser = |dir: &str| Tls::mesh(dir)))]
    pub mesh_tls: Option<Tls>,

    /// The peers that may call the gRPC ports: SPIFFE IDs, DNS names or IP addresses, separated by commas
    /// [default: all with a certificate of an authority in ca.crt]
    #[cfg_attr(
        feature = "cli",
        arg(help_heading = group::TLS, long, env, value_name = "PEERS", requires = "mesh_tls")
    )]
    pub mesh_allowed_peers: Option<AllowedPeers>,

    /// The directory with the certificate for HTTP ports, as tls.crt and tls.key: HTTP ports speak
    /// TLS [default: no TLS]
    #[cfg_attr(feature = "cli", arg(help_heading = group::TLS, long = "edge-tls-dir", env = "EDGE_TLS_DIR", value_name = "DIR", value_parser = |dir: &str| Tls::edge(dir)))]
    pub edge_tls: Option<Tls>,

    /// The address that the port for operators listens on. It has no authentication: let only those
    /// reach it who may read the settings
    #[cfg_attr(feature = "cli", arg(help_heading = group::OPERATORS, long, env, default_value = defaults::ADMIN_HOST, value_parser = address))]
    pub admin_host: IpAddr,

    /// Further host names that the port for operators answers to, separated by commas. It answers to
    /// addresses, localhost, names without a dot, and those of Kubernetes (*.svc, *.svc.cluster.local); a
    /// request for another one gets 421, because it may come from the page of a stranger [default: none]
    #[cfg_attr(feature = "cli", arg(help_heading = group::OPERATORS, long, env, value_name = "NAMES"))]
    pub admin_names: Option<AdminNames>,

    /// The port for operators, which serves /metrics, /status, /healthz and /readyz in plain HTTP.
    /// Without one, there are no metrics
    #[cfg_attr(feature = "cli", arg(help_heading = group::OPERATORS, long, env))]
    pub admin_port: Option<u16>,

    /// The events that are logged: a level, targets and target=level pairs, separated by commas.
    /// Dependencies (h2, hyper, …) log errors only, unless a part names them [default: info]
    #[cfg_attr(feature = "cli", arg(
        help_heading = group::LOGGING,
        long = "log",
        env = "RUST_LOG",
        default_value = "",
        hide_default_value = true,
        value_parser = logging::parse_filter,
        value_name = "FILTER"
    ))]
    pub log: Targets,

    /// The share of the access lines of client errors (4xx) that are logged, from 0 to 1: at an edge that
    /// strangers reach, they decide how many there are. Metrics count them all
    #[cfg_attr(feature = "cli", arg(help_heading = group::LOGGING, long, env, default_value = "1", value_parser = share, value_name = "SHARE"))]
    pub client_error_lines: f64,
}

/// The groups of the settings in `--help`. Those of the service itself come first, without a group.
#[cfg(feature = "cli")]
pub(crate) mod group {
    pub(crate) const PROCESS: &str = "Process";
    pub(crate) const LIMITS: &str = "Limits";
    pub(crate) const EDGE: &str = "Edge";
    pub(crate) const DRAIN: &str = "Drain";
    #[cfg(feature = "client")]
    pub(crate) const CALLS: &str = "Calls to other services";
    pub(crate) const TLS: &str = "TLS";
    pub(crate) const OPERATORS: &str = "Operators";
    pub(crate) const LOGGING: &str = "Logging";
}

/// The default values, as they are written in flags.
mod defaults {
    pub(super) const HOST: &str = "0.0.0.0";
    #[cfg(feature = "cli")]
    pub(super) const REFLECTION: &str = "on";
    pub(super) const ADMIN_HOST: &str = "127.0.0.1";
    pub(super) const DEADLINE: &str = "10s";
    pub(super) const MAX_IN_FLIGHT: &str = "2048";
    pub(super) const MAX_CONNECTIONS: &str = "20000";
    pub(super) const MAX_FOLLOWED_TRACES: u32 = 50;
    pub(super) const DRAIN_DELAY: &str = "0s";
    pub(super) const DRAIN_TIMEOUT: &str = "10s";
}

impl Default for Config {
    fn default() -> Self {
        const VALID: &str = "the tests parse the defaults";
        Self {
            host: defaults::HOST.parse().expect(VALID),
            workers: cores(),
            reflection: true,
            deadline: positive_duration(defaults::DEADLINE).expect(VALID),
            max_in_flight: defaults::MAX_IN_FLIGHT.parse().expect(VALID),
            max_calls: None,
            max_connections: defaults::MAX_CONNECTIONS.parse().expect(VALID),
            idle_timeout: None,
            max_connection_age: None,
            trusted_proxies: None,
            forwarded_header: proxies::default_header(),
            server_timing: true,
            max_followed_traces: defaults::MAX_FOLLOWED_TRACES,
            drain_delay: duration(defaults::DRAIN_DELAY).expect(VALID),
            drain_timeout: duration(defaults::DRAIN_TIMEOUT).expect(VALID),
            mesh_tls: None,
            mesh_allowed_peers: None,
            edge_tls: None,
            admin_host: defaults::ADMIN_HOST.parse().expect(VALID),
            admin_names: None,
            admin_port: None,
            log: logging::parse_filter("").expect(VALID),
            client_error_lines: 1.0,
        }
    }
}

impl Config {
    /// The most calls in flight. By default they leave an eighth of the requests in flight to those
    /// that make no call.
    pub(crate) fn max_calls(&self) -> usize {
        let requests = self.max_in_flight.get();
        let most = requests - requests.div_ceil(8);
        self.max_calls.map_or(most.max(1), NonZeroUsize::get)
    }
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Reads the address to listen on. Shells and conda export HOST with a name in it.
#[cfg(feature = "cli")]
fn address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| {
        "it must be an IP address, such as 127.0.0.1 or 0.0.0.0; some shells and conda export HOST with a \
         name in it: then set the address, or unset the variable"
    })
}

/// Reads a share of all.
#[cfg(feature = "cli")]
fn share(text: &str) -> Result<f64, &'static str> {
    let share = text.parse().ok();
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    share.ok_or("it must be a number from 0 (none) to 1 (all), such as 0.01")
}

/// Reads a number from 1 to `MAX`.
#[cfg(feature = "cli")]
fn at_most<const MAX: usize>(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse::<NonZeroUsize>().ok();
    number
        .filter(|number| number.get() <= MAX)
        .ok_or_else(|| format!("it must be a number from 1 to {MAX}"))
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be longer than 0s".into()),
        duration => Ok(duration),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let is_bounded = duration <= limits::MAX_DURATION;
    is_bounded
        .then_some(duration)
        .ok_or_else(|| "it must be at most 365days".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_leave_an_eighth_of_the_requests_in_flight_free() {
        let max_calls = |max_in_flight, max_calls| {
            let config = Config {
                max_in_flight: NonZeroUsize::new(max_in_flight).unwrap(),
                max_calls: NonZeroUsize::new(max_calls),
                ..Config::default()
            };
            config.max_calls()
        };
        assert_eq!(
            [2_048, 64, 9, 2, 1].map(|most| max_calls(most, 0)),
            [1_792, 56, 7, 1, 1]
        );
        assert_eq!(max_calls(64, 5_000), 5_000);
    }
}
