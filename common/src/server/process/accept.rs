//! [`accept`]: accepts connections and hands them to the workers evenly.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::SockRef;
use tokio::{net::TcpListener, sync::mpsc::UnboundedSender, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    limits,
    server::{
        capacity::connections::{ConnectionPermit, Connections},
        worker::Accepted,
    },
};

/// Accepts the connections of one listener until the service drains, and then those left in the
/// backlog.
pub(crate) async fn accept(
    listener: usize,
    socket: TcpListener,
    connections: Arc<Connections>,
    mut dispatcher: Dispatcher,
    draining: CancellationToken,
) {
    let mut take = async |accepted: io::Result<(std::net::TcpStream, SocketAddr)>| {
        let (stream, peer) = accepted?;
        set_options(&stream)?;
        let permit = connections.admit(peer.ip()).await;
        dispatcher.give(stream, listener, permit);
        Ok(())
    };
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = draining.cancelled() => break,
        };
        let accepted = accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer)));
        match take(accepted).await {
            Err(error) if !is_listening(&socket) => {
                let port = socket.local_addr().ok().map(|address| address.port());
                warn!(
                    action = "accept",
                    status = "failure",
                    port,
                    %error,
                    "a port no longer accepts connections"
                );
                return;
            }
            Err(error) if !is_of_one_connection(&error) => {
                warn!(action = "accept", status = "failure", %error, "can't accept a connection");
                sleep(limits::ACCEPT_RETRY).await;
            }
            Ok(()) | Err(_) => {}
        }
    }
    // The kernel would reset the connections left in the backlog, and lose their requests.
    let Ok(socket) = socket.into_std() else {
        return;
    };
    while let Ok(accepted) = socket.accept() {
        let _ = take(Ok(accepted)).await; // an error is of one connection
    }
}

fn set_options(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?; // those of the backlog are not yet
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_notsent_lowat(limits::UNSENT)
}

/// Whether the socket still listens. One that was shut down from outside, as by `ss --kill`, fails at once
/// each time.
fn is_listening(socket: &TcpListener) -> bool {
    SockRef::from(socket).is_listener().unwrap_or(false)
}

/// Whether the error concerns only one connection, so that the next may succeed.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::InvalidInput // the client has closed before an option was set
            | io::ErrorKind::NotConnected
    )
}

/// Hands each connection of one listener to the worker with the fewest open connections of that
/// listener, in turns among equals. (`SO_REUSEPORT` hashes connections: with a few long-lived gRPC
/// connections, it leaves cores idle.)
pub(crate) struct Dispatcher {
    /// The inbox of each worker, and a handle that each of its open connections clones.
    workers: Vec<(UnboundedSender<Accepted>, Arc<()>)>,
    next: usize,
}

impl Dispatcher {
    pub(crate) fn new(inboxes: Vec<UnboundedSender<Accepted>>) -> Self {
        let with_count = |inbox| (inbox, Arc::new(()));
        Self {
            workers: inboxes.into_iter().map(with_count).collect(),
            next: 0,
        }
    }

    fn give(&mut self, stream: std::net::TcpStream, listener: usize, permit: ConnectionPermit) {
        let count = self.workers.len();
        let in_turns = (0..count).map(|offset| (self.next + offset) % count);
        let Some(worker) =
            in_turns.min_by_key(|worker| Arc::strong_count(&self.workers[*worker].1))
        else {
            return;
        };
        self.next = worker + 1;
        let (inbox, counter) = &self.workers[worker];
        // A worker closes its inbox when it ends, and then the process ends, too.
        let _ = inbox.send(Accepted {
            stream,
            listener,
            counter: counter.clone(),
            permit,
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::mpsc::{self, UnboundedReceiver};

    use super::*;

    /// Hands out a connection and returns the worker that got it.
    fn give(
        dispatcher: &mut Dispatcher,
        inboxes: &mut [UnboundedReceiver<Accepted>],
    ) -> (usize, Accepted) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let address = stream.peer_addr().unwrap().ip();
        let permit = Arc::new(Connections::new(1)).admit(address).now_or_never();
        dispatcher.give(stream, 0, permit.unwrap());
        let mut received = inboxes
            .iter_mut()
            .map(UnboundedReceiver::try_recv)
            .enumerate();
        received
            .find_map(|(worker, accepted)| Some((worker, accepted.ok()?)))
            .unwrap()
    }

    #[tokio::test]
    async fn accepting_ends_when_the_listener_is_gone() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SockRef::from(&socket)
            .shutdown(std::net::Shutdown::Read)
            .unwrap();
        let connections = Arc::new(Connections::new(1));
        let (dispatcher, draining) = (Dispatcher::new(Vec::new()), CancellationToken::new());
        let accepting = tokio::spawn(accept(0, socket, connections, dispatcher, draining));
        let ended = tokio::time::timeout(std::time::Duration::from_mins(1), accepting).await;
        ended.expect("it ends").expect("it does not panic");
    }

    #[test]
    fn connections_go_to_the_worker_with_the_fewest() {
        let (senders, mut inboxes): (Vec<_>, Vec<_>) =
            (0..3).map(|_| mpsc::unbounded_channel()).unzip();
        let mut dispatcher = Dispatcher::new(senders);
        let mut open: Vec<_> = (0..6)
            .map(|_| give(&mut dispatcher, &mut inboxes))
            .collect();
        let workers: Vec<_> = open.iter().map(|(worker, _)| *worker).collect();
        assert_eq!(workers, [0, 1, 2, 0, 1, 2]);
        open.retain(|(worker, _)| *worker != 1);
        assert_eq!(give(&mut dispatcher, &mut inboxes).0, 1);
    }
}
