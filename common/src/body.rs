//! Bodies and futures that both stacks wrap around others: [`WithDeadline`], a future that is dropped at its
//! deadline; [`DeadlineBody`], a response body that breaks off at it; [`DroppableBody`], which can drop its
//! body early; and [`HoldingBody`], which holds a value until the last frame.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Code;

use crate::request::{
    context::{Deadline, DeadlineExceeded},
    dialect::Dialect,
};

pin_project_lite::pin_project! {
    /// A future that is dropped at its deadline.
    pub struct WithDeadline<F> {
        #[pin]
        future: Option<F>,
        deadline: Deadline,
        // Boxed to keep the future small: most futures never wait.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> WithDeadline<F> {
    /// Bounds work that has begun.
    pub(crate) fn begun(deadline: Deadline, work: F) -> Self {
        Self {
            future: Some(work),
            deadline,
            timer: None,
        }
    }

    /// Starts the work, unless the deadline has passed by `now`. Without this check, work that
    /// never waits would run after its deadline.
    pub(crate) fn start(now: Instant, deadline: Deadline, work: impl FnOnce() -> F) -> Self {
        Self {
            future: (now < deadline.instant()).then(work),
            deadline,
            timer: None,
        }
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }
}

impl<F: Future> Future for WithDeadline<F> {
    type Output = Result<F::Output, DeadlineExceeded>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(DeadlineExceeded));
        };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        ready!(poll_timer(this.timer, *this.deadline, cx));
        this.future.set(None);
        Poll::Ready(Err(DeadlineExceeded))
    }
}

/// Waits for the deadline with a timer that is created on first use.
fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Deadline,
    cx: &mut Context<'_>,
) -> Poll<()> {
    timer
        .get_or_insert_with(|| Box::pin(sleep_until(deadline.instant())))
        .as_mut()
        .poll(cx)
}

/// The work panicked.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the service failed in the middle of the response")]
pub(crate) struct Panicked;

pin_project_lite::pin_project! {
    /// Passes on the frames of a body. At the deadline, or if the body panics, drops the body and
    /// breaks off the response.
    pub struct DeadlineBody<B> {
        #[pin]
        body: DroppableBody<B>,
        deadline: Deadline,
        dialect: &'static dyn Dialect,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<B: Body> DeadlineBody<B> {
    pub(crate) fn new(body: B, deadline: Deadline, dialect: &'static dyn Dialect) -> Self {
        Self {
            body: DroppableBody::new(body),
            deadline,
            dialect,
            timer: None,
        }
    }

    /// The body without its deadline, for a layer above that has one.
    pub(crate) fn into_body(self) -> DroppableBody<B> {
        self.body
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let body = this.body.as_mut();
        let Ok(poll) = catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) else {
            // The panic hook has already logged the panic, with its location.
            this.body.drop_body();
            let end = this.dialect.break_off(Code::Internal, Panicked.into());
            return Poll::Ready(Some(end));
        };
        if let Poll::Ready(frame) = poll {
            let more_to_come =
                matches!(&frame, Some(Ok(frame)) if frame.is_data()) && !this.body.is_end_stream();
            // The clock is read here because a body that is always ready never polls the timer.
            if !more_to_come || this.deadline.remaining().is_some() {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        } else {
            ready!(poll_timer(this.timer, *this.deadline, cx));
        }
        this.body.drop_body();
        let end = this
            .dialect
            .break_off(Code::DeadlineExceeded, DeadlineExceeded.into());
        Poll::Ready(Some(end))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project_lite::pin_project! {
    /// A body that can be dropped before its wrapper, which stops the work behind it. A dropped
    /// body is at its end.
    #[derive(Debug)]
    pub struct DroppableBody<B> {
        #[pin]
        body: Option<B>,
    }
}

impl<B> DroppableBody<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body: Some(body) }
    }

    /// A body that was dropped.
    pub(crate) fn dropped() -> Self {
        Self { body: None }
    }

    pub(crate) fn drop_body(self: Pin<&mut Self>) {
        self.project().body.set(None);
    }

    /// Takes the body out, unless it was dropped.
    pub(crate) fn take(&mut self) -> Option<B>
    where
        B: Unpin,
    {
        self.body.take()
    }
}

impl<B: Body> Body for DroppableBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

pin_project_lite::pin_project! {
    /// A body that holds a value until its end, or until its first data. A body that is dropped drops
    /// the value, too.
    #[derive(Debug)]
    pub struct HoldingBody<B, T> {
        #[pin]
        body: B,
        held: Option<T>,
        is_held_with_data: bool,
    }
}

impl<B, T> HoldingBody<B, T> {
    pub(crate) fn until_end(body: B, held: T) -> Self {
        Self {
            body,
            held: Some(held),
            is_held_with_data: true,
        }
    }

    pub(crate) fn until_data(body: B, held: T) -> Self {
        Self {
            is_held_with_data: false,
            ..Self::until_end(body, held)
        }
    }
}

impl<B: Body, T> Body for HoldingBody<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let may_go_on = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !may_go_on || !*this.is_held_with_data || this.body.is_end_stream() {
            *this.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future, rc::Rc, sync::Arc, time::Duration};

    use bytes::Bytes;
    use futures_util::stream;
    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt, Full, StreamBody};
    use tonic::Status;

    use super::*;
    use crate::dialect::{grpc::GRPC, http::HTTP};

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(1))
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_time_returns_its_output() {
        let work = async { "done" };
        assert_eq!(
            WithDeadline::start(Instant::now(), soon(), || work).await,
            Ok("done")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn late_work_is_dropped_at_the_deadline() {
        let deadline = soon();
        let held = Rc::new(());
        let work = {
            let held = held.clone();
            async move {
                future::pending::<()>().await;
                drop(held);
            }
        };
        let mut bounded = std::pin::pin!(WithDeadline::start(Instant::now(), deadline, || work));
        assert_eq!(bounded.as_mut().await, Err(DeadlineExceeded));
        assert_eq!(deadline.remaining(), None);
        assert_eq!(
            Rc::strong_count(&held),
            1,
            "the work is dropped while the future still exists"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_work_begins_after_the_deadline() {
        let deadline = soon();
        tokio::time::advance(Duration::from_secs(1)).await;
        let work = || -> future::Ready<()> { panic!("begun") };
        assert_eq!(
            WithDeadline::start(Instant::now(), deadline, work).await,
            Err(DeadlineExceeded)
        );
    }

    /// Returns the size of a body, and its end: trailers or an error.
    async fn read<B>(body: B, dialect: &'static dyn Dialect) -> (usize, Result<HeaderMap, BoxError>)
    where
        B: Body<Data = Bytes, Error = Infallible>,
    {
        let mut body = std::pin::pin!(DeadlineBody::new(body, soon(), dialect));
        let (mut size, mut trailers) = (0, HeaderMap::new());
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Err(error) => return (size, Err(error)),
                Ok(Ok(data)) => size += data.len(),
                Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        (size, Ok(trailers))
    }

    fn frame() -> Frame<Bytes> {
        Frame::data(Bytes::from_static(b"data"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_ends_in_time_is_whole() {
        let body = Full::new(Bytes::from_static(b"whole"));
        let (size, end) = read(body, HTTP).await;
        assert_eq!((size, end.unwrap().len()), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_body_ends_with_a_status_over_grpc_and_an_error_over_http() {
        let body = || {
            let frames = stream::once(future::ready(Ok(frame())));
            StreamBody::new(stream::StreamExt::chain(frames, stream::pending()))
        };
        let (size, end) = read(body(), GRPC).await;
        assert_eq!(
            (size, &end.unwrap()[Status::GRPC_STATUS]),
            (4, &HeaderValue::from(4))
        );
        let (size, end) = read(body(), HTTP).await;
        assert_eq!(size, 4);
        assert!(end.unwrap_err().is::<DeadlineExceeded>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_waits_ends_at_the_deadline() {
        // Each frame takes 100 ms of the clock and never waits.
        let frames = stream::unfold((), async |()| {
            tokio::time::advance(Duration::from_millis(100)).await;
            Some((Ok(frame()), ()))
        });
        let (size, end) = read(StreamBody::new(frames), HTTP).await;
        assert!(size <= 40, "{size}");
        assert!(end.unwrap_err().is::<DeadlineExceeded>());
    }

    /// A frame, and then a panic.
    fn panicking() -> impl Body<Data = Bytes, Error = BoxError> {
        StreamBody::new(stream::unfold(0, async |sent| {
            assert_eq!(sent, 0, "the body panics");
            Some((Ok(Frame::data(Bytes::from_static(b"data"))), 1))
        }))
    }

    #[tokio::test]
    async fn a_panic_ends_a_body_with_a_status_over_grpc_and_an_error_over_http() {
        let mut grpc = std::pin::pin!(DeadlineBody::new(panicking(), soon(), GRPC));
        assert!(grpc.frame().await.unwrap().unwrap().is_data());
        let trailers = grpc
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers[Status::GRPC_STATUS], "13");
        assert!(grpc.frame().await.is_none());

        let mut http = std::pin::pin!(DeadlineBody::new(panicking(), soon(), HTTP));
        assert!(http.frame().await.unwrap().unwrap().is_data());
        assert!(http.frame().await.unwrap().unwrap_err().is::<Panicked>());
        assert!(http.frame().await.is_none());
    }

    /// A body that holds a value, and a function that returns whether the value is still held.
    fn holding<B: Body>(body: B) -> (HoldingBody<B, Arc<()>>, impl Fn() -> bool) {
        let value = Arc::new(());
        let is_held = Arc::downgrade(&value);
        let body = HoldingBody::until_end(body, value);
        (body, move || is_held.strong_count() > 0)
    }

    #[tokio::test]
    async fn a_value_is_held_until_the_last_frame() {
        let (mut body, is_held) = holding(Full::new(Bytes::from_static(b"data")));
        assert!(is_held());
        assert!(body.frame().await.is_some());
        assert!(!is_held(), "no frame can follow");

        let frames = [
            Frame::data(Bytes::from_static(b"data")),
            Frame::trailers(HeaderMap::new()),
        ];
        let frames = frames.map(Ok::<_, Infallible>);
        let (mut body, is_held) = holding(StreamBody::new(stream::iter(frames)));
        assert!(body.frame().await.is_some());
        assert!(is_held(), "trailers may follow");
        assert!(body.frame().await.is_some());
        assert!(!is_held(), "nothing follows trailers");

        let frames = stream::empty::<Result<Frame<Bytes>, Infallible>>();
        let (mut body, is_held) = holding(StreamBody::new(frames));
        assert!(is_held(), "a stream doesn't know its end before it is read");
        assert!(body.frame().await.is_none());
        assert!(!is_held());
    }

    #[tokio::test]
    async fn a_value_is_held_until_the_first_data() {
        let data = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"data")));
        let frames = stream::iter([data(), data()]);
        let value = Arc::new(());
        let held = Arc::downgrade(&value);
        let mut body = HoldingBody::until_data(StreamBody::new(frames), value);
        assert_eq!(held.strong_count(), 1);
        assert!(body.frame().await.is_some());
        assert_eq!(held.strong_count(), 0);
        assert!(body.frame().await.is_some());
    }

    #[tokio::test]
    async fn a_value_is_held_until_an_error() {
        let frames = stream::iter([Err::<Frame<Bytes>, _>("broken")]);
        let (mut body, is_held) = holding(StreamBody::new(frames));
        assert!(is_held());
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
        assert!(!is_held());
    }

    #[test]
    fn a_value_is_held_until_the_body_is_dropped() {
        let (body, is_held) = holding(Full::new(Bytes::from_static(b"data")));
        assert!(is_held());
        drop(body);
        assert!(!is_held());
    }
}
