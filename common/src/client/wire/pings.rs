//! [`Pings`]: the PINGs of a connection, no more than gRPC's servers forgive.

use std::task::{Context, Waker};

use h2::{Ping, PingPong};
use tokio::time::Instant;

use super::activity::ConnectionActivity;
use crate::limits;

/// Sends PINGs. Their acknowledgements count as reads, as all bytes do.
///
/// gRPC's servers close a connection for the third PING that follows another one within five
/// minutes, and forget the PINGs whenever they send HEADERS or DATA (gRFC A8). An acknowledgement is
/// neither.
#[derive(Debug)]
pub(crate) struct Pings {
    ping_pong: PingPong,
    last: Option<Instant>,
}

impl Pings {
    pub(crate) fn new(ping_pong: PingPong) -> Self {
        Self {
            ping_pong,
            last: None,
        }
    }

    /// Sends a PING, unless a server could count it as one too many. Returns whether it was sent.
    pub(crate) fn send(&mut self, activity: &ConnectionActivity) -> bool {
        let is_long_ago = |last: Instant| last.elapsed() >= limits::PING_INTERVAL;
        // Taken in any case: the server forgets its count with these frames.
        let has_answered = activity.take_answered();
        let may_send = has_answered || self.last.is_none_or(is_long_ago);
        if may_send {
            // h2 sends no PING before the last acknowledgement was taken (share.rs:556,
            // proto/ping_pong.rs:199).
            let mut nobody = Context::from_waker(Waker::noop());
            let _ = self.ping_pong.poll_pong(&mut nobody);
            // Fails if the last PING is still on its way, or the connection has ended.
            let _ = self.ping_pong.send_ping(Ping::opaque());
            self.last = Some(Instant::now());
        }
        may_send
    }
}
