//! One attempt of a call: its request goes out on a connection, and its response comes back.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use h2::{RecvStream, client::ResponseFuture};
use http::{Request, Response};
use tonic::Status;

use super::{
    h2_connection::Connection, response_body::ResponseBody, signs::Closed, upload::Upload,
};
use crate::{
    client::{Failure, request_body::RequestBody},
    metrics,
};

/// Calls that may wait for a stream of one connection, beyond those that its peer takes at once.
pub(super) const MAX_WAITING: usize = 1_024;

/// How long an attempt lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Until {
    /// Until the head of the response is there: its caller may want to see that before it sends,
    /// and its messages may take their time.
    Head,
    /// Until its first frame is there, too: a server may send an error as a head that looks
    /// fine, followed by trailers.
    FirstFrame,
}

impl Connection {
    /// Makes one attempt of a call, which is in flight until the end of its response.
    pub(in crate::client) async fn attempt(
        &self,
        request: Request<RequestBody>,
        until: Until,
    ) -> Result<Response<ResponseBody>, Failure> {
        let others = usize::try_from(self.signs.in_flight()).unwrap_or(usize::MAX);
        let mut in_flight = self.signs.start_call();
        if let Some(waiting) = others.checked_sub(self.max_streams()) {
            if waiting >= MAX_WAITING {
                return Err(Failure::Full);
            }
            metrics::count(|counters| &counters.stream_waits);
        }
        let mut response = self.exchange(request).await?;
        if until == Until::FirstFrame {
            response.body_mut().begin().await?;
        }
        in_flight.settle();
        response.body_mut().hold(in_flight);
        Ok(response)
    }

    /// The same for a question about the replica, which does not count as a call.
    pub(in crate::client) async fn exchange(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut sender = self.sender();
        if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            self.signs.close(Closed::Lost);
            let status = Status::unavailable("the connection was closed before the call");
            return Err(Failure::Unprocessed(status));
        }
        self.head.complete(&mut request);
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

/// Waits for the head of a response, or for the failure of what its call sends.
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
