//! A server whose connections can hang: TCP goes on, and HTTP/2 does not.

use std::{future::pending, sync::Arc, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::{net::TcpStream, select, sync::watch};

use super::{Calls, going_away::whole};

const MAX_STREAMS: u32 = 20;

/// Serves a connection until it hangs, when `hang` changes.
pub(super) async fn serve(
    socket: TcpStream,
    mut hang: watch::Receiver<()>,
    calls: Arc<Calls>,
) -> Result<(), h2::Error> {
    let mut settings = Builder::new();
    settings.max_concurrent_streams(MAX_STREAMS);
    let mut connection = settings.handshake(socket).await?;
    loop {
        select! {
            biased;
            _ = hang.changed() => pending::<()>().await,
            call = connection.accept() => match call.transpose()? {
                Some((request, respond)) => {
                    tokio::spawn(echo(request, respond, calls.clone()));
                }
                None => return Ok(()),
            },
        }
    }
}

async fn echo(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    calls: Arc<Calls>,
) -> Result<(), h2::Error> {
    let head = Response::builder().header(CONTENT_TYPE, "application/grpc");
    if request.uri().path() != "/app.grpc.Service1/ProcessName" {
        let unimplemented = head.header("grpc-status", "12").body(());
        respond.send_response(unimplemented.expect("a response"), true)?;
        return Ok(());
    }
    let message = whole(request.into_body()).await?;
    calls.processed.fetch_add(1, Relaxed);
    let mut response = respond.send_response(head.body(()).expect("a response"), false)?;
    response.send_data(message, false)?;
    let mut ok = HeaderMap::new();
    ok.insert("grpc-status", HeaderValue::from_static("0"));
    response.send_trailers(ok)
}
