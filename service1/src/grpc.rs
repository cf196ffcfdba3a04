//! The gRPC face of service1: `app.grpc.Service1` and `api.Api`.

use std::iter;

use common::server::Grpc;
use futures_util::stream;
use protos::{
    api::{
        ApiRequest, Hello, HelloRequest, Item, Items,
        api_server::{self, ApiServer},
    },
    app::grpc::{
        ProcessNameRequest, ProcessNameResponse,
        service1_server::{self, Service1Server},
    },
};
use tonic::{Request, Response, Status};

use crate::{
    faults::Faults,
    items::{self, InvalidLength},
    names::{self, NameTooLong},
};

pub(crate) fn services(faults: Faults) -> Grpc {
    Grpc::new(protos::FILE_DESCRIPTOR_SET)
        .add_service(Service1Server::new(Service1(faults)))
        .add_service(ApiServer::new(Api(faults)))
}

struct Service1(Faults);

#[tonic::async_trait]
impl service1_server::Service1 for Service1 {
    async fn process_name(
        &self,
        request: Request<ProcessNameRequest>,
    ) -> Result<Response<ProcessNameResponse>, Status> {
        self.0.apply(&request).await?;
        let name = names::process_name(&request.into_inner().name)?;
        Ok(Response::new(ProcessNameResponse { name }))
    }
}

struct Api(Faults);

#[tonic::async_trait]
impl api_server::Api for Api {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<Hello>, Status> {
        self.0.apply(&request).await?;
        let message = names::say_hello(&request.into_inner().name)?;
        Ok(Response::new(Hello { message }))
    }

    async fn get_all(&self, request: Request<ApiRequest>) -> Result<Response<Items>, Status> {
        self.0.apply(&request).await?;
        let items = items::get_all(request.into_inner().length)?;
        let items = items.map(Item::from).collect();
        Ok(Response::new(Items { items }))
    }

    // The stream is always ready: tonic fills whole frames, and polls it as fast as the client
    // reads.
    type getStreamStream =
        stream::Iter<iter::Map<items::Stream, fn(items::Item) -> Result<Item, Status>>>;

    async fn get_stream(
        &self,
        request: Request<ApiRequest>,
    ) -> Result<Response<Self::getStreamStream>, Status> {
        self.0.apply(&request).await?;
        let items = items::get_stream(request.into_inner().length)?;
        let message: fn(items::Item) -> _ = |item| Ok(item.into());
        Ok(Response::new(stream::iter(items.map(message))))
    }
}

impl From<items::Item> for Item {
    fn from(items::Item { id, name }: items::Item) -> Self {
        Self { id, name }
    }
}

impl From<NameTooLong> for Status {
    fn from(error: NameTooLong) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<InvalidLength> for Status {
    fn from(error: InvalidLength) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
