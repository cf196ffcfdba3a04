//! [`Load`]: steady load from many connections. Every response is checked.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    runtime,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use crate::PATIENCE;

/// One request and its outcome.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When the request was due. Waiting for its turn counts as part of its time.
    pub at: Instant,
    /// The time from then until the end of the response.
    pub took: Duration,
    /// The error says what was wrong with the response.
    pub outcome: Result<(), String>,
    /// The request id.
    pub id: String,
}

/// The requests of a load, and their pace.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The number of connections. Each has one request at a time.
    pub connections: usize,
    /// The time between two requests of a connection, if the response has come by then.
    pub interval: Duration,
    /// The name to greet; `None` for a different name in each request.
    pub name: Option<&'static str>,
    /// Whether a connection is reused for the next request.
    pub is_kept: bool,
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Load {
    /// Starts a load on a thread of its own.
    ///
    /// # Panics
    ///
    /// When the thread can't be started.
    pub fn start(address: SocketAddr, plan: Plan) -> Self {
        Self::start_with(
            Server {
                addresses: vec![address],
                connect_timeout: PATIENCE,
                is_resent: false,
            },
            plan,
        )
    }

    /// Starts a load on a server with several addresses. It does what HTTP clients do: it takes the
    /// first address that accepts a connection, and a request on a reused connection that ends
    /// without a byte of response is sent again (RFC 9112, section 9.3.1).
    ///
    /// # Panics
    ///
    /// When the thread can't be started.
    pub fn start_on_any(addresses: Vec<SocketAddr>, plan: Plan) -> Self {
        Self::start_with(
            Server {
                addresses,
                connect_timeout: Duration::from_secs(1),
                is_resent: true,
            },
            plan,
        )
    }

    fn start_with(server: Server, plan: Plan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    let mut connections = JoinSet::new();
                    for number in 0..plan.connections {
                        connections.spawn(connection(number, server.clone(), plan, stop.clone()));
                    }
                    let mut samples: Vec<_> = connections.join_all().await.concat();
                    samples.sort_by_key(|sample| sample.at);
                    samples
                })
            }
        });
        Self { stop, thread }
    }

    /// Stops the load, and waits for the outstanding responses.
    ///
    /// # Panics
    ///
    /// When the load itself failed.
    pub fn stop(self) -> Samples {
        self.stop.store(true, Ordering::Relaxed);
        Samples(self.thread.join().expect("the load does not panic"))
    }
}

/// The server of a load.
#[derive(Debug, Clone)]
struct Server {
    addresses: Vec<SocketAddr>,
    /// The longest wait for a connection to one address.
    connect_timeout: Duration,
    /// Whether a request is sent again if its reused connection ends without a byte of response.
    is_resent: bool,
}

type Sender = http1::SendRequest<Empty<Bytes>>;

impl Server {
    /// Sends a request over this connection, or over a new one.
    async fn ask(
        &self,
        reused: Option<Sender>,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Sender, Response<Incoming>), String> {
        let is_reused = reused.is_some();
        let mut open = match reused {
            Some(open) => open,
            None => self.connect().await?,
        };
        let mut response = open.send_request(request.clone()).await;
        if response.is_err() && is_reused && self.is_resent {
            open = self.connect().await?;
            response = open.send_request(request).await;
        }
        let response = response.map_err(|error| format!("no response: {error}"))?;
        Ok((open, response))
    }

    async fn connect(&self) -> Result<Sender, String> {
        let mut outcome = Err("there is no address".to_owned());
        for address in &self.addresses {
            outcome = match timeout(self.connect_timeout, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return send_over(socket).await,
                Ok(Err(error)) => Err(format!("connect: {error}")),
                Err(_) => Err("connect: no answer".to_owned()),
            };
        }
        outcome
    }
}

async fn send_over(socket: TcpStream) -> Result<Sender, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn connection(
    number: usize,
    server: Server,
    plan: Plan,
    stop: Arc<AtomicBool>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut sender = None;
    // The connections start spread over the interval.
    let share = u32::try_from(number).unwrap_or(0);
    let all = u32::try_from(plan.connections).unwrap_or(1);
    let mut at = Instant::now() + plan.interval * share / all;
    for round in 0.. {
        sleep_until(at.into()).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("load-{number}-{round}");
        let name = plan.name.map_or_else(|| id.clone(), str::to_owned);
        let outcome = timeout(PATIENCE, async {
            let (open, response) = server.ask(sender.take(), say_hello(&name, &id)).await?;
            check(response, &name, &id).await?;
            Ok(open)
        });
        let outcome = match outcome
            .await
            .unwrap_or_else(|_| Err("no response in time".into()))
        {
            Ok(mut open) => {
                if plan.is_kept && open.ready().await.is_ok() {
                    sender = Some(open);
                }
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        samples.push(Sample {
            at,
            took: at.elapsed(),
            outcome,
            id,
        });
        // Missed turns are skipped, so that connections that waited together spread again.
        at += plan.interval;
        let now = Instant::now();
        while at < now {
            at = if plan.interval.is_zero() {
                now
            } else {
                at + plan.interval
            };
        }
    }
    samples
}

fn say_hello(name: &str, id: &str) -> Request<Empty<Bytes>> {
    let path = format!("/api/v1/say-hello?name={}", name.replace(' ', "+"));
    Request::get(path)
        .header(HOST, "test")
        .header("x-request-id", id)
        .body(Empty::new())
        .expect("a request")
}

async fn check(response: Response<Incoming>, name: &str, id: &str) -> Result<(), String> {
    let status = response.status();
    let has_id = response
        .headers()
        .get("x-request-id")
        .is_some_and(|its| its == id);
    let body = response.into_body().collect().await;
    let body = body.map_err(|error| format!("cut: {error}"))?.to_bytes();
    if !has_id {
        return Err("the id of another request".into());
    }
    if status != 200 {
        return Err(status.as_u16().to_string());
    }
    let hello = format!("\"Hello, {}!\"", name.to_uppercase());
    let is_right = body.eq_ignore_ascii_case(hello.as_bytes());
    is_right
        .then_some(())
        .ok_or_else(|| format!("a wrong body: {}", String::from_utf8_lossy(&body)))
}

/// The requests of a load, in the order of time.
#[derive(Debug)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The requests that were due in a span of time.
    #[must_use]
    pub fn within(&self, from: Instant, to: Instant) -> Self {
        let all = self.0.iter();
        Self(
            all.filter(|one| (from..to).contains(&one.at))
                .cloned()
                .collect(),
        )
    }

    /// The number of requests.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Each kind of failure, and how often it happened.
    pub fn failures(&self) -> Vec<(String, usize)> {
        let mut failures = std::collections::BTreeMap::<_, usize>::new();
        for failure in self.0.iter().filter_map(|one| one.outcome.as_ref().err()) {
            *failures.entry(failure.clone()).or_default() += 1;
        }
        failures.into_iter().collect()
    }

    /// The number of requests with the right response.
    pub fn served(&self) -> usize {
        self.0.iter().filter(|one| one.outcome.is_ok()).count()
    }

    /// The time within which that share of the served requests had its response.
    ///
    /// # Panics
    ///
    /// When none was served.
    pub fn percentile(&self, share: f64) -> Duration {
        let served = self.0.iter().filter(|one| one.outcome.is_ok());
        let mut times: Vec<_> = served.map(|one| one.took).collect();
        times.sort();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let index = ((times.len() - 1) as f64 * share) as usize;
        times[index]
    }
}
