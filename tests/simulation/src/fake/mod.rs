//! Replicas that speak HTTP/2 and gRPC badly, frame by frame.
//!
//! A [`Character`] says which [`Manner`]s a fake replica has. [`serve`] serves one connection: a
//! manner is drawn for the connection, for each call and for each health check, and becomes a script
//! of steps, which the connection follows in simulated time.
//!
//! A fake never lies about what it processed: it refuses only calls of which it has noted no
//! [`Event::Processed`](crate::trace::Event::Processed).

mod character;
mod connection;
mod draft;
mod hpack;
mod manner;
mod receive;
mod scripts;
mod step;
mod steps;
mod stream;
#[cfg(test)]
mod tests;

use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{
    character::Character,
    manner::{Kind, Manner},
};
use crate::trace::Trace;

/// Serves one connection until its end.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    replica: usize,
    character: Character,
    random: fastrand::Rng,
    trace: Trace,
) {
    connection::Connection::new(replica, character, random, trace)
        .run(io)
        .await;
}
