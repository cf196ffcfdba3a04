//! Rates, which another service knows, and which Redis keeps for a minute.

use axum::http::StatusCode;
use common::{Problem, context, server::Shared};
use redis::{AsyncCommands, RedisError, aio::ConnectionManager};
use tracing::error;

const KEPT: u64 = 60; // seconds

/// A connection to Redis, which opens itself anew. That and what it reads happens on the runtime that asks,
/// so all threads ask on the runtime of the value.
pub fn cache(url: String) -> Shared<ConnectionManager> {
    Shared::new("cache", move || {
        let client = redis::Client::open(url.as_str());
        async move { ConnectionManager::new(client?).await }
    })
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cache: {0}")]
    Cache(#[from] RedisError),
    #[error("the service of rates: {0}")]
    Service(#[from] reqwest::Error),
}

/// The rates, for one worker.
#[derive(Clone)]
pub struct Rates {
    cache: Shared<ConnectionManager>,
    /// Of this worker: its connections are on the runtime that opened them.
    client: reqwest::Client,
    url: String,
}

impl Rates {
    pub fn new(cache: Shared<ConnectionManager>, url: String) -> Self {
        Self {
            cache,
            client: reqwest::Client::new(),
            url,
        }
    }

    pub async fn get(&self, currency: &str) -> Result<String, Error> {
        let (key, mut cache) = (format!("rate:{currency}"), self.cache.get().clone());
        let read = key.clone();
        let kept = self
            .cache
            .run(async move { cache.get::<_, Option<String>>(read).await });
        if let Some(rate) = kept.await? {
            return Ok(rate);
        }
        let mut request = self.client.get(format!("{}/{currency}", self.url));
        request = request.headers(context::outbound_headers());
        if let Some(left) = context::deadline().and_then(|deadline| deadline.remaining()) {
            request = request.timeout(left);
        }
        let rate = request.send().await?.error_for_status()?.text().await?;
        let (mut cache, written) = (self.cache.get().clone(), rate.clone());
        let keep = self
            .cache
            .run(async move { cache.set_ex::<_, _, ()>(key, written, KEPT).await });
        keep.await?;
        Ok(rate)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        error!(action = "rate", status = "failure", %error);
        Self::new(
            StatusCode::BAD_GATEWAY,
            "The rates can't be had now; try again.",
        )
    }
}
