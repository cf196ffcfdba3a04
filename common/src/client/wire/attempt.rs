//! One attempt of a call: its request goes out on a connection, and the beginning of its
//! response comes back.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::{
    HeaderMap, Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tonic::Status;

use super::{
    connection::Connection,
    context,
    signs::{Closed, InFlight},
};
use crate::client::{
    failure::{Failure, status_of},
    request::RequestBody,
};

impl Connection {
    /// Makes one attempt of a call, which is in flight until its response is dropped. It lasts
    /// until the first frame of the response: a gRPC server may send an error as a head that
    /// looks fine, followed by trailers.
    pub(in crate::client) async fn attempt(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let mut in_flight = self.signs.start_call();
        let mut response = self.exchange(request).await?;
        in_flight.settle();
        response.body_mut().in_flight = Some(in_flight);
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
            return Err(Failure::NotSent(Box::new(request)));
        }
        let uri = request.uri_mut();
        *uri = with_authority(uri, &self.authority);
        context::write(request.headers_mut());
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, ());
        let (response, stream) = sender
            .send_request(request, false)
            .map_err(|error| Failure::Unprocessed(status_of(error)))?;
        let (head, first, rest) = receive(response, stream, body).await?;
        let body = ResponseBody {
            first,
            rest,
            in_flight: None,
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Sends the body, and waits for the first frame of the response.
async fn receive(
    response: ResponseFuture,
    mut stream: SendStream<Bytes>,
    body: RequestBody,
) -> Result<(http::response::Parts, Option<Frame<Bytes>>, Rest), h2::Error> {
    match body {
        RequestBody::Message(message) => stream.send_data(message, true)?,
        RequestBody::Stream(body) => {
            tokio::spawn(send_body(body, stream));
        }
    }
    let (head, body) = response.await?.into_parts();
    let mut rest = Rest::Data(body);
    let first = poll_fn(|cx| rest.poll_frame(cx)).await.transpose()?;
    Ok((head, first, rest))
}

/// Sends a body as the replica takes it.
async fn send_body(
    mut body: tonic::body::Body,
    mut stream: SendStream<Bytes>,
) -> Result<(), BoxError> {
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else {
            continue; // a client has no trailers to send
        };
        while data.has_remaining() {
            stream.reserve_capacity(data.len());
            let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return Ok(()); // the response says why
            };
            stream.send_data(data.split_to(room?.min(data.len())), false)?;
        }
    }
    stream.send_data(Bytes::new(), true)?;
    Ok(())
}

/// The URI of a call, which tonic makes of the path alone.
fn with_authority(path: &Uri, authority: &Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    let path = path.path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).expect("it has all three")
}

/// What is still to come of a response.
#[derive(Debug)]
enum Rest {
    Data(RecvStream),
    Trailers(RecvStream),
    Over,
}

impl Rest {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        loop {
            match self {
                Self::Data(stream) => match ready!(stream.poll_data(cx)) {
                    Some(Ok(data)) => {
                        // What is read makes room for more.
                        let _ = stream.flow_control().release_capacity(data.len());
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        if let Self::Data(stream) = std::mem::replace(self, Self::Over) {
                            *self = Self::Trailers(stream);
                        }
                    }
                },
                Self::Trailers(stream) => {
                    let trailers = ready!(stream.poll_trailers(cx));
                    *self = Self::Over;
                    let trailers = trailers.transpose();
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
                }
                Self::Over => return Poll::Ready(None),
            }
        }
    }
}

/// The body of a response whose first frame is there.
#[derive(Debug)]
pub(in crate::client) struct ResponseBody {
    first: Option<Frame<Bytes>>,
    rest: Rest,
    in_flight: Option<InFlight>,
}

impl ResponseBody {
    /// The block of headers that has the gRPC status, where the response with this head is a
    /// status and nothing else.
    pub(in crate::client) fn bare_status<'a>(
        &'a self,
        head: &'a HeaderMap,
    ) -> Option<&'a HeaderMap> {
        match &self.first {
            Some(frame) => frame.trailers_ref(),
            None => Some(head),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = ready!(self.rest.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(status_of)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && matches!(self.rest, Rest::Over)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use h2::{Reason, server};
    use http::{HeaderValue, uri::Authority};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };
    use tonic::Code;

    use super::*;
    use crate::client::wire::Closed;

    type Streams = server::Connection<tokio::io::DuplexStream, Bytes>;
    type Stream = (Request<RecvStream>, server::SendResponse<Bytes>);

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A connection whose other end does what `serve` says.
    async fn connection<F>(serve: impl FnOnce(Streams) -> F + Send + 'static) -> Connection
    where
        F: Future<Output = ()> + Send,
    {
        let (ours, theirs) = duplex(64 * 1_024);
        tokio::spawn(async move {
            serve(server::handshake(theirs).await.expect("it speaks HTTP/2")).await;
        });
        let authority = Authority::from_static("in-memory");
        Connection::with_io(ours, authority).await.unwrap()
    }

    fn request() -> Request<RequestBody> {
        let message = RequestBody::Message(Bytes::from_static(b"message"));
        Request::post("/a.Service/Method").body(message).unwrap()
    }

    async fn next(streams: &mut Streams) -> Stream {
        streams.accept().await.expect("a call").expect("a stream")
    }

    /// Responds with a head, one frame of data and the status OK.
    fn respond(mut stream: Stream) {
        let mut body = stream.1.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"data"), false).unwrap();
        let status = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from(0))]);
        body.send_trailers(status).unwrap();
    }

    async fn drive(mut streams: Streams) {
        while streams.accept().await.is_some() {}
    }

    #[tokio::test]
    async fn an_attempt_is_in_flight_until_its_response_is_dropped() {
        let connection = connection(async |mut streams| {
            respond(next(&mut streams).await);
            drive(streams).await;
        })
        .await;
        let response = connection.attempt(request()).await.unwrap();
        assert_eq!(connection.in_flight(), 1);
        let counts = connection.counts();
        assert_eq!((counts.begun, counts.settled), (1, 1));
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()[Status::GRPC_STATUS], "0");
        assert_eq!(body.to_bytes(), "data");
        assert_eq!(connection.in_flight(), 0);
    }

    #[tokio::test]
    async fn after_goaway_no_call_leaves_and_those_in_flight_run_to_their_end() {
        let connection = connection(async |mut streams| {
            let first = next(&mut streams).await;
            streams.graceful_shutdown();
            let wait = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                respond(first);
                pending::<()>().await;
            };
            tokio::select! { () = drive(streams) => {}, () = wait => {} }
        })
        .await;
        let connection = Arc::new(connection);
        let first = tokio::spawn({
            let connection = connection.clone();
            async move { connection.attempt(request()).await }
        });
        let closed = timeout(PATIENCE, connection.closed()).await;
        assert_eq!(closed, Ok(Closed::GoingAway));
        assert!(!first.is_finished());
        let second = connection.attempt(request()).await.unwrap_err();
        let Failure::NotSent(unsent) = second else {
            panic!("{second:?}")
        };
        assert_eq!(unsent.uri(), "/a.Service/Method", "as it was");
        let first = first.await.unwrap().unwrap();
        assert_eq!(
            first.into_body().collect().await.unwrap().to_bytes(),
            "data"
        );
    }

    /// Reads frames up to one of this type (RFC 9113, 6).
    async fn read_up_to(io: &mut tokio::io::DuplexStream, kind: u8) {
        loop {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            io.read_exact(&mut payload).await.unwrap();
            if head[3] == kind {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_call_above_the_last_stream_of_goaway_was_not_processed() {
        const HEADERS: u8 = 1;
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // Its last stream is 0, and it is no error.
        const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (ours, mut theirs) = duplex(64 * 1_024);
        tokio::spawn(async move {
            theirs.write_all(&SETTINGS).await.unwrap();
            theirs.read_exact(&mut [0; 24]).await.unwrap();
            read_up_to(&mut theirs, HEADERS).await;
            theirs.write_all(&GOAWAY).await.unwrap();
            pending::<()>().await;
        });
        let authority = Authority::from_static("in-memory");
        let connection = Connection::with_io(ours, authority).await.unwrap();
        let failure = connection.attempt(request()).await.unwrap_err();
        assert!(matches!(failure, Failure::Unprocessed(_)), "{failure:?}");
        assert_eq!(failure.into_status().code(), Code::Unavailable);
        assert_eq!(connection.closed().await, Closed::GoingAway);
    }

    #[tokio::test]
    async fn a_refused_call_was_not_processed_and_a_reset_one_may_have_been() {
        let connection = connection(async |mut streams| {
            for reason in [Reason::REFUSED_STREAM, Reason::CANCEL] {
                next(&mut streams).await.1.send_reset(reason);
            }
            drive(streams).await;
        })
        .await;
        let refused = connection.attempt(request()).await.unwrap_err();
        assert!(matches!(refused, Failure::Refused(_)), "{refused:?}");
        let reset = connection.attempt(request()).await.unwrap_err();
        assert!(matches!(reset, Failure::Broken(_)), "{reset:?}");
        assert!(!connection.is_closed());
    }

    #[tokio::test]
    async fn a_connection_that_breaks_fails_its_calls_and_is_lost() {
        let connection = connection(async |mut streams| {
            let _stream = next(&mut streams).await;
        })
        .await;
        let failure = connection.attempt(request()).await.unwrap_err();
        assert!(matches!(failure, Failure::Broken(_)), "{failure:?}");
        assert!(connection.is_closed());
        assert_eq!(connection.closed().await, Closed::Lost);
    }

    #[tokio::test]
    async fn an_attempt_that_is_given_up_is_reset() {
        let (reset, was_reset) = tokio::sync::oneshot::channel();
        let connection = connection(async |mut streams| {
            let (_request, mut response) = next(&mut streams).await;
            let reason = std::future::poll_fn(|cx| response.poll_reset(cx));
            tokio::select! {
                reason = reason => drop(reset.send(reason.unwrap())),
                () = drive(streams) => {}
            }
        })
        .await;
        let attempt = timeout(Duration::from_millis(50), connection.attempt(request()));
        assert!(attempt.await.is_err());
        assert_eq!(was_reset.await.unwrap(), Reason::CANCEL);
        let counts = connection.counts();
        assert_eq!((counts.begun, counts.settled), (1, 1));
        assert_eq!(connection.in_flight(), 0);
    }

    #[tokio::test]
    async fn responses_that_nobody_reads_do_not_stop_the_others() {
        let connection = connection(async |mut streams| {
            let mut unread = Vec::new();
            for _ in 0..100 {
                let (_, mut response) = next(&mut streams).await;
                let mut body = response.send_response(Response::new(()), false).unwrap();
                // More than the window of a stream.
                body.send_data(Bytes::from(vec![0; 1_024 * 1_024]), false)
                    .unwrap();
                unread.push(body);
            }
            respond(next(&mut streams).await);
            drive(streams).await;
        })
        .await;
        let mut unread = Vec::new();
        for _ in 0..100 {
            unread.push(connection.attempt(request()).await.unwrap());
        }
        let response = timeout(PATIENCE, connection.attempt(request())).await;
        assert!(response.expect("in time").is_ok());
    }

    #[tokio::test]
    async fn a_connection_closes_when_it_is_dropped_and_its_calls_are_over() {
        let ends = Arc::new(AtomicUsize::new(0));
        let connection = connection({
            let ends = ends.clone();
            async move |mut streams| {
                let stream = next(&mut streams).await;
                respond(stream);
                drive(streams).await;
                ends.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        let response = connection.attempt(request()).await.unwrap();
        drop(connection);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ends.load(Ordering::Relaxed), 0, "a response is unread");
        response.into_body().collect().await.unwrap();
        let end = async {
            while ends.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, end).await.expect("it is closed");
    }
}
