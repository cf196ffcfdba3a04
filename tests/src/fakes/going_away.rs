//! A server that bounds the age of its connections, as gRPC's servers do (`MAX_CONNECTION_AGE`).

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::{net::TcpStream, select, time::sleep};

use super::Calls;

const MAX_AGE: Duration = Duration::from_secs(1);

const PROCESS_NAME: &str = "/app.grpc.Service1/ProcessName";

/// One call in this many is refused.
const REFUSE_ONE_OF: usize = 20;

const ITEMS: u8 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Serves a connection, with GOAWAY when it is old.
pub(super) async fn serve(socket: TcpStream, calls: Arc<Calls>) -> Result<(), h2::Error> {
    let mut connection = server::handshake(socket).await?;
    let mut age = pin!(sleep(MAX_AGE));
    let mut is_old = false;
    loop {
        select! {
            call = connection.accept() => match call.transpose()? {
                Some((request, respond)) => {
                    tokio::spawn(call_of(request, respond, calls.clone()));
                }
                None => return Ok(()),
            },
            () = &mut age, if !is_old => {
                is_old = true;
                connection.graceful_shutdown();
            }
        }
    }
}

async fn call_of(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    calls: Arc<Calls>,
) -> Result<(), h2::Error> {
    let head = Response::builder().header(CONTENT_TYPE, "application/grpc");
    let (method, body) = request.into_parts();
    let is_known = matches!(method.uri.path(), PROCESS_NAME | "/api.Api/getStream");
    if !is_known {
        let unimplemented = head.header("grpc-status", "12").body(());
        respond.send_response(unimplemented.expect("a response"), true)?;
        return Ok(());
    }
    if method.uri.path() == PROCESS_NAME && calls.is_next_refused() {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    let message = whole(body).await?;
    let mut response = respond.send_response(head.body(()).expect("a response"), false)?;
    if method.uri.path() == "/api.Api/getStream" {
        for id in 1..=ITEMS {
            // Two bytes of protobuf: the id, which is field 1.
            let item = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, id]);
            response.send_data(item, false)?;
            sleep(PAUSE).await;
        }
    } else {
        calls.processed.fetch_add(1, Relaxed);
        response.send_data(message, false)?;
    }
    let ok = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static("0"),
    )]);
    response.send_trailers(ok)
}

impl Calls {
    fn is_next_refused(&self) -> bool {
        let seen = self.seen.fetch_add(1, Relaxed);
        let is_refused = seen % REFUSE_ONE_OF == REFUSE_ONE_OF - 1;
        if is_refused {
            self.refused.fetch_add(1, Relaxed);
        }
        is_refused
    }
}

/// All of a request's body.
pub(super) async fn whole(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
