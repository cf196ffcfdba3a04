//! One attempt of a call: the request goes out on a connection, and the response comes back.

use std::{future::poll_fn, pin::Pin, task::Poll};

use h2::{RecvStream, client::ResponseFuture};
use http::{Request, Response};

use super::{
    activity::Closed, connection::Connection, in_flight::InFlight, request_body::RequestBody,
    response_body::ResponseBody, upload::Upload,
};
use crate::client::ending::{class::Ending, failure::Failure};

/// How far an attempt reads before the call gets its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadUntil {
    /// The head of the response. A caller of a stream may wait for the head before it sends, and
    /// the first message may take any time.
    Head,
    /// The first frame after the head. A server may send an error as a head that looks fine,
    /// followed by trailers.
    FirstFrame,
}

impl InFlight {
    /// Makes one attempt of the call, which is in flight until the end of its response.
    pub(crate) async fn attempt(
        mut self,
        request: Request<RequestBody>,
        until: ReadUntil,
    ) -> Result<Response<ResponseBody>, Failure> {
        let exchanged = self.connection.exchange(request).await;
        let mut response = exchanged.inspect_err(|failure| {
            if failure.ending.is_of_closed_connection() {
                // At once, or the next attempt would take the connection again.
                self.connection.activity.close(Closed::GoingAway);
            }
        })?;
        if until == ReadUntil::FirstFrame {
            response.body_mut().read_first_frame().await?;
        }
        self.settle();
        response.body_mut().hold(self);
        Ok(response)
    }
}

impl Connection {
    /// Sends a request and returns once the response has begun. Does not count as a call.
    pub(crate) async fn exchange(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut sender = self.sender();
        if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            self.activity.close(Closed::Lost);
            let why = "the connection was closed before the call";
            return Err(Failure::new(Ending::NotSent, why));
        }
        self.origin.write_to(&mut request);
        let (head, body) = request.into_parts();
        let (response, mut stream) = sender
            .send_request(Request::from_parts(head, ()), false)
            .map_err(|error| Failure::of_sending(&error))?;
        let mut upload = match body {
            RequestBody::Message(message) => {
                stream.send_data(message, true)?;
                None
            }
            RequestBody::Stream(body) => Some(Upload::start(&body, stream)),
        };
        let response = head_of(response, upload.as_mut()).await?;
        self.activity.note_answer();
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
            return Poll::Ready(Err(Failure::of_request(status)));
        }
        response.map_err(Failure::from)
    })
    .await
}
