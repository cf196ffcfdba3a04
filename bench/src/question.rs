//! [`Question`]: a request and its right response. [`Connection`]: sends it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, Uri, body::Incoming, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Result;

/// A GET request, and the right body of its response.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) address: SocketAddr,
    pub(crate) path: Uri,
    pub(crate) answer: Bytes,
}

impl Question {
    /// Says hello to `name`, which must be ASCII letters and digits.
    pub(crate) fn hello(port: u16, name: &str) -> Self {
        let path = format!("/api/v1/say-hello?name={name}");
        let answer = format!("\"Hello, {}!\"", name.to_uppercase());
        Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            path: path.parse().expect("it is a path"),
            answer: answer.into(),
        }
    }

    /// The URL, for wrk.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }
}

/// An open connection that is kept alive.
#[derive(Debug)]
pub(crate) struct Connection(http1::SendRequest<Empty<Bytes>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn get(&mut self, path: Uri) -> Result<Response<Incoming>> {
        self.0.ready().await?;
        let request = Request::get(path)
            .header(HOST, "bench")
            .body(Empty::new())?;
        Ok(self.0.send_request(request).await?)
    }

    /// Sends the request, and checks the response.
    pub(crate) async fn ask(&mut self, question: &Question) -> Result<()> {
        let answer = self.get(question.path.clone()).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status == 200 && body == question.answer {
            return Ok(());
        }
        Err(format!(
            "a wrong response: {status} {}",
            String::from_utf8_lossy(&body)
        )
        .into())
    }

    /// Gets a stream of lines, and counts them.
    pub(crate) async fn count_lines(&mut self, path: &str) -> Result<usize> {
        let mut body = self.get(path.parse()?).await?.into_body();
        let mut lines = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                lines += memchr::memchr_iter(b'\n', &data).count();
            }
        }
        Ok(lines)
    }
}

/// Sends the request on a connection of its own, and checks the response. Blocks the thread.
pub(crate) fn ask_once(question: &Question) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let mut socket = std::net::TcpStream::connect_timeout(&question.address, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    write!(
        socket,
        "GET {} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n",
        question.path
    )?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(&question.answer) {
        return Ok(());
    }
    Err(format!("a wrong response: {}", String::from_utf8_lossy(&answer)).into())
}
