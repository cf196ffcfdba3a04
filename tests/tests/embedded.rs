//! A service inside of another program: this one. It is served over real sockets, and the program
//! outlives it.

use std::{
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use common::{
    Config, context,
    server::{self, Builder, Error, Listener, Server, Shared},
};
use futures_util::{StreamExt, stream};
use tests::{http, wait_for};
use tokio::{runtime, sync::oneshot};

/// A service that serves until it is stopped.
struct Running {
    addresses: Vec<SocketAddr>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(server: Server) -> Self {
        let addresses = server.addresses().to_vec();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let serve = server.serve(async { drop(stopped.await) });
            runtime.expect("a runtime").block_on(serve)
        });
        Self {
            addresses,
            stop,
            serving,
        }
    }

    fn get(&self, path: &str) -> http::Response {
        http::get(self.addresses[0], path)
    }

    fn end(self) -> Result<(), Error> {
        let _ = self.stop.send(()); // it may have ended
        self.serving.join().expect("it does not panic")
    }
}

/// A short deadline, and a tick in less than it.
const DEADLINE: Duration = Duration::from_millis(600);
const TICK: Duration = Duration::from_millis(20);

/// The configuration of a test.
fn config() -> Config {
    Config {
        host: "127.0.0.1".parse().expect("an address"),
        deadline: DEADLINE,
        workers: 2.try_into().expect("more than 0"),
        ..Config::default()
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "Hello!"))
}

fn start(builder: Builder) -> Running {
    Running::start(builder.bind(&config()).expect("its ports are free"))
}

#[test]
fn services_come_and_go_in_one_process() {
    let faces = || Server::builder(|_| [Listener::http(0, hello()), Listener::http(0, hello())]);
    let first = start(faces());
    let second = start(faces());
    for service in [&first, &second] {
        assert_eq!(service.addresses.len(), 2);
        for address in &service.addresses {
            assert_eq!(http::get(*address, "/").text(), "Hello!");
        }
    }
    let address = first.addresses[0];
    first.end().expect("it drains");
    assert!(std::net::TcpStream::connect(address).is_err());
    assert_eq!(second.get("/").text(), "Hello!");
    second.end().expect("it drains");
}

#[test]
fn faces_that_cannot_be_served_are_an_error() {
    let taken = || Router::new().route("/readyz", get(async || "mine"));
    let bound = server::bind(&config(), move |_| [Listener::http(0, taken())]);
    let error = bound.err().expect("the path is taken").to_string();
    assert!(error.contains("/readyz"), "{error}");

    let turns = std::sync::atomic::AtomicU16::new(0);
    let bound = server::bind(&config(), move |_| {
        let turn = turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (0..turn)
            .map(|_| Listener::http(0, hello()))
            .collect::<Vec<_>>()
    });
    assert!(matches!(bound.err(), Some(Error::Differ)));

    let bound = server::bind(&config(), |_| -> [Listener; 1] { panic!("no faces") });
    assert!(matches!(bound.err(), Some(Error::Worker)));
}

/// A line a tick, until the service drains.
async fn ticks() -> Body {
    let ticks = stream::unfold((), async |()| {
        tokio::time::sleep(TICK).await;
        Some((Ok::<_, io::Error>(Bytes::from_static(b"tick\n")), ()))
    });
    let end = stream::once(async { Ok(Bytes::from_static(b"the end\n")) });
    let ticks = ticks.take_until(Box::pin(context::draining()));
    Body::from_stream(ticks.chain(end))
}

#[test]
fn a_route_may_outlive_the_deadline_and_learns_of_the_drain() {
    let router = || {
        Router::new()
            .route("/ticks", get(ticks))
            .route("/cut", get(ticks))
            .route("/brief", get(ticks))
    };
    let service = start(Server::builder(move |_| {
        [Listener::http(0, router())
            .deadline("/ticks", None)
            .deadline("/brief", Some(DEADLINE / 2))]
    }));
    // Twice the deadline, in ticks.
    let connection = http::send(
        service.addresses[0],
        b"GET /ticks HTTP/1.1\r\nhost: x\r\n\r\n",
    );
    let mut lines = BufReader::new(connection).lines();
    let ticks = lines.by_ref().map(|line| line.expect("the stream goes on"));
    assert_eq!(ticks.filter(|line| line == "tick").take(60).count(), 60);

    for (path, most) in [("/cut", 30), ("/brief", 15)] {
        let (text, is_whole) = service.get(path).chunked();
        let ticks = text.lines().count();
        assert!((1..=most).contains(&ticks) && !is_whole, "{path}: {text}");
    }

    service.stop.send(()).expect("it serves");
    let rest: Vec<_> = lines.map(|line| line.expect("it ends well")).collect();
    assert_eq!(rest[rest.len() - 4..], ["the end", "", "0", ""]);
    let ended = service.serving.join().expect("it does not panic");
    ended.expect("it drains");
}

#[test]
fn readiness_follows_a_check() {
    let (fail, failing) = tokio::sync::watch::channel(true);
    let service = start(Server::builder(move |process| {
        let failing = failing.clone();
        let check = move || {
            let result = if *failing.borrow() {
                Err("away")
            } else {
                Ok(())
            };
            async move { result }
        };
        process.ready_while(check, Duration::from_millis(10));
        [Listener::http(0, hello())]
    }));
    for (is_failing, status) in [(true, 503), (false, 200), (true, 503), (false, 200)] {
        fail.send(is_failing).expect("the service checks");
        wait_for("the readiness", || {
            (service.get("/readyz").status == status).then_some(())
        });
        assert_eq!(service.get("/healthz").status, 200);
    }
    service.end().expect("it drains");
}

/// The name of the current thread.
fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

#[test]
fn a_shared_value_is_made_once_and_closed_after_the_last_request() {
    let (report, reports) = mpsc::channel();
    let (at_first, at_last) = (report.clone(), report.clone());
    let make = move || {
        let at_first = at_first.clone();
        async move {
            let _ = at_first.send(format!("made on {}", thread_name()));
            Ok::<_, io::Error>("the value")
        }
    };
    let close = move |value: &str| {
        let _ = at_last.send(format!("{value} is closed on {}", thread_name()));
        std::future::ready(())
    };
    let value = Shared::new("value", make).close(close);
    let captured = value.clone();
    let faces = Server::builder(move |_| {
        let (value, report) = (captured.clone(), report.clone());
        // The last request in flight uses the value once the drain has begun.
        let last = get(async move || {
            let _ = report.send("in flight".to_owned());
            context::draining().await;
            let seen = value.run(async { thread_name() }).await;
            let _ = report.send("responds".to_owned());
            format!("{} on {seen}", value.get())
        });
        [Listener::http(0, Router::new().route("/last", last))]
    });
    let service = start(faces.shared(&value));
    assert_eq!(reports.recv().as_deref(), Ok("made on shared"));
    let address = service.addresses[0];
    let last = thread::spawn(move || http::get(address, "/last"));
    assert_eq!(reports.recv().as_deref(), Ok("in flight"));
    service.end().expect("it drains");
    let response = last.join().expect("a response");
    assert_eq!(response.text(), "the value on shared");
    assert_eq!(reports.recv().as_deref(), Ok("responds"));
    assert_eq!(
        reports.recv().as_deref(),
        Ok("the value is closed on shared")
    );
}

#[test]
fn readiness_follows_a_shared_value() {
    let (fail, failing) = tokio::sync::watch::channel(true);
    let check = move |()| {
        let is_failing = *failing.borrow();
        async move { if is_failing { Err("away") } else { Ok(()) } }
    };
    let value = Shared::new("value", async || Ok::<_, &str>(()));
    let value = value.ready_while(check, Duration::from_millis(10));
    let faces = Server::builder(|_| [Listener::http(0, hello())]);
    let service = start(faces.shared(&value));
    for (is_failing, status) in [(true, 503), (false, 200), (true, 503)] {
        fail.send(is_failing).expect("the service checks");
        wait_for("the readiness", || {
            (service.get("/readyz").status == status).then_some(())
        });
    }
    service.end().expect("it drains");
}

#[test]
fn a_shared_value_that_panics_is_an_error() {
    let value = Shared::new("value", async || -> io::Result<()> {
        panic!("it is not made")
    });
    let faces = Server::builder(|_| [Listener::http(0, hello())]);
    let bound = faces.shared(&value).bind(&config());
    assert!(matches!(bound.err(), Some(Error::Shared)));
}

#[test]
fn a_task_runs_once_and_ends_in_the_drain() {
    let (report, reports) = mpsc::channel();
    let faces = Server::builder(|_| [Listener::http(0, hello())]);
    let service = start(faces.task("sweeper", async move |process| {
        report.send("begins").expect("the test waits");
        process.draining().await;
        report.send("ends").expect("the test waits");
    }));
    assert_eq!(reports.recv(), Ok("begins"));
    assert_eq!(service.get("/").text(), "Hello!");
    service.end().expect("it drains");
    assert_eq!(reports.recv(), Ok("ends"));
    assert!(reports.recv().is_err(), "it ran once");
}

#[test]
fn a_task_that_ends_well_leaves_the_service_and_one_that_panics_ends_it() {
    let faces = Server::builder(|_| [Listener::http(0, hello())]);
    let service = start(faces.task("brief", async |_| {}));
    assert_eq!(service.get("/").text(), "Hello!");
    service.end().expect("it drains");

    let faces = Server::builder(|_| [Listener::http(0, hello())]);
    let service = start(faces.task("fragile", async |_| panic!("the task panics")));
    let ended = service.serving.join().expect("the program goes on");
    assert!(matches!(ended, Err(Error::Task("fragile"))));
}

#[test]
fn a_task_that_goes_on_is_dropped_after_the_drain_timeout() {
    let config = Config {
        drain_timeout: Duration::from_millis(50),
        ..config()
    };
    let faces = Server::builder(|_| [Listener::http(0, hello())]);
    let server = faces.task("endless", async |_| std::future::pending().await);
    let service = Running::start(server.bind(&config).expect("its ports are free"));
    assert_eq!(service.get("/").text(), "Hello!");
    service.end().expect("it drains");
}

#[test]
fn a_server_that_is_dropped_frees_its_ports() {
    let bind = |port| server::bind(&config(), move |_| [Listener::http(port, hello())]);
    let server = bind(0).expect("the port is free");
    let port = server.addresses()[0].port();
    assert!(matches!(bind(port).err(), Some(Error::Listen { .. })));
    drop(server);
    let service = Running::start(bind(port).expect("the port is free again"));
    assert_eq!(service.get("/").text(), "Hello!");
    service.end().expect("it drains");
}
