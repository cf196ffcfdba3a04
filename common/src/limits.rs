//! Every limit that is not configuration, with its unit, its reason and its source.
//!
//! `docs/limits.md` lists these limits for operators, and says what a client sees beyond each of
//! them. The parameters of an algorithm, such as the cost of a replica, are constants beside the
//! algorithm.

use std::time::Duration;

/// The longest duration of a setting, and the longest deadline. No request takes this long, and
/// adding it to any instant does not overflow.
pub(crate) const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

// Connections.

/// The most connections that wait to be accepted; the system may have a lower limit (`somaxconn`).
/// mio's default of 128 overflows in a burst while the accepting thread waits for a core. A client
/// whose SYN is dropped sends the next one a second later.
pub(crate) const BACKLOG: i32 = 4_096;

/// The pause after accepting a connection failed, most likely for lack of file descriptors.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(250);

/// The time limit for the head of an HTTP/1.1 request, from its first byte, and for the first bytes
/// of a connection, which show its protocol.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a connection may be idle, unless `IDLE_TIMEOUT` is set. nginx keeps an idle
/// connection to an upstream for 60 s, and the proxy must be the first to close.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The time limit for a response to a client that has closed its side of an HTTP/1.1 connection.
/// The client may still wait for the response, or it may be gone: TCP shows no difference until
/// something is written.
pub(crate) const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time by which clients over HTTP/1 are told to leave an idle connection before it ends
/// (`Keep-Alive`), but at most half of the idle timeout: more than the latency of a network.
pub(crate) const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(5);

/// The time that a client has to close a connection after the server has. What it sends until then is
/// read, because the kernel would answer it with a reset, and the client may lose the last response.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time limit for reading the rest of a request after an early response (nginx:
/// `lingering_timeout`).
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// The most of that rest that is read, in bytes: enough for a body that is too long by mistake.
pub(crate) const LINGER_LIMIT: usize = 16 * 1_024 * 1_024;

/// The interval of HTTP/2 PINGs to clients, and the time limit for the acknowledgement. Clients
/// accept PINGs at any rate (gRFC A8 restricts the PINGs of clients only).
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

// TLS.

/// The time limit for a handshake, from the opening of the connection.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most handshakes of a worker that have begun, and the most connections to it that have not sent
/// a byte. At each of the two limits, the oldest of the network with the most gives way. A handshake
/// takes a round trip, so honest clients are through long before 256 others have come.
pub(crate) const MAX_HANDSHAKES: usize = 256;

/// The time that a handshake has before the next one of the same network takes its place: the longest
/// round trip on Earth. So one network makes a worker begin at most 1,024 handshakes a second, a fifth
/// of its time; the others are refused before they cost anything.
pub(crate) const LEAST_HANDSHAKE: Duration = Duration::from_millis(250);

/// The longest that a connection lasts after the authority of its peer has left `ca.crt`.
pub(crate) const DRAIN_OUTDATED: Duration = Duration::from_secs(10);

/// The buffer for what the kernel has read of a TLS connection, in bytes: a record. rustls itself
/// reads 4 KiB at a time.
pub(crate) const TLS_READ_BUFFER: usize = 16 * 1_024;

/// The most log lines about failed handshakes, a second.
pub(crate) const HANDSHAKE_LINES: u32 = 1;

// HTTP/2.

/// The most streams of one connection to an HTTP port. At the usual 100 to 250, requests would
/// queue in a proxy that sends all its traffic over a few connections. One connection must not fill
/// `MAX_IN_FLIGHT`.
pub(crate) const MAX_STREAMS: u32 = 512;

/// The most streams of one connection to a gRPC port: `MAX_IN_FLIGHT`, but at least [`MAX_STREAMS`]
/// and at most this number. A service has few callers; with a lower limit, the calls of all clients
/// of a caller would queue behind its slowest calls.
pub(crate) const MAX_GRPC_STREAMS: u32 = 16_384;

/// The most streams of a connection that the server resets in a second because of a client's errors.
/// More are an attack (CVE-2025-8671, "made you reset"). A reset costs less than a request.
pub(crate) const STREAM_ERRORS_PER_SECOND: u32 = 1_000;

/// The most of them at once. One client of a proxy that sends them one after the other, as fast as it
/// can, takes seconds for this number.
pub(crate) const STREAM_ERRORS_AT_ONCE: u32 = 10_000;

/// The most log lines about connections that were ended with an error, a second.
pub(crate) const CONNECTION_ERROR_LINES: u32 = 1;

/// The most control frames of a connection in a second, in addition to those that its requests and
/// responses explain. They may all come at once.
pub(crate) const CONTROL_FRAMES_PER_SECOND: u32 = 1_000;

/// Control frames that a request explains: its priority, its window, an end without data. Resets
/// are counted separately, because a client may reset all its requests at once.
pub(crate) const CONTROL_FRAMES_PER_REQUEST: u32 = 3;

/// Bytes of a response that explain two window updates, one for the stream and one for the
/// connection: the head of a DATA frame and a little data.
pub(crate) const BYTES_PER_WINDOW_UPDATE: u32 = 8;

/// The most window updates, and the most resets, that can be explained in advance.
pub(crate) const MAX_EXPLAINED_FRAMES: u32 = 64 * 1_024;

/// The time limit for a client over HTTP/2 to read the response that refuses its request.
pub(crate) const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The most streams of a worker whose requests were refused and whose clients do not read the
/// response. Further streams are reset: refusals must not hold more memory than responses.
pub(crate) const MAX_REFUSALS: usize = 4_096;

/// The longest turn of the streams of one connection, before the other connections of its worker have
/// theirs: some dozens of short requests. A connection writes only when the worker polls it, so
/// shorter turns cost a write each.
pub(crate) const TURN: Duration = Duration::from_micros(250);

/// The most refused streams of a connection that are polled in a turn. A client that repeats a refused
/// request at once gets another refusal a turn later, and does not keep its other requests waiting.
pub(crate) const REFUSALS_PER_TURN: usize = 4;

/// A new stream behind this number of others waits long enough to be reset by its client meanwhile.
/// Room for so many streams is kept while a connection is idle; that of a burst is freed.
pub(crate) const MANY_NEW_STREAMS: usize = 32;

/// The time from the deadline of a request to the end of its stream, for a client that reads
/// nothing. The guard layer ends all other requests at the deadline.
pub(crate) const STALLED_STREAM_GRACE: Duration = Duration::from_millis(500);

/// A call that comes with less time than this has no time: that it ends at its deadline is no fault of
/// the service. Between two processes of one machine, a call takes 0.1 ms.
pub(crate) const LEAST_TIME: Duration = Duration::from_millis(1);

// Memory of a request.

/// The longest head of a request: its target and headers, in bytes as HTTP/2 counts them (RFC 9113,
/// 6.5.2).
pub(crate) const HEAD: usize = 16 * 1_024;

/// The longest head that is read over HTTP/2, in bytes. The stack refuses a head over [`HEAD`];
/// hyper responds to a head over this limit with 431, without an id or an access line.
pub(crate) const READ_HEAD: u32 = 64 * 1_024;

/// The longest head that is read over HTTP/1.1, and the limit of hyper's buffers, in bytes. hyper's
/// default is 400 KB, which a slow client could fill.
pub(crate) const HTTP1_BUFFER: usize = 24 * 1_024;

/// The default limit of the body of a request, in bytes; on a gRPC port, of each message. Queries
/// and small documents fit into it, and the bodies of many clients fit into memory.
pub const BODY: usize = 64 * 1_024;

/// The longest body that axum's extractors read unless they are told otherwise, in bytes
/// (`DefaultBodyLimit`).
pub(crate) const AXUM_BODY: usize = 2 * 1_024 * 1_024;

/// Bytes that a client may send on a stream before the handler reads them.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1_024;

/// The bytes of a response over HTTP/1 that the socket takes at once: a kernel has a buffer of this size
/// for each (`net.ipv4.tcp_wmem`).
pub(crate) const SENT_AT_ONCE: u64 = 16 * 1_024;

/// Bytes of a stream that wait in h2 for a slow reader: of a response to a client, and of a request
/// to a replica.
pub(crate) const SEND_BUFFER: usize = 64 * 1_024;

/// The longest frame of a response, in bytes. Longer frames are split, because hyper buffers a
/// whole frame, however long it is.
pub(crate) const FRAME: usize = 64 * 1_024;

/// Bytes that wait in the kernel for a slow reader. The kernel's own limit is 4 MiB.
pub(crate) const UNSENT: u32 = 128 * 1_024;

/// The most proxies between a client and this service: further addresses in `FORWARDED_HEADER` are not read.
pub(crate) const FORWARDED_ENTRIES: usize = 32;

/// The calls that are listed in the `Server-Timing` of a request. With the sum of all further calls
/// and the total, the header has at most 20 entries.
pub(crate) const TIMED_CALLS: usize = 18;

/// The longest `Server-Timing`, in bytes: a part of what proxies buffer for all headers (nginx:
/// 4 KB).
pub(crate) const SERVER_TIMING: usize = 1_024;

/// The longest text of a failure that is passed on as `detail`, in bytes.
pub(crate) const DETAIL: usize = 1_024;

// Requests in flight.

/// The divisor for the part of `MAX_IN_FLIGHT` that long-lived calls may have.
pub(crate) const LONG_LIVED_SHARE: usize = 4;

/// The most probes in flight, counted apart from other requests: those of an orchestrator, and
/// those of clients whose calls are late, one for each of their connections.
pub(crate) const MAX_PROBES: usize = 1_024;

/// The most requests in flight on the port for operators: scrapes and pages, each a text of 10 KB to
/// 200 KB.
pub(crate) const ADMIN_IN_FLIGHT: usize = 16;

/// The most connections to the port for operators.
pub(crate) const ADMIN_CONNECTIONS: usize = 64;

/// The time that requests on the port for operators have to complete, at the end of the process.
pub(crate) const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// The time after which an event loop that has not turned is stuck: `/readyz` reports it. A worker that
/// computes for a second keeps its requests waiting, and is still well.
pub(crate) const LOOP_STUCK: Duration = Duration::from_secs(5);

/// The time after which an event loop that has not turned will not do so any more: `/healthz` reports it, so
/// that the engine starts the process anew.
pub(crate) const LOOP_LOST: Duration = Duration::from_secs(30);

/// The interval at which the thread for operators looks whether event loops turn. Looks wake no worker.
pub(crate) const LOOP_LOOK: Duration = Duration::from_secs(1);

/// The divisor for the part of `MAX_IN_FLIGHT` that all workers together may reserve. So a limit
/// below 100 for each worker is exact, and a higher one is exact within 1 %.
pub(crate) const SPARE_SHARE: usize = 100;

/// The most permits that one worker reserves: enough for the requests that come with one poll of its
/// sockets.
pub(crate) const MAX_SPARE: usize = 16;

/// The divisor for the reserve: the permits that only clients with few requests in flight get. The same
/// divisor gives the part of the reserve that services of the mesh do not get, and the part of its free
/// permits up to which a connection has few requests.
pub(crate) const RESERVE_SHARE: usize = 8;

/// A client that has taken nothing of its responses for this time is preempted at the limit. One that
/// reads at 64 kbit/s acknowledges a packet of 1,500 bytes five times a second.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The shortest interval between two scans of all connections, near the limit.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The interval at which a waiting write checks what its peer has acknowledged.
pub(crate) const STALLED_LOOK: Duration = Duration::from_secs(1);

/// The divisor for the part of `MAX_CONNECTIONS` that is kept free while there are idle connections:
/// they end gently, and a burst does not wait for them.
pub(crate) const ROOM_SHARE: usize = 64;

/// The most idle connections that one scan of all connections picks.
pub(crate) const MAX_IDLE_PICKED: usize = 64;

/// The connections up to which a network has few: browsers open six over HTTP/1.1. At `MAX_CONNECTIONS`,
/// networks with few are equals, and the network with the most of the others gives way.
pub(crate) const FEW_CONNECTIONS: usize = 16;

/// The divisor for the part of `MAX_CONNECTIONS` that is few for a network, too. So a proxy or another
/// service, with its hundreds of connections, does not lose them to single clients.
pub(crate) const FEW_SHARE: usize = 64;

/// The divisor for the part by which the network of a newcomer may be larger than those whose idle
/// connections a scan has picked. Without it, two networks of about the same size would cause a scan
/// for each of their connections.
pub(crate) const WEIGHT_TOLERANCE: usize = 8;

/// The time that an idle connection has to make room before it, or the next one, must do so at once:
/// time for a request that is on its way over a short distance.
pub(crate) const ROOM_PATIENCE: Duration = Duration::from_millis(25);

/// The files of a process for its ports, its log, look-ups of names, certificates and the collector of
/// traces, and for a connection of each port that waits for its permit.
pub(crate) const OWN_FILES: usize = 48;

/// The files of a worker's runtime: two epoll instances, what wakes it, and a socket for signals.
pub(crate) const FILES_PER_WORKER: usize = 4;

// Drain.

/// A signal within this time after the first is the same one: `timeout` sends its signal to the
/// process and to the process group.
pub(crate) const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// The longest time to GOAWAY for a connection that was accepted in the drain delay.
pub(crate) const NEWCOMER_STAY: Duration = Duration::from_secs(1);

/// The time from the start of a drain to the end of long-lived calls. By then, a client that
/// watches the health of the service knows that the service drains.
pub(crate) const LONG_LIVED_GRACE: Duration = Duration::from_secs(1);

/// The time limit for accepting the connections in the backlog when the service drains.
pub(crate) const LAST_ACCEPTED: Duration = Duration::from_millis(100);

/// The time that a draining connection is still read, for what the client sent before the drain.
pub(crate) const LAST_READ: Duration = Duration::from_millis(10);

/// The time limit for the end of a connection without requests after GOAWAY, which the client
/// acknowledges.
pub(crate) const GOAWAY_GRACE: Duration = Duration::from_millis(500);

/// The time that workers have to end after the drain timeout. A worker that takes longer is stuck
/// in code that never yields.
pub(crate) const STUCK_WORKER: Duration = Duration::from_secs(1);

/// The time that shared values have to close, even if the requests in flight took all of the drain
/// timeout: a pool says goodbye to its database.
pub(crate) const SHARED_CLOSE: Duration = Duration::from_millis(500);

// Start.

/// The time limit of an attempt to make a shared value, such as a connection to a database that does not
/// respond.
pub(crate) const SHARED_ATTEMPT: Duration = Duration::from_secs(10);

// Calls to other services.

/// The most calls of a channel that wait for a replica, in the whole process. A waiting call takes
/// about 4 KiB of memory.
pub(crate) const MAX_CALLS_WITHOUT_REPLICA: usize = 8_192;

/// The most calls of a worker that wait for a stream of one replica, in addition to the streams that
/// the replica allows.
pub(crate) const MAX_CALLS_WITHOUT_STREAM: usize = 1_024;

/// The most connections of a worker to one replica: four times the streams that the replica allows on
/// each. A replica that needs more of them is overloaded.
pub(crate) const MAX_REPLICA_CONNECTIONS: usize = 4;

/// The bytes of a response that its replica may send before they are read. A round trip of 1 ms, as
/// in one data centre, allows 128 MB/s. Half as many slow a stream over loopback by a quarter;
/// twice as many gain nothing. A response that nobody reads holds this much memory.
pub(crate) const RESPONSE_WINDOW: u32 = 128 * 1_024;

/// The largest window of HTTP/2, so that responses that nobody reads do not block the others on
/// their connection. The windows of the streams bound the buffered bytes.
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The memory for frames that wait to be read, without their data, in bytes (RUSTSEC-2026-0258). A
/// stream whose window is full of the smallest messages takes 6.5 MB of it, so a connection
/// survives 40 responses that nobody reads.
pub(crate) const DATA_FRAME_BUDGET: usize = 256 * 1_024 * 1_024;

/// The longest head of a response from a replica, in bytes as HTTP/2 counts them: gRPC's limit
/// (C-core's `max_metadata_size`).
pub(crate) const RESPONSE_HEAD: u32 = 16 * 1_024;

/// The most calls of a connection that were given up within the last second and whose late frames
/// are ignored. Each takes about 400 bytes. Late frames of more calls are answered one by one.
pub(crate) const REMEMBERED_RESETS: usize = 4_096;

/// The longest pause that a replica can ask for.
pub(crate) const MAX_PUSHBACK: Duration = Duration::from_secs(30);

/// The most connections of a channel, in the whole process. Each worker connects to as many
/// replicas as its equal share allows. What is left may become further connections to a replica whose
/// streams are all taken.
pub(crate) const MAX_CHANNEL_CONNECTIONS: usize = 512;

/// The fewest replicas that a worker connects to, if there are as many, even beyond its share. With
/// two, it would lose half of its replicas when one fails.
pub(crate) const MIN_REPLICAS: usize = 3;

/// The shortest pause between two look-ups of a name, however many connections end.
pub(crate) const LOOKUP_PAUSE: Duration = Duration::from_millis(500);

/// The interval of look-ups of a name while no connection ends.
pub(crate) const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

/// The time limit of a look-up.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit of opening a TCP connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest pause between two PINGs to a replica that has sent neither HEADERS nor DATA in
/// between. gRPC's servers close connections whose PINGs come more often than every 5 minutes (gRFC
/// A8).
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(310);

/// A host that acknowledges nothing for this long is gone (`TCP_USER_TIMEOUT`, gRFC A18). On an
/// idle connection the kernel probes the host; gRPC's servers do not see these probes.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub(crate) const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

// Log.

/// The most warnings of a worker in a second about the headers of requests.
pub(crate) const HEADER_WARNINGS: u32 = 10;

/// The most warnings in a second: of a worker about refused requests, and of the process about the
/// limit of connections.
pub(crate) const LIMIT_WARNINGS: u32 = 1;

/// A worker writes out its log buffer at this many bytes, even if the worker is busy.
pub(crate) const LOG_BUFFER: usize = 32 * 1024;

/// The longest record, in bytes with its line end. Docker cuts a line at 16 KiB, and neither half is
/// JSON.
pub(crate) const LOG_RECORD: usize = 8 * 1024;

/// The longest text in a field of a record, in bytes as it is written. Three such fields leave room
/// for the others.
pub(crate) const LOG_FIELD: usize = 2 * 1024;

/// The most fields that the code of a service adds to the lines of a request. All of them have room in a
/// record beside its other fields.
pub(crate) const LOG_FIELDS: usize = 8;

/// The longest name of such a field, and the longest text in it, in bytes as it is written.
pub(crate) const LOG_FIELD_NAME: usize = 64;
pub(crate) const LOG_FIELD_OF_REQUEST: usize = 256;

/// The longest name in a record that no client chooses: of a service, a host, a file or a module.
pub(crate) const LOG_NAME: usize = 512;

/// The longest method and the longest target in an access line. Even if each byte of the target takes
/// two in JSON, the field has room for the version behind it.
pub(crate) const LOG_METHOD: usize = 32;
pub(crate) const LOG_TARGET: usize = LOG_FIELD / 2 - 2 * LOG_METHOD;

/// The most bytes of log lines that a recorded request keeps: about twenty lines of the usual length.
pub(crate) const RECORDED_LINES: usize = 8 * 1024;

/// The shortest time that records wait for stdout before they are dropped.
pub(crate) const STDOUT_PATIENCE: Duration = Duration::from_secs(1);

/// The time that a write waits for stdout before it leaves its records to a thread. Readers pause
/// while they wait for a core, and a short wait costs less than a switch of threads.
pub(crate) const STDOUT_PAUSE: Duration = Duration::from_millis(10);

/// The most bytes of records that wait for stdout, in the whole process.
pub(crate) const LOG_WAITING: usize = 4 * 1_024 * 1_024;
