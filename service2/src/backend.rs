//! Calls service1 over gRPC, in the types of the domain.

use common::{Problem, client::Client};
use futures_util::{Stream, StreamExt, stream};
use protos::{
    api::{self, ApiRequest, HelloRequest, api_client::ApiClient},
    app::grpc::{ProcessNameRequest, service1_client::Service1Client},
};
use tonic::{Request, Status, metadata::MetadataValue};

use crate::{
    failure::Failure,
    greeting::{ProcessName, SayHello},
    items::{Item, Items},
};

/// A client of service1. Clones share its connections, and each makes one call.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    client: Client,
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
        let response = Service1Client::new(self.client)
            .process_name(request)
            .await?;
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
        let response = ApiClient::new(self.client).say_hello(request).await?;
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
        let response = ApiClient::new(self.client)
            .get_stream(ApiRequest { length })
            .await?;
        let mut items = response.into_inner();
        // An error before the first item counts as an error of the call.
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
