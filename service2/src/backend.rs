//! Calls service1 over gRPC, in the types of the domain.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use common::{Problem, client::Client};
use futures_util::{Stream, StreamExt, stream};
use protos::{
    api::{self, ApiRequest, HelloRequest, api_client::ApiClient},
    app::grpc::{ProcessNameRequest, service1_client::Service1Client},
};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Request, Status, metadata::MetadataValue};

use crate::{
    failure::Failure,
    greeting::{ProcessName, SayHello},
    items::{Item, Items},
};

/// The most streams that a worker begins at once. A stream begins with as much as its window takes, 128
/// KB, whether or not it is read: behind a thousand of them, a short call would wait for a second.
const BEGINNING: usize = 16;

/// The longest that a stream which has not begun keeps others from beginning: its replica may hang, and
/// another one may not.
const PATIENCE: Duration = Duration::from_millis(50);

/// A client of service1. Clones share its connections, and each makes one call.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    client: Client,
    beginning: Arc<Semaphore>,
    fault: Option<Fault>,
}

/// What service1 does to the first attempt of a greeting, with `FAULTS=on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Delay,
    FailOnce,
}

impl Backend {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            beginning: Arc::new(Semaphore::new(BEGINNING)),
            fault: None,
        }
    }

    /// A backend whose greetings ask for a fault.
    pub(crate) fn with(self, fault: Option<Fault>) -> Self {
        Self { fault, ..self }
    }
}

impl Failure for Status {
    fn is_fault_of_client(&self) -> bool {
        // What the client gets says whose fault it is.
        Problem::from(self.clone()).status().is_client_error()
    }
}

impl ProcessName for Backend {
    type Error = Status;

    async fn process_name(self, name: String) -> Result<String, Status> {
        let request = ProcessNameRequest { name };
        let mut service1 = Service1Client::new(self.client);
        // Boxed, as each future above would move its 1.3 KB.
        let response = Box::pin(service1.process_name(request)).await?;
        Ok(response.into_inner().name)
    }
}

impl SayHello for Backend {
    type Error = Status;

    async fn say_hello(self, name: String) -> Result<String, Status> {
        let mut request = Request::new(HelloRequest { name });
        if let Some(fault) = self.fault {
            let fault = match fault {
                Fault::Delay => "delay",
                Fault::FailOnce => "fail-once",
            };
            let fault = MetadataValue::from_static(fault);
            request.metadata_mut().insert("fault", fault);
        }
        let mut api = ApiClient::new(self.client);
        let response = Box::pin(api.say_hello(request)).await?; // as above
        Ok(response.into_inner().message)
    }
}

impl Items for Backend {
    type Error = Status;

    async fn get_all(self, length: i32) -> Result<Vec<Item>, Status> {
        let response = ApiClient::new(self.client)
            .get_all(ApiRequest { length })
            .await?;
        let items = response.into_inner().items;
        Ok(items.into_iter().map(Item::from).collect())
    }

    async fn get_stream(
        self,
        length: i32,
    ) -> Result<impl Stream<Item = Result<Item, Status>>, Status> {
        let begin = async {
            let response = ApiClient::new(self.client)
                .get_stream(ApiRequest { length })
                .await?;
            let mut items = response.into_inner();
            // An error before the first item counts as an error of the call.
            let first = items.message().await?;
            Ok::<_, Status>(stream::iter(first.map(Ok)).chain(items))
        };
        // Boxed, as the future of a call is large, and a turn moves it.
        let items = in_turn(&self.beginning, Box::pin(begin)).await?;
        Ok(items.map(|item| item.map(Item::from)))
    }
}

/// Does the work when there is room, and makes room for others when it is done, or late.
async fn in_turn<F: Future>(room: &Semaphore, work: F) -> F::Output {
    let turn = room.acquire().await.expect("it is never closed");
    let mut work = pin!(work);
    if let Ok(output) = timeout(PATIENCE, &mut work).await {
        return output;
    }
    drop(turn);
    work.await
}

impl From<api::Item> for Item {
    fn from(api::Item { id, name }: api::Item) -> Self {
        Self { id, name }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, mem::size_of_val};

    use common::client::{self, Channel};
    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::greeting;

    /// Each future above moves it.
    #[tokio::test]
    async fn the_future_of_a_greeting_is_small() {
        let target = "127.0.0.1:1".parse().unwrap(); // nobody listens there
        let (descriptors, config) = (protos::FILE_DESCRIPTOR_SET, client::Config::default());
        let channel = Channel::plain(&target, descriptors, &config, Duration::from_secs(1));
        let greeting = greeting::say_hello(Backend::new(channel.connect()), String::new());
        let size = size_of_val(&greeting);
        assert!(size <= 512, "{size} bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_room_but_not_for_long_for_work_that_hangs() {
        let room = Semaphore::new(2);
        let begin = Instant::now();
        let work = (0..6).map(|_| in_turn(&room, async { sleep(PATIENCE / 2).await }));
        join_all(work).await;
        assert_eq!(begin.elapsed(), PATIENCE / 2 * 3);

        let mut hangs = pin!(join_all((0..4).map(|_| in_turn(&room, pending::<()>()))));
        assert!(timeout(PATIENCE / 2, &mut hangs).await.is_err());
        assert_eq!(room.available_permits(), 0);
        let begin = Instant::now();
        tokio::select! {
            _ = hangs => unreachable!("it hangs"),
            () = in_turn(&room, async {}) => {}
        }
        assert!(begin.elapsed() <= 2 * PATIENCE, "{:?}", begin.elapsed());
    }
}
