//! The gRPC face.

use common::{Problem, server::Grpc};
use tonic::{Request, Response, Status};

use crate::{
    greeting::greet,
    proto::{
        FILE_DESCRIPTOR_SET, GreetRequest, Greeting,
        template_server::{self, TemplateServer},
    },
};

pub(crate) fn services() -> Grpc {
    Grpc::new(FILE_DESCRIPTOR_SET).add_service(TemplateServer::new(Template))
}

struct Template;

#[tonic::async_trait]
impl template_server::Template for Template {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<Greeting>, Status> {
        let text = greet(&request.into_inner().name).map_err(Problem::from)?;
        Ok(Response::new(Greeting { text }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::{
        Config,
        client::{self, Channel, Client},
        server::{InMemory, Listener},
    };
    use tonic::Code;

    use super::*;
    use crate::proto::template_client::TemplateClient;

    /// A client of the face, in memory.
    fn client() -> TemplateClient<Client> {
        let faces = [Listener::grpc(0, services())];
        let service = InMemory::new(&Config::default(), |_process| faces).unwrap();
        let target = "template:1".parse().unwrap();
        let (config, deadline) = (client::Config::default(), Duration::from_secs(10));
        let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, deadline);
        TemplateClient::new(channel.with_io(service.connect(0)))
    }

    #[tokio::test]
    async fn a_name_is_greeted() {
        let name = "test".to_owned();
        let greeting = client().greet(GreetRequest { name }).await.unwrap();
        assert_eq!(greeting.into_inner().text, "Good day, test!");
    }

    #[tokio::test]
    async fn a_long_name_is_refused_with_the_limit() {
        let name = "a".repeat(1_001);
        let status = client().greet(GreetRequest { name }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("the limit is 1000"), "{status}");
    }
}
