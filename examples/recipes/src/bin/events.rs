//! How do server-sent events last, and end with the service?
//!
//! - The route has no deadline: `Listener::deadline`.
//! - `context::draining()` ends the stream in the drain, so the client sees its proper end. A browser's
//!   `EventSource` connects again after either end, here after [`RETRY`], and says in `Last-Event-ID`
//!   what it has. So it misses nothing while the service is replaced.
//! - A comment every [`KEEP_ALIVE`] keeps proxies from closing a quiet stream.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    BoxError, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::sse::{Event, KeepAlive, Sse},
    routing::get,
};
use clap::Parser;
use common::{
    Problem, context,
    server::{self, Listener},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;

const RETRY: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events that are kept for clients that come back.
const KEPT: usize = 1_024;

/// The events of the process. With several replicas they are in a database, whose ids all replicas know.
struct Feed {
    kept: Mutex<VecDeque<(u64, String)>>,
    last: watch::Sender<u64>,
}

impl Feed {
    fn new() -> Self {
        Self {
            kept: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, String)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, text: String) {
        let mut kept = self.kept();
        let id = *self.last.borrow() + 1;
        kept.push_back((id, text));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        self.last.send_replace(id);
    }

    /// The first of the kept events after the one with this id.
    fn next(&self, id: u64) -> Option<(u64, String)> {
        self.kept().iter().find(|(next, _)| *next > id).cloned()
    }

    /// The events after the one with this id, now and as they come.
    fn after(self: Arc<Self>, id: u64) -> impl Stream<Item = (u64, String)> {
        let last = self.last.subscribe();
        stream::unfold((self, last, id), async |(feed, mut last, id)| {
            last.wait_for(|last| *last > id).await.ok()?;
            let event = feed.next(id)?;
            let id = event.0;
            Some((event, (feed, last, id)))
        })
    }
}

fn router(feed: Arc<Feed>) -> Router {
    let events = get(events).post(async |State(feed): State<Arc<Feed>>, text: String| {
        feed.add(text);
        StatusCode::NO_CONTENT
    });
    Router::new().route("/events", events).with_state(feed)
}

async fn events(
    State(feed): State<Arc<Feed>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, BoxError>>>, Problem> {
    let id = match headers.get("last-event-id") {
        None => *feed.last.borrow(), // a new client gets what comes from now on
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.parse().ok());
            let detail = "Last-Event-ID must be the id of an event; leave it out for none.";
            id.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, detail))?
        }
    };
    let begin = stream::iter([Ok(Event::default().retry(RETRY))]);
    let events = feed.after(id).map(|(id, text)| {
        let event = Event::default().id(id.to_string());
        Ok(event.json_data(text)?)
    });
    let events = begin
        .chain(events)
        .take_until(Box::pin(context::draining()));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

#[derive(Parser)]
struct Config {
    /// The port for HTTP
    #[arg(long, env, default_value_t = 8082)]
    port: u16,

    #[command(flatten)]
    common: common::Config,
}

fn listener(port: u16, feed: Arc<Feed>) -> Listener {
    Listener::http(port, router(feed)).deadline("/events", None)
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    let feed = Arc::new(Feed::new()); // that of all workers
    server::run("events", &config.common, move |_process| {
        [listener(config.port, feed.clone())]
    })
}

#[cfg(test)]
mod tests {
    use common::server::InMemory;
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
        time::Instant,
    };

    use super::*;

    fn serve(feed: &Arc<Feed>) -> InMemory {
        let config = common::Config::default();
        InMemory::new(&config, |_process| [listener(0, feed.clone())]).expect("it is valid")
    }

    /// Asks for the events after this one. `id` is a header with its line end, or nothing.
    async fn ask<S: AsyncWrite + Unpin>(mut client: S, id: &str) -> S {
        let request = format!("GET /events HTTP/1.1\r\nhost: a\r\n{id}\r\n");
        let written = client.write_all(request.as_bytes()).await;
        written.expect("it reads");
        client
    }

    /// Reads up to this text.
    async fn read_to<S: AsyncRead + Unpin>(client: &mut S, end: &str) -> String {
        let mut read = String::new();
        while !read.contains(end) {
            let byte = client.read_u8().await.expect("the stream goes on");
            read.push(byte.into());
        }
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_gets_what_comes_and_comments_meanwhile() {
        let feed = Arc::new(Feed::new());
        feed.add("before".into());
        let service = serve(&feed);
        let mut client = ask(service.connect(0), "").await;
        let begin = read_to(&mut client, "retry: 1000\n\n").await;
        assert!(begin.contains("content-type: text/event-stream"), "{begin}");
        feed.add("two\nlines".into());
        let event = read_to(&mut client, "\n\n").await;
        assert!(
            event.ends_with("id: 2\ndata: \"two\\nlines\"\n\n"),
            "{event}"
        );
        let quiet = Instant::now();
        let comment = read_to(&mut client, "\n\n").await;
        assert!(comment.ends_with(":\n\n"), "{comment}");
        assert!(
            quiet.elapsed() >= KEEP_ALIVE,
            "far beyond the deadline of others"
        );
    }

    #[tokio::test]
    async fn a_stream_ends_properly_in_the_drain_and_its_client_misses_nothing() {
        let feed = Arc::new(Feed::new());
        let faces = feed.clone();
        let server = server::bind(&common::Config::default(), move |_process| {
            [listener(0, faces.clone())]
        });
        let server = server.expect("a free port");
        let port = server.addresses()[0].port();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));
        let client = TcpStream::connect(("127.0.0.1", port)).await;
        let mut client = ask(client.expect("it listens"), "").await;
        read_to(&mut client, "retry").await;
        feed.add("seen".into());
        read_to(&mut client, "seen").await;

        stop.send(()).expect("it serves");
        let mut rest = String::new();
        let end = client.read_to_string(&mut rest).await;
        end.expect("a regular end");
        // What the drain cuts off, after a second, has no last chunk.
        assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
        serving.await.expect("no panic").expect("it drains");

        feed.add("missed".into());
        let next = serve(&feed);
        let mut client = ask(next.connect(0), "last-event-id: 1\r\n").await;
        let events = read_to(&mut client, "missed").await;
        assert!(
            events.contains("id: 2\n") && !events.contains("seen"),
            "{events}"
        );
    }

    #[tokio::test]
    async fn an_id_that_is_none_is_refused() {
        let service = serve(&Arc::new(Feed::new()));
        let mut client = ask(service.connect(0), "last-event-id: x\r\n").await;
        let refused = read_to(&mut client, "}").await;
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    }
}
