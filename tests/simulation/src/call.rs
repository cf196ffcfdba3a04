//! [`Plan`]: one call, what its client does with it, and what came of it.

use std::time::Duration;

use common::{Context, Deadline, client::Client};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status, Streaming};

use crate::{
    proto::{Order, Reply, simulated_client::SimulatedClient},
    service::id_of,
    trace::{Event, Trace},
};

/// A method of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Unary, idempotent.
    Get,
    /// Unary, not idempotent.
    Put,
    /// One order, many replies, idempotent.
    List,
    /// Many orders, one reply.
    Send,
    /// Many orders, and a reply to each.
    Chat,
    /// Unary, not idempotent, and slow on every replica.
    Work,
}

impl Method {
    /// Whether it is declared idempotent.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::List)
    }
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is called.
    pub method: Method,
    /// What it is to do.
    pub order: Order,
    /// The time that it has.
    pub deadline: Duration,
    /// The time after which its client drops it.
    pub gives_up: Option<Duration>,
    /// The number of orders that a stream sends, and the time between two of them.
    pub orders: (u32, Duration),
    /// The time that the client takes for each reply.
    pub reads_for: Duration,
    /// The process that makes it, while it makes calls at random times.
    pub client: Option<usize>,
    /// The worker that makes it, in the phase of equal calls.
    pub worker: Option<usize>,
    /// Whether its client knows one replica only.
    pub is_of_stranger: bool,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded, with so many replies.
    Good(u32),
    /// It failed.
    Failed(Code, String),
    /// It failed after its response had begun.
    BrokeOff(Code, String),
    /// Its client dropped it.
    GivenUp,
}

impl Plan {
    /// A unary call of nothing in particular.
    pub fn simple(method: Method, call: u64) -> Self {
        Self {
            method,
            order: Order {
                call,
                ..Order::default()
            },
            deadline: Duration::from_secs(10),
            gives_up: None,
            orders: (1, Duration::ZERO),
            reads_for: Duration::ZERO,
            client: None,
            worker: None,
            is_of_stranger: false,
        }
    }

    /// A call as some client may make it.
    pub fn draw(call: u64, random: &mut fastrand::Rng) -> Self {
        let method = match random.u8(..20) {
            0..10 => Method::Get,
            10..14 => Method::Put,
            14..17 => Method::List,
            17..19 => Method::Send,
            _ => Method::Chat,
        };
        let mut plan = Self::simple(method, call);
        let order = &mut plan.order;
        order.delay_ms = match random.u8(..20) {
            0..12 => 0,
            12..19 => random.u32(1..100),
            _ => random.u32(100..5_000),
        };
        order.code = match random.u8(..40) {
            0 => random.u32(1..17),
            _ => 0,
        };
        order.bytes = match random.u8(..10) {
            0..8 => random.u32(..64),
            8 => random.u32(..10_000),
            _ => random.u32(..200_000),
        };
        if method == Method::List {
            order.replies = random.u32(1..8);
            order.pause_ms = if random.bool() { 0 } else { random.u32(..500) };
        }
        if matches!(method, Method::Send | Method::Chat) {
            let pause = if random.bool() { 0 } else { random.u64(..500) };
            plan.orders = (random.u32(1..6), Duration::from_millis(pause));
            order.delay_ms = order.delay_ms.min(500);
        }
        plan.deadline = Duration::from_millis(match random.u8(..10) {
            0 => random.u64(1..100),
            1..4 => random.u64(100..2_000),
            _ => random.u64(2_000..10_000),
        });
        if random.u8(..20) == 0 {
            plan.gives_up = Some(Duration::from_millis(random.u64(..3_000)));
        }
        if random.u8(..10) == 0 {
            plan.reads_for = Duration::from_millis(random.u64(..1_000));
        }
        plan
    }

    /// The same, but whatever fails is the fault of the service.
    #[must_use]
    pub fn well_behaved(self) -> Self {
        let usual = Self::simple(self.method, self.order.call);
        Self {
            order: Order {
                delay_ms: 0,
                code: 0,
                ..self.order
            },
            deadline: usual.deadline,
            gives_up: None,
            ..self
        }
    }

    /// Makes the call, and notes what comes of it.
    pub async fn run(self, client: Client, trace: Trace) -> Outcome {
        let call = self.order.call;
        trace.note(Event::Begin(self.clone()));
        let begin = trace.now();
        let id = id_of(call).parse().expect("it is an id");
        let context = Context::new(id, Deadline::after(self.deadline));
        let (gives_up, deadline) = (self.gives_up, self.deadline);
        let reading = self.reads_for * (self.order.replies + self.orders.0);
        let making = context.scope(self.make(SimulatedClient::new(client), trace.clone()));
        let outcome = match gives_up {
            Some(time) => timeout(time, making).await.unwrap_or(Outcome::GivenUp),
            None => making.await,
        };
        let took = trace.since(begin);
        trace.note(Event::End {
            call,
            outcome: outcome.clone(),
        });
        if took > deadline + GRACE + reading {
            trace.violation(format!("call {call} took {took:?} of {deadline:?}"));
        }
        outcome
    }

    async fn make(self, mut client: SimulatedClient<Client>, trace: Trace) -> Outcome {
        let end = match self.method {
            Method::Get => self.one(client.get(self.order).await, &trace),
            Method::Put => self.one(client.put(self.order).await, &trace),
            Method::Work => self.one(client.work(self.order).await, &trace),
            Method::Send => self.one(client.send(self.orders()).await, &trace),
            Method::List => match client.list(self.order).await {
                Ok(response) => return self.read(response.into_inner(), &trace).await,
                Err(status) => Err(status),
            },
            Method::Chat => match client.chat(self.orders()).await {
                Ok(response) => return self.read(response.into_inner(), &trace).await,
                Err(status) => Err(status),
            },
        };
        match end {
            Ok(replies) => Outcome::Good(replies),
            Err(status) => Outcome::Failed(status.code(), status.message().to_owned()),
        }
    }

    fn orders(&self) -> Request<impl Stream<Item = Order> + Send + 'static> {
        let (order, (count, pause)) = (self.order, self.orders);
        Request::new(stream::iter(0..count).then(move |number| async move {
            if number > 0 && !pause.is_zero() {
                sleep(pause).await;
            }
            order
        }))
    }

    /// Checks the only reply.
    fn one(
        &self,
        response: Result<tonic::Response<Reply>, Status>,
        trace: &Trace,
    ) -> Result<u32, Status> {
        let reply = response?.into_inner();
        self.check(&reply, trace);
        Ok(1)
    }

    async fn read(&self, mut replies: Streaming<Reply>, trace: &Trace) -> Outcome {
        let mut count = 0;
        loop {
            match replies.message().await {
                Ok(Some(reply)) => self.check(&reply, trace),
                Ok(None) => return Outcome::Good(count),
                Err(status) => {
                    return Outcome::BrokeOff(status.code(), status.message().to_owned());
                }
            }
            count += 1;
            if !self.reads_for.is_zero() {
                sleep(self.reads_for).await;
            }
        }
    }

    /// A reply is that of this call. What a fake sends may be taken for a reply without a number.
    fn check(&self, reply: &Reply, trace: &Trace) {
        let call = self.order.call;
        let expected = self.order.bytes as usize;
        if reply.call != 0 && (reply.call != call || reply.payload.len() != expected) {
            let (of, bytes) = (reply.call, reply.payload.len());
            trace.violation(format!("call {call} got a reply to {of} of {bytes} bytes"));
        }
    }
}

/// The time that a call may take beyond its deadline, beside that in which its client reads what it has.
const GRACE: Duration = Duration::from_millis(5);
