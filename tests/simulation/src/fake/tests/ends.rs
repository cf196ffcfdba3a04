//! A replica each of whose calls ends its connection, beside one that is well.

use std::{net::IpAddr, sync::Arc};

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    network::{Name, Network},
    random::Shared as Random,
    replica::{Kind, Replica},
};

/// A channel to replicas with these manners, one on each host.
fn channel(manners: &[Manner], trace: &Trace) -> Channel {
    let random = Random::new(7);
    let network = Network::new(random.clone());
    let host = |number: usize| IpAddr::from([10, 0, 0, u8::try_from(number).expect("few")]);
    let replicas = manners.iter().enumerate().map(|(number, manner)| {
        let address = (host(number + 1), 50_051).into();
        let kind = Kind::Fake(Character::always(*manner));
        Replica::new(number, address, kind, &network, trace, &random).start();
        address
    });
    network.set_name("replicas", Name::Is(replicas.collect()));
    let config = Config {
        network: Some(Arc::new(network.of_host(host(100)))),
        ..Config::default()
    };
    let target = "replicas:50051".parse().expect("a host and a port");
    Channel::plain(&target, DESCRIPTORS, &config, DEADLINE)
}

/// However seldom the calls come, and on however many workers.
#[tokio::test(start_paused = true)]
async fn calls_that_may_not_be_sent_again_fail_a_few_times_and_not_for_ever() {
    fastrand::seed(7); // the picks of the client: how many calls meet the bad replica is chance
    for manner in [
        Manner::Close,
        Manner::CloseInFrame,
        Manner::CloseAfterHead,
        Manner::BrokenContinuation,
    ] {
        for (workers, pause) in [(1, 2_000), (4, 1_000)] {
            let trace = Trace::default();
            let channel = channel(&[Manner::Good, manner, Manner::Good], &trace);
            let mut workers: Vec<_> = (0..workers)
                .map(|_| SimulatedClient::new(channel.connect()))
                .collect();
            let count = workers.len();
            let (mut failed, begin) = (Vec::new(), Instant::now());
            for call in 0..200 {
                let client = &mut workers[call % count];
                let number = u64::try_from(call).expect("few");
                if client.put(order(number)).await.is_err() {
                    failed.push(call);
                }
                sleep(Duration::from_millis(pause)).await;
            }
            let what = format!("{manner:?} on {count} workers, each {pause} ms: {failed:?}");
            assert!(!failed.is_empty(), "{what}");
            // Until it is known, and after each health check that takes the place of a trial.
            let trials = usize::try_from(begin.elapsed().as_secs() / 24).expect("few");
            assert!(failed.len() <= 15 + trials, "{what}");
        }
    }
}
