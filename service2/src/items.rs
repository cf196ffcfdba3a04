//! Lists the items of the backend: all at once, or one by one as they come.

use std::future::Future;

use futures_util::{Stream, StreamExt};
use protos::limits;
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

/// The list would be longer than [`limits::LIST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("length is {0}; a list has at most {most} items, a stream has no limit", most = limits::LIST)]
pub(crate) struct ListTooLong(i32);

impl Failure for ListTooLong {
    fn is_fault_of_client(&self) -> bool {
        true
    }
}

/// Checks the length of a list, before anything is asked of the backend.
pub(crate) fn check_list(length: i32) -> Result<(), ListTooLong> {
    if length <= limits::LIST {
        return Ok(());
    }
    let error = ListTooLong(length);
    failure::log("get_all", &error, "no items to list");
    Err(error)
}

/// Items 1 to `length`, all at once.
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

/// Items 1 to `length` as they come, for a list whose length was [checked](check_list).
pub(crate) async fn get_list<I: Items>(
    items: I,
    length: i32,
) -> Result<impl Stream<Item = Result<Item, I::Error>>, I::Error> {
    begin(items, length, "get_all", "no items to list").await
}

/// Items 1 to `length` as they come.
pub(crate) async fn get_stream<I: Items>(
    items: I,
    length: i32,
) -> Result<impl Stream<Item = Result<Item, I::Error>>, I::Error> {
    begin(items, length, "get_stream", "no items to stream").await
}

/// Begins a stream. `failed` is the message of the log if it does not begin.
async fn begin<I: Items>(
    items: I,
    length: i32,
    action: &'static str,
    failed: &'static str,
) -> Result<impl Stream<Item = Result<Item, I::Error>>, I::Error> {
    let items = items.get_stream(length).await;
    let items = items.inspect_err(|error| failure::log(action, error, failed))?;
    Ok(Progress::of(action, length).follow(items))
}

/// The progress of a stream. It is logged on drop.
struct Progress {
    action: &'static str,
    items: i32,
    length: i32,
    error: Option<String>,
    is_fault_of_backend: bool,
}

impl Progress {
    fn of(action: &'static str, length: i32) -> Self {
        Self {
            action,
            items: 0,
            length,
            error: None,
            is_fault_of_backend: false,
        }
    }

    /// Follows a stream until its end, or until it is dropped.
    fn follow<E: Failure>(
        mut self,
        items: impl Stream<Item = Result<Item, E>>,
    ) -> impl Stream<Item = Result<Item, E>> {
        items.inspect(move |item| self.see(item))
    }

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
        let (action, items, length) = (self.action, self.items, self.length);
        if items == length && self.error.is_none() {
            info!(action, status = "success", items, "items sent");
        } else if self.is_fault_of_backend {
            warn!(
                action,
                status = "failure",
                items,
                length,
                error = self.error,
                "the stream broke off"
            );
        } else {
            // Most likely the client went away. The access line has the reason.
            info!(
                action,
                status = "failure",
                items,
                length,
                error = self.error,
                "the stream was ended early"
            );
        }
    }
}
