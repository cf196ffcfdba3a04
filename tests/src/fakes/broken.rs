//! A server whose responses break in ways that no status names.

use std::{
    future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::net::TcpStream;

use super::{Calls, going_away::whole};

/// How a response is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    /// The status is `INTERNAL`.
    Internal,
    /// The response is 503 in plain text.
    Http503,
    /// The response is a page.
    Html,
    /// The response ends in the middle of a message.
    CutShort,
    /// The response ends without trailers.
    NoTrailers,
    /// The message is no protobuf.
    Garbage,
    /// The message is longer than clients accept.
    TooLong,
    /// The stream is reset after a part of the message.
    Reset,
    /// There is no response.
    Hangs,
}

impl Breaks {
    /// Each of them.
    pub const ALL: [Self; 9] = [
        Self::Internal,
        Self::Http503,
        Self::Html,
        Self::CutShort,
        Self::NoTrailers,
        Self::Garbage,
        Self::TooLong,
        Self::Reset,
        Self::Hangs,
    ];
}

/// A message of 5 MB, which clients refuse: they accept 4 MB.
const TOO_LONG: usize = 5 * 1_024 * 1_024;

/// Serves a connection. One call in `one_of` breaks.
pub(super) async fn serve(
    socket: TcpStream,
    breaks: Breaks,
    one_of: usize,
    calls: Arc<Calls>,
) -> Result<(), h2::Error> {
    let mut connection = server::handshake(socket).await?;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        if request.uri().path().ends_with("/Check") {
            let unimplemented = head(200, "application/grpc", Some("12"));
            respond.send_response(unimplemented, true)?;
            continue;
        }
        let is_broken = calls.seen.fetch_add(1, Relaxed).is_multiple_of(one_of);
        let breaks = is_broken.then_some(breaks);
        tokio::spawn(respond_to(request, respond, breaks));
    }
    Ok(())
}

async fn respond_to(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    breaks: Option<Breaks>,
) -> Result<(), h2::Error> {
    let message = whole(request.into_body()).await?;
    let (status, media_type) = match breaks {
        Some(Breaks::Hangs) => future::pending().await,
        Some(Breaks::Internal) => {
            let internal = head(200, "application/grpc", Some("13"));
            respond.send_response(internal, true)?;
            return Ok(());
        }
        Some(Breaks::Http503) => (503, "text/plain"),
        Some(Breaks::Html) => (200, "text/html"),
        _ => (200, "application/grpc"),
    };
    let mut response = respond.send_response(head(status, media_type, None), false)?;
    let data = match breaks {
        Some(Breaks::Http503 | Breaks::Html) => Bytes::from_static(b"<html>"),
        Some(Breaks::CutShort | Breaks::Reset) => message.slice(..6),
        Some(Breaks::Garbage) => Bytes::from_static(&[0, 0, 0, 0, 2, 255, 255]),
        Some(Breaks::TooLong) => {
            let mut data = vec![0; TOO_LONG];
            let length = u32::try_from(TOO_LONG - 5).expect("it is 5 MB");
            data[1..5].copy_from_slice(&length.to_be_bytes());
            data.into()
        }
        _ => message,
    };
    let has_trailers = matches!(breaks, None | Some(Breaks::Garbage | Breaks::TooLong));
    let is_reset = breaks == Some(Breaks::Reset);
    response.send_data(data, !has_trailers && !is_reset)?;
    if is_reset {
        // Else the reset would overtake what was sent before.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        response.send_reset(Reason::INTERNAL_ERROR);
    } else if has_trailers {
        let status = HeaderValue::from_static("0");
        let name = "grpc-status".parse().expect("a name");
        response.send_trailers(HeaderMap::from_iter([(name, status)]))?;
    }
    Ok(())
}

fn head(status: u16, media_type: &str, code: Option<&str>) -> Response<()> {
    let mut head = Response::builder().status(status);
    head = head.header(CONTENT_TYPE, media_type);
    if let Some(code) = code {
        head = head.header("grpc-status", code);
    }
    head.body(()).expect("a response")
}
