//! Calls through [`Attempts`] to replicas that follow scripts.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use h2::Reason;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Instant;
use tonic::Code;
use tower::ServiceExt;

use super::*;
use crate::client::{
    fake::{Does, Served, replica},
    pool::Waiting,
};

const SECOND: Duration = Duration::from_secs(1);
const FAST: Duration = Duration::from_millis(5);
const UNAVAILABLE: Does = Does::Fail(Code::Unavailable, None);

const IDEMPOTENT: &str = "/a.Service/Get";
const ONCE: &str = "/a.Service/Create";
const STREAM: &str = "/a.Service/Chat";

/// A client with a replica for each script, and what each replica has served. All are up.
async fn client<F>(scripts: Vec<F>) -> (Attempts, Vec<Served>)
where
    F: Fn(usize) -> Does + Send + 'static,
{
    let count = scripts.len();
    let balance = Balance::new(3 * SECOND, Waiting::default());
    let mut tasks = JoinSet::new();
    let served = scripts
        .into_iter()
        .map(|script| replica(&balance, &mut tasks, script));
    let served = served.collect();
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
    let client = Attempts::new(balance.clone(), &methods, budget, tasks);
    while balance.count_up() < count {
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
    let (client, served) = client(vec![script(), script()]).await;
    let (code, took) = call(&client, IDEMPOTENT).await;
    assert_eq!((code, calls(&served)), (Code::Ok, vec![1, 1]));
    assert_within(12..60, took);
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

#[tokio::test(start_paused = true)]
async fn only_failures_that_may_pass_are_retried() {
    for reason in [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let (client, served) = client(vec![move |_| Does::Reset(reason)]).await;
        call(&client, IDEMPOTENT).await;
        assert_eq!(calls(&served), [1], "{reason}");
    }
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
async fn a_replica_that_refuses_everything_gets_each_call_twice() {
    let (client, served) = client(vec![|_| Does::Refuse]).await;
    assert_eq!(call(&client, ONCE).await.0, Code::Unavailable);
    // The resend does not count as an attempt, and three attempts are the limit.
    assert_eq!(calls(&served), [4]);
}

/// Such a client after so many fast responses that a slow one is late.
async fn warmed_up<F>(scripts: Vec<F>) -> (Attempts, Vec<Served>)
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
    let (client, served) = client(scripts.collect()).await;
    while served.iter().any(|served| served.calls() < 200) {
        let both = [call(&client, IDEMPOTENT), call(&client, IDEMPOTENT)];
        for (code, _) in futures_util::future::join_all(both).await {
            assert_eq!(code, Code::Ok);
        }
    }
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
        let questions = served[0].questions();
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
        // No usual latency is known yet, so only the question helps.
        assert_within(0..1_600, took);
    }
    assert_eq!((served[0].calls(), served[1].calls()), (1, 20));
}

#[tokio::test(start_paused = true)]
async fn calls_before_the_first_connection_wait_for_it() {
    let balance = Balance::new(3 * SECOND, Waiting::default());
    let mut tasks = JoinSet::new();
    let budget = Arc::new(Budget::new());
    let methods = HashMap::new();
    let client = Attempts::new(balance.clone(), &methods, budget, JoinSet::new());
    let waiting: Vec<_> = (0..1_500)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, ONCE).await.0 })
        })
        .collect();
    sleep(SECOND).await;
    let served = replica(&balance, &mut tasks, |_| Does::Respond(FAST));
    for call in waiting {
        assert_eq!(call.await.unwrap(), Code::Ok);
    }
    assert_eq!(served.calls(), 1_500);
}
