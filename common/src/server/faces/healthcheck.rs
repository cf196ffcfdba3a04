//! The `healthcheck` subcommand: asks the running service whether it is ready, so that a container
//! image needs neither a shell nor curl.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use crate::server::capacity::kind::READY_PATH;

/// The time limit of each step: to connect, to write, to read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the service that listens on `host` and its HTTP `port`. The exit code is 0 if the service
/// is ready; otherwise it is 1, and a line on stderr says why.
pub(crate) fn run(host: IpAddr, port: Option<u16>) -> ExitCode {
    let Some(port) = port else {
        eprintln!("not ready: the service has no HTTP port to ask");
        return ExitCode::FAILURE;
    };
    let address = SocketAddr::new(reachable(host), port);
    let reason = match status_line(address) {
        Ok(line) if line.split(' ').nth(1) == Some("200") => return ExitCode::SUCCESS,
        Ok(line) => line,
        Err(error) => error.to_string(),
    };
    eprintln!("not ready: {address}: {}", reason.trim_end());
    ExitCode::FAILURE
}

/// The address at which to reach a service that listens on `host`.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {READY_PATH} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
