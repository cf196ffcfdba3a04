//! Accounts, transfers between them, and rates: a service with PostgreSQL, Redis and another service over
//! HTTP. It has each client in the way that docs/databases.md advises.

mod rates;
mod rest;
mod store;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use common::server::{Builder, Listener, Process, Server};
use rates::Rates;
use store::{Pool, Store};
use tracing::{info, warn};

/// The interval of the checks of the database, and of attempts to create the tables.
const CHECK: Duration = Duration::from_secs(1);

/// Accounts, transfers between them, and rates
#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    #[command(flatten)]
    own: Own,
}

#[derive(clap::Args, Clone)]
struct Own {
    /// The port for HTTP
    #[arg(long, env, default_value_t = 8083)]
    port: u16,

    /// Where PostgreSQL is
    #[arg(
        long,
        env,
        hide_env_values = true,
        default_value = "postgres://postgres@localhost/ledger"
    )]
    database_url: String,

    /// The most connections to PostgreSQL, in the whole process
    #[arg(long, env, default_value_t = 16)]
    pool_size: u32,

    /// A pool for each worker, or one that all share
    #[arg(long, env, default_value = "worker")]
    pool: Pools,

    /// Where Redis is
    #[arg(long, env, default_value = "redis://localhost")]
    redis_url: String,

    /// Who knows the rates
    #[arg(long, env, default_value = "http://localhost:8084/rates")]
    rates_url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pools {
    Worker,
    Shared,
}

fn main() -> ExitCode {
    let config: Config = common::config::parse();
    match config.own.pool {
        Pools::Worker => pool_per_worker(config.own),
        Pools::Shared => shared_pool(config.own),
    }
    .run("ledger", &config.common)
}

/// Each worker has a pool of its own, and so does the task that prepares the database.
fn pool_per_worker(own: Own) -> Builder {
    let cache = rates::cache(own.redis_url.clone());
    let (captured, of_task) = (cache.clone(), own.clone());
    let faces = Server::builder(move |process| {
        let pool = store::open(&own.database_url, process.pool_size(own.pool_size));
        let checked = pool.clone();
        process.ready_while(move || store::check(checked.clone()), CHECK);
        let rates = Rates::new(captured.clone(), own.rates_url.clone());
        [Listener::http(
            own.port,
            rest::router(Store::new(Pool::OfWorker(pool)), rates),
        )]
    });
    faces.shared(&cache).task("migrate", move |process| {
        migrate(of_task.database_url, process)
    })
}

/// All workers share a pool.
fn shared_pool(own: Own) -> Builder {
    let cache = rates::cache(own.redis_url.clone());
    let pool = store::shared(own.database_url.clone(), own.pool_size, CHECK);
    let captured = (cache.clone(), pool.clone());
    let faces = Server::builder(move |_process| {
        let (cache, pool) = captured.clone();
        let rates = Rates::new(cache, own.rates_url.clone());
        [Listener::http(
            own.port,
            rest::router(Store::new(Pool::Shared(pool)), rates),
        )]
    });
    faces.shared(&pool).shared(&cache)
}

/// Creates the tables, as soon as the database is there.
async fn migrate(database_url: String, process: Process) {
    let pool = store::open(&database_url, 1);
    let migrated = async {
        while let Err(error) = store::migrate(pool.clone()).await {
            warn!(action = "migrate", status = "failure", %error);
            tokio::time::sleep(CHECK).await;
        }
        info!(action = "migrate", status = "success");
    };
    tokio::select! {
        () = migrated => {}
        () = process.draining() => {}
    }
}
