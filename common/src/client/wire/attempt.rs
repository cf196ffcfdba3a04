//! One attempt of a call: the request goes out on a connection, and the response comes back.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{
    RecvStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Request, Response};
use tonic::Status;

use super::{
    h2_connection::Connection, response_body::ResponseBody, signs::Closed, upload::Upload,
};
use crate::{
    client::{Failure, request_body::RequestBody},
    limits, metrics,
};

/// How far an attempt reads before the call gets its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Until {
    /// The head of the response. A caller of a stream may wait for the head before it sends, and
    /// the first message may take any time.
    Head,
    /// The first frame after the head. A server may send an error as a head that looks fine,
    /// followed by trailers.
    FirstFrame,
}

impl Connection {
    /// Makes one attempt of a call. The call is in flight until the end of its response.
    pub(in crate::client) async fn attempt(
        &self,
        request: Request<RequestBody>,
        until: Until,
    ) -> Result<Response<ResponseBody>, Failure> {
        let others = self.signs.in_flight();
        let mut in_flight = self.signs.start_call();
        let sender = self.sender();
        if let Some(waiting) = others.checked_sub(sender.current_max_send_streams() as u64) {
            if waiting >= limits::MAX_CALLS_WITHOUT_STREAM {
                return Err(Failure::Full);
            }
            metrics::count(|counters| &counters.stream_waits);
        }
        let mut response = self.exchange(sender, request).await?;
        if until == Until::FirstFrame {
            response.body_mut().read_first_frame().await?;
        }
        in_flight.settle();
        response.body_mut().hold(in_flight);
        Ok(response)
    }

    /// Sends a request over a sender of this connection and returns once the response has begun.
    /// Does not count as a call.
    pub(in crate::client) async fn exchange(
        &self,
        mut sender: SendRequest<Bytes>,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            self.signs.close(Closed::Lost);
            let status = Status::unavailable("the connection was closed before the call");
            return Err(Failure::Unprocessed(status));
        }
        self.head.write_to(&mut request);
        let (head, body) = request.into_parts();
        let (response, mut stream) = sender
            .send_request(Request::from_parts(head, ()), false)
            .map_err(Failure::of_sending)?;
        let mut upload = match body {
            RequestBody::Message(message) => {
                stream.send_data(message, true)?;
                None
            }
            RequestBody::Stream(body) => Some(Upload::start(&body, stream)),
        };
        let response = head_of(response, upload.as_mut()).await?;
        Ok(response.map(|body| ResponseBody::new(body, upload)))
    }
}

/// Waits for the head of a response, or for the failure of the upload.
async fn head_of(
    mut response: ResponseFuture,
    mut upload: Option<&mut Upload>,
) -> Result<Response<RecvStream>, Failure> {
    poll_fn(|cx| {
        let response = Pin::new(&mut response).poll(cx);
        if !matches!(response, Poll::Ready(Ok(_)))
            && let Some(upload) = &mut upload
            && let Poll::Ready(status) = upload.poll_failure(cx)
        {
            return Poll::Ready(Err(Failure::Request(status)));
        }
        response.map_err(Failure::from)
    })
    .await
}
