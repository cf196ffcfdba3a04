//! Parcels, and where they are. This module knows neither HTTP nor gRPC.

use std::{path::Path, sync::Mutex, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::watch;

/// The longest name of a place, in bytes.
const MAX_PLACE: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    pub id: i64,
    pub place: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("There is no parcel {0}.")]
    Unknown(i64),
    #[error("A place has 1 to {MAX_PLACE} bytes; this one has {0}.")]
    Place(usize),
    #[error("the database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// The parcels of the process. Its methods block, so call them with `context::spawn_blocking`.
pub struct Store {
    database: Mutex<Connection>,
    /// Changes whenever a parcel moves.
    moves: watch::Sender<()>,
}

impl Store {
    pub fn open(file: &Path) -> Result<Self, Error> {
        let database = Connection::open(file)?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS parcels (
                id INTEGER PRIMARY KEY,
                place TEXT NOT NULL,
                moved INTEGER NOT NULL DEFAULT (unixepoch())
            )",
        )?;
        Ok(Self {
            database: Mutex::new(database),
            moves: watch::Sender::new(()),
        })
    }

    pub fn add(&self, place: String) -> Result<Parcel, Error> {
        check(&place)?;
        let database = self.database();
        database.execute("INSERT INTO parcels (place) VALUES (?1)", [&place])?;
        let id = database.last_insert_rowid();
        Ok(Parcel { id, place })
    }

    pub fn get(&self, id: i64) -> Result<Parcel, Error> {
        let read = |row: &Row| {
            Ok(Parcel {
                id,
                place: row.get(0)?,
            })
        };
        let parcel = self
            .database()
            .query_row("SELECT place FROM parcels WHERE id = ?1", [id], read)
            .optional()?;
        parcel.ok_or(Error::Unknown(id))
    }

    pub fn put(&self, id: i64, place: String) -> Result<Parcel, Error> {
        check(&place)?;
        let changed = self.database().execute(
            "UPDATE parcels SET place = ?2, moved = unixepoch() WHERE id = ?1",
            params![id, place],
        )?;
        if changed == 0 {
            return Err(Error::Unknown(id));
        }
        self.moves.send_replace(());
        Ok(Parcel { id, place })
    }

    /// Removes the parcels that have not moved for this time. Returns how many.
    pub fn sweep(&self, age: Duration) -> Result<usize, Error> {
        let swept = self.database().execute(
            "DELETE FROM parcels WHERE moved <= unixepoch() - ?1",
            [age.as_secs_f64()],
        )?;
        Ok(swept)
    }

    /// Whether the database works.
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.database().execute_batch("SELECT 1 FROM parcels")?)
    }

    /// Changes whenever a parcel moves.
    pub fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    fn database(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.database.lock().expect("no query panics")
    }
}

fn check(place: &str) -> Result<(), Error> {
    let is_valid = (1..=MAX_PLACE).contains(&place.len());
    is_valid.then_some(()).ok_or(Error::Place(place.len()))
}
