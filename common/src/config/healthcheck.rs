//! The `healthcheck` subcommand: asks the running service whether it is ready, so that a container
//! image needs neither a shell nor curl.
//!
//! It reads where to ask, and nothing else: a setting or a certificate that can't be used is nothing that
//! the running service has to do with.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::Value;

use crate::{
    endpoints,
    environment::{self, Variable},
    tls::unverified_client,
};

/// The subcommand of every service.
const NAME: &str = "healthcheck";

/// Its flag.
const ADDRESS: &str = "address";

/// The time limit of each step: to connect, to write, to read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes of a response that are read.
const MAX_RESPONSE: u64 = 16 * 1_024;

/// The subcommand, for the help.
pub(super) fn command() -> Command {
    let address = Arg::new(ADDRESS)
        .long(ADDRESS)
        .value_name("HOST:PORT")
        .help(
            "Where to ask, for a service whose ports were given by flags: its port for operators, or an \
             HTTP port; https://HOST:PORT if that speaks TLS [default: ADMIN_HOST and ADMIN_PORT, or else \
             HOST and PORT]",
        );
    Command::new(NAME)
        .about(
            "Ask the service that runs on this host with the same variables whether it is ready; exit with \
             0 if it is, and with 1 if not",
        )
        .arg(address)
}

/// Runs the subcommand if the command line asks for it, and returns its exit code. `service` is the
/// command of the service.
pub(super) fn run_if_asked(service: &Command) -> Option<i32> {
    if !env::args_os().any(|argument| argument == NAME) {
        return None;
    }
    // An error is for the parser of the service, which knows more.
    let matches = lenient(service).try_get_matches().ok()?;
    let (NAME, asked) = matches.subcommand()? else {
        return None;
    };
    let given = asked.get_one::<String>(ADDRESS).map(String::as_str);
    let place = match given {
        Some(address) => Place::given(address),
        None => Place::configured(|id| value(service, &matches, id)),
    };
    Some(match place.and_then(|place| place.ask()) {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("not ready: {reason}");
            1
        }
    })
}

/// The command of the service with this subcommand, for which no value of a flag is wrong, and which reads no
/// variable.
fn lenient(service: &Command) -> Command {
    let flags = service.get_arguments().filter(|it| !it.is_positional());
    let flags = flags.map(|argument| {
        let takes_values = argument.get_action().takes_values();
        let mut flag = Arg::new(argument.get_id().clone())
            .value_parser(value_parser!(OsString))
            .action(if takes_values {
                ArgAction::Append
            } else {
                ArgAction::Count
            });
        if !takes_values {
            flag = flag.value_parser(value_parser!(u8));
        }
        if let Some(long) = argument.get_long() {
            let long: &str = long.to_owned().leak(); // as clap wants it; the process ends soon
            flag = flag.long(long);
        }
        if let Some(short) = argument.get_short() {
            flag = flag.short(short);
        }
        flag
    });
    Command::new("service").args(flags).subcommand(command())
}

/// The value of a setting: of its flag, its variable, or the default.
fn value(service: &Command, matches: &ArgMatches, id: &str) -> Option<OsString> {
    let argument = service.get_arguments().find(|it| it.get_id() == id)?;
    let flag = matches.try_get_many::<OsString>(id).ok().flatten();
    let variable = || {
        let name = argument.get_env().and_then(OsStr::to_str)?;
        match environment::read(name) {
            Variable::Set(value) => Some(value),
            _ => None,
        }
    };
    let default = || Some(argument.get_default_values().first()?.to_os_string());
    flag.and_then(Iterator::last)
        .cloned()
        .or_else(variable)
        .or_else(default)
}

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Those of a name, of which the service may listen on one.
    addresses: Vec<SocketAddr>,
    speaks_tls: bool,
}

impl Place {
    /// What `--address` says.
    fn given(text: &str) -> Result<Self, String> {
        let (scheme, address) = text.split_once("://").unwrap_or(("http", text));
        let address = address.trim_end_matches('/');
        let speaks_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => {
                return Err(format!(
                    "--address {text}: it must be HOST:PORT or https://HOST:PORT"
                ));
            }
        };
        let addresses = address
            .to_socket_addrs()
            .map_err(|error| format!("--address {text}: {error}; it must be HOST:PORT"))?;
        Ok(Self {
            addresses: addresses.collect(),
            speaks_tls,
        })
    }

    /// What the settings say, by their ids. A service with a port for operators is asked there.
    fn configured(value: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let text = |id: &str| Some(value(id)?.to_string_lossy().into_owned());
        let port = |id: &str| {
            let text = text(id)?;
            let port = text.trim().parse::<u16>();
            let port = port.map_err(|_| format!("{text:?} is no port to ask"));
            // The system has chosen another one.
            (port != Ok(0)).then_some(port)
        };
        // Which a flag of the service replaces, if it is no address.
        let host = |id: &str| text(id).and_then(|text| text.parse().ok());
        let (host, port, speaks_tls) = match (port("admin_port"), port("port")) {
            (Some(port), _) => (host("admin_host"), port?, false),
            (None, Some(port)) => (host("host"), port?, text("edge_tls").is_some()),
            (None, None) => {
                return Err("the settings name no port to ask; give --address HOST:PORT".to_owned());
            }
        };
        let host = host.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Ok(Self {
            addresses: vec![SocketAddr::new(reachable(host), port)],
            speaks_tls,
        })
    }

    /// Asks the service. The error says why it is not ready.
    fn ask(&self) -> Result<(), String> {
        let mut refused = Vec::new();
        for address in &self.addresses {
            let reason = match self.response(*address) {
                Ok(response) => match reason_in(&response) {
                    None => return Ok(()),
                    Some(reason) => reason,
                },
                Err(error) => match error.kind() {
                    // A time limit of a socket says of itself: resource temporarily unavailable.
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        format!("no response within {TIMEOUT:?}")
                    }
                    _ => error.to_string(),
                },
            };
            refused.push(format!("{address}: {reason}"));
        }
        Err(refused.join("; "))
    }

    fn response(&self, address: SocketAddr) -> io::Result<String> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        if self.speaks_tls {
            let name = ServerName::IpAddress(address.ip().into());
            let connection = ClientConnection::new(unverified_client().into(), name)
                .map_err(io::Error::other)?;
            exchange(StreamOwned::new(connection, stream), address)
        } else {
            exchange(stream, address)
        }
    }
}

fn exchange(mut stream: impl Read + Write, address: SocketAddr) -> io::Result<String> {
    write!(
        stream,
        "GET {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n",
        endpoints::READY
    )?;
    let mut response = Vec::new();
    let read = stream.take(MAX_RESPONSE).read_to_end(&mut response);
    if response.is_empty() {
        read?; // what follows a response does not matter
    }
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// Why the service is not ready, or none if it is.
fn reason_in(response: &str) -> Option<String> {
    let line = response.lines().next().unwrap_or("an empty response");
    if line.split(' ').nth(1) == Some("200") {
        return None;
    }
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body);
    let problem = body.and_then(|body| serde_json::from_str::<Value>(body).ok());
    let detail = problem
        .as_ref()
        .and_then(|problem| problem["detail"].as_str());
    Some(match detail {
        Some(detail) => format!("{line}: {detail}"),
        None => line.chars().filter(|letter| !letter.is_control()).collect(),
    })
}

/// The address at which to reach a service that listens on `host`.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(settings: &[(&str, &str)]) -> Result<Place, String> {
        Place::configured(|id| {
            let mut all = settings.iter();
            let (_, value) = all.find(|(known, _)| *known == id)?;
            Some(value.into())
        })
    }

    fn place(address: &str, speaks_tls: bool) -> Place {
        Place {
            addresses: vec![address.parse().unwrap()],
            speaks_tls,
        }
    }

    #[test]
    fn a_service_is_asked_on_its_port_for_operators_or_else_on_its_own() {
        let admin = ("admin_port", "9080");
        let port = ("port", "8080");
        let tls = ("edge_tls", "/certificates");
        for (settings, expected) in [
            (&[admin, port, tls][..], place("127.0.0.1:9080", false)),
            (&[("admin_host", "::"), admin], place("[::1]:9080", false)),
            (
                &[("admin_host", "10.0.0.7"), admin],
                place("10.0.0.7:9080", false),
            ),
            (&[port], place("127.0.0.1:8080", false)),
            (
                &[("admin_port", "0"), port, tls],
                place("127.0.0.1:8080", true),
            ),
            (&[("host", "10.0.0.7"), port], place("10.0.0.7:8080", false)),
            // A flag of the service has replaced it.
            (
                &[("host", "x86_64-conda-linux-gnu"), port],
                place("127.0.0.1:8080", false),
            ),
        ] {
            assert_eq!(configured(settings), Ok(expected), "{settings:?}");
        }
        let error = configured(&[("admin_port", "x"), port]).unwrap_err();
        assert!(error.contains("\"x\""), "{error}");
        let error = configured(&[("port", "0")]).unwrap_err();
        assert!(error.contains("--address"), "{error}");
    }

    #[test]
    fn an_address_is_given_with_its_scheme_or_without() {
        for (text, expected) in [
            ("127.0.0.1:81", place("127.0.0.1:81", false)),
            ("http://127.0.0.1:81/", place("127.0.0.1:81", false)),
            ("https://[::1]:81", place("[::1]:81", true)),
        ] {
            assert_eq!(Place::given(text), Ok(expected));
        }
        for text in ["81", "127.0.0.1", "ftp://127.0.0.1:81", "a:x"] {
            let error = Place::given(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn the_reason_is_the_status_and_the_detail() {
        assert_eq!(reason_in("HTTP/1.1 200 OK\r\n\r\nready"), None);
        for (response, expected) in [
            (
                "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{\"detail\":\"It drains.\"}",
                "HTTP/1.1 503 Service Unavailable: It drains.",
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\nno", "HTTP/1.1 404 Not Found"),
            ("SSH-2.0-x\x07\r\n", "SSH-2.0-x"),
            ("", "an empty response"),
        ] {
            assert_eq!(reason_in(response).as_deref(), Some(expected));
        }
    }

    #[test]
    fn no_value_of_another_flag_is_wrong() {
        let service = Command::new("service")
            .arg(
                Arg::new("port")
                    .long("port")
                    .default_value("80")
                    .value_parser(value_parser!(u16)),
            )
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .required(true)
                    .value_parser(value_parser!(u8)),
            )
            .arg(
                Arg::new("loud")
                    .long("loud")
                    .short('l')
                    .action(ArgAction::SetTrue),
            );
        let line = ["service", "--limit", "many", "-l", "--port", "81", NAME];
        let matches = lenient(&service).try_get_matches_from(line).unwrap();
        assert_eq!(matches.subcommand_name(), Some(NAME));
        assert_eq!(value(&service, &matches, "port"), Some("81".into()));
        let matches = lenient(&service)
            .try_get_matches_from(["service", NAME])
            .unwrap();
        assert_eq!(value(&service, &matches, "port"), Some("80".into()));
    }
}
