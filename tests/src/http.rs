//! A client for HTTP/1.1 that sends exactly the given bytes.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::PATIENCE;

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The bytes after the head until the connection was closed, chunks and all.
    pub body: Vec<u8>,
}

impl Response {
    /// The only header of that name.
    ///
    /// # Panics
    ///
    /// When it is there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|header| header.0 == name);
        let value = values.next().map(|header| header.1.as_str());
        assert!(values.next().is_none(), "{name} is there twice");
        value
    }

    /// The request id of the response.
    ///
    /// # Panics
    ///
    /// When the response has none.
    pub fn id(&self) -> &str {
        self.header("x-request-id")
            .expect("every response has an id")
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// When the body is not UTF-8.
    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body of a response in chunks, and whether the last chunk came. Without it the response
    /// was cut off.
    ///
    /// # Panics
    ///
    /// When the response did not come in chunks.
    pub fn chunked(&self) -> (String, bool) {
        assert_eq!(self.header("transfer-encoding"), Some("chunked"));
        let (mut rest, mut body) = (&self.body[..], Vec::new());
        while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = str::from_utf8(&rest[..end]).expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a size");
            let Some(data) = rest
                .get(end + 2..end + 2 + size)
                .filter(|data| !data.is_empty())
            else {
                break;
            };
            body.extend(data);
            rest = &rest[end + 2 + size + 2..];
        }
        let body = String::from_utf8(body).expect("the body is UTF-8");
        (body, rest.starts_with(b"0\r\n"))
    }

    /// The detail of a problem. All other members are checked.
    ///
    /// # Panics
    ///
    /// When the response is not a whole problem.
    pub fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.id());
        assert_eq!(problem["error"], problem["title"]);
        assert!(!problem["title"].as_str().expect("a text").is_empty());
        let detail = problem["detail"].as_str().expect("a text");
        assert!(!detail.is_empty());
        detail.to_owned()
    }
}

/// Sends a GET.
pub fn get(address: SocketAddr, path: &str) -> Response {
    get_with(address, path, &[])
}

/// Sends a GET with these headers; a value may be any bytes.
pub fn get_with(address: SocketAddr, path: &str, headers: &[(&str, &[u8])]) -> Response {
    request(address, "GET", path, headers, b"")
}

/// The picks of each replica, as the service with this port for operators has counted them.
///
/// # Panics
///
/// When its metrics can't be read.
pub fn picks(address: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics");
    let lines = answer.text().lines();
    let picks = lines.filter_map(|line| line.strip_prefix("replica_picks_total{replica=\""));
    picks
        .map(|line| line.split_once("\"} ").expect("a replica and its picks"))
        .map(|(replica, picks)| (replica.to_owned(), picks.parse().expect("a number")))
        .collect()
}

/// Sends a request.
///
/// # Panics
///
/// When there is no response, or the connection stays open.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
) -> Response {
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    if !body.is_empty() {
        bytes.extend(format!("content-length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    let mut connection = send(address, &bytes);
    // A server that refuses a body may close before all of it was sent.
    let _ = connection.write_all(body);
    read(connection).expect("there is a response")
}

/// Opens a connection and sends these bytes on it.
///
/// # Panics
///
/// When nobody listens, or the connection is closed meanwhile.
pub fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(address).expect("somebody listens");
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a valid timeout");
    connection.write_all(bytes).expect("the connection is open");
    connection
}

/// Reads a response up to the end of the connection.
///
/// # Errors
///
/// When there is no response, or the connection stays open.
pub fn read(connection: TcpStream) -> io::Result<Response> {
    match read_to_end(connection)? {
        (bytes, End::Reset) if bytes.is_empty() => Err(io::ErrorKind::ConnectionReset.into()),
        (bytes, _) => parse(&bytes).ok_or(io::ErrorKind::InvalidData.into()),
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server closed the connection.
    Closed,
    /// The server reset the connection, as it does with a request that it has not read to its end.
    Reset,
}

/// Reads all bytes up to the end of the connection, which must come.
///
/// # Errors
///
/// When the connection stays open.
pub fn read_to_end(mut connection: TcpStream) -> io::Result<(Vec<u8>, End)> {
    let mut bytes = Vec::new();
    match connection.read_to_end(&mut bytes) {
        Ok(_) => Ok((bytes, End::Closed)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok((bytes, End::Reset)),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = str::from_utf8(&bytes[..end]).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .map(|line| line.split_once(": "))
        .map(|header| header.map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect::<Option<_>>()?;
    Some(Response {
        status,
        headers,
        body: bytes[end + 4..].to_vec(),
    })
}
