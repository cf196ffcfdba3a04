//! Every limit that is not configuration, with its unit, its reason and its source.
//!
//! `docs/limits.md` lists these limits for operators, with what a client sees beyond each of them.
//! Parameters of an algorithm, such as those of the cost of a replica, stand beside the algorithm.

use std::time::Duration;

/// The longest duration of a setting, and the longest deadline: far beyond any request, and any clock
/// can add it.
pub(crate) const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

// Connections.

/// Connections that may wait to be accepted; the system may have a lower limit (`somaxconn`).
/// tokio's 128 overflows in a burst while the accepting thread waits for a core, and the other
/// clients wait a second for their next SYN.
pub(crate) const BACKLOG: u32 = 4_096;

/// The pause after a connection could not be accepted, most likely for want of file descriptors.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(250);

/// The time for the head of an HTTP/1.1 request, from its first byte. A new connection has the same
/// time to show which protocol it speaks.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for a response to a client that has closed its side of an HTTP/1.1 connection. Such a
/// client may wait for the response or be gone: TCP shows no difference until something is written.
pub(crate) const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time to read the rest of a request that was answered early (nginx: `lingering_timeout`).
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of that rest is read, in bytes: enough for a body that is too long by mistake.
pub(crate) const LINGER_LIMIT: usize = 16 * 1_024 * 1_024;

/// The interval of HTTP/2 PINGs, and the time to acknowledge one. Clients accept PINGs from servers
/// at any rate (gRFC A8 restricts clients only).
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

// HTTP/2.

/// Streams of one connection to an HTTP port. A proxy that sends all its traffic over few
/// connections would queue at the usual 100 to 250; one connection must not fill `MAX_IN_FLIGHT`.
pub(crate) const MAX_STREAMS: u32 = 512;

/// Streams of one connection to a gRPC port: `MAX_IN_FLIGHT`, from [`MAX_STREAMS`] to this number.
/// A service has few callers, and each would queue the calls of all its clients behind its slowest.
/// At `MAX_IN_FLIGHT` the service ends the calls of clients that read nothing.
pub(crate) const MAX_GRPC_STREAMS: u32 = 16_384;

/// Streams reset for a client's errors. More is an attack (CVE-2025-8671, "made you reset").
pub(crate) const MAX_LOCAL_ERROR_RESETS: usize = 1_024;

/// Control frames of a connection in a second, beyond those that its requests and the responses
/// explain; as many may come at once.
pub(crate) const CONTROL_FRAMES_PER_SECOND: u32 = 1_000;

/// Control frames that a request explains: its priority, its window, an end without data. Its
/// reset is counted by itself, as a client may give up all its requests at once.
pub(crate) const CONTROL_FRAMES_PER_REQUEST: u32 = 3;

/// Bytes of a response that explain two window updates, one for the stream and one for the
/// connection: the head of a DATA frame and a little data.
pub(crate) const BYTES_PER_WINDOW_UPDATE: u32 = 8;

/// Window updates, and resets, that may be explained in advance.
pub(crate) const MAX_EXPLAINED_FRAMES: u32 = 64 * 1_024;

/// Streams of a worker whose requests were refused and whose clients do not take the response. One
/// more is reset: a refusal must not hold more memory than a response.
pub(crate) const MAX_REFUSALS: usize = 4_096;

/// New streams of a worker that may wait for their first turn among its tasks. A connection writes
/// when its own turn comes: behind 2,000 new streams whose handlers compute for 2 ms it would be
/// silent for 4 s, and its peer would take it for dead.
pub(crate) const MAX_NEW_STREAMS: usize = 64;

/// The time between the deadline of a request and the end of its stream, for a client that takes
/// nothing. The deadline layer ends all other requests at the deadline, with a response.
pub(crate) const STALLED_STREAM_GRACE: Duration = Duration::from_millis(500);

// Memory of a request.

/// The head of a request: request line and headers, in bytes as HTTP/2 counts them (RFC 9113,
/// 6.5.2). nginx and most others have this limit.
pub(crate) const HEAD: usize = 16 * 1_024;

/// The head that is read over HTTP/2, in bytes. The stack refuses a head over [`HEAD`]; hyper
/// answers one over this limit with 431, without an id or an access line.
pub(crate) const READ_HEAD: u32 = 64 * 1_024;

/// The same over HTTP/1.1, and what waits to be written. hyper would use 400 KB for a slow client.
pub(crate) const HTTP1_BUFFER: usize = 24 * 1_024;

/// The body of a request, in bytes, where a listener sets no other limit: queries and small
/// documents fit, and the bodies of many clients at once fit the memory. On a gRPC port it is the
/// limit of each message.
pub const BODY: usize = 64 * 1_024;

/// Bytes that a client may send on a stream before the handler reads them.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1_024;

/// Bytes of a stream that wait for a slow reader.
pub(crate) const SEND_BUFFER: usize = 64 * 1_024;

/// A longer frame of a response is cut into frames of this size, in bytes: hyper buffers a whole
/// frame, however long it is.
pub(crate) const FRAME: usize = 64 * 1_024;

/// Bytes that wait in the kernel for a slow reader. The kernel's own limit is 4 MiB.
pub(crate) const UNSENT: u32 = 128 * 1_024;

/// The text of a failure that is passed on as `detail`, in bytes.
pub(crate) const DETAIL: usize = 1_024;

// Requests in flight.

/// The part of `MAX_IN_FLIGHT` that long-lived calls may have: one in this number.
pub(crate) const LONG_LIVED_SHARE: usize = 4;

/// Probes in flight, apart from other requests: those of an orchestrator, and the questions of
/// clients that find this replica late, one for each of their connections.
pub(crate) const MAX_PROBES: usize = 1_024;

/// Reads of the metrics in flight, each a text of 10 KB to 200 KB.
pub(crate) const MAX_SCRAPES: usize = 16;

/// The part of `MAX_IN_FLIGHT` that all workers together may keep free for themselves: one in this
/// number. So a limit of up to 100 for each worker is exact, and a larger one holds within 1 %.
pub(crate) const SPARE_SHARE: usize = 100;

/// The places that one worker may keep free: enough for the requests of one look at its sockets.
pub(crate) const MAX_SPARE: usize = 16;

/// A client that has taken nothing of its response for this time is stalled.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(100);

/// The shortest interval between two looks at all requests in flight.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A peer gives way to a newcomer if it holds at least this many times as much. Between peers that
/// hold about the same, work that has begun is worth more than work that has not.
pub(crate) const MUCH_MORE: usize = 2;

/// Idle connections that are picked in one look at all connections.
pub(crate) const PICKED_AT_ONCE: usize = 64;

// Drain.

/// The time until long-lived calls end, from the beginning of a drain: a client that watches the
/// health of the service knows by then that it does not serve any more.
pub(crate) const LONG_LIVED_GRACE: Duration = Duration::from_secs(1);

/// The time that connections in the backlog have to be accepted when the service drains.
pub(crate) const LAST_ACCEPTED: Duration = Duration::from_millis(100);

/// The time that a draining connection is still read: what the client sent before the drain is there.
pub(crate) const LAST_READ: Duration = Duration::from_millis(10);

/// The time that a connection without requests has to end after GOAWAY, which the client
/// acknowledges.
pub(crate) const FAREWELL: Duration = Duration::from_millis(500);

/// The time that workers may take to end beyond the drain timeout. A worker that takes longer is
/// stuck in code that never yields.
pub(crate) const STUCK_WORKER: Duration = Duration::from_secs(1);

// Calls to other services.

/// The most memory of a request stream that is kept for another attempt, in bytes. Once more has
/// been sent, no attempt follows.
pub(crate) const REPLAY: usize = 64 * 1_024;

/// The most attempts of one call, with the first.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

/// The most calls of a channel that wait for a replica, in the whole process. A waiting call has
/// about 4 KiB of memory.
pub(crate) const MAX_CALLS_WITHOUT_REPLICA: usize = 8_192;

/// The most calls that wait for a stream of one connection, beyond those that its peer takes at
/// once.
pub(crate) const MAX_CALLS_WITHOUT_STREAM: u64 = 1_024;

/// The bytes of a response that its replica may send before they are read. A round trip of 1 ms, as
/// in one data centre, allows 128 MB/s. Half of it slows a stream over loopback by a quarter, and
/// twice as much gains nothing. Each response that nobody reads holds as much memory.
pub(crate) const RESPONSE_WINDOW: u32 = 128 * 1_024;

/// The largest window of HTTP/2, so that responses that nobody reads do not stop the others on
/// their connection. The windows of the streams bound what is buffered.
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The memory of frames that wait to be read, without their data, in bytes (RUSTSEC-2026-0258). The
/// smallest messages that fill the window of a stream take 6.5 MB, so a connection survives 40
/// responses that nobody reads at all.
pub(crate) const DATA_FRAME_BUDGET: usize = 256 * 1_024 * 1_024;

/// The longest rest that a replica gets because it asks for one.
pub(crate) const MAX_REST: Duration = Duration::from_secs(30);

/// The connections of a channel, for the whole process. Each worker has an equal share of them and
/// connects to as many replicas.
pub(crate) const MAX_CHANNEL_CONNECTIONS: usize = 512;

/// The fewest replicas that a worker connects to, if there are as many, even beyond its share. With
/// fewer, it would lose half of its replicas with one.
pub(crate) const MIN_REPLICAS: usize = 3;

/// The shortest pause between two look-ups of a name, however many connections end.
pub(crate) const LOOKUP_PAUSE: Duration = Duration::from_millis(500);

/// The rest of the pause if no connection ends, so that a name is looked up every 5 s.
pub(crate) const LOOKUP_INTERVAL: Duration = Duration::from_millis(4_500);

/// The time limit of a look-up.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit of opening a TCP connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two PINGs while calls are in flight. gRPC's servers close a connection for
/// more than one PING in 5 minutes, and for any PING while no call is in flight (gRFC A8).
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(310);

/// The time limit of the response to a PING (gRPC's default, gRFC A8).
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A host that acknowledges nothing for this long is gone (`TCP_USER_TIMEOUT`, gRFC A18). On an
/// idle connection the kernel probes the host, which gRPC's servers do not see.
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub(crate) const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

// Log.

/// Warnings of a worker in a second about the headers of requests.
pub(crate) const HEADER_WARNINGS: u32 = 10;

/// Warnings of a worker in a second about refused requests, and of the process about connections at
/// their limit.
pub(crate) const LIMIT_WARNINGS: u32 = 1;

/// A worker writes its buffer when it has this many bytes, even if the worker is busy.
pub(crate) const LOG_BUFFER: usize = 32 * 1024;

/// The shortest time that records wait for stdout before they are dropped.
pub(crate) const STDOUT_PATIENCE: Duration = Duration::from_secs(1);

/// How long a write waits before it leaves its records to the thread. Readers pause while they wait
/// for a core, and a short wait costs less than a change of threads.
pub(crate) const STDOUT_PAUSE: Duration = Duration::from_millis(10);

/// The most bytes of records that wait, in the whole process.
pub(crate) const LOG_WAITING: usize = 4 * 1_024 * 1_024;
