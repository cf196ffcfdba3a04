//! REST.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use common::Problem;
use tracing::{error, info};

use crate::{
    rates::Rates,
    store::{Account, Error, Store, Transfer},
};

pub fn router(store: Store, rates: Rates) -> Router {
    Router::new()
        .route("/api/v1/accounts/{id}", get(account))
        .route("/api/v1/transfers", post(transfer))
        .with_state(store)
        .route("/api/v1/rates/{currency}", get(rate).with_state(rates))
}

async fn account(
    State(store): State<Store>,
    Path(id): Path<i64>,
) -> Result<Json<Account>, Problem> {
    Ok(Json(store.account(id).await?))
}

async fn transfer(
    State(store): State<Store>,
    Json(transfer): Json<Transfer>,
) -> Result<StatusCode, Problem> {
    store.transfer(transfer).await?;
    info!(
        action = "transfer",
        status = "success",
        amount = transfer.amount
    );
    Ok(StatusCode::CREATED)
}

async fn rate(State(rates): State<Rates>, Path(currency): Path<String>) -> Result<String, Problem> {
    Ok(rates.get(&currency).await?)
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Unknown(_) => StatusCode::NOT_FOUND,
            Error::Funds(..) => StatusCode::CONFLICT,
            Error::Database(error) => {
                error!(action = "database", status = "failure", %error);
                let problem = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The ledger can't be reached now; try again.",
                );
                return problem.retry_after(Duration::from_secs(1));
            }
        };
        Self::new(status, error.to_string())
    }
}
