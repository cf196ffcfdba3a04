//! The client of `common` against fakes, in simulated time.

mod at_once;
mod closing;
mod ends;
mod manners;

use std::time::Duration;

use common::client::{Channel, Client, Config};
use futures_util::TryStreamExt;
use tokio::{io::duplex, time::timeout};
use tonic::{Response, Status, Streaming};

use super::{Character, Manner, serve};
use crate::{
    proto::{DESCRIPTORS, Order, Reply, simulated_client::SimulatedClient},
    trace::{Event, Trace},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A client of a fake, over one connection.
fn connect(character: &Character, seed: u64, trace: &Trace) -> SimulatedClient<Client> {
    let (ours, theirs) = duplex(16 * 1_024);
    let random = fastrand::Rng::with_seed(seed);
    tokio::spawn(serve(theirs, 0, character.clone(), random, trace.clone()));
    let target = "service:50051".parse().expect("a host and a port");
    let channel = Channel::plain(&target, DESCRIPTORS, &Config::default(), DEADLINE);
    SimulatedClient::new(channel.with_io(ours))
}

fn order(call: u64) -> Order {
    Order {
        call,
        delay_ms: 20,
        bytes: 100,
        ..Order::default()
    }
}

/// All replies of a stream, up to the first error: tonic repeats that of a message that can't be
/// decoded without end.
async fn all(replies: Result<Response<Streaming<Reply>>, Status>) -> Result<Vec<Reply>, Status> {
    replies?.into_inner().try_collect().await
}

/// The calls that were processed.
fn processed(trace: &Trace) -> Vec<u64> {
    let call = |(_, event)| match event {
        Event::Processed { call, .. } => Some(call),
        _ => None,
    };
    trace.events().into_iter().filter_map(call).collect()
}

/// Waits for the end of a call, which is there a second after its deadline.
async fn in_time<T>(what: impl std::fmt::Debug, call: impl Future<Output = T>) -> T {
    let outcome = timeout(DEADLINE + Duration::from_secs(1), call).await;
    outcome.unwrap_or_else(|_| panic!("{what:?}: the call outlives its deadline"))
}
