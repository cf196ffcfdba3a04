//! [`Channel`]: a service that this process calls.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
};

use super::{
    choice::balancer::{Balancer, ChannelCounts},
    config::{Config, RequestIdNames},
    discovery::{
        keeper::keep_replicas, names::Names, reconnect::keep_open_connection, subset::Subset,
    },
    ejection::memory::Memory,
    method::UsualLatency,
    replicas::replica::Replica,
    retry::{attempts::Attempts, budget::Budget},
    retry_policy::RetryPolicy,
    stack::{Client, outbound},
    target::Target,
    wire::origin::Origin,
};
use crate::{
    calls::ServiceCalls,
    config::settings,
    request::methods::{Method, RouteTable, declared_in},
    tls::{SpiffeId, Tls, plain_calls},
};

/// A service that this process calls, and what all its workers share: the addresses, the usual
/// latency of each method, the memory of failures, the budget of attempts, and the bounds of waiting calls and of
/// connections. Clones share their state.
///
/// Create one before the workers start, and call [`connect`](Self::connect) on each worker:
///
/// ```no_run
/// use common::client::{self, Channel, Target};
/// # fn example(target: &Target, config: &client::Config, common: &common::Config, descriptors: &[u8]) {
/// let channel = Channel::new(target, descriptors, config, common);
/// // Once on each worker. Clone the client for each call:
/// let client = channel.connect();
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Channel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    names: Arc<Names>,
    methods: HashMap<String, (Method, Arc<UsualLatency>)>,
    budget: Arc<Budget>,
    memory: Arc<Memory>,
    waiting: ChannelCounts,
    calls: Arc<ServiceCalls>,
    workers: watch::Sender<usize>,
    next_worker: AtomicUsize,
    failfast: Duration,
    retries: Arc<RetryPolicy>,
    deadlines: RouteTable,
    request_id_names: RequestIdNames,
}

impl Channel {
    /// Creates a channel to the service at `target`, without looking it up or connecting to it.
    ///
    /// `descriptors` is the encoded file descriptor set of the service. A method that it declares
    /// idempotent (`idempotency_level`) may be called again when an attempt fails. An undeclared
    /// method is called again only if it was not processed.
    ///
    /// `common` has the settings that the service runs with. Its deadline bounds each call whose
    /// method declares no deadline of its own (`(mesh.deadline)`, see
    /// `common/protos/mesh/options.proto`). A call that is part of a request never outlives the
    /// deadline of that request. Calls are mutual TLS, with the certificates of the service, where
    /// it has them: see [`mesh_tls`](field@crate::Config::mesh_tls). The certificate of the other side
    /// must have the host name of the target, or be of the peer that the channel
    /// [expects](Self::expect). If `common` has no certificates although the service does, or if it has
    /// them and the target begins with `http://`, [`server::run`](crate::server::run) ends the start.
    ///
    /// # Panics
    ///
    /// When the descriptors are not an encoded file descriptor set, or declare an invalid deadline.
    pub fn new(
        target: &Target,
        descriptors: &[u8],
        config: &Config,
        common: &settings::Config,
    ) -> Self {
        match common.mesh_tls {
            None => plain_calls::note_channel_without_tls(target),
            Some(_) if target.says_http() => plain_calls::note_http_with_tls(target),
            Some(_) => {}
        }
        let tls = common.mesh_tls.as_ref();
        Self::over(tls, target, descriptors, config, common.deadline)
    }

    /// Creates a channel whose calls are plain text, whatever the settings of the service. It is for
    /// tests, and for a service outside of the mesh. `deadline` bounds each call whose method declares
    /// none, and the rest is as in [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// When the descriptors are not an encoded file descriptor set, or declare an invalid deadline.
    pub fn plain(target: &Target, descriptors: &[u8], config: &Config, deadline: Duration) -> Self {
        Self::over(None, target, descriptors, config, deadline)
    }

    fn over(
        tls: Option<&Tls>,
        target: &Target,
        descriptors: &[u8],
        config: &Config,
        deadline: Duration,
    ) -> Self {
        let methods =
            declared_in(descriptors).unwrap_or_else(|error| panic!("descriptors: {error}"));
        Self(Arc::new(Shared {
            deadlines: RouteTable::of_methods(deadline, &methods),
            names: Arc::new(Names::new(target, config, tls)),
            methods: methods
                .into_iter()
                .map(|(path, method)| (path, (method, Arc::default())))
                .collect(),
            budget: Arc::new(Budget::new(&config.retries)),
            memory: Arc::default(),
            waiting: ChannelCounts::default(),
            calls: Arc::default(),
            workers: watch::Sender::new(0),
            next_worker: AtomicUsize::new(0),
            failfast: config.failfast,
            retries: Arc::new(config.retries.clone()),
            request_id_names: config.request_id_names,
        }))
    }

    /// Sets what operators call the service, on `/status`; without it, they see its addresses. The
    /// first call counts, for all clones.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        self.0.names.metrics.set_title(name.into());
        self
    }

    /// Expects this peer: its certificate must have this identity as its only URI, and be of an authority
    /// in `ca.crt`. Its DNS names and addresses are not asked. Without an expectation, the certificate must
    /// have the host name of the target.
    ///
    /// ```no_run
    /// # use common::client::{self, Channel, Target};
    /// # fn example(target: &Target, config: &client::Config, common: &common::Config, descriptors: &[u8]) {
    /// use common::tls::SpiffeId;
    ///
    /// let ledger: SpiffeId = "spiffe://mesh.local/ledger".parse().expect("a SPIFFE ID");
    /// let channel = Channel::new(target, descriptors, config, common).expect(&ledger);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When the channel has no TLS, or has been cloned or connected: nobody would verify the peer.
    #[must_use]
    pub fn expect(mut self, peer: &SpiffeId) -> Self {
        let shared = Arc::get_mut(&mut self.0);
        let names = shared.and_then(|shared| Arc::get_mut(&mut shared.names));
        let names = names.expect("a channel expects its peer before it is cloned or connected");
        let has_tls = names.expect(peer);
        assert!(has_tls, "a channel that expects {peer} needs MESH_TLS_DIR");
        self
    }

    /// Returns a client for one worker, and starts to open the client's own connections. They close
    /// when the last clone of the client is dropped and its calls have ended.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    #[must_use]
    pub fn connect(&self) -> Client {
        let names = self.0.names.clone();
        let subset = Subset::join(self.0.next_worker.fetch_add(1, Relaxed), &self.0.workers);
        self.client(|balancer| keep_replicas(names, subset, balancer))
    }

    /// Returns a client over an open connection, such as a [`tokio::io::duplex`], for tests. A
    /// broken connection is not opened again.
    ///
    /// # Panics
    ///
    /// When it is called outside of a tokio runtime.
    #[must_use]
    pub fn with_io(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Client {
        let no_address = SocketAddr::from(([0; 4], 0));
        let head = Origin::in_memory(self.0.request_id_names);
        self.client(|balancer| keep_open_connection(io, no_address, head, balancer))
    }

    fn client<F>(&self, task: impl FnOnce(Balancer<Replica>) -> F) -> Client
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = &*self.0;
        let balancer = Balancer::new(
            shared.failfast,
            shared.waiting.clone(),
            shared.memory.clone(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(task(balancer.clone()));
        let attempts = Attempts::new(
            balancer,
            &shared.methods,
            shared.retries.clone(),
            shared.budget.clone(),
            tasks,
        );
        outbound(attempts, &shared.deadlines, &shared.calls)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::{
        io::AsyncReadExt,
        net::TcpListener,
        time::{sleep, timeout},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn channel(target: &str) -> Channel {
        let target = target.parse().expect("a target");
        Channel::plain(&target, &[], &Config::default(), Duration::from_secs(10))
    }

    /// A listener whose connections are read to their end.
    #[derive(Debug, Clone, Default)]
    struct Sockets {
        opened: Arc<AtomicU64>,
        closed: Arc<AtomicU64>,
    }

    impl Sockets {
        async fn listen(&self) -> String {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let sockets = self.clone();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    let Sockets { opened, closed } = sockets.clone();
                    opened.fetch_add(1, Relaxed);
                    tokio::spawn(async move {
                        let mut buffer = [0; 1_024];
                        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                        closed.fetch_add(1, Relaxed);
                    });
                }
            });
            address
        }

        async fn wait_for(count: &AtomicU64, at_least: u64) {
            let wait = async {
                while count.load(Relaxed) < at_least {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(PATIENCE, wait).await.expect("in time");
        }
    }

    #[tokio::test]
    async fn a_thousand_clients_that_are_dropped_leave_nothing_open() {
        let sockets = Sockets::default();
        let channel = channel(&sockets.listen().await);
        let mut opened = 0;
        for _ in 0..10 {
            let clients: Vec<_> = (0..100).map(|_| channel.connect()).collect();
            Sockets::wait_for(&sockets.opened, opened + 100).await;
            drop(clients);
            opened = sockets.opened.load(Relaxed);
            Sockets::wait_for(&sockets.closed, opened).await;
        }
        let tasks = tokio::runtime::Handle::current().metrics();
        let wait = async {
            while tasks.num_alive_tasks() > 1 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .expect("only the listener is left");
        assert_eq!(*channel.0.workers.borrow(), 0);
    }

    fn peer() -> SpiffeId {
        "spiffe://mesh.local/service1".parse().expect("a SPIFFE ID")
    }

    #[test]
    #[should_panic(
        expected = "a channel that expects spiffe://mesh.local/service1 needs MESH_TLS_DIR"
    )]
    fn a_channel_in_plain_text_can_t_expect_a_peer() {
        drop(channel("localhost:1").expect(&peer()));
    }

    #[test]
    #[should_panic(expected = "before it is cloned or connected")]
    fn a_channel_that_may_be_connected_can_t_begin_to_expect_a_peer() {
        let channel = channel("localhost:1");
        let _connects = channel.clone();
        drop(channel.expect(&peer()));
    }

    #[tokio::test]
    async fn an_unknown_name_delays_no_other() {
        let sockets = Sockets::default();
        let address = sockets.listen().await;
        let channel = channel(&format!("nowhere.invalid:1,{address}"));
        let _client = channel.connect();
        Sockets::wait_for(&sockets.opened, 1).await;
    }
}
