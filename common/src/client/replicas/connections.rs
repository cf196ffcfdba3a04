//! [`ReplicaConnections`]: the connections of a worker to one replica.
//!
//! There is one, and further ones while all of its streams are taken: a replica that takes 100 calls
//! a connection (the default of many servers) can carry more than that. A call that finds no free
//! stream waits for the next one on any of the connections.

use std::{
    io, iter,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response};
use tokio::{select, time::sleep};

use crate::{
    backoff::Backoff,
    client::{
        choice::balancer::CountedConnection,
        ending::{class::Ending, failure::Failure},
        wire::{
            activity::{Room, Suspicion},
            attempt::{ReadUntil, ResponseBody},
            connection::Connection,
            in_flight::InFlight,
            request_body::RequestBody,
        },
    },
    limits,
    sync::lock,
    telemetry::metrics,
};

/// The pauses between two further connections, and after one that could not be opened.
const GROW: Backoff = Backoff {
    base: Duration::from_millis(20),
    factor: 2.0,
    limit: Duration::from_secs(10),
    jitter: 0.2,
};

/// A further connection closes once it has carried no call for this long, and for at most twice as
/// long. Load comes and goes within seconds, and a connection costs little.
const FURTHER_IDLE: Duration = Duration::from_secs(30);

/// The connections to a replica.
#[derive(Debug)]
pub(crate) struct ReplicaConnections {
    /// The one that stands for the replica: when it ends, so do these connections.
    pub(crate) first: Arc<Connection>,
    further: Mutex<Vec<Further>>,
    /// Whether there are further connections, so that calls need no lock to know.
    has_further: AtomicBool,
    _counted: CountedConnection,
}

#[derive(Debug)]
struct Further {
    connection: Arc<Connection>,
    /// The calls that had begun at the last look.
    begun: u64,
    _counted: CountedConnection,
}

impl ReplicaConnections {
    pub(crate) fn new(first: Arc<Connection>, counted: CountedConnection) -> Self {
        Self {
            first,
            further: Mutex::default(),
            has_further: AtomicBool::new(false),
            _counted: counted,
        }
    }

    /// The calls in flight on all connections.
    pub(crate) fn in_flight(&self) -> u64 {
        let mut in_flight = self.first.activity.in_flight();
        if self.has_further.load(Relaxed) {
            let further = lock(&self.further);
            in_flight += further.iter().map(Further::in_flight).sum::<u64>();
        }
        in_flight
    }

    /// Makes one attempt of a call, on a connection with a free stream.
    pub(crate) async fn attempt(
        &self,
        request: Box<Request<RequestBody>>,
        until: ReadUntil,
    ) -> Result<Response<ResponseBody>, Failure> {
        let free = if self.room().is_waited_for() {
            None
        } else {
            self.take_stream()?
        };
        let in_flight = match free {
            Some(in_flight) => in_flight,
            // Boxed, as the wait is rare and its future is large.
            None => Box::pin(self.wait_for_stream()).await?,
        };
        in_flight.attempt(request, until).await
    }

    /// Waits until one of the connections is silent.
    pub(crate) async fn silent(&self) {
        self.room().silent().await;
    }

    fn room(&self) -> &Arc<Room> {
        self.first.activity.room()
    }

    /// Takes a free stream, if there is one. Fails if the replica takes no new calls.
    fn take_stream(&self) -> Result<Option<InFlight>, Failure> {
        if self.first.activity.is_closed() {
            let why = "the connection was closed before the call";
            return Err(Failure::new(Ending::NotSent, why));
        }
        Ok(self.free_connection().map(InFlight::begin))
    }

    fn free_connection(&self) -> Option<Arc<Connection>> {
        if !self.has_further.load(Relaxed) {
            return self.first.has_free_stream().then(|| self.first.clone());
        }
        let further = lock(&self.further);
        let further = further.iter().map(|further| &further.connection);
        let mut all = iter::once(&self.first).chain(further);
        all.find(|connection| takes_calls(connection)).cloned()
    }

    /// Makes sure that the end of a call on any connection is seen from now on, or sees that this one waits.
    fn meet_ends(&self) {
        self.first.activity.meet_ends();
        for further in lock(&self.further).iter() {
            further.connection.activity.meet_ends();
        }
    }

    async fn wait_for_stream(&self) -> Result<InFlight, Failure> {
        let waiting = self.room().wait().ok_or_else(|| {
            let why = "too many calls wait for a stream of the replica";
            Failure::new(Ending::Full, why)
        })?;
        metrics::count(|counters| &counters.stream_waits);
        // Behind other calls, each free stream has a call on its way to it.
        let mut is_turn = waiting.is_first();
        self.meet_ends();
        loop {
            if is_turn && let Some(taken) = self.take_stream()? {
                drop(waiting);
                if self.free_connection().is_some() {
                    self.room().wake_one();
                }
                return Ok(taken);
            }
            waiting.woken().await;
            is_turn = true;
        }
    }

    /// Opens further connections while calls wait for a stream, and closes those that are idle.
    pub(crate) async fn grow<F: Future<Output = io::Result<Arc<Connection>>>>(
        &self,
        open: impl Fn(Arc<Room>) -> F,
        count: impl Fn() -> Option<CountedConnection>,
    ) {
        let mut failures = 0;
        let mut idle = pin!(sleep(FURTHER_IDLE));
        loop {
            select! {
                () = self.room().wanted() => {}
                () = &mut idle => {
                    self.close_idle();
                    idle.set(sleep(FURTHER_IDLE));
                    continue;
                }
            }
            if self.may_grow()
                && let Some(counted) = count()
            {
                match open(self.room().clone()).await {
                    Ok(connection) => {
                        failures = 0;
                        self.add(connection, counted);
                    }
                    Err(_) => failures += 1,
                }
            }
            sleep(GROW.pause(failures)).await;
        }
    }

    /// A replica that may be silent gets no further connection: it is not known to need one.
    fn may_grow(&self) -> bool {
        let mut further = lock(&self.further);
        further.retain(|further| !further.connection.activity.is_closed());
        let first = &self.first.activity;
        let is_healthy = !first.is_closed() && first.suspicion() == Suspicion::None;
        is_healthy && further.len() + 1 < limits::MAX_REPLICA_CONNECTIONS
    }

    fn add(&self, connection: Arc<Connection>, counted: CountedConnection) {
        lock(&self.further).push(Further {
            connection,
            begun: 0,
            _counted: counted,
        });
        self.has_further.store(true, Relaxed);
        self.room().wake_one();
    }

    /// Closes the further connections that have carried no call since the last look. Calls take the
    /// first connection with a free stream, so the last ones become idle.
    fn close_idle(&self) {
        let mut further = lock(&self.further);
        further.retain_mut(|further| {
            let begun = further.connection.activity.counts().begun;
            let was_used = std::mem::replace(&mut further.begun, begun) != begun;
            (was_used || further.in_flight() > 0) && !further.connection.activity.is_closed()
        });
        self.has_further.store(!further.is_empty(), Relaxed);
    }
}

impl Further {
    fn in_flight(&self) -> u64 {
        self.connection.activity.in_flight()
    }
}

/// Whether a connection beside others takes a call.
fn takes_calls(connection: &Connection) -> bool {
    let activity = &connection.activity;
    !activity.is_closed()
        && activity.suspicion() < Suspicion::Silent
        && connection.has_free_stream()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;
    use futures_util::{FutureExt, future::join_all};
    use h2::server;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::yield_now,
        time::{Instant, timeout},
    };
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::client::{
        choice::balancer::{Balancer, ChannelCounts},
        config::RequestIdNames,
        replicas::replica::Replica,
        wire::origin::Origin,
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// A replica that takes a number of calls on each connection, and responds after a second.
    #[derive(Debug, Clone, Default)]
    struct Fake {
        streams: u32,
        opened: Arc<AtomicUsize>,
        closed: Arc<AtomicUsize>,
        in_flight: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
    }

    impl Fake {
        fn new(streams: u32) -> Self {
            Self {
                streams,
                ..Self::default()
            }
        }

        async fn open(self, room: Arc<Room>) -> io::Result<Arc<Connection>> {
            self.opened.fetch_add(1, Relaxed);
            let (ours, theirs) = duplex(64 * 1_024);
            let streams = u64::from(self.streams);
            tokio::spawn(self.serve(theirs));
            let connection =
                Connection::with_io(ours, Origin::in_memory(RequestIdNames::Both), room).await?;
            while connection.max_streams() != streams {
                yield_now().await;
            }
            Ok(connection)
        }

        async fn serve(self, io: DuplexStream) {
            let mut settings = server::Builder::new();
            settings.max_concurrent_streams(self.streams);
            let streams = settings.handshake::<_, Bytes>(io).await;
            let mut streams = streams.expect("it speaks HTTP/2");
            while let Some(Ok((_request, mut stream))) = streams.accept().await {
                let Self {
                    in_flight, most, ..
                } = self.clone();
                most.fetch_max(in_flight.fetch_add(1, Relaxed) + 1, Relaxed);
                tokio::spawn(async move {
                    sleep(SECOND).await;
                    in_flight.fetch_sub(1, Relaxed);
                    let _ = stream.send_response(Response::new(()), true);
                });
            }
            self.closed.fetch_add(1, Relaxed);
        }

        async fn connections(&self) -> Arc<ReplicaConnections> {
            let first = self.clone().open(Arc::default()).await.unwrap();
            connections(first)
        }
    }

    fn connections(first: Arc<Connection>) -> Arc<ReplicaConnections> {
        let balancer = Balancer::<Replica>::new(SECOND, ChannelCounts::default(), Arc::default());
        Arc::new(ReplicaConnections::new(first, balancer.count_connection()))
    }

    async fn call(connections: &ReplicaConnections) -> Result<Response<ResponseBody>, Failure> {
        let message = RequestBody::Message(Bytes::from_static(b"message"));
        let request = Request::post("/a.Service/Method").body(message).unwrap();
        connections
            .attempt(Box::new(request), ReadUntil::FirstFrame)
            .await
    }

    /// Lets `connections` grow, as long as the result lives.
    fn grow(connections: &Arc<ReplicaConnections>, fake: &Fake) -> AbortOnDropHandle<()> {
        let (connections, fake) = (connections.clone(), fake.clone());
        let balancer = Balancer::<Replica>::new(SECOND, ChannelCounts::default(), Arc::default());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let open = |room| fake.clone().open(room);
            connections
                .grow(open, || balancer.count_further_connection())
                .await;
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn calls_get_the_streams_of_a_connection_in_turn() {
        let connections = Fake::new(2).connections().await;
        let begin = Instant::now();
        let calls = (0..6).map(|_| async {
            call(&connections).await.unwrap();
            begin.elapsed().as_secs()
        });
        assert_eq!(join_all(calls).await, [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_stream_up_to_a_bound() {
        let connections = Fake::new(1).connections().await;
        let waiting = 0..=limits::MAX_CALLS_WITHOUT_STREAM;
        let mut waiting: Vec<_> = waiting.map(|_| Box::pin(call(&connections))).collect();
        for call in &mut waiting {
            assert!(call.now_or_never().is_none());
        }
        let too_many = call(&connections).now_or_never().expect("at once");
        let too_many = too_many.unwrap_err();
        assert_eq!(too_many.ending, Ending::Full);
        // A call that is given up leaves its place and its turn.
        waiting.pop();
        assert!(call(&connections).now_or_never().is_none());
        let last = waiting.pop().unwrap();
        drop(waiting);
        assert!(timeout(3 * SECOND, last).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn further_connections_open_while_all_streams_are_taken_and_close_when_idle() {
        let fake = Fake::new(10);
        let connections = fake.connections().await;
        let _growing = grow(&connections, &fake);
        let few = join_all((0..10).map(|_| call(&connections))).await;
        assert!(few.iter().all(Result::is_ok));
        assert_eq!(fake.opened.load(Relaxed), 1, "one has streams enough");
        let begin = Instant::now();
        let many = join_all((0..80).map(|_| call(&connections))).await;
        assert!(many.iter().all(Result::is_ok));
        let took = begin.elapsed();
        assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
        assert_eq!(fake.most.load(Relaxed), 40);
        assert_eq!(fake.opened.load(Relaxed), limits::MAX_REPLICA_CONNECTIONS);
        drop(many);
        assert_eq!(connections.in_flight(), 0);
        sleep(FURTHER_IDLE / 2).await;
        assert_eq!(fake.closed.load(Relaxed), 0);
        sleep(FURTHER_IDLE * 2).await;
        assert_eq!(fake.closed.load(Relaxed), 3);
        assert!(call(&connections).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn no_further_connection_opens_beyond_the_bound_of_the_process() {
        let fake = Fake::new(1);
        let connections = fake.connections().await;
        let balancer = Balancer::<Replica>::new(SECOND, ChannelCounts::default(), Arc::default());
        let mut all: Vec<_> = (1..limits::MAX_CHANNEL_CONNECTIONS)
            .map(|_| balancer.count_connection())
            .collect();
        let last = balancer.count_further_connection();
        assert!(last.is_some() && balancer.count_further_connection().is_none());
        let open = |room| fake.clone().open(room);
        let growing = connections.grow(open, || balancer.count_further_connection());
        let calls = async { tokio::join!(call(&connections), call(&connections)) };
        select! {
            () = growing => unreachable!(),
            _ = calls => {}
        }
        assert_eq!(fake.opened.load(Relaxed), 1);
        all.pop();
        assert!(balancer.count_further_connection().is_some());
    }

    /// The settings of a replica that allows this number of streams.
    fn settings(streams: u8) -> Vec<u8> {
        [b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0", &[streams][..]].concat()
    }

    /// A connection to a replica that allows one stream, and the replica's end.
    async fn with_one_stream() -> (Arc<ReplicaConnections>, DuplexStream) {
        let (ours, mut theirs) = duplex(64 * 1_024);
        theirs.write_all(&settings(1)).await.unwrap();
        let head = Origin::in_memory(RequestIdNames::Both);
        let first = Connection::with_io(ours, head, Arc::default()).await;
        let first = first.unwrap();
        while first.max_streams() != 1 {
            yield_now().await;
        }
        (connections(first), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_when_the_connection_goes_away_were_not_processed() {
        let (connections, mut theirs) = with_one_stream().await;
        let mut calls = [0; 3].map(|_| Box::pin(call(&connections)));
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        // GOAWAY up to the first stream.
        let goaway = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0";
        theirs.write_all(goaway).await.unwrap();
        let [first, others @ ..] = calls;
        for waiting in others {
            let failure = timeout(SECOND, waiting).await.unwrap().unwrap_err();
            assert_eq!(failure.ending, Ending::NotSent);
        }
        assert!(timeout(SECOND, first).await.is_err(), "it goes on");
        assert!(theirs.read_u8().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_no_longer_when_the_replica_allows_more_streams() {
        let (connections, mut theirs) = with_one_stream().await;
        let calls = join_all((0..4).map(|_| call(&connections)));
        let all_leave = async {
            while connections.in_flight() < 4 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        select! {
            _ = calls => unreachable!("nobody responds"),
            () = async {
                sleep(SECOND).await;
                assert_eq!(connections.in_flight(), 1);
                theirs.write_all(&settings(10)).await.unwrap();
                timeout(SECOND, all_leave).await.expect("in time");
            } => {}
        }
        assert!(!connections.room().is_waited_for());
    }

    #[tokio::test(start_paused = true)]
    async fn the_calls_on_further_connections_are_in_flight_too() {
        let fake = Fake::new(1);
        let connections = fake.connections().await;
        let _growing = grow(&connections, &fake);
        let calls = join_all((0..3).map(|_| call(&connections)));
        let in_flight = async {
            sleep(SECOND / 5).await;
            connections.in_flight()
        };
        select! {
            _ = calls => unreachable!("they take a second"),
            in_flight = in_flight => assert_eq!(in_flight, 3),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_further_connection_that_carries_calls_stays_open() {
        let fake = Fake::new(1);
        let connections = fake.connections().await;
        let _growing = grow(&connections, &fake);
        for _ in 0..10 {
            let begin = Instant::now();
            let both = join_all((0..2).map(|_| call(&connections))).await;
            assert!(both.iter().all(Result::is_ok));
            assert!(begin.elapsed() < 2 * SECOND, "side by side");
            drop(both);
            sleep(FURTHER_IDLE / 2).await;
        }
        assert_eq!(fake.opened.load(Relaxed), 2);
        assert_eq!(fake.closed.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_further_connection_that_cannot_be_opened_is_tried_after_growing_pauses() {
        let connections = Fake::new(1).connections().await;
        let balancer = Balancer::<Replica>::new(SECOND, ChannelCounts::default(), Arc::default());
        let tries = AtomicUsize::new(0);
        let open = async |_| {
            tries.fetch_add(1, Relaxed);
            Err(io::ErrorKind::ConnectionRefused.into())
        };
        let growing = connections.grow(open, || balancer.count_further_connection());
        let calls = async { tokio::join!(call(&connections), call(&connections)) };
        select! {
            () = growing => unreachable!(),
            _ = calls => {}
        }
        let tries = tries.into_inner();
        assert!((4..10).contains(&tries), "{tries} in a second");
    }
}
