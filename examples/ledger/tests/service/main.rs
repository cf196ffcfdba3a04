//! The service with real databases: what is lost in a drain, when a client leaves, and when a database goes
//! away. Where the databases are not installed, the tests are left out, and say so.

mod programs;
mod stall;
#[path = "../../src/store.rs"]
#[allow(dead_code)] // the tests use a part of it
mod store;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use programs::{Postgres, RatesService, Redis, Service, are_installed, wait_for};
use reqwest::{Client, Response, StatusCode};
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinHandle;

/// Transfers of these amounts wait for the lock of the same number before they commit.
const FIRST: i64 = 13;
const SECOND: i64 = 14;

/// The service, its databases, and a connection of the test to one of them.
struct Setting {
    service: Service,
    postgres: Postgres,
    redis: Redis,
    rates: RatesService,
    database: PgConnection,
}

impl Setting {
    /// Starts all of it. `pool` is `worker` or `shared`.
    async fn start(pool: &str) -> Self {
        let postgres = Postgres::new();
        postgres.start();
        let (redis, rates) = (Redis::start(), RatesService::start().await);
        let service = Service::spawn(pool, &postgres, &redis, &rates);
        wait_until_ready(&service).await;
        let mut database = connect(&postgres).await;
        let waits = "
            CREATE FUNCTION wait() RETURNS trigger AS $$
                BEGIN PERFORM pg_advisory_xact_lock_shared(NEW.amount); RETURN NEW; END
            $$ LANGUAGE plpgsql;
            CREATE TRIGGER wait BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION wait();
        ";
        sqlx::raw_sql(waits)
            .execute(&mut database)
            .await
            .expect("a trigger");
        Self {
            service,
            postgres,
            redis,
            rates,
            database,
        }
    }

    async fn execute(&mut self, query: &'static str, lock: i64) {
        let query = sqlx::query(query).bind(lock);
        query
            .execute(&mut self.database)
            .await
            .expect("it is executed");
    }

    async fn hold(&mut self, lock: i64) {
        self.execute("SELECT pg_advisory_lock($1)", lock).await;
    }

    async fn release(&mut self, lock: i64) {
        self.execute("SELECT pg_advisory_unlock($1)", lock).await;
    }

    async fn count(&mut self, query: &'static str) -> i64 {
        let row = sqlx::query(query).fetch_one(&mut self.database).await;
        row.expect("a count").get(0)
    }

    async fn transfers(&mut self) -> i64 {
        self.count("SELECT count(*) FROM transfers").await
    }

    /// Waits until this number of connections is in a state, in the eyes of PostgreSQL.
    async fn wait_for_connections(&mut self, query: &'static str, expected: i64) {
        let begin = Instant::now();
        loop {
            let count = self.count(query).await;
            if count == expected {
                return;
            }
            let is_in_time = begin.elapsed() < Duration::from_secs(40);
            assert!(
                is_in_time,
                "{count}, not {expected}: {query}\n{}",
                self.service.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a transfer on a connection of its own.
    fn transfer(&self, number: i64, amount: i64) -> JoinHandle<StatusCode> {
        let url = self.service.url("/api/v1/transfers");
        let (source, target) = (number, number + 50);
        let document = serde_json::json!({"source": source, "target": target, "amount": amount});
        tokio::spawn(async move {
            let request = Client::new()
                .post(url)
                .header("content-type", "application/json");
            let response = request.body(document.to_string()).send().await;
            response.expect("a response").status()
        })
    }
}

/// The connections of the service that wait for a lock of the test.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                       WHERE application_name = 'ledger' AND wait_event = 'advisory'";
/// Those that have begun a transaction.
const IN_TRANSACTION: &str = "SELECT count(*) FROM pg_stat_activity \
                              WHERE application_name = 'ledger' AND xact_start IS NOT NULL";
const ALL: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ledger'";

async fn connect(postgres: &Postgres) -> PgConnection {
    let connection = PgConnection::connect(&postgres.url("test")).await;
    connection.expect("PostgreSQL is there")
}

async fn get(url: &str) -> reqwest::Result<Response> {
    let request = Client::new().get(url).timeout(Duration::from_secs(20));
    request.send().await
}

async fn status(url: &str) -> Option<StatusCode> {
    Some(get(url).await.ok()?.status())
}

async fn wait_until_ready(service: &Service) {
    wait_for_readiness(service, StatusCode::OK).await;
}

async fn wait_for_readiness(service: &Service, expected: StatusCode) {
    let url = service.url("/readyz");
    wait_for(&format!("readiness of {expected}"), async || {
        (status(&url).await? == expected).then_some(())
    })
    .await;
}

/// The service drains, and listens no more.
async fn wait_until_drained(service: &Service) {
    let url = service.url("/readyz");
    wait_for("drain", async || status(&url).await.is_none().then_some(())).await;
}

async fn nothing_is_lost_in_a_drain(pool: &str) {
    let mut setting = Setting::start(pool).await;
    // Connections of all clients, opened by both workers.
    let warm = (1..=24).map(|number| setting.transfer(number, 1));
    for status in warm.collect::<Vec<_>>() {
        assert_eq!(status.await.expect("a status"), StatusCode::CREATED);
    }
    for currency in ["a", "b", "c", "d"] {
        let url = setting.service.url(&format!("/api/v1/rates/{currency}"));
        assert_eq!(status(&url).await, Some(StatusCode::OK));
    }

    // One worker after the other gets a connection, so one has the first transfers.
    setting.hold(FIRST).await;
    setting.hold(SECOND).await;
    setting.rates.close();
    let mut pending = Vec::new();
    for number in 1..=4 {
        for (number, lock) in [(number, FIRST), (number + 4, SECOND)] {
            pending.push(setting.transfer(number, lock));
            let sent = pending.len().try_into().expect("there are few");
            setting.wait_for_connections(WAITING, sent).await;
        }
    }
    let mut rates = Vec::new();
    for number in 0..4 {
        let url = setting.service.url(&format!("/api/v1/rates/{number}"));
        rates.push(tokio::spawn(async move { status(&url).await }));
        setting.rates.wait_for(number + 1).await;
    }

    setting.service.terminate();
    wait_until_drained(&setting.service).await;
    setting.release(FIRST).await;
    setting.wait_for_connections(WAITING, 4).await;
    setting.rates.open();
    for rate in rates {
        assert_eq!(
            rate.await.expect("a status"),
            Some(StatusCode::OK),
            "{}",
            setting.service.log()
        );
    }
    setting.release(SECOND).await;
    for transfer in pending {
        let status = transfer.await.expect("a status");
        assert_eq!(status, StatusCode::CREATED, "{}", setting.service.log());
    }
    assert_eq!(setting.transfers().await, 24 + 8);
    setting.wait_for_connections(ALL, 0).await;
    assert!(setting.service.end().await.success());
}

async fn a_transfer_is_rolled_back_when_its_client_leaves(pool: &str, is_draining: bool) {
    let mut setting = Setting::start(pool).await;
    setting.hold(FIRST).await;
    let transfer = setting.transfer(1, FIRST);
    setting.wait_for_connections(WAITING, 1).await;
    if is_draining {
        setting.service.terminate();
        wait_until_drained(&setting.service).await;
    }
    transfer.abort();
    let left = [r#""response_status":499"#, "/api/v1/transfers"];
    setting.service.wait_for_line(&left).await;
    setting.release(FIRST).await;
    setting.wait_for_connections(IN_TRANSACTION, 0).await;
    assert_eq!(setting.transfers().await, 0);
    let moved = "SELECT count(*) FROM accounts WHERE balance <> 1000";
    assert_eq!(setting.count(moved).await, 0);
    if !is_draining {
        // The connection is good for others.
        let status = setting.transfer(1, FIRST).await.expect("a status");
        assert_eq!(status, StatusCode::CREATED);
        setting.service.terminate();
    }
    setting.wait_for_connections(ALL, 0).await;
    assert!(setting.service.end().await.success());
}

async fn the_service_survives_its_databases(pool: &str) {
    let mut setting = Setting::start(pool).await;
    let (statuses, is_over) = (
        Arc::new(Mutex::new(BTreeMap::new())),
        Arc::new(AtomicBool::new(false)),
    );
    let load = (1..=8).map(|account| {
        let url = setting.service.url(&format!("/api/v1/accounts/{account}"));
        let (statuses, is_over) = (statuses.clone(), is_over.clone());
        tokio::spawn(async move {
            let client = Client::new();
            while !is_over.load(SeqCst) {
                let request = client.get(&url).timeout(Duration::from_secs(20));
                let status = request.send().await.expect("a response").status();
                *statuses
                    .lock()
                    .expect("no panic")
                    .entry(status)
                    .or_insert(0) += 1;
            }
        })
    });
    let load: Vec<_> = load.collect();
    setting.postgres.kill();
    wait_for_readiness(&setting.service, StatusCode::SERVICE_UNAVAILABLE).await;
    let account = setting.service.url("/api/v1/accounts/1");
    assert_eq!(
        status(&account).await,
        Some(StatusCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(
        status(&setting.service.url("/healthz")).await,
        Some(StatusCode::OK)
    );
    setting.postgres.start();
    wait_until_ready(&setting.service).await;
    statuses.lock().expect("no panic").clear();
    wait_for("response to each", async || {
        let statuses = statuses.lock().expect("no panic");
        statuses
            .get(&StatusCode::OK)
            .filter(|count| **count > 100)
            .map(drop)
    })
    .await;
    is_over.store(true, SeqCst);
    for client in load {
        client.await.expect("each request has a response");
    }
    let seen = statuses.lock().expect("no panic").clone();
    let expected = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
    assert!(
        seen.keys().all(|status| expected.contains(status)),
        "{seen:?}"
    );

    setting.redis.restart();
    let rate = setting.service.url("/api/v1/rates/eur");
    wait_for("rate", async || {
        (status(&rate).await? == StatusCode::OK).then_some(())
    })
    .await;
    setting.service.terminate();
    assert!(setting.service.end().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_per_worker() {
    if are_installed() {
        nothing_is_lost_in_a_drain("worker").await;
        a_transfer_is_rolled_back_when_its_client_leaves("worker", false).await;
        a_transfer_is_rolled_back_when_its_client_leaves("worker", true).await;
        the_service_survives_its_databases("worker").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pool() {
    if are_installed() {
        nothing_is_lost_in_a_drain("shared").await;
        a_transfer_is_rolled_back_when_its_client_leaves("shared", false).await;
        a_transfer_is_rolled_back_when_its_client_leaves("shared", true).await;
        the_service_survives_its_databases("shared").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_late_is_waited_for() {
    if !are_installed() {
        return;
    }
    let (postgres, redis) = (Postgres::new(), Redis::start());
    let rates = RatesService::start().await;
    let stopped = Service::spawn("shared", &postgres, &redis, &rates);
    let late = Service::spawn("shared", &postgres, &redis, &rates);
    let open = Service::spawn("worker", &postgres, &redis, &rates);
    for service in [&stopped, &late] {
        let url = service.admin_url("/readyz");
        let text = wait_for("readiness with the reason", async || {
            let response = get(&url).await.ok()?;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            Some(response.text().await.expect("a text")).filter(|text| text.contains("database"))
        });
        text.await;
        assert!(get(&service.url("/readyz")).await.is_err(), "it listens");
    }
    wait_for_readiness(&open, StatusCode::SERVICE_UNAVAILABLE).await;
    stopped.terminate();
    assert!(stopped.end().await.success());

    postgres.start();
    for service in [&late, &open] {
        wait_until_ready(service).await;
        assert_eq!(
            status(&service.url("/api/v1/accounts/1")).await,
            Some(StatusCode::OK)
        );
    }
}
