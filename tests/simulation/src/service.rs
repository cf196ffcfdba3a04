//! [`Service`]: the service of the simulation as a handler of `tonic`, for replicas that are our server.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::context;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    lock,
    proto::{Order, Reply, simulated_server},
    random::Shared as Random,
    trace::{Event, Trace},
};

/// How the handlers of a replica are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Health {
    /// The time that each call takes in addition.
    pub slow: Duration,
    /// The share of the calls that fail, and their code.
    pub fails: (f64, Option<Code>),
    /// When a call that fails may be made again.
    pub pushback: Option<Duration>,
    /// Whether calls never end.
    pub hangs: bool,
}

/// The handlers of one replica. Clones share their state.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) replica: usize,
    pub(crate) health: Arc<Mutex<Health>>,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
}

/// The id of the request that is a call.
pub fn id_of(call: u64) -> String {
    format!("call-{call}")
}

/// The reply to an order.
pub fn reply_to(order: &Order) -> Reply {
    let byte = order.call.to_le_bytes()[0];
    Reply {
        call: order.call,
        payload: vec![byte; order.bytes as usize],
    }
}

impl Service {
    /// Notes that a call is processed.
    fn begin(&self, order: &Order) {
        self.trace.note(Event::Processed {
            call: order.call,
            replica: self.replica,
        });
        self.check_id(order);
    }

    fn check_id(&self, order: &Order) {
        let id = context::with_request_id(str::to_owned);
        if id != id_of(order.call) {
            let call = order.call;
            self.trace
                .violation(format!("call {call} has the id {id:?}"));
        }
    }

    async fn work(&self, order: &Order) -> Result<Reply, Status> {
        let health = *lock(&self.health);
        if health.hangs {
            std::future::pending::<()>().await;
        }
        let time = Duration::from_millis(order.delay_ms.into()) + health.slow;
        if !time.is_zero() {
            sleep(time).await;
        }
        self.check_id(order);
        if let (share, Some(code)) = health.fails
            && self.random.fraction() < share
        {
            let mut status = Status::new(code, "the replica fails");
            if let Some(pushback) = health.pushback {
                let millis = u64::try_from(pushback.as_millis()).expect("it is short");
                status
                    .metadata_mut()
                    .insert("grpc-retry-pushback-ms", millis.into());
            }
            return Err(status);
        }
        status_of(order).map(|()| reply_to(order))
    }
}

fn status_of(order: &Order) -> Result<(), Status> {
    match order.code {
        0 => Ok(()),
        code => Err(Status::new(
            Code::from(code.cast_signed()),
            "as it was told",
        )),
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

#[tonic::async_trait]
impl simulated_server::Simulated for Service {
    async fn get(&self, request: Request<Order>) -> Result<Response<Reply>, Status> {
        let order = request.into_inner();
        self.begin(&order);
        self.work(&order).await.map(Response::new)
    }

    async fn put(&self, request: Request<Order>) -> Result<Response<Reply>, Status> {
        self.get(request).await
    }

    async fn work(&self, request: Request<Order>) -> Result<Response<Reply>, Status> {
        self.get(request).await
    }

    type ListStream = Replies;

    async fn list(&self, request: Request<Order>) -> Result<Response<Replies>, Status> {
        let order = request.into_inner();
        self.begin(&order);
        let first = Order { code: 0, ..order };
        self.work(&first).await?;
        let this = self.clone();
        let replies = stream::iter(0..order.replies).then(move |number| {
            let this = this.clone();
            async move {
                if number > 0 && order.pause_ms > 0 {
                    sleep(Duration::from_millis(order.pause_ms.into())).await;
                }
                this.check_id(&order);
                Ok(reply_to(&order))
            }
        });
        let end = stream::iter(status_of(&order).err().map(Err));
        Ok(Response::new(replies.chain(end).boxed()))
    }

    async fn send(&self, request: Request<Streaming<Order>>) -> Result<Response<Reply>, Status> {
        let mut orders = request.into_inner();
        let mut last = None;
        while let Some(order) = orders.message().await? {
            if last.is_none() {
                self.begin(&order);
            }
            last = Some(order);
        }
        let order = last.ok_or_else(|| Status::invalid_argument("no order"))?;
        self.work(&order).await.map(Response::new)
    }

    type ChatStream = Replies;

    async fn chat(&self, request: Request<Streaming<Order>>) -> Result<Response<Replies>, Status> {
        let this = self.clone();
        let mut is_first = true;
        let replies = request.into_inner().then(move |order| {
            if let Ok(order) = &order
                && std::mem::take(&mut is_first)
            {
                this.begin(order);
            }
            let this = this.clone();
            async move { this.work(&order?).await }
        });
        Ok(Response::new(replies.boxed()))
    }
}
