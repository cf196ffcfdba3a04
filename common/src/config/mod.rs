//! [`Config`]: the settings that all services share, and [`parse`], which reads them.
//!
//! Each setting is a flag and an environment variable; `--help` lists both.

use std::{net::IpAddr, num::NonZeroUsize, process::exit, thread, time::Duration};

use clap::{
    ArgMatches, Args, Command, Parser,
    error::{ContextKind, ErrorKind},
};
use tracing_subscriber::filter::Targets;

use crate::{healthcheck, limits, logging};

/// The exit code for a bad flag or variable.
const EXIT_BAD_CONFIGURATION: i32 = 2;

/// The settings of every service.
#[derive(Args, Debug, Clone)]
#[group(skip)] // its name would clash with a service's own `Config`
pub struct Config {
    /// The address to listen on
    #[arg(long, env, default_value = "0.0.0.0")]
    pub host: IpAddr,

    /// The longest that a request may take, from its arrival to the last byte of its response; a
    /// shorter grpc-timeout of the client takes precedence
    #[arg(long, env, default_value = "10s", value_parser = positive_duration)]
    pub deadline: Duration,

    /// The most requests in flight; further requests are refused at once. More requests in flight
    /// mean a longer queue: set it to the rate that the service can carry, times the latency that
    /// is acceptable
    #[arg(long, env, default_value = "2048", value_parser = at_most::<1_000_000>)]
    pub max_in_flight: NonZeroUsize,

    /// The most open connections; at the limit, a new connection closes the one that has been idle
    /// for longest
    #[arg(long, env, default_value = "20000", value_parser = at_most::<1_000_000>)]
    pub max_connections: NonZeroUsize,

    /// The longest that a connection may be idle; proxies in front must close idle connections
    /// sooner
    #[arg(long, env, default_value = "75s", value_parser = positive_duration)]
    pub idle_timeout: Duration,

    /// The longest that a connection may last, so that clients spread over new replicas; its
    /// requests in flight complete [default: for ever]
    #[arg(long, env, value_parser = positive_duration)]
    pub max_connection_age: Option<Duration>,

    /// The time after SIGTERM, SIGINT or SIGHUP in which the service still accepts connections and
    /// /readyz reports not ready, for load balancers that poll it
    #[arg(long, env, default_value = "0s", value_parser = duration)]
    pub drain_delay: Duration,

    /// The time that requests in flight have to complete after the drain delay
    #[arg(long, env, default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// The number of worker threads [default: the cores that the process may use]
    #[arg(long, env, default_value_t = cores(), hide_default_value = true, value_parser = at_most::<1_024>)]
    pub workers: NonZeroUsize,

    /// The events that are logged: a level and target=level pairs, separated by commas.
    /// Dependencies (h2, hyper, …) log errors only, unless a pair names them [default: info]
    #[arg(
        long = "log",
        env = "RUST_LOG",
        default_value = "",
        hide_default_value = true,
        value_parser = logging::parse_filter,
        value_name = "FILTER"
    )]
    pub log: Targets,
}

/// The subcommand of every service.
const HEALTHCHECK: &str = "healthcheck";

/// Its help.
const ABOUT_HEALTHCHECK: &str = "Ask the service that runs on this host with the same settings \
    whether it is ready; the exit code is 0 if it is ready and 1 if it is not";

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Reads a number from 1 to `MAX`.
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

/// Reads the configuration from the command line and the environment. If a setting is invalid,
/// writes one line to stderr and exits with 2.
///
/// The subcommand `healthcheck` asks the running service whether it is ready, at the setting
/// `--port` of `C`, and exits with 0 if it is. So a container image needs no shell and no curl.
pub fn parse<C: Parser>() -> C {
    let command = C::command().subcommand(Command::new(HEALTHCHECK).about(ABOUT_HEALTHCHECK));
    let parsed = command.try_get_matches().and_then(|matches| {
        if matches.subcommand_name() == Some(HEALTHCHECK) {
            exit(check_health(&matches))
        }
        C::from_arg_matches(&matches)
    });
    parsed.unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => {
            eprintln!("{}", one_line(C::command(), &error));
            exit(EXIT_BAD_CONFIGURATION)
        }
    })
}

/// Returns the exit code of the subcommand.
fn check_health(matches: &ArgMatches) -> i32 {
    let host = matches.try_get_one("host").ok().flatten().copied();
    let port = matches.try_get_one("port").ok().flatten().copied();
    let ready = match (host, port) {
        (Some(host), Some(port)) => healthcheck::run(host, port),
        _ => Err("the service has no HTTP port to ask: no setting --port".to_owned()),
    };
    match ready {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("not ready: {reason}");
            1
        }
    }
}

/// clap's message in one line, with the name of the variable beside that of the flag.
fn one_line(mut command: Command, error: &clap::Error) -> String {
    command.build();
    let rendered = error.to_string();
    let message = rendered.lines().take_while(|line| !line.is_empty());
    let message = message.map(str::trim).collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let variable = command.get_arguments().find_map(|argument| {
        let named = error.get(ContextKind::InvalidArg)?.to_string();
        (named == argument.to_string()).then(|| argument.get_env()?.to_str())?
    });
    let variable = variable.map_or_else(String::new, |name| format!(" (or the variable {name})"));
    format!("{}: {message}{variable}; see --help", command.get_name())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Parser)]
    #[command(name = "service")]
    struct Service {
        #[command(flatten)]
        common: Config,
    }

    fn complaint(arguments: &[&str]) -> String {
        let arguments = ["service"].iter().chain(arguments);
        match Service::try_parse_from(arguments) {
            Ok(_) => "none".into(),
            Err(error) => one_line(Service::command(), &error),
        }
    }

    #[test]
    fn a_complaint_is_one_line_that_names_the_flag_and_the_variable() {
        assert_eq!(
            complaint(&["--deadline", "soon"]),
            "service: invalid value 'soon' for '--deadline <DEADLINE>': expected number at 0 \
             (or the variable DEADLINE); see --help"
        );
        assert_eq!(
            complaint(&["--nope"]),
            "service: unexpected argument '--nope' found; see --help"
        );
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            ["--deadline", "0s"],
            ["--workers", "0"],
            ["--workers", "5000"],
            ["--max-connections", "2305843009213693952"],
            ["--max-in-flight", "1000001"],
            ["--idle-timeout", "0s"],
            ["--idle-timeout", "500000000000years"],
            ["--drain-timeout", "366days"],
            ["--log", "infoo"],
            ["--host", "localhost"],
            ["--log", "info,x=loud"],
        ] {
            let complaint = complaint(&arguments);
            assert!(complaint.contains(arguments[0]), "{complaint}");
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(complaint(&[]), "none");
    }
}
