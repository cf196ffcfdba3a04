//! [`Edge`]: a simulated process that serves HTTP: it calls the replicas, and has responses of every shape.

use std::{convert::Infallible, net::SocketAddr, num::NonZeroUsize, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{self, Path},
    routing::{get, post},
};
use bytes::Bytes;
use common::{
    Config, Problem,
    client::{Channel, Client},
    server::{InMemory, Listener},
};
use futures_util::{StreamExt, stream};
use http::{HeaderName, StatusCode, header::CONTENT_LENGTH};
use http_body_util::BodyExt;
use tokio::time::sleep;

use crate::{
    network::Network,
    process::Process,
    proto::{Order, simulated_client::SimulatedClient},
};

/// The process, which comes and goes. Clones share their state.
#[derive(Debug, Clone)]
pub struct Edge {
    network: Network,
    /// Where it listens.
    pub address: SocketAddr,
    channel: Channel,
    limits: Limits,
    process: Process,
}

/// The limits of the process, where they are numbers that a run can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most connections.
    pub connections: Option<NonZeroUsize>,
    /// The most requests in flight.
    pub in_flight: Option<NonZeroUsize>,
    /// The time after which an idle connection is closed.
    pub idle_timeout: Option<Duration>,
}

impl Limits {
    /// Limits as some process may have them.
    pub fn draw(random: &mut fastrand::Rng) -> Self {
        let mut limits = Self::default();
        match random.u8(..8) {
            0 | 1 => limits.connections = NonZeroUsize::new(random.usize(4..=16)),
            2 => {
                limits.in_flight = NonZeroUsize::new(random.usize(1..=4));
                limits.idle_timeout = Some(Duration::from_millis(random.u64(2_000..5_000)));
            }
            _ => {}
        }
        limits
    }
}

impl Edge {
    /// An edge that does not serve yet, and calls over this channel.
    pub fn new(network: &Network, address: SocketAddr, channel: Channel, limits: Limits) -> Self {
        Self {
            network: network.clone(),
            address,
            channel,
            limits,
            process: Process::new(network),
        }
    }

    /// Starts a process.
    pub fn start(&self) {
        let client = self.channel.connect();
        let mut config = Config::default();
        let Limits {
            connections,
            in_flight,
            idle_timeout,
        } = self.limits;
        config.max_connections = connections.unwrap_or(config.max_connections);
        config.max_in_flight = in_flight.unwrap_or(config.max_in_flight);
        config.idle_timeout = idle_timeout;
        let service = InMemory::new(&config, |_| {
            let listener = Listener::http(0, router(client));
            let listener = listener.deadline("/jobs/{millis}", Some(JOB_DEADLINE));
            [listener.deadline("/endless/{chunks}/{bytes}", None)]
        });
        let service = service.expect("its face is valid");
        self.process.serve(self.address, service);
    }

    /// The process ends at once. Its kernel closes the connections.
    pub fn kill(&self) {
        self.process.kill(self.address);
    }

    /// Drains, and ends.
    pub async fn drain(&self) {
        self.network.stop_listening(self.address);
        if let Some(service) = self.process.service() {
            service.drain().await;
        }
        self.kill();
    }

    /// What the process still has: connections and requests in flight.
    pub fn left(&self) -> (usize, usize) {
        self.process.left()
    }
}

/// The deadline of a job. The list of all jobs has that of the process.
const JOB_DEADLINE: Duration = Duration::from_millis(100);

/// The time that the list of all jobs takes.
const ALL_JOBS: Duration = Duration::from_millis(300);

/// The routes of the service.
fn router(client: Client) -> Router {
    Router::new()
        .route("/get/{call}/{delay_ms}/{bytes}", get(relay))
        .route("/list/{call}/{pause_ms}/{bytes}", get(list))
        .route("/stream/{chunks}/{bytes}/{pause_ms}", get(stream))
        .route("/endless/{chunks}/{bytes}", get(endless))
        .route("/sized/{chunks}/{bytes}/{pause_ms}", get(sized))
        .route("/fixed/{bytes}", get(fixed))
        .route("/jobs/{millis}", get(job))
        .route("/jobs/all", get(all_jobs))
        .route("/count", post(count))
        .with_state(SimulatedClient::new(client))
}

type Calls = extract::State<SimulatedClient<Client>>;

async fn relay(
    extract::State(mut client): Calls,
    Path((call, delay_ms, bytes)): Path<(u64, u32, u32)>,
) -> Result<Vec<u8>, Problem> {
    let order = Order {
        call,
        delay_ms,
        bytes,
        ..Order::default()
    };
    let reply = client.get(order).await?;
    Ok(reply.into_inner().payload)
}

async fn list(
    extract::State(mut client): Calls,
    Path((call, pause_ms, bytes)): Path<(u64, u32, u32)>,
) -> Result<Body, Problem> {
    let order = Order {
        call,
        pause_ms,
        bytes,
        replies: 5,
        ..Order::default()
    };
    let replies = client.list(order).await?.into_inner();
    let data = replies.map(|reply| reply.map(|reply| Bytes::from(reply.payload)));
    Ok(Body::from_stream(data))
}

async fn stream(Path((chunks, bytes, pause_ms)): Path<(u32, usize, u64)>) -> Body {
    let data = stream::iter(0..chunks).then(move |number| async move {
        if number > 0 && pause_ms > 0 {
            sleep(Duration::from_millis(pause_ms)).await;
        }
        Ok::<_, Infallible>(Bytes::from(vec![b'x'; bytes]))
    });
    Body::from_stream(data)
}

/// A stream without a deadline.
async fn endless(Path((chunks, bytes)): Path<(u32, usize)>) -> Body {
    stream(Path((chunks, bytes, 0))).await
}

/// A stream whose length is known.
async fn sized(path: Path<(u32, usize, u64)>) -> ([(HeaderName, String); 1], Body) {
    let Path((chunks, bytes, _)) = path;
    let length = chunks as usize * bytes;
    ([(CONTENT_LENGTH, length.to_string())], stream(path).await)
}

async fn job(Path(millis): Path<u64>) {
    sleep(Duration::from_millis(millis)).await;
}

async fn all_jobs() {
    sleep(ALL_JOBS).await;
}

async fn fixed(Path(bytes): Path<usize>) -> Vec<u8> {
    vec![b'x'; bytes]
}

async fn count(body: Body) -> Result<String, Problem> {
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes().len().to_string()),
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off")),
    }
}
