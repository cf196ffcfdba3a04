//! The `healthcheck` subcommand: a service asks itself whether it is ready, so that a container
//! image needs neither a shell nor curl.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use crate::server::capacity::kind::READY_PATH;

/// How long the service may take for each step of its answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the service that listens on `host` and `port`. The exit code is 0 when it is ready;
/// else it is 1, and a line on stderr says why.
pub fn run(host: IpAddr, port: u16) -> ExitCode {
    let address = SocketAddr::new(reachable(host), port);
    match status_line(address) {
        Ok(line) if line.split(' ').nth(1) == Some("200") => ExitCode::SUCCESS,
        Ok(line) => {
            eprintln!("not ready: {address} answers {}", line.trim_end());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("not ready: {address} does not answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The address at which a service is found that listens on `host`.
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
