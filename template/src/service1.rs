//! Calls service1 over gRPC.

use common::client::Client;
use protos::app::grpc::{ProcessNameRequest, service1_client::Service1Client};
use tonic::Status;

use crate::greeting::UpperCase;

impl UpperCase for Client {
    type Error = Status;

    async fn upper_case(self, name: String) -> Result<String, Status> {
        let request = ProcessNameRequest { name };
        let response = Service1Client::new(self).process_name(request).await?;
        Ok(response.into_inner().name)
    }
}

/// A service1 in memory, for the tests of the faces.
#[cfg(test)]
pub(crate) mod fake {
    use std::time::Duration;

    use common::{
        Config,
        client::{self, Channel},
        server::{Grpc, InMemory, Listener},
    };
    use protos::{
        FILE_DESCRIPTOR_SET,
        app::grpc::{
            ProcessNameResponse,
            service1_server::{Service1, Service1Server},
        },
    };
    use tonic::{Request, Response};

    use super::*;

    struct Fake;

    #[tonic::async_trait]
    impl Service1 for Fake {
        async fn process_name(
            &self,
            request: Request<ProcessNameRequest>,
        ) -> Result<Response<ProcessNameResponse>, Status> {
            let name = request.into_inner().name.to_uppercase();
            Ok(Response::new(ProcessNameResponse { name }))
        }
    }

    /// A client of the listener that these faces have.
    pub(crate) fn client_of(descriptors: &'static [u8], grpc: Grpc) -> Client {
        let faces = [Listener::grpc(0, grpc)];
        let service = InMemory::new(&Config::default(), |_process| faces).unwrap();
        let target = "service:1".parse().unwrap();
        let (config, deadline) = (client::Config::default(), Duration::from_secs(10));
        let channel = Channel::plain(&target, descriptors, &config, deadline);
        channel.with_io(service.connect(0))
    }

    /// A client of a service1 that puts names into upper case.
    pub(crate) fn service1() -> Client {
        let grpc = Grpc::new(FILE_DESCRIPTOR_SET).add_service(Service1Server::new(Fake));
        client_of(FILE_DESCRIPTOR_SET, grpc)
    }
}
