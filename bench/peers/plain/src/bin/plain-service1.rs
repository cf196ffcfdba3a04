//! The peer of service1: only tonic's own server, on tokio's default runtime.

use plain::{
    ProcessNameRequest, ProcessNameResponse,
    service1_server::{self, Service1Server},
};
use tonic::{Request, Response, Status, transport::Server};

struct Service1;

#[tonic::async_trait]
impl service1_server::Service1 for Service1 {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        let name = request.into_inner().name.to_uppercase();
        Ok(Response::new(ProcessNameResponse { name }))
    }
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::var("GRPC_PORT")?.parse()?;
    Server::builder()
        .add_service(Service1Server::new(Service1))
        .serve(([127, 0, 0, 1], port).into())
        .await?;
    Ok(())
}
