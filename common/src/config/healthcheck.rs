//! The `healthcheck` subcommand: asks the running service whether it is ready, so that a container
//! image needs neither a shell nor curl.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned};

use crate::{endpoints, tls::Tls};

/// The time limit of each step: to connect, to write, to read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the service that listens on `host` and its HTTP `port`, over TLS if it has certificates. The
/// error says why it is not ready.
pub(crate) fn run(host: IpAddr, port: u16, tls: Option<&Tls>) -> Result<(), String> {
    let address = SocketAddr::new(reachable(host), port);
    let reason = match status_line(address, tls) {
        Ok(line) if line.split(' ').nth(1) == Some("200") => return Ok(()),
        Ok(line) => line,
        Err(error) => error.to_string(),
    };
    Err(format!("{address}: {}", reason.trim_end()))
}

/// The address at which to reach a service that listens on `host`.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

fn status_line(address: SocketAddr, tls: Option<&Tls>) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    match tls.and_then(|tls| tls.current().of_itself()) {
        None => ask(stream, address),
        Some((config, name)) => {
            let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
            ask(StreamOwned::new(connection, stream), address)
        }
    }
}

fn ask(mut stream: impl Read + Write, address: SocketAddr) -> io::Result<String> {
    write!(
        stream,
        "GET {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n",
        endpoints::READY
    )?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
