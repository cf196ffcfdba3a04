//! [`Fake`]: a server that stands in for a replica with a fault in its HTTP/2.

mod broken;
mod going_away;
mod hanging;
mod ping_counter;

use std::{
    future::Future,
    net::{self, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime, select,
    sync::{oneshot, watch},
};

pub use self::broken::Breaks;

/// A server on a free port of loopback. Dropping it ends it.
///
/// The server echoes the name of `ProcessName`, as the request and the response have the same wire
/// form, and does not implement `grpc.health.v1`.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    calls: Arc<Calls>,
    hang: watch::Sender<()>,
    _stop: oneshot::Sender<()>,
}

/// The number of calls of `ProcessName` by outcome.
#[derive(Debug, Default)]
struct Calls {
    seen: AtomicUsize,
    processed: AtomicUsize,
    refused: AtomicUsize,
}

impl Fake {
    /// Starts a server that sends GOAWAY on each connection when it is a second old, and lets the
    /// calls on it run to their end. The server refuses one call in twenty without processing it.
    /// Its streams have 50 items, one every 100 ms.
    pub fn going_away() -> Self {
        let calls = Arc::new(Calls::default());
        Self::start(calls.clone(), move |socket| {
            going_away::serve(socket, calls.clone())
        })
    }

    /// Starts a server that breaks one response in `one_of`.
    pub fn broken(breaks: Breaks, one_of: usize) -> Self {
        let calls = Arc::new(Calls::default());
        Self::start(calls.clone(), move |socket| {
            broken::serve(socket, breaks, one_of, calls.clone())
        })
    }

    /// Starts a server that closes a connection for too many PINGs, as gRPC's servers do. The
    /// response for a name with `quiet` in it comes after 100 s.
    pub fn counting_pings() -> Self {
        Self::start(Arc::default(), ping_counter::serve)
    }

    /// Starts a server that allows 20 streams on a connection. [`Self::hang`] makes the connections
    /// hang that are open.
    pub fn hanging() -> Self {
        let (calls, hang) = (Arc::<Calls>::default(), watch::Sender::new(()));
        let serve = {
            let (calls, hang) = (calls.clone(), hang.clone());
            move |socket| hanging::serve(socket, hang.subscribe(), calls.clone())
        };
        Self {
            hang,
            ..Self::start(calls, serve)
        }
    }

    fn start<F>(calls: Arc<Calls>, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let listener = net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn({
            let accepted = accepted.clone();
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    listener.set_nonblocking(true).expect("it is a socket");
                    let listener = TcpListener::from_std(listener).expect("it is a socket");
                    let accept = async {
                        while let Ok((socket, _)) = listener.accept().await {
                            accepted.fetch_add(1, Ordering::Relaxed);
                            // A client that breaks its connection is no fault of the server.
                            tokio::spawn(serve(socket));
                        }
                    };
                    select! {
                        () = accept => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            calls,
            hang: watch::Sender::new(()),
            _stop: stop,
        }
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, the connections that are open are neither read nor written.
    pub fn hang(&self) {
        self.hang.send_replace(());
    }

    /// The number of connections that were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The number of calls of `ProcessName` that were processed.
    pub fn processed(&self) -> usize {
        self.calls.processed.load(Ordering::Relaxed)
    }

    /// The number of calls of `ProcessName` that were refused.
    pub fn refused(&self) -> usize {
        self.calls.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::{call, process_name};

    #[test]
    fn all_echo_names_and_do_not_implement_health_checks() {
        for fake in [Fake::going_away(), Fake::counting_pings(), Fake::hanging()] {
            let response = process_name(fake.address(), "test", &[]);
            assert_eq!((response.code(), &response.body[7..]), (0, &b"test"[..]));
            let health = call(fake.address(), "/grpc.health.v1.Health/Check", &[], b"");
            assert_eq!(health.code(), 12);
            assert_eq!(fake.accepted(), 2);
        }
    }
}
