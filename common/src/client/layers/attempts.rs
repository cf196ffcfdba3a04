//! Layer 3: the attempts of a call.
//!
//! - What never reached a service is sent again elsewhere, always: the connection was closed
//!   before, or the replica says that it did not process the call (gRFC A6: transparent retries).
//! - What failed through no fault of its own is tried again, on another replica where there is
//!   one: `UNAVAILABLE`, and `RESOURCE_EXHAUSTED` with a pushback. Only methods that are declared
//!   idempotent, and only before the response has begun. A request stream is sent again only while
//!   all that was sent of it is small ([`REPLAY_LIMIT`](crate::client::request_body::REPLAY_LIMIT)).
//! - A response that is later than usual gets company: a second attempt on another replica, of
//!   which the first good response wins ("hedging", gRFC A6). Only idempotent unary methods, and
//!   only where two replicas are up.
//!
//! Retries and hedges are at most [`MAX_ATTEMPTS`] with the first, and are paid for out of one
//! budget: a service that is down for good gets a fifth more calls, not three times as many.

use std::{
    collections::HashMap,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use futures_util::future::{self, Either};
use http::{HeaderName, HeaderValue, Request, Response, request};
use tokio::{
    select,
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use tower::Service;
use tracing::warn;

use super::{
    budget::{Budget, Calls},
    usual::{Latencies, Usual},
};
use crate::{
    client::{
        Failure,
        pool::{Backoff, Balance, Replica, ReplicaBody},
        pushback::Pushback,
        request_body::{Replay, RequestBody},
        wire::Until,
    },
    methods::Method,
    metrics,
    protocol::code_name,
};

/// Attempts of one call, with the first.
const MAX_ATTEMPTS: u32 = 3;

/// Between two attempts.
const RETRY: Backoff = Backoff {
    base: Duration::from_millis(25),
    factor: 2.0,
    limit: Duration::from_secs(1),
    jitter: 0.5,
};

/// How often a call was tried before (gRFC A6).
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Makes each call on a replica, and again where that is safe and may help.
#[derive(Debug, Clone)]
pub struct AttemptsService(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    balance: Balance<Replica>,
    methods: HashMap<String, Known>,
    /// Any other method.
    undeclared: Known,
    budget: Arc<Budget>,
    calls: Calls,
    /// What keeps the balance in step with the replicas, for as long as calls can be made.
    _tasks: JoinSet<()>,
}

/// What is known of a method.
#[derive(Debug)]
struct Known {
    declared: Method,
    latencies: Latencies,
}

type Outcome = Result<Response<ReplicaBody>, Failure>;

impl AttemptsService {
    /// `tasks` end when the last clone is dropped.
    pub(in crate::client) fn new(
        balance: Balance<Replica>,
        methods: &HashMap<String, (Method, Arc<Usual>)>,
        budget: Arc<Budget>,
        tasks: JoinSet<()>,
    ) -> Self {
        let known = |declared, usual: &Arc<Usual>| Known {
            declared,
            latencies: Latencies::new(usual.clone()),
        };
        let methods = methods.iter();
        let methods = methods.map(|(path, (method, usual))| (path.clone(), known(*method, usual)));
        Self(Arc::new(Shared {
            balance,
            methods: methods.collect(),
            undeclared: known(Method::default(), &Arc::default()),
            calls: budget.join(),
            budget,
            _tasks: tasks,
        }))
    }
}

/// A call, and what has become of it so far.
struct Call<'a> {
    method: &'a Known,
    head: request::Parts,
    body: RequestBody,
    /// Attempts that were made.
    attempts: u32,
    was_refused: bool,
    /// The replicas of the attempts that failed or are late.
    tried: Vec<Arc<Replica>>,
}

impl Call<'_> {
    /// The request of the next attempt.
    fn next_request(&mut self) -> Request<RequestBody> {
        let mut request = Request::from_parts(self.head.clone(), self.body.clone());
        if self.attempts > 0 {
            let before = HeaderValue::from(self.attempts);
            request.headers_mut().insert(PREVIOUS_ATTEMPTS, before);
        }
        self.attempts += 1;
        request
    }

    /// Until when an attempt lasts.
    fn until(&self) -> Until {
        if self.method.declared.has_one_response {
            Until::FirstFrame
        } else {
            Until::Head
        }
    }
}

impl Shared {
    async fn send(&self, request: Request<tonic::body::Body>) -> Outcome {
        let method = self.methods.get(request.uri().path());
        let method = method.unwrap_or(&self.undeclared);
        let (mut head, body) = request.into_parts();
        head.extensions.clear(); // so that a copy for each attempt is cheap
        let body = if method.declared.has_one_request {
            let message = RequestBody::message(body).await;
            message.map_err(Failure::Request)?
        } else {
            RequestBody::Stream(Replay::new(body))
        };
        self.calls.add();
        let mut call = Call {
            method,
            head,
            body,
            attempts: 0,
            was_refused: false,
            tried: Vec::new(),
        };
        loop {
            let replica = self.balance.pick(&call.tried).await?;
            let outcome = self.attempt(&mut call, &replica).await;
            let Some(next) = next_step(&outcome) else {
                call.body.commit();
                return outcome;
            };
            call.tried.push(replica);
            let Some(pause) = self.pause_before(&next, &mut call) else {
                return outcome;
            };
            drop(outcome);
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    /// One attempt, with the company of a second where it is late.
    async fn attempt(&self, call: &mut Call<'_>, replica: &Arc<Replica>) -> Outcome {
        let first = replica.clone().attempt(call.next_request(), call.until());
        let Known {
            declared,
            latencies,
        } = call.method;
        let is_hedged =
            declared.is_idempotent && declared.has_one_request && declared.has_one_response;
        if !is_hedged || !self.balance.has_other(replica) {
            return first.await;
        }
        let mut first = pin!(first);
        let begin = Instant::now();
        let outcome = match latencies.late_after() {
            None => first.await,
            Some(late_after) => match timeout(late_after, first.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_late) => self.hedge(call, replica, first).await,
            },
        };
        // A response that is a status and nothing else may have been fast because it failed.
        if let Ok(response) = &outcome
            && response.body().bare_status(response.headers()).is_none()
        {
            latencies.record(begin.elapsed());
        }
        outcome
    }

    /// Starts a second attempt beside the `first`, and returns the first good response.
    async fn hedge<F: Future<Output = Outcome>>(
        &self,
        call: &mut Call<'_>,
        replica: &Arc<Replica>,
        mut first: Pin<&mut F>,
    ) -> Outcome {
        select! {
            biased;
            outcome = first.as_mut() => return outcome,
            // If it was this worker that was stuck, what came meanwhile is read now.
            () = yield_now() => {}
        }
        if call.attempts >= MAX_ATTEMPTS {
            return first.await;
        }
        call.tried.push(replica.clone());
        let Some(other) = self.balance.pick_other(&call.tried) else {
            return first.await;
        };
        if !self.budget.withdraw() {
            metrics::count(|counters| &counters.retries_refused);
            return first.await;
        }
        metrics::count(|counters| &counters.hedges);
        call.tried.push(other.clone());
        // Boxed, as it is rare and large.
        let second = Box::pin(other.attempt(call.next_request(), call.until()));
        match future::select(first, second).await {
            Either::Left((outcome, second)) if next_step(&outcome).is_some() => second.await,
            Either::Right((outcome, first)) if next_step(&outcome).is_some() => first.await,
            Either::Left((outcome, _)) | Either::Right((outcome, _)) => outcome,
        }
    }

    /// How long to wait before the attempt after one that failed; `None` where there is none.
    fn pause_before(&self, next: &Next, call: &mut Call<'_>) -> Option<Duration> {
        if !call.body.is_whole() {
            return None;
        }
        let status = match next {
            Next::ResendOnce(status) if call.was_refused => status,
            Next::Resend | Next::ResendOnce(_) => {
                call.was_refused |= matches!(next, Next::ResendOnce(_));
                metrics::count(|counters| &counters.resends);
                // An attempt that was not made does not count.
                call.attempts -= 1;
                return Some(Duration::ZERO);
            }
            Next::Retry(status) if call.method.declared.is_idempotent => status,
            Next::Retry(_) => return None,
        };
        let pause = self.pause_after(status, call)?;
        let is_granted = call.attempts < MAX_ATTEMPTS && self.budget.withdraw();
        metrics::count(|counters| {
            if is_granted {
                &counters.retries
            } else {
                &counters.retries_refused
            }
        });
        warn!(
            action = "call",
            status = if is_granted { "retry" } else { "failure" },
            method = call.head.uri.path(),
            attempt = call.attempts,
            grpc_code = code_name(status.code()),
            error = status.message(),
            "an attempt failed"
        );
        is_granted.then_some(pause)
    }

    /// The pause that a failed attempt asks for; `None` for never.
    fn pause_after(&self, status: &Status, call: &Call<'_>) -> Option<Duration> {
        let usual = RETRY.pause(call.attempts);
        let is_overloaded = status.code() == Code::ResourceExhausted;
        match Pushback::of(status.metadata().as_ref()) {
            Pushback::Never => None,
            // This replica has said when it will have room; another may have it now.
            Pushback::After(_) if is_overloaded => {
                self.balance.pick_other(&call.tried).map(|_| usual)
            }
            Pushback::After(pause) => Some(pause),
            Pushback::Unspecified => (!is_overloaded).then_some(usual),
        }
    }
}

/// What may come after an attempt that failed.
#[derive(Debug)]
enum Next {
    /// It was not processed, and its connection is closed: it is sent again.
    Resend,
    /// It was not processed: it is sent again once, and then retried.
    ResendOnce(Status),
    /// It may be retried where that is safe.
    Retry(Status),
}

fn next_step(outcome: &Outcome) -> Option<Next> {
    match outcome {
        Ok(response) => {
            let status = response.body().bare_status(response.headers())?;
            let code = Code::from_bytes(status.get(Status::GRPC_STATUS)?.as_bytes());
            let status = may_pass(code).then(|| Status::from_header_map(status));
            status.flatten().map(Next::Retry)
        }
        Err(Failure::Unprocessed(_)) => Some(Next::Resend),
        Err(Failure::Refused(status)) => Some(Next::ResendOnce(status.clone())),
        Err(Failure::Full) => Some(Next::ResendOnce(Failure::Full.into_status())),
        Err(Failure::Broken(status)) => {
            may_pass(status.code()).then(|| Next::Retry(status.clone()))
        }
        Err(Failure::NoReplica(_) | Failure::Request(_)) => None,
    }
}

/// Whether a call that failed with this code may do well elsewhere or later.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted)
}

impl Service<Request<tonic::body::Body>> for AttemptsService {
    type Response = Response<ReplicaBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ReplicaBody>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(())) // a call waits for its replica itself
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let this = self.0.clone();
        Box::pin(async move {
            let outcome = this.send(request).await;
            outcome.map_err(Failure::into_status)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;
    use futures_util::stream;
    use h2::Reason;
    use http_body::Frame;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tower::ServiceExt;

    use super::*;
    use crate::client::{
        fake::{Does, Seen, replica},
        pool::Waiting,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const FAST: Duration = Duration::from_millis(5);
    const UNAVAILABLE: Does = Does::Fail(Code::Unavailable, None);

    const IDEMPOTENT: &str = "/a.Service/Get";
    const ONCE: &str = "/a.Service/Create";
    const STREAM: &str = "/a.Service/Chat";

    /// A client, and replicas with these scripts that are up.
    async fn client<F>(scripts: Vec<F>) -> (AttemptsService, Vec<Seen>)
    where
        F: Fn(usize) -> Does + Send + 'static,
    {
        let count = scripts.len();
        let balance = Balance::new(3 * SECOND, Waiting::default());
        let mut tasks = JoinSet::new();
        let seen = scripts
            .into_iter()
            .map(|script| replica(&balance, &mut tasks, script));
        let seen = seen.collect();
        let unary = Method {
            is_idempotent: true,
            has_one_request: true,
            has_one_response: true,
            deadline: None,
        };
        let once = Method {
            is_idempotent: false,
            ..unary
        };
        let stream = Method {
            is_idempotent: true,
            ..Method::default()
        };
        let methods = [(IDEMPOTENT, unary), (ONCE, once), (STREAM, stream)];
        let methods = methods.map(|(path, method)| (path.to_owned(), (method, Arc::default())));
        let methods = HashMap::from(methods);
        let budget = Arc::new(Budget::new());
        let client = AttemptsService::new(balance.clone(), &methods, budget, tasks);
        while balance.count_up() < count {
            sleep(Duration::from_millis(1)).await;
        }
        (client, seen)
    }

    /// Makes a call, and returns its code and how long it took.
    async fn call(client: &AttemptsService, method: &str) -> (Code, Duration) {
        send(
            client,
            method,
            tonic::body::Body::new(Full::from("message")),
        )
        .await
    }

    async fn send(
        client: &AttemptsService,
        method: &str,
        message: tonic::body::Body,
    ) -> (Code, Duration) {
        let begin = Instant::now();
        let request = Request::post(method).body(message).unwrap();
        let code = match client.clone().oneshot(request).await {
            Err(status) => status.code(),
            Ok(response) => {
                let (head, body) = response.into_parts();
                match body.collect().await {
                    Err(status) => status.code(),
                    Ok(body) => {
                        let status = body.trailers().unwrap_or(&head.headers);
                        Code::from_bytes(status[Status::GRPC_STATUS].as_bytes())
                    }
                }
            }
        };
        (code, begin.elapsed())
    }

    fn calls(seen: &[Seen]) -> Vec<usize> {
        seen.iter().map(Seen::calls).collect()
    }

    fn assert_within(range: Range<u64>, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        assert!(range.contains(&millis), "{millis} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_is_retried_on_another_replica() {
        // Whichever is called first is not available.
        let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let script = || {
            let first = first.clone();
            move |_| {
                if first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                    UNAVAILABLE
                } else {
                    Does::Respond(FAST)
                }
            }
        };
        let (client, seen) = client(vec![script(), script()]).await;
        let (code, took) = call(&client, IDEMPOTENT).await;
        assert_eq!((code, calls(&seen)), (Code::Ok, vec![1, 1]));
        assert_within(12..60, took);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_three_attempts_at_most_and_one_if_it_is_not_idempotent() {
        let (client, seen) = client(vec![|_| UNAVAILABLE]).await;
        assert_eq!(call(&client, IDEMPOTENT).await.0, Code::Unavailable);
        assert_eq!(calls(&seen), [3]);
        assert_eq!(call(&client, ONCE).await.0, Code::Unavailable);
        assert_eq!(calls(&seen), [4]);
    }

    /// A stream of that many messages of 1 KiB.
    fn messages(count: usize) -> tonic::body::Body {
        let message = || Ok::<_, Status>(Frame::data(Bytes::from_static(&[0; 1_024])));
        let messages = stream::iter(std::iter::repeat_with(message).take(count));
        tonic::body::Body::new(StreamBody::new(messages))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_sent_again_while_all_that_was_sent_of_it_is_small() {
        let script = |call| match call {
            0 => Does::ReadAndFail(Code::Unavailable),
            _ => Does::Respond(FAST),
        };
        for (count, code, attempts) in [(3, Code::Ok, 2), (100, Code::Unavailable, 1)] {
            let (client, seen) = client(vec![script]).await;
            assert_eq!(send(&client, STREAM, messages(count)).await.0, code);
            assert_eq!(calls(&seen), [attempts]);
            assert_eq!(seen[0].received(), attempts * count * 1_024);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_declared_is_sent_again_if_it_was_not_processed() {
        let script = |call| match call {
            0 => Does::GoAway,
            _ => Does::Respond(FAST),
        };
        let well = |_| Does::Respond(FAST);
        for _ in 0..10 {
            let scripts: Vec<Box<dyn Fn(usize) -> Does + Send>> =
                vec![Box::new(script), Box::new(well)];
            let (client, _) = client(scripts).await;
            for _ in 0..3 {
                let (code, _) = send(&client, "/a.Service/Unknown", messages(1)).await;
                assert_eq!(code, Code::Ok);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_fails_is_not_sent_and_fails_with_its_own_status() {
        let (client, seen) = client(vec![|_| Does::Respond(FAST)]).await;
        for method in [IDEMPOTENT, STREAM, "/a.Service/Unknown"] {
            let failure = Err::<Frame<Bytes>, _>(Status::out_of_range("too large to encode"));
            let body = StreamBody::new(stream::iter([failure]));
            let (code, took) = send(&client, method, tonic::body::Body::new(body)).await;
            assert_eq!(code, Code::OutOfRange, "{method}");
            assert_within(0..10, took);
        }
        assert_eq!(seen[0].received(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_tried_again() {
        for reason in [
            Reason::CANCEL,
            Reason::INTERNAL_ERROR,
            Reason::ENHANCE_YOUR_CALM,
        ] {
            let (client, seen) = client(vec![move |_| Does::Reset(reason)]).await;
            call(&client, IDEMPOTENT).await;
            assert_eq!(calls(&seen), [1], "{reason}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_the_calls() {
        let (client, seen) = client(vec![|_| UNAVAILABLE]).await;
        for _ in 0..1_000 {
            assert_eq!(call(&client, IDEMPOTENT).await.0, Code::Unavailable);
        }
        let [calls] = calls(&seen)[..] else {
            unreachable!()
        };
        // A hundred at first, a fifth of the calls, and ten a second.
        assert!((1_200..1_500).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pushback_is_obeyed() {
        for (pushback, attempts, took) in [("700", 2, 700..710), ("-1", 1, 0..10)] {
            let script = move |call| match call {
                0 => Does::Fail(Code::Unavailable, Some(pushback)),
                _ => Does::Respond(FAST),
            };
            let (client, seen) = client(vec![script]).await;
            let time = call(&client, IDEMPOTENT).await.1;
            assert_eq!(calls(&seen), [attempts]);
            assert_within(took, time);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_an_overloaded_replica_pushes_back_is_retried_on_another_alone() {
        let full = |_| Does::Fail(Code::ResourceExhausted, Some("1000"));
        let (one, seen) = client(vec![full]).await;
        assert_eq!(call(&one, IDEMPOTENT).await.0, Code::ResourceExhausted);
        assert_eq!(calls(&seen), [1]);
        let (two, seen) = client(vec![full, full]).await;
        assert_eq!(call(&two, IDEMPOTENT).await.0, Code::ResourceExhausted);
        assert_eq!(calls(&seen), [1, 1]);
        let (without, seen) = client(vec![|_| Does::Fail(Code::ResourceExhausted, None); 2]).await;
        assert_eq!(call(&without, IDEMPOTENT).await.0, Code::ResourceExhausted);
        assert_eq!(
            calls(&seen).iter().sum::<usize>(),
            1,
            "no pushback, no retry"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_processed_is_sent_again_whatever_it_does() {
        for not_processed in [Does::Refuse, Does::GoAway] {
            let script = |does: [Does; 2]| move |call: usize| does[call.min(1)];
            let well = Does::Respond(FAST);
            let bad = script([not_processed, not_processed]);
            let (client, seen) = client(vec![bad, script([well, well])]).await;
            for _ in 0..20 {
                assert_eq!(call(&client, ONCE).await.0, Code::Ok, "{not_processed:?}");
            }
            assert_eq!(seen[1].calls(), 20);
            assert!(seen[0].calls() > 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_refuses_everything_gets_each_call_twice() {
        let (client, seen) = client(vec![|_| Does::Refuse]).await;
        assert_eq!(call(&client, ONCE).await.0, Code::Unavailable);
        // A resend, and the retries that the budget grants.
        assert_eq!(calls(&seen), [4]);
    }

    /// Replicas that have responded fast often enough for that to be usual.
    async fn practised<F>(scripts: Vec<F>) -> (AttemptsService, Vec<Seen>)
    where
        F: Fn(usize) -> Does + Send + 'static,
    {
        let scripts = scripts.into_iter().map(|script| {
            move |call| {
                if call < 200 {
                    Does::Respond(FAST)
                } else {
                    script(call)
                }
            }
        });
        let (client, seen) = client(scripts.collect()).await;
        while seen.iter().any(|seen| seen.calls() < 200) {
            let both = [call(&client, IDEMPOTENT), call(&client, IDEMPOTENT)];
            for (code, _) in futures_util::future::join_all(both).await {
                assert_eq!(code, Code::Ok);
            }
        }
        (client, seen)
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_call_gets_company_and_the_first_good_response_wins() {
        for bad in [Does::Freeze, Does::Respond(3 * SECOND)] {
            let script = |does: Does| move |_| does;
            let scripts = vec![script(bad), script(Does::Respond(FAST))];
            let (client, _) = practised(scripts).await;
            for _ in 0..50 {
                let (code, took) = call(&client, IDEMPOTENT).await;
                assert_eq!(code, Code::Ok);
                assert_within(0..40, took);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_call_that_is_not_idempotent_has_no_company() {
        let (client, seen) = practised(vec![|_| Does::Respond(SECOND); 2]).await;
        let before: usize = calls(&seen).iter().sum();
        assert_within(1_000..1_010, call(&client, ONCE).await.1);
        assert_eq!(calls(&seen).iter().sum::<usize>(), before + 1);
        assert_within(1_000..1_010, call(&client, IDEMPOTENT).await.1);
        assert_eq!(calls(&seen).iter().sum::<usize>(), before + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn with_one_replica_nothing_gets_company() {
        let (client, seen) = practised(vec![|_| Does::Respond(SECOND)]).await;
        let before = seen[0].calls();
        assert_within(1_000..1_010, call(&client, IDEMPOTENT).await.1);
        assert_eq!(seen[0].calls(), before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn hedges_are_a_share_of_the_calls() {
        let (client, seen) = practised(vec![|_| Does::Respond(SECOND); 2]).await;
        let before: usize = calls(&seen).iter().sum();
        let many = (0..2_000).map(|_| call(&client, IDEMPOTENT));
        futures_util::future::join_all(many).await;
        let all = calls(&seen).iter().sum::<usize>() - before;
        // At most 100, a fifth of the calls up to now, and ten for the second.
        assert!((2_100..2_650).contains(&all), "{all}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_is_not_dead() {
        for slow in [3 * SECOND, 9 * SECOND] {
            let (client, seen) = client(vec![move |_| Does::Respond(slow)]).await;
            let (code, took) = call(&client, IDEMPOTENT).await;
            assert_eq!((code, calls(&seen)), (Code::Ok, vec![1]));
            assert_eq!(took.as_secs(), slow.as_secs());
            // After 0.5 s and with growing pauses from then on.
            let questions = seen[0].questions();
            assert!((2..=8).contains(&questions), "{questions}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_replica_is_dead_and_its_calls_go_elsewhere() {
        let script = |does: Does| move |_| does;
        let scripts = vec![script(Does::Freeze), script(Does::Respond(FAST))];
        let (client, seen) = client(scripts).await;
        for _ in 0..20 {
            let (code, took) = call(&client, IDEMPOTENT).await;
            assert_eq!(code, Code::Ok);
            // Nothing is known yet of what is usual: the question is the only help.
            assert_within(0..1_600, took);
        }
        assert_eq!((seen[0].calls(), seen[1].calls()), (1, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_before_the_first_connection_wait_for_it() {
        let balance = Balance::new(3 * SECOND, Waiting::default());
        let mut tasks = JoinSet::new();
        let budget = Arc::new(Budget::new());
        let methods = HashMap::new();
        let client = AttemptsService::new(balance.clone(), &methods, budget, JoinSet::new());
        let waiting: Vec<_> = (0..1_500)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { call(&client, ONCE).await.0 })
            })
            .collect();
        sleep(SECOND).await;
        let seen = replica(&balance, &mut tasks, |_| Does::Respond(FAST));
        for call in waiting {
            assert_eq!(call.await.unwrap(), Code::Ok);
        }
        assert_eq!(seen.calls(), 1_500);
    }
}
