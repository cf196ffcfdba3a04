//! The gRPC face.

use std::{pin::Pin, sync::Arc};

use common::server::Grpc;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::{
    parcels::{ask, watch},
    proto::{
        FILE_DESCRIPTOR_SET, Id, Parcel,
        parcels_server::{self, ParcelsServer},
    },
    store::{self, Store},
};

pub fn services(store: Arc<Store>) -> Grpc {
    Grpc::new(FILE_DESCRIPTOR_SET).add_service(ParcelsServer::new(Parcels(store)))
}

struct Parcels(Arc<Store>);

#[tonic::async_trait]
impl parcels_server::Parcels for Parcels {
    async fn get(&self, request: Request<Id>) -> Result<Response<Parcel>, Status> {
        let id = request.into_inner().id;
        let parcel = ask(&self.0, move |store| store.get(id)).await?;
        Ok(Response::new(parcel.into()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Parcel, Status>> + Send>>;

    async fn watch(&self, request: Request<Id>) -> Result<Response<Self::WatchStream>, Status> {
        let parcels = watch(self.0.clone(), request.into_inner().id);
        let messages = parcels.map(|parcel| Ok(parcel?.into()));
        Ok(Response::new(Box::pin(messages)))
    }
}

impl From<store::Parcel> for Parcel {
    fn from(store::Parcel { id, place }: store::Parcel) -> Self {
        Self { id, place }
    }
}
