//! Each manner by itself.

use std::collections::BTreeMap;

use futures_util::{future::join_all, stream};
use tokio::time::Instant;
use tonic::Code;

use super::{super::Kind, *};

fn reply(call: u64) -> Reply {
    Reply {
        call,
        payload: vec![0; 100],
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_fake_does_as_it_is_told() {
    for manner in [
        Manner::Good,
        Manner::Interim,
        Manner::Split,
        Manner::Padded,
        Manner::TinyFrames,
        Manner::UnknownFrames,
        Manner::SmallWindow,
    ] {
        let trace = Trace::default();
        let mut client = connect(&Character::always(manner), 7, &trace);
        let get = client.get(order(1)).await.expect("a reply");
        assert_eq!(get.into_inner(), reply(1), "{manner:?}");
        let three = Order {
            replies: 3,
            pause_ms: 500,
            ..order(2)
        };
        let begin = Instant::now();
        let list = all(client.list(three).await).await.expect("replies");
        assert_eq!(list, vec![reply(2); 3], "{manner:?}");
        assert!(begin.elapsed() >= Duration::from_secs(1), "{manner:?}");
        let orders = stream::iter(vec![order(3); 5]);
        let send = client.send(orders).await.expect("a reply");
        assert_eq!(send.into_inner(), reply(3), "{manner:?}");
        let orders = stream::iter(vec![order(4); 5]);
        let chat = all(client.chat(orders).await).await.expect("replies");
        assert_eq!(chat, [reply(4)], "{manner:?}");
        let fails = Order {
            code: 9,
            ..order(5)
        };
        let status = client.put(fails).await.expect_err("a status");
        assert_eq!(status.code(), Code::FailedPrecondition, "{manner:?}");
        assert_eq!(processed(&trace), [1, 2, 3, 4, 5], "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_manner_ends_by_the_deadline_and_wholly_faulty_ones_fail() {
    for manner in Manner::ALL.iter().copied() {
        let character = Character::always(manner);
        for seed in 0..8 {
            let trace = Trace::default();
            let mut client = connect(&character, seed, &trace);
            let get = in_time(manner, client.get(order(1))).await;
            let two = Order {
                replies: 2,
                ..order(2)
            };
            let list = in_time(manner, async { all(client.list(two).await).await }).await;
            let put = in_time(manner, client.put(order(3))).await;
            if character.is_wholly_faulty() {
                get.expect_err(manner.name());
                list.expect_err(manner.name());
                put.expect_err(manner.name());
            }
            // No manner lies about what it processed.
            let puts = processed(&trace).iter().filter(|call| **call == 3).count();
            assert!(puts <= 1, "{manner:?} {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fake_with_one_stream_serves_ten_calls() {
    let trace = Trace::default();
    let client = connect(&Character::always(Manner::OneStream), 7, &trace);
    client.clone().get(order(1)).await.expect("a reply");
    let calls = (2..=11).map(|call| {
        let mut client = client.clone();
        async move { client.get(order(call)).await }
    });
    for reply in in_time(Manner::OneStream, join_all(calls)).await {
        reply.expect("a reply");
    }
    assert_eq!(processed(&trace).len(), 11);
}

#[test]
fn each_manner_is_drawn_often() {
    let mut drawn = BTreeMap::new();
    let mut wholly_faulty = 0;
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let character = Character::draw(&mut random);
        wholly_faulty += u32::from(character.is_wholly_faulty());
        for kind in [Kind::Call, Kind::Health, Kind::Connection] {
            for _ in 0..10 {
                let manner = character.next(kind, &mut random);
                *drawn.entry(manner).or_insert(0) += 1;
            }
        }
    }
    for manner in Manner::ALL {
        let times = drawn.get(manner).copied().unwrap_or(0);
        assert!(times >= 30, "{manner:?} is drawn {times} times");
    }
    assert!((400..1_000).contains(&wholly_faulty), "{wholly_faulty}");
}

#[tokio::test(start_paused = true)]
async fn a_seed_gives_the_same_trace_again() {
    let run = async |seed| {
        fastrand::seed(seed); // for the client's pauses
        let trace = Trace::default();
        let mut random = fastrand::Rng::with_seed(seed);
        let character = Character::draw(&mut random);
        let mut client = connect(&character, random.u64(..), &trace);
        for call in 1..=20 {
            let _ = client.put(order(call)).await;
        }
        trace.events()
    };
    for seed in 0..20 {
        assert_eq!(run(seed).await, run(seed).await, "seed {seed}");
    }
}
