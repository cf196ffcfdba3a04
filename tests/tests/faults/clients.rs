//! Clients of `common` without service2, for calls that service2 never makes.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use common::client::{self, Channel, Client};
use futures_util::future::join_all;
use prost::Message;
use prost_types::FileDescriptorSet;
use protos::app::grpc::{ProcessNameRequest, service1_client::Service1Client};
use tests::{Fake, Port, wait_for};
use tokio::{
    runtime,
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{Row, SECOND, backend, backend_on, block_on};

pub(crate) const ROWS: &[Row] = &[
    (
        "calls that are not idempotent to servers that refuse 1 of 20 and send GOAWAY every second",
        "0 failed; each is processed once",
        nothing_is_idempotent,
    ),
    (
        "1,000 clients made and dropped",
        "all sockets and tasks are closed",
        clients_are_dropped,
    ),
    (
        "1,500 calls before the first connection",
        "0 failed",
        calls_come_before_the_connection,
    ),
];

/// A channel with the declared idempotency of all methods, or with none.
fn channel(target: &str, is_idempotent: bool) -> Channel {
    #[derive(Parser)]
    struct Config {
        #[command(flatten)]
        client: client::Config,
    }
    let config = Config::parse_from(["faults"]).client;
    let target = target.parse().expect("a target");
    let mut descriptors =
        FileDescriptorSet::decode(protos::FILE_DESCRIPTOR_SET).expect("descriptors");
    if !is_idempotent {
        let files = descriptors.file.iter_mut();
        let methods = files
            .flat_map(|file| &mut file.service)
            .flat_map(|service| &mut service.method);
        methods.for_each(|method| method.options = None);
    }
    Channel::plain(&target, &descriptors.encode_to_vec(), &config, 10 * SECOND)
}

async fn process_name(client: Client) -> Result<(), String> {
    let request = ProcessNameRequest { name: "x".into() };
    let response = Service1Client::new(client).process_name(request).await;
    response.map(drop).map_err(|status| status.to_string())
}

fn nothing_is_idempotent() -> String {
    let fakes = [Fake::going_away(), Fake::going_away()];
    let target = fakes.each_ref().map(|fake| fake.address().to_string());
    let channel = channel(&target.join(","), false);
    let failures = block_on(async {
        let client = channel.connect();
        let mut calls = JoinSet::new();
        let mut ticks = interval(Duration::from_millis(2));
        let end = Instant::now() + 5 * SECOND;
        while Instant::now() < end {
            ticks.tick().await;
            calls.spawn(process_name(client.clone()));
        }
        let outcomes = calls.join_all().await;
        outcomes.into_iter().map(Result::err).collect::<Vec<_>>()
    });
    let failed: Vec<_> = failures.iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:?} of {}", failures.len());
    let refused: usize = fakes.iter().map(Fake::refused).sum();
    let processed: usize = fakes.iter().map(Fake::processed).sum();
    assert!(refused > 100, "{refused}");
    assert_eq!(processed, failures.len(), "each is processed once");
    format!(
        "0 of {} failed, {refused} of them after a refusal",
        failures.len()
    )
}

fn clients_are_dropped() -> String {
    let service1 = backend();
    let channel = channel(&service1.grpc().to_string(), true);
    let open = || service1.metric("connections_open");
    tests::raise_file_limit();
    let before = open();
    let tasks = block_on(async {
        let clients: Vec<_> = (0..1_000).map(|_| channel.connect()).collect();
        let calls = join_all(clients.iter().cloned().map(process_name)).await;
        assert!(calls.iter().all(Result::is_ok), "{calls:?}");
        assert!(open() - before >= 1_000.0, "each has a connection");
        drop(clients);
        let tasks = runtime::Handle::current().metrics();
        let begin = Instant::now();
        while tasks.num_alive_tasks() > 0 && begin.elapsed() < 10 * SECOND {
            sleep(Duration::from_millis(10)).await;
        }
        tasks.num_alive_tasks()
    });
    assert_eq!(tasks, 0, "tasks are left");
    wait_for("all connections to be closed", || {
        (open() <= before).then_some(())
    });
    "all closed".into()
}

fn calls_come_before_the_connection() -> String {
    let port = Port::keep();
    let channel = channel(&port.address().to_string(), true);
    let calls = thread::spawn(move || {
        block_on(async {
            let client = channel.connect();
            join_all((0..1_500).map(|_| process_name(client.clone()))).await
        })
    });
    thread::sleep(SECOND);
    let _service1 = backend_on(&port);
    let calls = calls.join().expect("no panic");
    let failed: Vec<_> = calls
        .iter()
        .filter_map(|call| call.as_ref().err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    format!("0 of {} failed", calls.len())
}
