//! [`Connection`]: one HTTP/2 connection to a replica, once it is open; and its [`Questions`].

use std::{
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    activity::{Closed, ConnectionActivity, Suspicion},
    origin::Origin,
    settings::SettingsQuestion,
};
use crate::{limits, sync::lock};

/// An open connection to a replica. It closes once this is dropped and its calls have ended.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) origin: Origin,
    sender: Arc<Mutex<SendRequest<Bytes>>>,
    pub(crate) activity: Arc<ConnectionActivity>,
    driver: AbortHandle,
    /// Watches the calls, and the trusted authorities.
    _watch: AbortOnDropHandle<()>,
}

impl Connection {
    /// Drives a connection from now on, beside the watch over its calls.
    pub(super) fn drive<W: Future<Output = ()> + Send + 'static>(
        connection: client::Connection<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, Bytes>,
        sender: SendRequest<Bytes>,
        origin: Origin,
        activity: Arc<ConnectionActivity>,
        settings: Arc<SettingsQuestion>,
        watch: impl FnOnce(Weak<Self>) -> W,
    ) -> Arc<Self> {
        let sender = Arc::new(Mutex::new(sender));
        let driver = tokio::spawn(Driver {
            connection,
            sender: Arc::downgrade(&sender),
            activity: activity.clone(),
            settings,
            reads: 0,
        });
        Arc::new_cyclic(|connection| Self {
            origin,
            sender,
            activity,
            driver: driver.abort_handle(),
            _watch: AbortOnDropHandle::new(tokio::spawn(watch(connection.clone()))),
        })
    }

    /// Closes the connection to new calls, as another one has taken its place.
    pub(crate) fn replace(&self) {
        self.activity.close(Closed::Replaced);
    }

    /// Breaks off the connection, as it is silent, and the calls in flight.
    pub(crate) fn break_off(&self) {
        self.activity.close(Closed::Silent);
        self.driver.abort();
    }

    /// Whether the connection and all its calls have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }

    /// Whether the peer takes one more stream now. If not, the next call has to wait.
    pub(crate) fn has_free_stream(&self) -> bool {
        self.activity.in_flight() < self.max_streams()
    }

    /// The most streams that the peer takes at once.
    pub(crate) fn max_streams(&self) -> u64 {
        lock(&self.sender).current_max_send_streams() as u64
    }

    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        lock(&self.sender).clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Their room counts the silent connections to a replica.
        self.activity.set_suspicion(Suspicion::None);
    }
}

/// Drives the connection until its end, and notices a GOAWAY. From then on h2 refuses new
/// requests, but the connection's future goes on while streams are open.
struct Driver<T> {
    connection: client::Connection<T, Bytes>,
    sender: Weak<Mutex<SendRequest<Bytes>>>,
    activity: Arc<ConnectionActivity>,
    settings: Arc<SettingsQuestion>,
    reads: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.settings.send_if_wanted(cx.waker(), || {
            let same = limits::RESPONSE_WINDOW;
            this.connection.set_initial_window_size(same).is_ok()
        });
        let end = Pin::new(&mut self.connection).poll(cx);
        self.activity.note_driven();
        let reads = self.activity.counts().reads;
        if reads != self.reads {
            self.reads = reads;
            if let Some(sender) = self.sender.upgrade() {
                let mut sender = lock(&sender);
                if let Poll::Ready(Err(error)) = sender.poll_ready(cx) {
                    let is_going_away = error.is_go_away() && error.is_remote();
                    self.activity.close(if is_going_away {
                        Closed::GoingAway
                    } else {
                        Closed::Lost
                    });
                }
                // The peer may have raised its limit.
                if self.activity.room().is_waited_for()
                    && self.activity.in_flight() < sender.current_max_send_streams() as u64
                {
                    self.activity.room().wake_one();
                }
            }
        }
        end.map(drop)
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.activity.close(Closed::Lost);
    }
}

/// Asks by PINGs and SETTINGS. Their acknowledgements count as reads, as all bytes do.
///
/// gRPC's servers close a connection for the third PING that follows another one within five
/// minutes, and forget the PINGs whenever they send HEADERS or DATA (gRFC A8). An acknowledgement is
/// neither.
#[derive(Debug)]
pub(crate) struct Questions {
    ping_pong: PingPong,
    last: Option<Instant>,
    settings: Arc<SettingsQuestion>,
}

impl Questions {
    pub(super) fn new(ping_pong: PingPong, settings: Arc<SettingsQuestion>) -> Self {
        Self {
            ping_pong,
            last: None,
            settings,
        }
    }

    /// Sends a PING, or SETTINGS where a server could count the PING as one too many. Returns whether
    /// something was sent.
    pub(crate) async fn ask(&mut self, activity: &ConnectionActivity) -> bool {
        self.ping(activity) || self.ask_by_settings().await
    }

    /// Sends SETTINGS, unless the last ones are not acknowledged. Returns whether they were sent.
    pub(crate) async fn ask_by_settings(&self) -> bool {
        self.settings.ask().await
    }

    /// Sends a PING, unless a server could count it as one too many. Returns whether it was sent.
    pub(crate) fn ping(&mut self, activity: &ConnectionActivity) -> bool {
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
