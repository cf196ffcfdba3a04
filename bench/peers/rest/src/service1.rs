//! [`Service1`]: a client of service1's REST face, over connections that are reused.

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use common::{RequestId, context};
use http::{HeaderValue, Request, Response, StatusCode, header::HOST, uri::Authority};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout_at};
use tonic::{Code, Status};

type Connection = SendRequest<Empty<Bytes>>;

/// A worker's client of service1.
///
/// It fails with a gRPC status, which [`common::Problem`] turns into a response.
pub(crate) struct Service1 {
    address: String,
    host: HeaderValue,
    /// The connections without a request. The most recent one is taken first.
    idle: Mutex<Vec<Connection>>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// The part of a problem that is used.
#[derive(Deserialize)]
struct Refusal {
    detail: String,
}

impl Service1 {
    pub(crate) fn new(authority: &Authority) -> Self {
        Self {
            address: authority.to_string(),
            host: HeaderValue::from_str(authority.as_str()).expect("an authority is ASCII"),
            idle: Mutex::default(),
        }
    }

    /// Asks service1 for the processed name, within the deadline of the request in hand.
    pub(crate) async fn process_name(&self, name: &str) -> Result<String, Status> {
        let context = context::current().expect("a handler runs within a request");
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let request = Request::get(format!("/api/v1/name?name={name}"))
            .header(HOST, &self.host)
            .header(RequestId::HTTP_HEADER, context.request_id().header_value())
            .body(Empty::new())
            .expect("a path and a percent-encoded query are a URI");
        let answer = timeout_at(context.deadline.instant(), self.answer(request)).await;
        let (status, body) =
            answer.map_err(|_| Status::deadline_exceeded("the deadline has passed"))??;
        if status.is_success() {
            let Name { name } = serde_json::from_slice(&body).map_err(malformed)?;
            return Ok(name);
        }
        let Refusal { detail } = serde_json::from_slice(&body).map_err(malformed)?;
        let code = match status {
            StatusCode::BAD_REQUEST => Code::InvalidArgument,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
            _ => Code::Unknown,
        };
        Err(Status::new(code, detail))
    }

    async fn answer(&self, request: Request<Empty<Bytes>>) -> Result<(StatusCode, Bytes), Status> {
        let (connection, response) = self.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(unavailable)?;
        self.idle().push(connection);
        Ok((status, body.to_bytes()))
    }

    async fn send(
        &self,
        mut request: Request<Empty<Bytes>>,
    ) -> Result<(Connection, Response<Incoming>), Status> {
        while let Some(mut connection) = self.take() {
            if connection.ready().await.is_err() {
                continue; // closed while idle
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(unavailable(error.into_error())),
                },
            }
        }
        let mut connection = self.open().await?;
        let response = connection.send_request(request).await;
        Ok((connection, response.map_err(unavailable)?))
    }

    async fn open(&self) -> Result<Connection, Status> {
        let socket = TcpStream::connect(&self.address).await;
        let socket = socket.map_err(unavailable)?;
        socket.set_nodelay(true).map_err(unavailable)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(unavailable)?;
        tokio::spawn(connection); // its request gets the error
        Ok(sender)
    }

    /// A function of its own, so that the lock is released at once.
    fn take(&self) -> Option<Connection> {
        self.idle().pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().expect("never poisoned")
    }
}

fn unavailable(error: impl Display) -> Status {
    Status::unavailable(error.to_string())
}

fn malformed(error: impl Display) -> Status {
    Status::unknown(error.to_string())
}
