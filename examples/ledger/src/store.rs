//! Accounts and transfers in PostgreSQL. Knows nothing of HTTP.

use std::{future::Future, time::Duration};

use common::server::Shared;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};

/// How long a query waits for a connection: less than the deadline of a request, so that a client learns
/// that the database is away.
const ACQUIRE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("There is no account {0}.")]
    Unknown(i64),
    #[error("Account {0} has less than {1}.")]
    Funds(i64, i64),
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Transfer {
    pub source: i64,
    pub target: i64,
    pub amount: i64,
}

#[derive(Debug, Serialize)]
pub struct Account {
    pub id: i64,
    pub balance: i64,
}

/// The connections to the database.
#[derive(Clone)]
pub enum Pool {
    OfWorker(PgPool),
    Shared(Shared<PgPool>),
}

#[derive(Clone)]
pub struct Store(Pool);

/// A pool that connects when it is used.
pub fn open(url: &str, size: u32) -> PgPool {
    let options = PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE);
    options.connect_lazy(url).expect("DATABASE_URL is a URL")
}

/// A pool that the process shares. The service starts once the database is there.
pub fn shared(url: String, size: u32, every: Duration) -> Shared<PgPool> {
    let connect = move || {
        let pool = open(&url, size);
        async move { migrate(pool.clone()).await.map(|()| pool) }
    };
    Shared::new("database", connect)
        .ready_while(check, every)
        .close(|pool| async move { pool.close().await })
}

pub async fn migrate(pool: PgPool) -> Result<(), Error> {
    const TABLES: &str = "
        CREATE TABLE IF NOT EXISTS accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL);
        CREATE TABLE IF NOT EXISTS transfers (
            source BIGINT NOT NULL, target BIGINT NOT NULL, amount BIGINT NOT NULL
        );
        INSERT INTO accounts SELECT id, 1000 FROM generate_series(1, 100) id ON CONFLICT DO NOTHING;
    ";
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    Ok(())
}

/// Whether the database responds, and has the tables.
pub async fn check(pool: PgPool) -> Result<(), Error> {
    sqlx::query("SELECT FROM accounts LIMIT 1")
        .execute(&pool)
        .await?;
    Ok(())
}

impl Store {
    pub fn new(pool: Pool) -> Self {
        Self(pool)
    }

    /// Asks the database. With a shared pool, all of the query runs where its connections are.
    async fn ask<T, F>(&self, query: impl FnOnce(PgPool) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        match &self.0 {
            Pool::OfWorker(pool) => query(pool.clone()).await,
            Pool::Shared(shared) => shared.run(query(shared.get().clone())).await,
        }
    }

    pub async fn account(&self, id: i64) -> Result<Account, Error> {
        self.ask(move |pool| async move {
            let query = sqlx::query("SELECT balance FROM accounts WHERE id = $1").bind(id);
            let row = query
                .fetch_optional(&pool)
                .await?
                .ok_or(Error::Unknown(id))?;
            Ok(Account {
                id,
                balance: row.get(0),
            })
        })
        .await
    }

    /// Moves money, or does nothing: a transaction that is dropped is rolled back.
    pub async fn transfer(&self, transfer: Transfer) -> Result<(), Error> {
        let Transfer {
            source,
            target,
            amount,
        } = transfer;
        self.ask(move |pool| async move {
            let mut transaction = pool.begin().await?;
            let add =
                "UPDATE accounts SET balance = balance + $2 WHERE id = $1 AND balance + $2 >= 0";
            let paid = sqlx::query(add)
                .bind(source)
                .bind(-amount)
                .execute(&mut *transaction)
                .await?;
            if paid.rows_affected() == 0 {
                return Err(Error::Funds(source, amount));
            }
            let got = sqlx::query(add)
                .bind(target)
                .bind(amount)
                .execute(&mut *transaction)
                .await?;
            if got.rows_affected() == 0 {
                return Err(Error::Unknown(target));
            }
            let note = "INSERT INTO transfers (source, target, amount) VALUES ($1, $2, $3)";
            let note = sqlx::query(note).bind(source).bind(target).bind(amount);
            note.execute(&mut *transaction).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }
}
