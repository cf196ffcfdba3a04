//! Calls through [`Attempts`] to replicas that follow scripts.

mod peers;

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use h2::Reason;
use http::uri::PathAndQuery;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Instant;
use tonic::{Code, codec::Codec};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::ServiceExt;

use super::*;
use crate::{
    client::{
        choice::balancer::ChannelCounts,
        ejection::memory::Memory,
        ending::{
            class::{Ending, Next},
            judgement::Judgement,
            pushback::Pushback,
        },
        fake::{Does, MESSAGE, Parts, Served, replica},
    },
    telemetry::metrics,
};

const SECOND: Duration = Duration::from_secs(1);
const FAST: Duration = Duration::from_millis(5);
const UNAVAILABLE: Does = Does::Fail(Code::Unavailable, None);

const IDEMPOTENT: &str = "/a.Service/Get";
const ONCE: &str = "/a.Service/Create";
const STREAM: &str = "/a.Service/Chat";
const LIST: &str = "/a.Service/List";
const LIST_ONCE: &str = "/a.Service/Draw";
/// A method of one test alone, for its metrics.
const COUNTED: &str = "/a.Service/Counted";

/// A client with a replica for each script, and what each replica has served. All are up.
async fn client<F>(scripts: Vec<F>) -> (Attempts, Vec<Served>)
where
    F: Fn(usize) -> Does + Send + 'static,
{
    client_with(Arc::default(), scripts).await
}

/// Such a client of a worker that shares this memory.
async fn client_with<F>(memory: Arc<Memory>, scripts: Vec<F>) -> (Attempts, Vec<Served>)
where
    F: Fn(usize) -> Does + Send + 'static,
{
    let count = scripts.len();
    let balancer = Balancer::new(3 * SECOND, ChannelCounts::default(), memory);
    let mut tasks = JoinSet::new();
    let served = scripts
        .into_iter()
        .map(|script| replica(&balancer, &mut tasks, script));
    let served = served.collect();
    let unary = Method {
        is_idempotent: true,
        has_one_request: true,
        has_one_response: true,
        ..Method::default()
    };
    let once = Method {
        is_idempotent: false,
        ..unary
    };
    let stream = Method {
        is_idempotent: true,
        ..Method::default()
    };
    let list = |method| Method {
        has_one_response: false,
        ..method
    };
    let methods = [
        (IDEMPOTENT, unary),
        (ONCE, once),
        (COUNTED, once),
        (STREAM, stream),
        (LIST, list(unary)),
        (LIST_ONCE, list(once)),
    ];
    let methods = methods.map(|(path, method)| (path.to_owned(), (method, Arc::default())));
    let methods = HashMap::from(methods);
    let policy = Arc::<RetryPolicy>::default();
    let budget = Arc::new(Budget::new(&policy));
    let client = Attempts::new(balancer.clone(), &methods, policy, budget, tasks);
    while balancer.count_up() < count {
        sleep(Duration::from_millis(1)).await;
    }
    (client, served)
}

/// Makes a call and returns its code and its duration.
async fn call(client: &Attempts, method: &str) -> (Code, Duration) {
    send(
        client,
        method,
        tonic::body::Body::new(Full::from("message")),
    )
    .await
}

async fn send(client: &Attempts, method: &str, message: tonic::body::Body) -> (Code, Duration) {
    let begin = Instant::now();
    let status = status_of(client, method, message).await;
    (status.code(), begin.elapsed())
}

/// Makes a call and returns the status that its caller gets.
async fn status_of(client: &Attempts, method: &str, message: tonic::body::Body) -> Status {
    let request = Request::post(method).body(message).unwrap();
    match client.clone().oneshot(request).await {
        Err(status) => status,
        Ok(response) => {
            let (head, body) = response.into_parts();
            match body.collect().await {
                Err(status) => status,
                Ok(body) => {
                    let headers = body.trailers().unwrap_or(&head.headers);
                    Status::from_header_map(headers).expect("it has a status")
                }
            }
        }
    }
}

fn calls(served: &[Served]) -> Vec<usize> {
    served.iter().map(Served::calls).collect()
}

fn assert_within(range: Range<u64>, time: Duration) {
    let millis = u64::try_from(time.as_millis()).unwrap();
    assert!(range.contains(&millis), "{millis} ms");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_retried_on_another_replica() {
    // The replica that is called first is unavailable.
    let first = Arc::new(AtomicBool::new(true));
    let script = || {
        let first = first.clone();
        move |_| {
            if first.swap(false, Relaxed) {
                UNAVAILABLE
            } else {
                Does::Respond(FAST)
            }
        }
    };
    let (client, served) = client(vec![script(), script()]).await;
    let (code, took) = call(&client, IDEMPOTENT).await;
    assert_eq!((code, calls(&served)), (Code::Ok, vec![1, 1]));
    assert_within(12..60, took);
}

/// What is large or rare is boxed: the future is copied to the heap, most of it would stay unused, and beyond
/// 1 KiB the allocator is slower.
#[tokio::test]
async fn the_future_of_a_call_is_small() {
    let (mut client, _) = client(vec![|_| UNAVAILABLE]).await;
    let call = client.call(Request::new(tonic::body::Body::empty()));
    let size = size_of_val(&*call);
    assert!(size <= 1_024, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_call_has_three_attempts_at_most_and_one_if_it_is_not_idempotent() {
    let (client, served) = client(vec![|_| UNAVAILABLE]).await;
    assert_eq!(call(&client, IDEMPOTENT).await.0, Code::Unavailable);
    assert_eq!(calls(&served), [3]);
    assert_eq!(call(&client, ONCE).await.0, Code::Unavailable);
    assert_eq!(calls(&served), [4]);
}

/// A stream of `count` messages of 1 KiB.
fn messages(count: usize) -> tonic::body::Body {
    let message = || Ok::<_, Status>(Frame::data(Bytes::from_static(&[0; 1_024])));
    let messages = stream::iter(std::iter::repeat_with(message).take(count));
    tonic::body::Body::new(StreamBody::new(messages))
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_sent_again_while_what_was_sent_of_it_is_small() {
    let script = |call| match call {
        0 => Does::ReadAndFail(Code::Unavailable),
        _ => Does::Respond(FAST),
    };
    for (count, code, attempts) in [(3, Code::Ok, 2), (100, Code::Unavailable, 1)] {
        let (client, served) = client(vec![script]).await;
        assert_eq!(send(&client, STREAM, messages(count)).await.0, code);
        assert_eq!(calls(&served), [attempts]);
        assert_eq!(served[0].received(), attempts * count * 1_024);
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
    let (client, served) = client(vec![|_| Does::Respond(FAST)]).await;
    for method in [IDEMPOTENT, STREAM, "/a.Service/Unknown"] {
        let failure = Err::<Frame<Bytes>, _>(Status::out_of_range("too large to encode"));
        let body = StreamBody::new(stream::iter([failure]));
        let (code, took) = send(&client, method, tonic::body::Body::new(body)).await;
        assert_eq!(code, Code::OutOfRange, "{method}");
        assert_within(0..10, took);
    }
    assert_eq!(served[0].received(), 0);
}

/// One row of the table: what a replica does, and what has to follow.
struct End {
    does: Does,
    ending: Ending,
    code: Code,
    judgement: Judgement,
    next: Next,
    /// The status of an HTTP request that needs the call.
    edge: u16,
}

/// The parts of a response that is not a good one.
fn parts(change: impl FnOnce(&mut Parts)) -> Does {
    let mut parts = Parts::GOOD;
    change(&mut parts);
    Does::Send(parts)
}

fn http(status: u16) -> Does {
    parts(|it| (it.http, it.content_type, it.status) = (status, "text/plain", None))
}

fn reset(reason: Reason) -> Does {
    parts(|it| (it.data, it.reset) = (&[], Some(reason)))
}

/// Every end that a replica can make, but those of connections, which `wire::tests` has.
#[allow(clippy::too_many_lines)] // one table
fn ends(is_unary: bool) -> Vec<End> {
    use Judgement::{Ambiguous, Failure, Nothing, Success};
    use Next::{Elsewhere, None as Never, Retry, Unprocessed};
    let after = Pushback::After(SECOND);
    let plain = Pushback::Unspecified;
    let status = |code| (Does::Fail(code, None), Ending::Status(code, plain));
    let http = |code: u16| (http(code), Ending::Http(code.try_into().unwrap()));
    let before = |reason| (Does::Reset(reason), Ending::ResetBeforeHead(reason));
    let later = |reason| (reset(reason), Ending::ResetAfterHead(reason));
    let full = (
        Does::Fail(Code::ResourceExhausted, Some("1000")),
        Ending::Status(Code::ResourceExhausted, after),
    );
    let html = parts(|it| (it.content_type, it.status) = ("text/html", None));
    let hidden = parts(|it| (it.http, it.status) = (503, Some(Code::NotFound)));
    let cut = parts(|it| (it.data, it.status) = (&MESSAGE[..6], None));
    let cut_ok = parts(|it| it.data = &MESSAGE[..6]);
    let flag = parts(|it| it.data = &[2, 0, 0, 0, 0]);
    let no_status = parts(|it| it.status = None);
    let empty = parts(|it| it.data = &[]);
    let two = parts(|it| it.data = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut rows = vec![
        (status(Code::NotFound), Code::NotFound, Success, Never, 404),
        (
            status(Code::InvalidArgument),
            Code::InvalidArgument,
            Success,
            Never,
            400,
        ),
        (
            status(Code::Unavailable),
            Code::Unavailable,
            Failure,
            Retry,
            503,
        ),
        (
            status(Code::Internal),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            status(Code::Unknown),
            Code::Unknown,
            Failure,
            Elsewhere,
            502,
        ),
        (
            status(Code::DataLoss),
            Code::DataLoss,
            Failure,
            Elsewhere,
            502,
        ),
        (
            status(Code::Unimplemented),
            Code::Unimplemented,
            Ambiguous,
            Elsewhere,
            501,
        ),
        (
            status(Code::ResourceExhausted),
            Code::ResourceExhausted,
            Ambiguous,
            Never,
            429,
        ),
        (full, Code::ResourceExhausted, Nothing, Elsewhere, 503),
        (http(400), Code::Internal, Nothing, Never, 502),
        (http(413), Code::Unknown, Nothing, Never, 502),
        (http(431), Code::Unknown, Nothing, Never, 502),
        (http(404), Code::Unimplemented, Ambiguous, Elsewhere, 501),
        (http(422), Code::Unknown, Ambiguous, Elsewhere, 502),
        (http(429), Code::Unavailable, Ambiguous, Retry, 503),
        (http(502), Code::Unavailable, Failure, Retry, 503),
        (http(503), Code::Unavailable, Failure, Retry, 503),
        (http(504), Code::Unavailable, Failure, Retry, 503),
        (http(500), Code::Unknown, Failure, Elsewhere, 502),
        (
            (hidden, Ending::Status(Code::NotFound, plain)),
            Code::NotFound,
            Success,
            Never,
            404,
        ),
        (
            (html, Ending::NotGrpc),
            Code::Unknown,
            Failure,
            Elsewhere,
            502,
        ),
        (
            (cut, Ending::CutShort),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            (cut_ok, Ending::CutShort),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            (flag, Ending::InvalidFlag),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            (no_status, Ending::NoStatus),
            Code::Unknown,
            Failure,
            Elsewhere,
            502,
        ),
        (
            before(Reason::CANCEL),
            Code::Unavailable,
            Failure,
            Retry,
            503,
        ),
        (
            later(Reason::CANCEL),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            before(Reason::INTERNAL_ERROR),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            later(Reason::INTERNAL_ERROR),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ),
        (
            before(Reason::ENHANCE_YOUR_CALM),
            Code::ResourceExhausted,
            Failure,
            Elsewhere,
            503,
        ),
        (
            later(Reason::REFUSED_STREAM),
            Code::Unavailable,
            Failure,
            Retry,
            503,
        ),
        (
            (Does::Refuse, Ending::Refused),
            Code::Unavailable,
            Failure,
            Unprocessed,
            503,
        ),
    ];
    if is_unary {
        rows.push((
            (empty, Ending::NoMessage),
            Code::Internal,
            Failure,
            Elsewhere,
            502,
        ));
        rows.push((
            (two, Ending::SecondMessage),
            Code::Unimplemented,
            Failure,
            Elsewhere,
            501,
        ));
    }
    let rows = rows.into_iter();
    let rows = rows.map(|((does, ending), code, judgement, next, edge)| End {
        does,
        ending,
        code,
        judgement,
        next,
        edge,
    });
    rows.collect()
}

#[tokio::test(start_paused = true)]
async fn every_end_has_its_class_its_status_and_its_next_attempt() {
    for (method, is_unary, is_idempotent) in [
        (IDEMPOTENT, true, true),
        (ONCE, true, false),
        (LIST, false, true),
        (LIST_ONCE, false, false),
    ] {
        for end in ends(is_unary) {
            let what = format!("{method}: {:?}", end.ending);
            let class = end.ending.class();
            assert_eq!(class.code, end.code, "{what}");
            assert_eq!(class.judgement, end.judgement, "{what}");
            assert_eq!(class.next, end.next, "{what}");

            // Whatever is picked first does this. The other replica does, too.
            let does = end.does;
            let (client, served) = client(vec![move |_| does; 2]).await;
            let body = tonic::body::Body::new(Full::from("message"));
            let status = status_of(&client, method, body).await;
            assert_eq!(status.code(), end.code, "{what}");
            let edge = crate::problem::Problem::from(status).status();
            assert_eq!(edge.as_u16(), end.edge, "{what}");

            // A stream has begun with its head, unless that is all of it.
            let is_head_only = matches!(
                end.ending,
                Ending::Status(..)
                    | Ending::Http(_)
                    | Ending::NotGrpc
                    | Ending::Refused
                    | Ending::ResetBeforeHead(_)
            ) && !matches!(
                does,
                Does::Send(Parts {
                    http: 503,
                    status: Some(_),
                    ..
                })
            );
            let attempts = match end.next {
                Next::Unprocessed => 3,
                Next::Retry if is_idempotent && (is_unary || is_head_only) => 3,
                Next::Elsewhere if is_idempotent && (is_unary || is_head_only) => 2,
                _ => 1,
            };
            assert_eq!(calls(&served).iter().sum::<usize>(), attempts, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_call_that_its_caller_drops_is_cancelled() {
    let (client, _) = client(vec![|_| Does::Freeze]).await;
    let cancelled = counted(Code::Cancelled);
    let dropped = tokio::time::timeout(SECOND / 10, call(&client, COUNTED)).await;
    assert!(dropped.is_err());
    assert_eq!(counted(Code::Cancelled), cancelled.map(|it| it + 1));
    let deadline = crate::request::context::Deadline::after(SECOND);
    let context =
        crate::request::context::Context::new(crate::request::id::RequestId::fresh(), deadline);
    let exceeded = counted(Code::DeadlineExceeded);
    let dropped =
        tokio::time::timeout_at(deadline.instant(), context.scope(call(&client, COUNTED)));
    assert!(dropped.await.is_err());
    let now = counted(Code::DeadlineExceeded);
    assert_eq!(now, exceeded.map(|it| it + 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_with_the_code_of_its_response() {
    let (client, _) = client(vec![|_| Does::Respond(FAST)]).await;
    let before = counted(Code::Ok);
    assert_eq!(call(&client, COUNTED).await.0, Code::Ok);
    assert_eq!(counted(Code::Ok), before.map(|it| it + 1));
}

/// How many calls of [`COUNTED`], and how many attempts of them, ended with a code.
fn counted(code: Code) -> [u64; 2] {
    let (_, text) = crate::telemetry::metrics::text("");
    ["rpc_client", "rpc_client_attempt"].map(|of| {
        let name = format!("{of}_duration_seconds_count");
        let labels = "rpc_method=\"a.Service/Counted\",rpc_grpc_status_code";
        let line = format!("{name}{{{labels}=\"{}\"}} ", code as u16);
        let count = text.lines().find_map(|it| it.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    })
}

#[tokio::test(start_paused = true)]
async fn a_broken_replica_beside_a_good_one_costs_idempotent_calls_nothing() {
    let broken = ends(true)
        .into_iter()
        .filter(|it| it.judgement == Judgement::Failure);
    let hangs = End {
        does: Does::Respond(Duration::from_hours(1)),
        ending: Ending::Abandoned { is_late: true },
        code: Code::Cancelled,
        judgement: Judgement::NoResponse,
        next: Next::None,
        edge: 499,
    };
    for end in broken.chain([hangs]) {
        for share in [1, 3, 10] {
            let does = end.does;
            let bad = move |call: usize| match call % share {
                0 => does,
                _ => Does::Respond(FAST),
            };
            let scripts: Vec<Box<dyn Fn(usize) -> Does + Send>> =
                vec![Box::new(|_| Does::Respond(4 * FAST)), Box::new(bad)];
            let (client, served) = client(scripts).await;
            for _ in 0..200 {
                let code = call(&client, IDEMPOTENT).await.0;
                assert_eq!(code, Code::Ok, "{:?}, 1 of {share}", end.ending);
                sleep(Duration::from_millis(20)).await;
            }
            let [_, reached] = calls(&served)[..] else {
                unreachable!()
            };
            assert!(
                share > 1 || reached <= 15,
                "{:?}: {reached} calls reach it",
                end.ending
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_workers_find_a_broken_replica_together() {
    for workers in [1, 16] {
        let memory = Arc::<Memory>::default();
        let mut clients = Vec::new();
        let mut all = Vec::new();
        for _ in 0..workers {
            let scripts: Vec<Box<dyn Fn(usize) -> Does + Send>> = vec![
                Box::new(|_| Does::Respond(FAST)),
                Box::new(|_| Does::Fail(Code::Internal, None)),
            ];
            let (client, served) = client_with(memory.clone(), scripts).await;
            clients.push(client);
            all.push(served);
        }
        let mut failed = 0;
        for round in 0..50 {
            for client in &clients {
                let code = call(client, ONCE).await.0;
                failed += usize::from(code != Code::Ok);
                sleep(Duration::from_millis(1)).await;
            }
            assert!(round > 0 || workers == 1 || failed <= 8);
        }
        assert!(
            (1..=8).contains(&failed),
            "{workers} workers: {failed} failed"
        );
    }
}

/// A message of `HealthCheckResponse`, with its prefix.
const HEALTHY: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

/// Makes a call as a generated client does, and returns the HTTP status of a request that needs it.
async fn call_with<C>(client: &Attempts, codec: C) -> u16
where
    C: Codec<Encode = HealthCheckRequest, Decode = HealthCheckResponse>,
{
    let mut client = tonic::client::Grpc::new(client.clone());
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static(IDEMPOTENT);
    let request = tonic::Request::new(HealthCheckRequest::default());
    match client.unary(request, path, codec).await {
        Ok(_) => 200,
        Err(status) => crate::problem::Problem::from(status).status().as_u16(),
    }
}

/// A good replica beside one that sends this, for a client whose codec reports or does not. Returns
/// the statuses of 100 requests that failed.
async fn failures_beside(data: &'static [u8], reports: bool) -> Vec<u16> {
    let script = |data| move |_| parts(|it| it.data = data);
    let (client, _) = client(vec![script(HEALTHY), script(data)]).await;
    let mut failures = Vec::new();
    for _ in 0..100 {
        let status = if reports {
            call_with(&client, crate::client::ending::codec::Codec::default()).await
        } else {
            call_with(&client, tonic_prost::ProstCodec::default()).await
        };
        failures.extend(Some(status).filter(|status| *status != 200));
        sleep(SECOND / 10).await;
    }
    failures
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_messages_the_codec_refuses_costs_few_calls() {
    let mut too_long = vec![0; 5 * 1_024 * 1_024 + 5];
    too_long[1..5].copy_from_slice(&(5 * 1_024 * 1_024_u32).to_be_bytes());
    for data in [MESSAGE, too_long.leak()] {
        let failures = failures_beside(data, true).await;
        assert!((1..=2).contains(&failures.len()), "{failures:?}");
        assert!(failures.iter().all(|status| *status == 502), "{failures:?}");
    }
    let failures = failures_beside(MESSAGE, false).await;
    assert!(failures.len() > 20, "another codec tells nothing");
}

#[tokio::test(start_paused = true)]
async fn retries_are_a_share_of_the_calls() {
    let (client, served) = client(vec![|_| UNAVAILABLE]).await;
    for _ in 0..1_000 {
        assert_eq!(call(&client, IDEMPOTENT).await.0, Code::Unavailable);
    }
    let [calls] = calls(&served)[..] else {
        unreachable!()
    };
    // The budget: 100 at first, a fifth of the calls, and ten a second.
    assert!((1_200..1_500).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_pushback_is_obeyed() {
    for (pushback, attempts, took) in [("700", 2, 700..710), ("-1", 1, 0..10)] {
        let script = move |call| match call {
            0 => Does::Fail(Code::Unavailable, Some(pushback)),
            _ => Does::Respond(FAST),
        };
        let (client, served) = client(vec![script]).await;
        let time = call(&client, IDEMPOTENT).await.1;
        assert_eq!(calls(&served), [attempts]);
        assert_within(took, time);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_an_overloaded_replica_pushes_back_is_retried_on_others_only() {
    let full = |_| Does::Fail(Code::ResourceExhausted, Some("1000"));
    let (one, served) = client(vec![full]).await;
    assert_eq!(call(&one, IDEMPOTENT).await.0, Code::ResourceExhausted);
    assert_eq!(calls(&served), [1]);
    let (two, served) = client(vec![full, full]).await;
    assert_eq!(call(&two, IDEMPOTENT).await.0, Code::ResourceExhausted);
    assert_eq!(calls(&served), [1, 1]);
    let (without, served) = client(vec![|_| Does::Fail(Code::ResourceExhausted, None); 2]).await;
    assert_eq!(call(&without, IDEMPOTENT).await.0, Code::ResourceExhausted);
    assert_eq!(
        calls(&served).iter().sum::<usize>(),
        1,
        "no pushback, no retry"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_processed_is_sent_again_whatever_its_method() {
    for not_processed in [Does::Refuse, Does::GoAway] {
        let script = |does: [Does; 2]| move |call: usize| does[call.min(1)];
        let well = Does::Respond(FAST);
        let bad = script([not_processed, not_processed]);
        let (client, served) = client(vec![bad, script([well, well])]).await;
        for _ in 0..20 {
            assert_eq!(call(&client, ONCE).await.0, Code::Ok, "{not_processed:?}");
        }
        assert_eq!(served[1].calls(), 20);
        assert!(served[0].calls() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_call_that_was_not_processed_counts_as_sent_again() {
    let resends = || metrics::of_this_thread().resends.get();
    for (bad, resent) in [(Does::Refuse, 1), (UNAVAILABLE, 0)] {
        let script = move |call| if call == 0 { bad } else { Does::Respond(FAST) };
        let (client, _) = client(vec![script]).await;
        let before = resends();
        assert_eq!(call(&client, IDEMPOTENT).await.0, Code::Ok, "{bad:?}");
        assert_eq!(resends() - before, resent, "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_refuses_everything_gets_each_call_three_times() {
    let (client, served) = client(vec![|_| Does::Refuse]).await;
    assert_eq!(call(&client, ONCE).await.0, Code::Unavailable);
    assert_eq!(calls(&served), [3]);
}

/// Such a client after so many fast responses that a slow one is late.
async fn warmed_up<F>(scripts: Vec<F>) -> (Attempts, Vec<Served>)
where
    F: Fn(usize) -> Does + Send + 'static,
{
    let is_warm = Arc::new(AtomicBool::new(false));
    let scripts = scripts.into_iter().map(|script| {
        let is_warm = is_warm.clone();
        move |call| {
            if is_warm.load(Relaxed) {
                script(call)
            } else {
                Does::Respond(FAST)
            }
        }
    });
    let (client, served) = client(scripts.collect()).await;
    while served.iter().any(|served| served.calls() < 200) {
        let both = [call(&client, IDEMPOTENT), call(&client, IDEMPOTENT)];
        for (code, _) in futures_util::future::join_all(both).await {
            assert_eq!(code, Code::Ok);
        }
    }
    is_warm.store(true, Relaxed);
    (client, served)
}

#[tokio::test(start_paused = true)]
async fn a_late_call_is_hedged_and_the_first_good_response_wins() {
    for bad in [Does::Freeze, Does::Respond(3 * SECOND)] {
        let script = |does: Does| move |_| does;
        let scripts = vec![script(bad), script(Does::Respond(FAST))];
        let (client, _) = warmed_up(scripts).await;
        for _ in 0..50 {
            let (code, took) = call(&client, IDEMPOTENT).await;
            assert_eq!(code, Code::Ok);
            assert_within(0..40, took);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_retry_is_hedged_on_the_replica_that_failed_if_there_is_no_other() {
    let calls = Arc::new(AtomicUsize::new(0));
    let script = |calls: Arc<AtomicUsize>| {
        move |_| match calls.fetch_add(1, Relaxed) {
            0 => UNAVAILABLE,
            1 => Does::Freeze,
            _ => Does::Respond(FAST),
        }
    };
    let (client, _) = warmed_up(vec![script(calls.clone()), script(calls.clone())]).await;
    let (code, took) = call(&client, IDEMPOTENT).await;
    assert_eq!((code, calls.load(Relaxed)), (Code::Ok, 3));
    assert_within(0..300, took);
}

#[tokio::test(start_paused = true)]
async fn a_late_call_that_is_not_idempotent_is_not_hedged() {
    let (client, served) = warmed_up(vec![|_| Does::Respond(SECOND); 2]).await;
    let before: usize = calls(&served).iter().sum();
    assert_within(1_000..1_010, call(&client, ONCE).await.1);
    assert_eq!(calls(&served).iter().sum::<usize>(), before + 1);
    assert_within(1_000..1_010, call(&client, IDEMPOTENT).await.1);
    assert_eq!(calls(&served).iter().sum::<usize>(), before + 3);
}

#[tokio::test(start_paused = true)]
async fn with_one_replica_no_call_is_hedged() {
    let (client, served) = warmed_up(vec![|_| Does::Respond(SECOND)]).await;
    let before = served[0].calls();
    assert_within(1_000..1_010, call(&client, IDEMPOTENT).await.1);
    assert_eq!(served[0].calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_a_share_of_the_calls() {
    let (client, served) = warmed_up(vec![|_| Does::Respond(SECOND); 2]).await;
    let before: usize = calls(&served).iter().sum();
    let many = (0..2_000).map(|_| call(&client, IDEMPOTENT));
    futures_util::future::join_all(many).await;
    let all = calls(&served).iter().sum::<usize>() - before;
    // The budget: at most 100 from before, a fifth of these calls, and ten for the second.
    assert!((2_100..2_650).contains(&all), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_is_not_dead() {
    for slow in [3 * SECOND, 9 * SECOND] {
        let (client, served) = client(vec![move |_| Does::Respond(slow)]).await;
        let (code, took) = call(&client, IDEMPOTENT).await;
        assert_eq!((code, calls(&served)), (Code::Ok, vec![1]));
        assert_eq!(took.as_secs(), slow.as_secs());
        // The first question comes after 0.5 s, and the pauses grow from then on.
        let questions = served[0].health_checks();
        assert!((2..=8).contains(&questions), "{questions}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_is_dead_and_its_calls_go_elsewhere() {
    let script = |does: Does| move |_| does;
    let scripts = vec![script(Does::Freeze), script(Does::Respond(FAST))];
    let (client, served) = client(scripts).await;
    for _ in 0..20 {
        let (code, took) = call(&client, IDEMPOTENT).await;
        assert_eq!(code, Code::Ok);
        assert_within(0..600, took);
    }
    assert!(served[0].calls() <= 3 && served[1].calls() == 20);
}

#[tokio::test(start_paused = true)]
async fn calls_before_the_first_connection_wait_for_it() {
    let balancer = Balancer::new(3 * SECOND, ChannelCounts::default(), Arc::default());
    let mut tasks = JoinSet::new();
    let policy = Arc::<RetryPolicy>::default();
    let budget = Arc::new(Budget::new(&policy));
    let methods = HashMap::new();
    let client = Attempts::new(balancer.clone(), &methods, policy, budget, JoinSet::new());
    let waiting: Vec<_> = (0..1_500)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, ONCE).await.0 })
        })
        .collect();
    sleep(SECOND).await;
    let served = replica(&balancer, &mut tasks, |_| Does::Respond(FAST));
    for call in waiting {
        assert_eq!(call.await.unwrap(), Code::Ok);
    }
    assert_eq!(served.calls(), 1_500);
}

#[tokio::test(start_paused = true)]
async fn a_call_on_a_silent_replica_goes_to_one_that_comes_up_later_and_no_other_kind_does() {
    let (client, mut served) = client(vec![|_| Does::Freeze]).await;
    let (first, once) = (client.clone(), client.clone());
    let first = tokio::spawn(async move { call(&first, IDEMPOTENT).await });
    let once = tokio::spawn(async move { call(&once, ONCE).await });
    sleep(5 * SECOND).await;
    assert!(!first.is_finished());
    let mut tasks = JoinSet::new();
    tasks.spawn(std::future::pending());
    let balancer = &client.0.balancer;
    served.push(replica(balancer, &mut tasks, |_| Does::Respond(FAST)));
    let (code, took) = first.await.unwrap();
    assert_eq!(code, Code::Ok);
    assert_within(5_000..5_100, took);
    // It ends with its connection.
    let (code, took) = once.await.unwrap();
    assert_eq!(code, Code::Unavailable);
    assert_within(20_000..23_000, took);
    assert_eq!(served[1].calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_is_not_silent() {
    // No usual latency is known yet, and the time until a hedge is twice that until silence.
    let (client, served) = client(vec![|_| Does::Respond(499 * FAST / 5); 2]).await;
    let (code, took) = call(&client, IDEMPOTENT).await;
    assert_eq!(code, Code::Ok);
    assert_within(499..500, took);
    assert_eq!(calls(&served).iter().sum::<usize>(), 1);
}
