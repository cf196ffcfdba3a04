//! Lists the items of the backend: all at once, or one by one as they come.

use std::future::Future;

use futures_util::{Stream, StreamExt};
use serde::Serialize;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::failure::{self, Failure};

/// An item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Item {
    #[schema(example = 1)]
    pub(crate) id: i32,
    #[schema(example = "name 1")]
    pub(crate) name: String,
}

/// A backend that has the items.
pub(crate) trait Items {
    type Error: Failure;

    /// Items 1 to `length`.
    fn get_all(self, length: i32) -> impl Future<Output = Result<Vec<Item>, Self::Error>>;

    /// Items 1 to `length` as they come. The outer error comes in place of the first item.
    fn get_stream(
        self,
        length: i32,
    ) -> impl Future<Output = Result<impl Stream<Item = Result<Item, Self::Error>>, Self::Error>>;
}

/// Items 1 to `length`.
pub(crate) async fn get_all<I: Items>(items: I, length: i32) -> Result<Vec<Item>, I::Error> {
    let items = items.get_all(length).await.inspect_err(|error| {
        failure::log("get_all", error, "no items to list");
    })?;
    info!(
        action = "get_all",
        status = "success",
        items = items.len(),
        "items listed"
    );
    Ok(items)
}

/// Items 1 to `length` as they come.
pub(crate) async fn get_stream<I: Items>(
    items: I,
    length: i32,
) -> Result<impl Stream<Item = Result<Item, I::Error>>, I::Error> {
    let items = items.get_stream(length).await.inspect_err(|error| {
        failure::log("get_stream", error, "no items to stream");
    })?;
    let mut progress = Progress {
        items: 0,
        length,
        error: None,
        is_fault_of_backend: false,
    };
    Ok(items.inspect(move |item| progress.see(item)))
}

/// The progress of a stream. It is logged on drop.
struct Progress {
    items: i32,
    length: i32,
    error: Option<String>,
    is_fault_of_backend: bool,
}

impl Progress {
    fn see<E: Failure>(&mut self, item: &Result<Item, E>) {
        match item {
            Ok(_) => self.items += 1,
            Err(error) => {
                self.error = Some(error.to_string());
                self.is_fault_of_backend = !error.is_fault_of_client();
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let (items, length) = (self.items, self.length);
        if items == length && self.error.is_none() {
            info!(
                action = "get_stream",
                status = "success",
                items,
                "items streamed"
            );
        } else if self.is_fault_of_backend {
            warn!(
                action = "get_stream",
                status = "failure",
                items,
                length,
                error = self.error,
                "the stream broke off"
            );
        } else {
            // Most likely the client went away. The access line has the reason.
            info!(
                action = "get_stream",
                status = "failure",
                items,
                length,
                error = self.error,
                "the stream was ended early"
            );
        }
    }
}
