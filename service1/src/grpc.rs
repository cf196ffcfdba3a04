//! The gRPC face of service1: `app.grpc.Service1`.

use axum::Router;
use common::server::{Grpc, Worker};
use protos::app::grpc::{
    ProcessNameRequest, ProcessNameResponse,
    service1_server::{self, Service1Server},
};
use tonic::{Request, Response, Status};

use crate::names;

pub(crate) fn router(worker: &Worker) -> Router {
    Grpc::new(protos::FILE_DESCRIPTOR_SET)
        .add_service(Service1Server::new(Service1))
        .into_router(worker)
}

struct Service1;

#[tonic::async_trait]
impl service1_server::Service1 for Service1 {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        let name = names::process_name(&request.into_inner().name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(ProcessNameResponse { name }))
    }
}
