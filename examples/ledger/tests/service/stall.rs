//! A worker or a task that blocks its thread stalls no other that shares a pool with it, also not if it was
//! the one whose queries opened all connections anew.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use common::{
    Config, Problem,
    server::{Listener, Server, Shared},
};
use reqwest::StatusCode;
use sqlx::{Connection as _, PgConnection, PgPool, Row};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Notify,
};

use crate::{
    programs::{PATIENCE, Postgres, are_installed},
    store::{self, Pool, Store},
};

/// The connections of the pool.
const SIZE: u32 = 4;

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

/// What one thread of the service does in the end: it blocks.
struct Blocker {
    pool: Shared<PgPool>,
    may_begin: Notify,
    has_begun: Notify,
    end: Barrier,
}

impl Blocker {
    /// Uses all connections of the pool at once, and so opens those that are not open.
    async fn open_all(&self) {
        let naps: Vec<_> = (0..SIZE)
            .map(|_| {
                let pool = self.pool.get().clone();
                let nap = async move { sqlx::query("SELECT pg_sleep(0.3)").execute(&pool).await };
                self.pool.run(nap)
            })
            .collect();
        for nap in naps {
            nap.await.expect("the database responds");
        }
    }

    async fn block(&self) {
        self.open_all().await;
        self.has_begun.notify_one();
        self.end.wait();
    }
}

async fn account(State(store): State<Store>, Path(id): Path<i64>) -> Result<String, Problem> {
    let account = store.account(id).await;
    let account = account
        .map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(account.balance.to_string())
}

async fn thread_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or_default().to_owned()
}

fn router(pool: Shared<PgPool>, blocker: Arc<Blocker>) -> Router {
    let block = async |State(blocker): State<Arc<Blocker>>| blocker.block().await;
    Router::new()
        .route("/accounts/{id}", get(account))
        .with_state(Store::new(Pool::Shared(pool)))
        .route("/thread", get(thread_name))
        .route("/block", get(block).with_state(blocker))
}

/// A connection to the service. A client with a pool might open another one, with the worker that blocks.
struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Opens one with the worker of this name.
    async fn with(worker: &str, address: SocketAddr) -> Self {
        for _ in 0..20 {
            let stream = TcpStream::connect(address).await;
            let mut connection = Self(BufReader::new(stream.expect("it listens")));
            if connection.get("/thread").await == (StatusCode::OK, worker.to_owned()) {
                return connection;
            }
        }
        panic!("no connection is with {worker}");
    }

    /// Sends a request. Returns the status and the body of the response.
    async fn get(&mut self, path: &str) -> (StatusCode, String) {
        let response = tokio::time::timeout(PATIENCE, self.exchange(path)).await;
        response.expect("in time").expect("a response")
    }

    async fn exchange(&mut self, path: &str) -> io::Result<(StatusCode, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: ledger\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).await?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && self.0.read_line(&mut head).await? > 0 {}
        let status = head.split(' ').nth(1).unwrap_or_default();
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).await?;
        let status = status.parse().map_err(io::Error::other)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// The processes of PostgreSQL that serve the pool.
async fn backends(database: &mut PgConnection) -> Vec<i32> {
    let query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ledger'";
    let rows = sqlx::query(query).fetch_all(database).await;
    let rows = rows.expect("the database responds");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until PostgreSQL has no connection of the pool.
async fn wait_until_closed(database: &mut PgConnection) {
    let begin = Instant::now();
    while !backends(database).await.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "connections are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends all connections of the pool. Returns when PostgreSQL has none of them.
async fn kill_all(database: &mut PgConnection) {
    let query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                 WHERE application_name = 'ledger'";
    let killed = sqlx::query(query).execute(&mut *database).await;
    killed.expect("the database responds");
    wait_until_closed(database).await;
}

async fn nobody_else_stalls(blocks_task: bool) {
    let postgres = Postgres::new();
    postgres.start();
    let mut database = PgConnection::connect(&postgres.url("test"))
        .await
        .expect("it is there");
    let pool = store::shared(postgres.url("ledger"), SIZE, NEVER);
    let blocker = Arc::new(Blocker {
        pool: pool.clone(),
        may_begin: Notify::new(),
        has_begun: Notify::new(),
        end: Barrier::new(2),
    });
    let (of_faces, of_task) = ((pool.clone(), blocker.clone()), blocker.clone());
    let faces = Server::builder(move |_process| {
        let (pool, blocker) = of_faces.clone();
        [Listener::http(0, router(pool, blocker))]
    });
    let service = faces.shared(&pool).task("blocks", |process| async move {
        tokio::select! {
            () = of_task.may_begin.notified() => of_task.block().await,
            () = process.draining() => {}
        }
    });
    let config = Config {
        host: [127, 0, 0, 1].into(),
        workers: 2.try_into().expect("it is not 0"),
        ..Config::default()
    };
    let server = service.bind(&config).expect("it starts");
    let address = server.addresses()[0];
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(server.serve(async move { stopped.notified().await }));
    let mut one = Connection::with("worker-0", address).await;
    let mut other = Connection::with("worker-1", address).await;

    blocker.open_all().await;
    let before = backends(&mut database).await;
    assert_eq!(before.len(), SIZE as usize);
    kill_all(&mut database).await;
    let (blocked, others) = if blocks_task {
        blocker.may_begin.notify_one();
        (None, vec![&mut one, &mut other])
    } else {
        let blocked = tokio::spawn(async move { one.get("/block").await.0 });
        (Some(blocked), vec![&mut other])
    };
    blocker.has_begun.notified().await;
    let after = backends(&mut database).await;
    assert_eq!(after.len(), SIZE as usize);
    assert!(after.iter().all(|pid| !before.contains(pid)), "{after:?}");

    for connection in others {
        for _ in 0..20 {
            assert_eq!(connection.get("/accounts/1").await.0, StatusCode::OK);
        }
    }
    blocker.end.wait();
    if let Some(blocked) = blocked {
        assert_eq!(blocked.await.expect("it does not panic"), StatusCode::OK);
    }
    stop.notify_one();
    let end = serving.await.expect("it does not panic");
    end.expect("it drains");
    wait_until_closed(&mut database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_blocks_stalls_no_other_after_all_connections_were_opened_anew() {
    if are_installed() {
        nobody_else_stalls(false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_blocks_stalls_no_worker_after_all_connections_were_opened_anew() {
    if are_installed() {
        nobody_else_stalls(true).await;
    }
}
