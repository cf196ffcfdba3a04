//! service1, as seen from service2: its gRPC calls in the domain's own types.

use common::client::Client;
use protos::app::grpc::{ProcessNameRequest, service1_client::Service1Client};
use tonic::Status;

use crate::greeting::ProcessName;

/// A handle on the channel to service1; clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    service1: Service1Client<Client>,
}

impl Backend {
    pub(crate) fn new(channel: Client) -> Self {
        Self {
            service1: Service1Client::new(channel),
        }
    }
}

impl ProcessName for Backend {
    type Error = Status;

    async fn process_name(&self, name: String) -> Result<String, Status> {
        let answer = self
            .service1
            .clone()
            .process_name(ProcessNameRequest { name })
            .await?;
        Ok(answer.into_inner().name)
    }
}
