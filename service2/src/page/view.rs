//! The parts of `templates/page.html`, in the order in which they are sent, and the page for a token
//! that is not known.

use std::time::Duration;

use askama::Template;
use axum::body::Bytes;
use common::{
    pages::Links,
    timings::{Call, Record},
};
use serde_json::{Map, Value};

use super::{
    answers::Answers,
    form::Form,
    recent,
    waterfall::{Waterfall, millis},
};
use crate::items::Item;

/// What the page of a form shows in any case.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) links: &'a Links,
    pub(super) form: &'a Form,
    pub(super) answers: &'a Answers<()>,
    pub(super) request_id: &'a str,
    /// Whether the buttons for faults are there.
    pub(super) has_faults: bool,
}

/// Everything before the first streamed item.
#[derive(Template)]
#[template(path = "page.html", block = "top")]
pub(super) struct Top<'a> {
    pub(super) shown: Shown<'a>,
    pub(super) failures: Vec<String>,
    /// The items of the list, as HTML.
    pub(super) list: &'a str,
    /// What is known of a finished request.
    pub(super) finished: Option<Finished>,
}

/// What only the page of a finished request has.
pub(super) struct Finished {
    pub(super) waterfall: Waterfall,
    pub(super) lines: Vec<Line>,
    pub(super) lines_left_out: usize,
}

impl Top<'_> {
    /// The greeting, if there is one.
    fn hello(&self) -> Option<&str> {
        let hello = self.shown.answers.hello.as_ref()?.as_ref().ok()?;
        Some(hello)
    }

    /// The command that shows the log lines of this request.
    fn trace(&self) -> String {
        let id = self.shown.request_id;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+=,".contains(c);
        if id.chars().all(plain) {
            format!("make trace ID={id}")
        } else {
            // Both make and the shell would expand such an id.
            format!("scripts/trace '{}'", id.replace('\'', r"'\''"))
        }
    }
}

/// A log line.
pub(super) struct Line {
    pub(super) time: String,
    pub(super) level: &'static str,
    pub(super) message: String,
    pub(super) fields: String,
    /// The line as it was written.
    pub(super) written: String,
}

/// The fields of every line, which are not shown.
const COMMON_FIELDS: [&str; 10] = [
    "v", "name", "hostname", "pid", "level", "time", "target", "line", "file", "msg",
];

impl Line {
    pub(super) fn all_of(record: &Record) -> Vec<Self> {
        record.lines().lines().map(Self::read).collect()
    }

    fn read(line: &str) -> Self {
        let fields: Map<String, Value> = serde_json::from_str(line).unwrap_or_default();
        let text = |field| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let time = text("time").split_once('T').map_or("", |(_, time)| time);
        let is_own =
            |field: &&String| !COMMON_FIELDS.contains(&field.as_str()) && *field != "request_id";
        let own = fields
            .keys()
            .filter(is_own)
            .map(|field| match &fields[field] {
                Value::String(text) => format!("{field}={text}"),
                value => format!("{field}={value}"),
            });
        Self {
            time: time.chars().take("00:00:00.000".len()).collect(),
            level: match fields.get("level").and_then(Value::as_u64) {
                Some(50) => "ERROR",
                Some(40) => "WARN",
                Some(30) => "INFO",
                Some(20) => "DEBUG",
                _ => "TRACE",
            },
            message: text("msg").to_owned(),
            fields: own.collect::<Vec<_>>().join(" "),
            written: line.to_owned(),
        }
    }
}

/// Writes items as HTML. The numbers of a list count from 1 by themselves; a `value` on each would
/// take Chromium the square of their number.
#[derive(Default)]
pub(super) struct Rows {
    last: i32,
}

impl Rows {
    pub(super) fn write(&mut self, item: &Item, html: &mut Vec<u8>) {
        let is_next = self.last.checked_add(1) == Some(item.id);
        self.last = item.id;
        let row = Row { item, is_next };
        row.write_into(html).expect("a Vec takes all bytes");
    }

    /// All items of a list.
    pub(super) fn all(items: &[Item]) -> String {
        let (mut rows, mut html) = (Self::default(), Vec::new());
        for item in items {
            rows.write(item, &mut html);
        }
        String::from_utf8(html).expect("a template is text")
    }
}

/// An item.
#[derive(Template)]
#[template(path = "page.html", block = "item")]
struct Row<'a> {
    item: &'a Item,
    /// Whether the item has the number that follows.
    is_next: bool,
}

/// Everything after the stream.
#[derive(Template)]
#[template(path = "page.html", block = "bottom")]
pub(super) struct Bottom<'a> {
    pub(super) has_stream: bool,
    /// Why the stream ended early, if it did.
    pub(super) failure: Option<&'a str>,
    pub(super) request_id: &'a str,
    /// The calls, unless a waterfall shows them.
    pub(super) calls: Option<&'a [Call]>,
}

/// The page for a token that is not known.
#[derive(Template)]
#[template(path = "unknown.html")]
pub(super) struct Unknown {
    pub(super) most: usize,
    pub(super) most_kilobytes: usize,
}

impl Unknown {
    pub(super) const PAGE: Self = Self {
        most: recent::MOST,
        most_kilobytes: recent::MOST_BYTES / 1024,
    };
}

/// The time of a call in the table; a call that no replica could take was never made.
fn time_of(call: &Call) -> String {
    if call.attempts().is_empty() {
        "not made".to_owned()
    } else {
        millis(call.duration())
    }
}

/// A duration, as a template has it.
fn time(duration: &Duration) -> String {
    millis(*duration)
}

pub(super) fn html(template: &impl Template) -> Bytes {
    let html = template.render();
    html.expect("strings and numbers always become HTML").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_into_what_a_person_wants() {
        let written = r#"{"v":0,"name":"service2","level":30,"time":"2026-11-21T09:47:17.525977497Z","target":"t","line":1,"file":"f","msg":"welcomed","action":"welcome","status":"success","hello":"Hello Ada!","items":3,"request_id":"order-17"}"#;
        let line = Line::read(written);
        assert_eq!((line.time.as_str(), line.level), ("09:47:17.525", "INFO"));
        assert_eq!(line.message, "welcomed");
        let fields = "action=welcome hello=Hello Ada! items=3 status=success";
        assert_eq!(line.fields, fields);
        assert_eq!(line.written, written);
    }

    #[test]
    fn only_an_item_that_does_not_follow_has_a_number() {
        let item = |id| Item {
            id,
            name: format!("<name {id}>"),
        };
        let html = Rows::all(&[1, 2, 7, 8, i32::MAX, i32::MIN].map(item));
        let numbered: Vec<_> = html.split("value=\"").skip(1).collect();
        assert_eq!(numbered.len(), 3, "{html}");
        assert!(numbered[0].starts_with("7\""), "{html}");
        assert!(html.contains("<li>&#60;name 1&#62;</li>"), "{html}");
    }
}
