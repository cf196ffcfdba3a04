//! The REST face: JSON, and server-sent events.

use std::sync::{Arc, LazyLock};

use axum::{
    BoxError, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::sse::{Event, Sse},
    routing::{get, post},
};
use common::{Problem, metrics::prometheus_client::metrics::counter::Counter};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::{
    parcels::{ask, watch},
    store::{Parcel, Store},
};

/// The route whose responses last until one side ends them.
pub const EVENTS: &str = "/api/v1/parcels/{id}/events";

/// The parcels that were added, for `/metrics`.
pub static ADDED: LazyLock<Counter> = LazyLock::new(Counter::default);

pub fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/api/v1/parcels", post(add))
        .route("/api/v1/parcels/{id}", get(show).put(put))
        .route(EVENTS, get(events))
        .with_state(store)
}

#[derive(Deserialize)]
struct Place {
    place: String,
}

#[derive(Serialize)]
struct Document {
    id: i64,
    place: String,
}

impl From<Parcel> for Document {
    fn from(Parcel { id, place }: Parcel) -> Self {
        Self { id, place }
    }
}

async fn add(
    State(store): State<Arc<Store>>,
    Json(Place { place }): Json<Place>,
) -> Result<(StatusCode, Json<Document>), Problem> {
    let parcel = ask(&store, |store| store.add(place)).await?;
    info!(action = "add", status = "success", parcel = parcel.id);
    ADDED.inc();
    Ok((StatusCode::CREATED, Json(parcel.into())))
}

async fn show(
    State(store): State<Arc<Store>>,
    Path(id): Path<i64>,
) -> Result<Json<Document>, Problem> {
    let parcel = ask(&store, move |store| store.get(id)).await?;
    Ok(Json(parcel.into()))
}

async fn put(
    State(store): State<Arc<Store>>,
    Path(id): Path<i64>,
    Json(Place { place }): Json<Place>,
) -> Result<Json<Document>, Problem> {
    let parcel = ask(&store, move |store| store.put(id, place)).await?;
    info!(action = "put", status = "success", parcel = parcel.id);
    Ok(Json(parcel.into()))
}

async fn events(
    State(store): State<Arc<Store>>,
    Path(id): Path<i64>,
) -> Result<Sse<impl Stream<Item = Result<Event, BoxError>>>, Problem> {
    ask(&store, move |store| store.get(id)).await?; // an unknown parcel has no stream
    let event = |parcel: Result<Parcel, Problem>| match parcel {
        Ok(parcel) => Ok(Event::default().json_data(Document::from(parcel))?),
        Err(problem) => Err(problem.detail().into()),
    };
    Ok(Sse::new(watch(store, id).map(event)))
}
