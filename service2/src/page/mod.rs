//! The page for people: a form, and the greeting, the list and the stream that answer it.
//!
//! `GET /` makes the calls and shows the page, whose streamed items are sent as they come. With
//! `RECENT_REQUESTS=on` it leads to a page of the finished request instead, which shows the way of
//! the request, too. With `FAULTS=on` the form has buttons that make the greeting late, or fail once.
//!
//! | file | contents |
//! |---|---|
//! | `form` | the fields, their values and their mistakes |
//! | `answers` | the calls, and what came of them |
//! | `recent` | the last finished requests |
//! | `waterfall` | the way of a request, as bars |
//! | `view` | the parts of the page |

mod answers;
mod form;
mod recent;
mod view;
mod waterfall;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Request, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION, ORIGIN,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
        uri::Authority,
    },
    response::{IntoResponse, Response},
    routing::get,
};
use common::{
    Context, Deadline, Problem, RequestId, context,
    pages::{self, Links},
    server::{Ports, Query},
    timings::Record,
};
use futures_util::{Stream, StreamExt, stream};
use tracing::warn;

use self::{
    answers::{Answers, ask, words},
    form::Form,
    recent::{Recent, RecentRequests},
    view::{Bottom, Finished, Line, Rows, Shown, Top, Unknown, html},
    waterfall::{Waterfall, calls_of, has_hedge},
};
use crate::{
    backend::{Backend, Fault},
    chunks::chunks,
    greeting::SayHello,
    items::Item,
};

/// Allows only our own style sheet, icon and form, and no script.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// The settings of the page, and what its workers share.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The last requests, where they are kept.
    recent: Option<RecentRequests>,
    /// Whether the form has buttons for faults.
    faults: bool,
    /// Whether the channel knows how long a greeting usually takes.
    knows_usual: Arc<AtomicBool>,
}

impl Settings {
    /// The settings `RECENT_REQUESTS` and `FAULTS`.
    pub(crate) fn new(recent_requests: bool, faults: bool) -> Self {
        Self {
            recent: recent_requests.then(RecentRequests::default),
            faults,
            knows_usual: Arc::default(),
        }
    }

    /// Warns of faults, if they are on.
    pub(crate) fn warn(&self) {
        if self.faults {
            warn!(
                action = "faults",
                status = "on",
                "FAULTS=on: whoever opens the page can delay and fail calls; never set this in production"
            );
        }
    }
}

/// The state of the handlers.
#[derive(Clone)]
struct Page {
    backend: Backend,
    settings: Settings,
    ports: Ports,
}

pub(crate) fn router(backend: Backend, settings: Settings, ports: Ports) -> Router {
    let asset = |content_type, text: &'static str| {
        let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "max-age=300")];
        get(async move || (headers, text))
    };
    let style = include_str!("../../assets/page.css");
    let mut page = get(by_get);
    if settings.faults {
        page = page.post(by_post);
    }
    let mut router = Router::new().route("/", page);
    if settings.recent.is_some() {
        router = router.route("/requests/{token}", get(finished));
    }
    router
        .with_state(Page {
            backend,
            settings,
            ports,
        })
        .route("/page.css", asset("text/css; charset=utf-8", style))
}

async fn by_get(State(page): State<Page>, headers: HeaderMap, query: Query) -> Response {
    let links = page.links(&headers);
    page.answer(Form::read(&query), None, &links).await
}

/// The buttons for faults. What they ask for is a read, as all of the page; but a page of another
/// site must not use up the patience of service2 with service1.
async fn by_post(State(page): State<Page>, request: Request) -> Result<Response, Problem> {
    let bad_request = |detail| Problem::new(StatusCode::BAD_REQUEST, detail);
    let (mut head, body) = request.into_parts();
    if !is_of_this_page(&head.headers, &head.uri) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "The form was sent by a page of another site; open this page and send it from there.",
        ));
    }
    let body = axum::body::to_bytes(body, common::server::BODY_LIMIT).await;
    let fields = body
        .ok()
        .and_then(|body| String::from_utf8(body.into()).ok());
    // The fields of a form are encoded as a query is.
    let uri = fields.and_then(|fields| format!("/?{fields}").parse::<Uri>().ok());
    head.uri = uri.ok_or_else(|| bad_request("The body is no form; send it as browsers do."))?;
    let Ok(query) = Query::from_request_parts(&mut head, &()).await;
    let fault = match query.get("fault")?.as_deref() {
        None => None,
        Some("delay") => Some(Fault::Delay),
        Some("fail-once") => Some(Fault::FailOnce),
        Some(_) => return Err(bad_request("fault must be delay or fail-once.")),
    };
    let links = page.links(&head.headers);
    Ok(page.answer(Form::read(&query), fault, &links).await)
}

/// Whether a form was sent by this page, as the browser says. Other programs say nothing.
fn is_of_this_page(headers: &HeaderMap, uri: &Uri) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().map(Authority::as_str).or(host);
    origin.is_some_and(|(_, origin)| Some(origin) == host)
}

async fn finished(
    State(page): State<Page>,
    headers: HeaderMap,
    Path(token): Path<String>,
) -> Response {
    let recent = page.settings.recent.as_ref();
    match recent.and_then(|recent| recent.find(&token)) {
        Some(recent) => {
            page.learn_usual();
            page.show(&recent, &page.links(&headers))
        }
        None => page_of(StatusCode::NOT_FOUND, html(&Unknown::PAGE)),
    }
}

impl Page {
    /// The links to the other pages of service2.
    fn links(&self, headers: &HeaderMap) -> Links {
        Links::new(&self.ports, pages::Page::Own, headers)
    }

    /// Makes the calls. When each has succeeded or failed, the status of the page is known. Then the
    /// page begins, or the request is finished and kept.
    async fn answer(&self, form: Form, fault: Option<Fault>, links: &Links) -> Response {
        let record = context::record().expect("an HTTP request is timed");
        let answers = ask(&self.backend, &form, fault).await;
        let Some(recent) = &self.settings.recent else {
            return self.stream(&form, answers, record, links);
        };
        if fault == Some(Fault::Delay) && !has_hedge(&record) {
            self.settings.knows_usual.store(false, Relaxed);
        }
        match recent.keep(finish(form, answers, record).await) {
            Ok(token) => {
                let path = format!("/requests/{token}");
                let headers = [(LOCATION, &*path), (CACHE_CONTROL, "no-store")];
                (StatusCode::SEE_OTHER, headers).into_response()
            }
            Err(too_large) => self.show(&too_large, links),
        }
    }

    /// The page of a request whose stream goes on.
    fn stream<S>(&self, form: &Form, answers: Answers<S>, record: Record, links: &Links) -> Response
    where
        S: Stream<Item = Result<Item, tonic::Status>> + Send + 'static,
    {
        let (answers, items) = answers.split();
        let request_id = context::with_request_id(str::to_owned);
        let status = answers.status(form);
        let top = html(&Top {
            shown: Shown {
                links,
                form,
                answers: &answers,
                request_id: &request_id,
                has_faults: self.settings.faults,
            },
            failures: answers.failures(),
            list: &list_of(&answers),
            finished: None,
        });
        let bottom = move |has_stream, failure: Option<&str>| {
            html(&Bottom {
                has_stream,
                failure,
                request_id: &request_id,
                calls: Some(&record.calls()),
            })
        };
        let Some(items) = items else {
            return page_of(status, [top, bottom(false, None)].concat());
        };
        let rest = stream::unfold(Some(Box::pin(rows(items))), move |rows| {
            let bottom = bottom.clone();
            async move {
                let mut rows = rows?;
                Some(match rows.next().await {
                    Some(Ok(chunk)) => (chunk, Some(rows)),
                    Some(Err(error)) => (bottom(true, Some(&words(&error.into()))), None),
                    None => (bottom(true, None), None),
                })
            }
        });
        let body = stream::iter([top]).chain(rest).map(Ok::<_, Infallible>);
        page_of(status, Body::from_stream(body))
    }

    /// The page of a finished request.
    fn show(&self, recent: &Recent, links: &Links) -> Response {
        let record = &recent.record;
        let top = html(&Top {
            shown: Shown {
                links,
                form: &recent.form,
                answers: &recent.answers,
                request_id: &recent.request_id,
                has_faults: self.settings.faults,
            },
            failures: recent.answers.failures(),
            list: &String::from_utf8_lossy(&recent.list),
            finished: Some(Finished {
                waterfall: Waterfall::of(
                    &calls_of(record),
                    recent.took,
                    recent.deadline,
                    recent.left,
                ),
                lines: Line::all_of(record),
                lines_left_out: record.lines_left_out(),
            }),
        });
        let bottom = html(&Bottom {
            has_stream: matches!(recent.answers.stream, Some(Ok(()))),
            failure: recent.failure.as_deref(),
            request_id: &recent.request_id,
            calls: None,
        });
        page_of(
            StatusCode::OK,
            [top, recent.stream.clone(), bottom].concat(),
        )
    }

    /// Lets the channel learn how long a greeting usually takes, if it does not know yet: no call is
    /// late before that, and so none is hedged.
    fn learn_usual(&self) {
        /// The responses that one percentile is taken from.
        const ENOUGH: usize = 100;
        let settings = &self.settings;
        if !settings.faults || settings.knows_usual.swap(true, Relaxed) {
            return;
        }
        let backend = self.backend.clone();
        let deadline = Deadline::after(Duration::from_secs(10));
        let greet = async move {
            for _ in 0..ENOUGH {
                if backend.clone().say_hello(String::new()).await.is_err() {
                    break;
                }
            }
        };
        tokio::spawn(Context::new(RequestId::fresh(), deadline).scope(greet));
    }
}

/// The answers of a request, its stream to the end.
async fn finish<S>(form: Form, answers: Answers<S>, record: Record) -> Recent
where
    S: Stream<Item = Result<Item, tonic::Status>>,
{
    let (mut answers, items) = answers.split();
    let mut streamed = Vec::new();
    let mut failure = None;
    if let Some(items) = items {
        let mut rows = Box::pin(rows(items));
        while let Some(chunk) = rows.next().await {
            match chunk {
                Ok(chunk) => streamed.extend_from_slice(&chunk),
                Err(error) => failure = Some(words(&error.into())),
            }
            if streamed.len() > recent::MOST_BYTES {
                failure = Some("The items are too long to be kept; the rest is left out.".into());
                break;
            }
        }
    }
    let list = list_of(&answers).into();
    if let Some(Ok(items)) = &mut answers.list {
        *items = Vec::new(); // the HTML has them
    }
    let deadline = context::deadline().expect("a handler runs within a request");
    Recent {
        request_id: context::with_request_id(str::to_owned),
        form,
        answers,
        list,
        stream: streamed.into(),
        failure,
        took: record.arrived().elapsed(),
        deadline: deadline.instant().into_std() - record.arrived(),
        left: deadline.remaining().unwrap_or_default(),
        record,
    }
}

/// The items of the list, as HTML.
fn list_of(answers: &Answers<()>) -> String {
    match &answers.list {
        Some(Ok(items)) => Rows::all(items),
        _ => String::new(),
    }
}

/// The streamed items, as chunks of HTML.
fn rows<E>(items: impl Stream<Item = Result<Item, E>>) -> impl Stream<Item = Result<Bytes, E>> {
    let mut rows = Rows::default();
    chunks(items, move |item, html| rows.write(item, html))
}

fn page_of(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_page_sends_its_form() {
        let sent = |headers: &[(&'static str, &str)]| {
            let pairs = headers.iter();
            let pairs = pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_of_this_page(&pairs.collect(), &Uri::from_static("/"))
        };
        let host = ("host", "localhost:8081");
        assert!(sent(&[host]), "a program");
        assert!(sent(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(sent(&[host, ("origin", "http://localhost:8081")]));
        for headers in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://localhost:8082"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
        ] {
            assert!(!sent(&[host, headers]), "{headers:?}");
        }
        let http2 = Uri::from_static("https://a.example/");
        let own = HeaderMap::from_iter([(ORIGIN, "https://a.example".parse().unwrap())]);
        assert!(is_of_this_page(&own, &http2));
    }
}
