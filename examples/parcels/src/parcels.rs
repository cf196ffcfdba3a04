//! What both faces do with the store: they ask it on a thread that may block, and turn its errors
//! into problems.

use std::sync::Arc;

use axum::http::StatusCode;
use common::{Problem, context};
use futures_util::{Stream, StreamExt, stream};
use tracing::error;

use crate::store::{Error, Parcel, Store};

/// Asks the store, on a thread that may block.
pub async fn ask<T: Send + 'static>(
    store: &Arc<Store>,
    question: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
) -> Result<T, Problem> {
    let store = store.clone();
    let answer = context::spawn_blocking(move || question(&store)).await;
    Ok(answer.expect("no query panics")?)
}

/// A parcel, now and after each move, until it is removed or the service drains.
pub fn watch(store: Arc<Store>, id: i64) -> impl Stream<Item = Result<Parcel, Problem>> {
    let mut moves = store.moves();
    moves.mark_changed(); // the first is where the parcel is now
    let parcels = stream::unfold(
        (store, moves, None),
        move |(store, mut moves, last)| async move {
            loop {
                moves.changed().await.ok()?;
                let parcel = ask(&store, move |store| store.get(id)).await;
                match parcel {
                    Ok(parcel) if Some(&parcel) == last.as_ref() => {} // another one moved
                    Ok(parcel) => return Some((Ok(parcel.clone()), (store, moves, Some(parcel)))),
                    Err(problem) => return Some((Err(problem), (store, moves, None))),
                }
            }
        },
    );
    parcels.take_until(Box::pin(context::draining()))
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Unknown(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            Error::Place(_) => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
            Error::Database(error) => {
                error!(action = "database", status = "failure", %error);
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "The parcels can't be read now; report it with the request_id.",
                )
            }
        }
    }
}
