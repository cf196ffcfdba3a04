//! service1, as seen from service2: its gRPC calls in the domain's own types.

use common::client::Client;
use futures_util::{Stream, StreamExt, stream};
use protos::{
    api::{self, ApiRequest, HelloRequest, api_client::ApiClient},
    app::grpc::{ProcessNameRequest, service1_client::Service1Client},
};
use tonic::Status;

use crate::{
    greeting::{ProcessName, SayHello},
    items::{Item, Items},
};

/// A handle on the channel to service1; clones share the connection, and each makes one call.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    channel: Client,
}

impl Backend {
    pub(crate) fn new(channel: Client) -> Self {
        Self { channel }
    }

    fn service1(self) -> Service1Client<Client> {
        Service1Client::new(self.channel)
    }

    fn api(self) -> ApiClient<Client> {
        ApiClient::new(self.channel)
    }
}

impl ProcessName for Backend {
    type Error = Status;

    async fn process_name(self, name: String) -> Result<String, Status> {
        let request = ProcessNameRequest { name };
        let answer = self.service1().process_name(request).await?;
        Ok(answer.into_inner().name)
    }
}

impl SayHello for Backend {
    type Error = Status;

    async fn say_hello(self, name: String) -> Result<String, Status> {
        let answer = self.api().say_hello(HelloRequest { name }).await?;
        Ok(answer.into_inner().message)
    }
}

impl Items for Backend {
    type Error = Status;

    async fn get_all(self, length: i32) -> Result<Vec<Item>, Status> {
        let answer = self.api().get_all(ApiRequest { length }).await?;
        let items = answer.into_inner().items;
        Ok(items.into_iter().map(Item::from).collect())
    }

    async fn get_stream(
        self,
        length: i32,
    ) -> Result<impl Stream<Item = Result<Item, Status>>, Status> {
        let answer = self.api().get_stream(ApiRequest { length }).await?;
        let mut items = answer.into_inner();
        // A refusal comes in the place of the first item.
        let first = items.message().await?;
        Ok(stream::iter(first.map(Ok))
            .chain(items)
            .map(|item| item.map(Item::from)))
    }
}

impl From<api::Item> for Item {
    fn from(api::Item { id, name }: api::Item) -> Self {
        Self { id, name }
    }
}
