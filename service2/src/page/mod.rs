//! The page for people: a greeting and a list, and then a stream of items that are sent as they
//! come.

mod form;
mod view;

use std::{convert::Infallible, future::Future};

use askama::Template;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
    response::{IntoResponse, Response},
    routing::get,
};
use common::{Deadline, Problem, context, server::Query};
use futures_util::{Stream, StreamExt, stream};
use tokio::join;

use self::{
    form::Form,
    view::{Bottom, Row, Top},
};
use crate::{
    backend::Backend,
    chunks::chunks,
    greeting,
    items::{self, Item},
};

/// Allows only our own style sheet, icon and form, and no script.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

pub(crate) fn router(backend: Backend) -> Router {
    let asset = |content_type, text: &'static str| {
        let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "max-age=300")];
        get(async move || (headers, text))
    };
    let style = include_str!("../../assets/page.css");
    let icon = include_str!("../../assets/favicon.svg");
    Router::new()
        .route("/", get(page))
        .with_state(backend)
        .route("/page.css", asset("text/css; charset=utf-8", style))
        .route("/favicon.ico", asset("image/svg+xml", icon))
}

/// Makes the three calls at once. When each has succeeded or failed, the status of the page is
/// known and the page begins; the streamed items follow as they come.
async fn page(State(backend): State<Backend>, query: Query) -> Response {
    let form = Form::read(&query);
    let calls = async {
        join!(
            form.name
                .ask(|name| greeting::welcome(backend.clone(), name)),
            form.length
                .ask(|length| items::get_all(backend.clone(), length)),
            form.stream_length
                .ask(|length| items::get_stream(backend.clone(), length)),
        )
    };
    let (hello, all, streamed) = with_time_to_report(calls).await;
    let statuses = [hello.status(), all.status(), streamed.status()];
    let status = statuses.into_iter().max().expect("there are three");
    let (streamed, items) = streamed.split();

    let top = html(&Top {
        hello: &hello,
        all: &all,
        streamed: &streamed,
        request_id: &context::with_request_id(str::to_owned),
    });
    let body = match items {
        Ok(items) => Body::from_stream(stream::iter([Ok(top)]).chain(rest(items))),
        Err(problem) => Body::from([top, bottom(Some(&problem))].concat()),
    };
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

/// Runs the calls within 95 % of the time that is left. The rest is for the page, which reports the
/// calls that ran out of time.
async fn with_time_to_report<F: Future>(calls: F) -> F::Output {
    let context = context::current().expect("a handler runs within a request");
    let left = context.deadline.remaining().unwrap_or_default();
    let earlier = Deadline::after(left * 19 / 20);
    context.with_deadline(earlier).scope(calls).await
}

/// The streamed items, and then the bottom of the page, even if the stream fails.
fn rest<E: Into<Problem> + Send>(
    items: impl Stream<Item = Result<Item, E>> + Send,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let rows = chunks(items, |item, html| {
        Row { item }
            .write_into(html)
            .expect("a Vec takes all bytes");
    });
    stream::unfold(Some(Box::pin(rows)), async |rows| {
        let mut rows = rows?;
        Some(match rows.next().await {
            Some(Ok(chunk)) => (Ok(chunk), Some(rows)),
            Some(Err(error)) => (Ok(bottom(Some(&error.into()))), None),
            None => (Ok(bottom(None)), None),
        })
    })
}

fn bottom(failure: Option<&Problem>) -> Bytes {
    html(&Bottom {
        failure,
        request_id: &context::with_request_id(str::to_owned),
        calls: context::calls(),
    })
}

fn html(template: &impl Template) -> Bytes {
    let html = template.render();
    html.expect("strings and numbers always become HTML").into()
}
