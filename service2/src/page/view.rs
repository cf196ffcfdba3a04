//! The blocks of `templates/page.html`, in the order in which they are sent.

use std::time::Duration;

use askama::Template;
use common::{Problem, timings::Call};

use super::form::Field;
use crate::items::Item;

/// Everything before the first streamed item.
#[derive(Template)]
#[template(path = "page.html", block = "top")]
pub(super) struct Top<'a> {
    pub(super) hello: &'a Field<String>,
    pub(super) all: &'a Field<Vec<Item>>,
    pub(super) streamed: &'a Field<()>,
    pub(super) request_id: &'a str,
}

impl Top<'_> {
    /// The command that shows the log lines of this page.
    fn trace(&self) -> String {
        let id = self.request_id;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+=,".contains(c);
        if id.chars().all(plain) {
            format!("make trace ID={id}")
        } else {
            // Both make and the shell would expand such an id.
            format!("scripts/trace '{}'", id.replace('\'', r"'\''"))
        }
    }
}

/// A streamed item.
#[derive(Template)]
#[template(path = "page.html", block = "item")]
pub(super) struct Row<'a> {
    pub(super) item: &'a Item,
}

/// Everything after the stream.
#[derive(Template)]
#[template(path = "page.html", block = "bottom")]
pub(super) struct Bottom<'a> {
    /// Why the stream ended early, if it did.
    pub(super) failure: Option<&'a Problem>,
    pub(super) request_id: &'a str,
    pub(super) calls: Vec<Call>,
}

/// A duration in milliseconds, for people.
fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
