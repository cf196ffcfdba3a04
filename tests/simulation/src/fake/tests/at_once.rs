//! Many calls at once to a fake of any character.

use fastrand::Rng;
use futures_util::{future::join_all, stream};
use tokio::time::sleep;

use super::*;

const SEEDS: u64 = 30;

/// The methods of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Put,
    List,
    Send,
    Chat,
}

/// A call, and what became of it.
#[derive(Debug)]
struct Call {
    method: Method,
    order: Order,
    begin: Duration,
    /// When the caller gives up, if it does before the deadline.
    patience: Option<Duration>,
}

impl Call {
    fn draw(call: u64, random: &mut Rng) -> Self {
        let methods = [
            Method::Get,
            Method::Put,
            Method::List,
            Method::Send,
            Method::Chat,
        ];
        let method = methods[random.usize(..methods.len())];
        let is_streamed = matches!(method, Method::List | Method::Chat);
        let order = Order {
            call,
            delay_ms: random.u32(..500),
            replies: if is_streamed { random.u32(..4) } else { 0 },
            pause_ms: random.u32(..300),
            bytes: [0, 100, 10_000, 200_000][random.usize(..4)],
            code: 0,
        };
        let gives_up = random.u8(..5) == 0;
        Self {
            method,
            order,
            begin: Duration::from_millis(random.u64(..5_000)),
            patience: gives_up.then(|| Duration::from_millis(random.u64(..2_000))),
        }
    }

    /// Makes the call. There is no outcome if its caller gave up.
    async fn make(
        &self,
        mut client: SimulatedClient<Client>,
    ) -> Option<Result<Vec<Reply>, Status>> {
        sleep(self.begin).await;
        let order = self.order;
        let orders = stream::iter([order; 3]);
        let one = |reply: Response<Reply>| vec![reply.into_inner()];
        let call = async {
            match self.method {
                Method::Get => client.get(order).await.map(one),
                Method::Put => client.put(order).await.map(one),
                Method::Send => client.send(orders).await.map(one),
                Method::List => all(client.list(order).await).await,
                Method::Chat => all(client.chat(orders).await).await,
            }
        };
        match self.patience {
            Some(patience) => timeout(patience, call).await.ok(),
            None => Some(in_time(self, call).await),
        }
    }

    /// Whether these are the replies that the order asks for.
    fn is_whole(&self, replies: &[Reply]) -> bool {
        let is_ordered = |reply: &Reply| {
            reply.call == self.order.call && reply.payload.len() == self.order.bytes as usize
        };
        replies.len() == self.order.replies.max(1) as usize && replies.iter().all(is_ordered)
    }
}

/// Whether the replica did something with a call that alters its success.
fn is_altered(trace: &Trace, number: u64) -> bool {
    let alters = |what: &str| {
        let manner = Manner::ALL.iter().find(|manner| manner.name() == what);
        manner.is_some_and(|manner| manner.alters_success())
    };
    trace.events().iter().any(|(_, event)| match event {
        Event::Does { call, what, .. } => *call == number && alters(what),
        _ => false,
    })
}

#[tokio::test(start_paused = true)]
async fn calls_to_any_fake_end_in_time_are_processed_once_and_succeed_as_a_whole() {
    for seed in 0..SEEDS {
        fastrand::seed(seed); // for the client's pauses
        let mut random = Rng::with_seed(seed);
        let trace = Trace::default();
        let character = Character::draw(&mut random);
        let client = connect(&character, random.u64(..), &trace);
        let calls: Vec<_> = (1..=50).map(|call| Call::draw(call, &mut random)).collect();
        let outcomes = join_all(calls.iter().map(|call| call.make(client.clone()))).await;
        let processed = processed(&trace);
        for (call, outcome) in calls.iter().zip(outcomes) {
            let number = call.order.call;
            let times = processed.iter().filter(|call| **call == number).count();
            let is_idempotent = matches!(call.method, Method::Get | Method::List);
            assert!(is_idempotent || times <= 1, "seed {seed}: {call:?} {times}");
            if let Some(Ok(replies)) = outcome {
                assert!(times > 0, "seed {seed}: {call:?} was not processed");
                assert!(!character.is_wholly_faulty(), "seed {seed}: {call:?}");
                let is_whole = call.is_whole(&replies) || is_altered(&trace, number);
                assert!(is_whole, "seed {seed}: {call:?} {}", replies.len());
            }
        }
    }
}
