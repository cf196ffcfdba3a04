//! The gRPC face.

use common::{Problem, client::Client, server::Grpc};
use tonic::{Request, Response, Status};

use crate::{
    greeting::greet,
    proto::{
        FILE_DESCRIPTOR_SET, GreetRequest, Greeting,
        template_server::{self, TemplateServer},
    },
};

pub(crate) fn services(service1: Client) -> Grpc {
    Grpc::new(FILE_DESCRIPTOR_SET).add_service(TemplateServer::new(Face(service1)))
}

struct Face(Client);

#[tonic::async_trait]
impl template_server::Template for Face {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<Greeting>, Status> {
        let name = request.into_inner().name;
        let text = greet(self.0.clone(), name).await.map_err(Problem::from)?;
        Ok(Response::new(Greeting { text }))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::{
        proto::template_client::TemplateClient,
        service1::fake::{client_of, service1},
    };

    /// A client of the face, in memory.
    fn client() -> TemplateClient<Client> {
        TemplateClient::new(client_of(FILE_DESCRIPTOR_SET, services(service1())))
    }

    #[tokio::test]
    async fn a_name_is_greeted() {
        let name = "test".to_owned();
        let greeting = client().greet(GreetRequest { name }).await.unwrap();
        assert_eq!(greeting.into_inner().text, "Good day, TEST!");
    }

    #[tokio::test]
    async fn a_long_name_is_refused_with_the_limit() {
        let name = "a".repeat(1_001);
        let status = client().greet(GreetRequest { name }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("the limit is 1000"), "{status}");
    }
}
