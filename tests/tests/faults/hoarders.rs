//! Clients that take everything a service has, and leave nothing to newcomers.

use std::{
    error::Error,
    future::{Future, pending, poll_fn},
    io,
    net::SocketAddr,
    thread::{self, sleep},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{self, SendRequest};
use http::Request;
use tests::{Process, Record, http as plain, load::Load};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    time,
};

use crate::{
    ENDLESS, PROBES, QUIET, Row, SECOND, assert_none_failed, at_once, backend, block_on, edge,
    float, millis,
};

pub(crate) const ROWS: &[Row] = &[
    (
        "4 connections with 512 streams each that take nothing",
        "0 of the newcomers fail",
        streams_take_nothing,
    ),
    (
        "the same, of a list of 400 KB, so that service1 has open calls, too",
        "0 of the newcomers fail",
        lists_take_nothing,
    ),
    (
        "10,000 streams of /metrics that take nothing, on the port for operators",
        "0 of the newcomers fail; the metrics can be read",
        scrapes_take_nothing,
    ),
    (
        "2,500 half heads of 400 KB, 2,048 readers of a long stream that read nothing",
        "0 of the newcomers fail; memory below 768 MB",
        memory_of_the_edge,
    ),
    (
        "1,200 readers of a list of 400 KB that read nothing, 600 over HTTP/2 that read a byte; 256 in flight",
        "0 of the newcomers fail; memory below 256 MB",
        memory_of_lists,
    ),
    (
        "2,048 lists, 2,048 pages, 2,048 long streams, 2,500 half heads and 4,000 idle connections at once",
        "0 of the newcomers fail; memory below 1 GB, half of what compose allows",
        memory_of_everything,
    ),
    (
        "300 messages of 4 MB that never end, on one gRPC connection",
        "memory grows by less than 64 MB",
        memory_of_the_backend,
    ),
];

pub(crate) const LIGHT_ROWS: &[Row] = &[
    (
        "60 clients that read nothing, for 64 places; 16 readers of 400 KB at 1.5 Mbit/s and 4 of 40 KB at 64 kbit/s, over HTTP/1.1 and HTTP/2",
        "all of them whole",
        readers_are_slow_at_the_limit,
    ),
    (
        "20 s at the limit, with 2 workers and with 16",
        "no response is cut whose access line says that it is whole",
        lines_are_true_at_the_limit,
    ),
];

fn pair() -> (Process, Process) {
    let service1 = backend();
    let service2 = edge(&[&service1], &[QUIET]);
    (service1, service2)
}

/// Probes the service with newcomers for five seconds while `attack` goes on, which must hold this
/// many connections at the end.
fn probe_beside<F>(
    service2: &Process,
    connections: usize,
    attack: impl FnOnce() -> F + Send + 'static,
) -> String
where
    F: Future<Output = ()>,
{
    let before = service2.open_files();
    let (stop, stopped) = oneshot::channel::<()>();
    let attackers = thread::spawn(move || {
        block_on(async {
            tokio::select! {
                () = attack() => {}
                _ = stopped => {}
            }
        });
    });
    sleep(SECOND);
    let probes = Load::start(service2.http(), PROBES);
    sleep(5 * SECOND);
    let samples = probes.stop();
    // The metrics may be refused meanwhile.
    let open = service2.open_files().saturating_sub(before);
    assert!(open >= connections, "{open} connections");
    drop(stop);
    attackers.join().expect("it does not panic");
    format!(
        "{}, p99 {}",
        assert_none_failed(&samples),
        millis(samples.percentile(0.99))
    )
}

/// Keeps that many streams of a path open on each connection, and reads nothing.
async fn take_nothing(address: SocketAddr, connections: usize, streams: u32, path: &'static str) {
    take(0, address, connections, streams, path).await;
}

/// The same, but reads a byte of each.
async fn take_little(address: SocketAddr, connections: usize, streams: u32, path: &'static str) {
    take(1, address, connections, streams, path).await;
}

async fn take(
    window: u32,
    address: SocketAddr,
    connections: usize,
    streams: u32,
    path: &'static str,
) {
    let connections = (0..connections).map(|_| async move {
        loop {
            // A closed connection is opened again.
            let Ok(socket) = TcpStream::connect(address).await else {
                return;
            };
            let mut builder = client::Builder::new();
            let Ok((sender, connection)) =
                builder.initial_window_size(window).handshake(socket).await
            else {
                continue;
            };
            let held = (0..streams).map(|number| hold(number, sender.clone(), address, path));
            let held = join_all(held);
            tokio::select! {
                _ = connection => {}
                _ = held => {}
            }
        }
    });
    join_all(connections).await;
}

/// Keeps a stream open, and opens another when it ends.
async fn hold(
    number: u32,
    sender: SendRequest<Bytes>,
    address: SocketAddr,
    path: &str,
) -> Option<()> {
    time::sleep(Duration::from_millis(1) * number).await;
    loop {
        let mut sender = sender.clone().ready().await.ok()?;
        let uri = format!("http://{address}{path}");
        let request = Request::get(uri).body(()).expect("a request");
        let (response, _) = sender.send_request(request, true).ok()?;
        if let Ok(response) = response.await {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.data().await {}
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

fn streams_take_nothing() -> String {
    take_nothing_of("/api/v1/say-hello?name=x")
}

fn lists_take_nothing() -> String {
    take_nothing_of(LIST)
}

fn take_nothing_of(path: &'static str) -> String {
    let (_service1, service2) = pair();
    let address = service2.http();
    let shown = probe_beside(&service2, 2, move || take_nothing(address, 4, 512, path));
    let shed = service2.metric("requests_shed_total");
    assert!(shed > 0.0, "their places were taken");
    shown
}

fn scrapes_take_nothing() -> String {
    let (_service1, service2) = pair();
    let address = service2.admin();
    let shown = probe_beside(&service2, 10, move || {
        take_nothing(address, 20, 500, "/metrics")
    });
    let scrape = plain::get(address, "/metrics");
    assert_eq!(scrape.status, 200, "five seconds have passed");
    assert!(scrape.body.len() < 256 * 1_024);
    shown
}

/// service2 in front of a service1 with room for all calls, so that the limit of service2 counts.
fn pair_with_room(variables: &[(&str, &str)]) -> (Process, Process) {
    let service1 = Process::start("service1", &[("MAX_IN_FLIGHT", "10000"), QUIET]);
    let service2 = edge(&[&service1], &[variables, &[QUIET]].concat());
    tests::raise_file_limit();
    (service1, service2)
}

/// That many clients send these bytes and read nothing. They start one every two milliseconds, and
/// have another address than the newcomers.
async fn read_nothing(address: SocketAddr, clients: u32, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    let clients = (0..clients).map(|number| async move {
        time::sleep(Duration::from_millis(2) * number).await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("an open socket");
        let own = SocketAddr::from(([127, 0, 0, 2], 0));
        socket.bind(own).expect("all of 127.0.0.0/8 is ours");
        let mut socket = socket.connect(address).await.expect("it listens");
        // The service may close the connection before it has read all.
        let _ = socket.write_all(bytes).await;
        socket
    });
    let _held = join_all(clients).await;
    pending::<()>().await;
}

/// A list of 400 KB.
const LIST: &str = "/api/v1/items?length=10000";

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes()
}

/// Half a head of 400 KB.
fn half_head() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(400 * 1_024)).into_bytes()
}

fn memory_of_the_edge() -> String {
    let (_service1, service2) = pair_with_room(&[]);
    let address = service2.http();
    let shown = probe_beside(&service2, 1_000, move || async move {
        tokio::join!(
            read_nothing(address, 2_500, half_head()),
            read_nothing(address, 2_048, ENDLESS)
        );
    });
    let most = service2.memory("VmHWM") / 1_024;
    assert!(most < 768, "{most} MB");
    format!("{shown}; at most {most} MB")
}

fn memory_of_lists() -> String {
    let (_service1, service2) = pair_with_room(&[("MAX_IN_FLIGHT", "256")]);
    let address = service2.http();
    let shown = probe_beside(&service2, 1, move || async move {
        tokio::join!(
            read_nothing(address, 1_200, get(LIST)),
            take_little(address, 2, 300, LIST)
        );
    });
    let left_out =
        ["requests_shed_total", "requests_gave_way_total"].map(|name| service2.metric(name));
    assert!(left_out.iter().sum::<f64>() > 0.0, "all places were taken");
    let most = service2.memory("VmHWM") / 1_024;
    assert!(most < 256, "{most} MB");
    format!("{shown}; at most {most} MB")
}

fn memory_of_everything() -> String {
    let (_service1, service2) = pair_with_room(&[]);
    let address = service2.http();
    let shown = probe_beside(&service2, 4_000, move || async move {
        tokio::join!(
            read_nothing(address, 4_000, b""),
            read_nothing(address, 2_500, half_head()),
            read_nothing(address, 2_048, get(LIST)),
            read_nothing(address, 2_048, get("/?length=1000&stream_length=1000")),
            read_nothing(address, 2_048, ENDLESS)
        );
    });
    let most = service2.memory("VmHWM") / 1_024;
    assert!(most < 1_024, "{most} MB");
    format!("{shown}; at most {most} MB")
}

/// A reader of a list, at a pace.
#[derive(Debug, Clone, Copy)]
struct Reader {
    items: u32,
    bytes_per_second: usize,
}

/// 400 KB at 1.5 Mbit/s.
const BROAD: Reader = Reader {
    items: 10_000,
    bytes_per_second: 187_500,
};

/// 40 KB at 64 kbit/s.
const NARROW: Reader = Reader {
    items: 1_000,
    bytes_per_second: 8_000,
};

/// What a reader got.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Refused,
    Cut(String),
}

impl Reader {
    fn path(self) -> String {
        format!("/api/v1/items?length={}", self.items)
    }

    /// The bytes that it reads at once, ten times a second.
    fn some(self) -> usize {
        self.bytes_per_second / 10
    }

    async fn pause(self, read: usize) {
        time::sleep(SECOND.mul_f64(float(read) / float(self.bytes_per_second))).await;
    }

    /// What a list with this status is. A whole one has its last item.
    fn outcome(self, status: u16, list: &[u8]) -> Outcome {
        let end = format!("\"name {}\"}}]", self.items);
        match status {
            503 => Outcome::Refused,
            200 if String::from_utf8_lossy(list).contains(&end) => Outcome::Whole,
            _ => Outcome::Cut(format!("{status}, {} bytes", list.len())),
        }
    }

    /// Reads a list over HTTP/1.1.
    async fn read(self, address: SocketAddr, id: String) -> Outcome {
        let (mut list, mut some) = (Vec::new(), vec![0; self.some()]);
        let read = async {
            let path = self.path();
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"
            );
            let mut socket = slow_socket(address).await?;
            socket.write_all(request.as_bytes()).await?;
            loop {
                let read = socket.read(&mut some).await?;
                if read == 0 {
                    return Ok::<_, io::Error>(());
                }
                list.extend_from_slice(&some[..read]);
                self.pause(read).await;
            }
        };
        if let Err(error) = read.await {
            return Outcome::Cut(format!("{} bytes, {error}", list.len()));
        }
        let status = list.get(9..12).and_then(|code| str::from_utf8(code).ok());
        let status = status.and_then(|code| code.parse().ok());
        self.outcome(status.unwrap_or_default(), &list)
    }

    /// Reads a list over HTTP/2.
    async fn read_http2(self, address: SocketAddr, id: String) -> Outcome {
        let mut list = Vec::new();
        let read = async {
            let socket = slow_socket(address).await?;
            let window = u32::try_from(self.some()).expect("it is small");
            let (sender, connection) = client::Builder::new()
                .initial_window_size(window)
                .handshake::<_, Bytes>(socket)
                .await?;
            tokio::spawn(connection);
            let request = Request::get(format!("http://{address}{}", self.path()));
            let request = request.header("x-request-id", id).body(());
            let mut sender = sender.ready().await?;
            let (response, _) = sender.send_request(request.expect("a request"), true)?;
            let response = response.await?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            while let Some(some) = body.data().await {
                let some = some?;
                list.extend_from_slice(&some);
                self.pause(some.len()).await;
                body.flow_control().release_capacity(some.len())?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(status)
        };
        match read.await {
            Ok(status) => self.outcome(status, &list),
            Err(error) => Outcome::Cut(format!("{} bytes, {error}", list.len())),
        }
    }
}

/// A connection whose kernel acknowledges little more than what is read.
async fn slow_socket(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    socket.connect(address).await
}

/// Does this beside 60 clients that ask for an endless stream every three seconds and read nothing.
/// They have another address.
fn beside_hoarders<T>(address: SocketAddr, work: impl Future<Output = T>) -> T {
    let hoard = async {
        loop {
            let hoarders = read_nothing(address, 60, ENDLESS);
            let _ = time::timeout(3 * SECOND, hoarders).await;
        }
    };
    block_on(async {
        tokio::select! {
            done = work => done,
            never = hoard => never,
        }
    })
}

fn readers_are_slow_at_the_limit() -> String {
    let (_service1, service2) = pair_with_room(&[("MAX_IN_FLIGHT", "64")]);
    let address = service2.http();
    let readers = [(BROAD, 16), (NARROW, 4)];
    let outcomes = beside_hoarders(address, async {
        let all = readers.map(|(reader, count)| {
            let of_one = (0..count).flat_map(move |number| {
                let id = |version: &str| format!("{version}-{}-{number}", reader.items);
                let http1 = tokio::spawn(reader.read(address, id("http1")));
                let http2 = tokio::spawn(reader.read_http2(address, id("http2")));
                [http1, http2]
            });
            join_all(of_one)
        });
        join_all(all).await
    });
    let outcomes: Vec<_> = outcomes
        .into_iter()
        .flatten()
        .map(|outcome| outcome.expect("it does not panic"))
        .collect();
    let cut: Vec<_> = outcomes
        .iter()
        .filter(|one| **one != Outcome::Whole)
        .collect();
    assert!(cut.is_empty(), "{cut:?}");
    let shed = service2.metric("requests_shed_total");
    assert!(shed > 0.0, "all places were taken");
    format!(
        "{} of {} whole; {shed} requests refused beside them",
        outcomes.len(),
        outcomes.len()
    )
}

fn lines_are_true_at_the_limit() -> String {
    let shown = at_once(["2", "16"], |workers| {
        let (_service1, service2) = pair_with_room(&[
            ("MAX_IN_FLIGHT", "32"),
            ("WORKERS", workers),
            ("RUST_LOG", "info"),
        ]);
        let address = service2.http();
        let outcomes = beside_hoarders(address, async {
            let end = time::Instant::now() + 20 * SECOND;
            let readers = (0..40).map(|reader| {
                tokio::spawn(async move {
                    let mut outcomes = Vec::new();
                    while time::Instant::now() < end {
                        let id = format!("reader-{reader}-{}", outcomes.len());
                        let outcome = if reader % 2 == 0 {
                            BROAD.read(address, id.clone()).await
                        } else {
                            BROAD.read_http2(address, id.clone()).await
                        };
                        outcomes.push((id, outcome));
                        time::sleep(SECOND / 10).await;
                    }
                    outcomes
                })
            });
            join_all(readers).await
        });
        let log = service2.terminate().log_by_id();
        let says_whole = |id: &str| {
            let lines = log.get(id).map(Vec::as_slice).unwrap_or_default();
            let status = |line: &Record| line.integer("response_status");
            let line = lines.iter().find(|line| status(line).is_some());
            line.is_some_and(|line| status(line) == Some(200) && line.text("reason").is_empty())
        };
        let outcomes = outcomes.into_iter();
        let outcomes: Vec<_> = outcomes
            .flat_map(|of_one| of_one.expect("it does not panic"))
            .collect();
        let count = |wanted: Outcome| outcomes.iter().filter(|one| one.1 == wanted).count();
        let is_lie =
            |one: &&(String, Outcome)| matches!(one.1, Outcome::Cut(_)) && says_whole(&one.0);
        let lies: Vec<_> = outcomes.iter().filter(is_lie).collect();
        assert!(lies.is_empty(), "{lies:?}");
        let (whole, refused) = (count(Outcome::Whole), count(Outcome::Refused));
        assert!(
            whole > 100 && refused > 0,
            "{whole} whole, {refused} refused"
        );
        let cut = outcomes.len() - whole - refused;
        format!(
            "{workers} workers: {whole} whole, {refused} refused, {cut} cut, none of them said to be whole"
        )
    });
    shown.join("; ")
}

fn memory_of_the_backend() -> String {
    const RESOURCE_EXHAUSTED: &str = "8";
    let service1 = backend();
    let before = service1.memory("VmHWM");
    let address = service1.grpc();
    let refused = block_on(async {
        let socket = TcpStream::connect(address).await;
        let (sender, connection) = client::handshake(socket.expect("it listens"))
            .await
            .expect("it speaks HTTP/2");
        tokio::spawn(connection);
        let calls = (0..300).map(|_| send_half_a_message(sender.clone(), address));
        let ends = time::timeout(5 * SECOND, join_all(calls)).await;
        let codes = ends.expect("each is refused").into_iter().flatten();
        codes.filter(|code| code == RESOURCE_EXHAUSTED).count()
    });
    assert_eq!(refused, 300);
    let grown = (service1.memory("VmHWM") - before) / 1_024;
    assert!(grown < 64, "{grown} MB");
    format!("{grown} MB; {refused} of 300 refused")
}

/// Sends all but the last byte of a message of 4 MB, and keeps the stream open. Returns the gRPC
/// status of the response, which may come before the end.
async fn send_half_a_message(sender: SendRequest<Bytes>, address: SocketAddr) -> Option<String> {
    const LENGTH: u32 = 4 * 1_024 * 1_024;
    let mut sender = sender.ready().await.ok()?;
    let request = Request::post(format!("http://{address}/app.grpc.Service1/ProcessName"))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let (response, mut upload) = sender.send_request(request, false).ok()?;
    let prefix = [&[0][..], &LENGTH.to_be_bytes()].concat();
    upload.send_data(prefix.into(), false).ok()?;
    let send = async {
        let mut left = LENGTH as usize - 1;
        while left > 0 {
            upload.reserve_capacity(left.min(16 * 1_024));
            let Some(Ok(room)) = poll_fn(|cx| upload.poll_capacity(cx)).await else {
                return;
            };
            let room = room.min(left);
            if upload.send_data(vec![b'a'; room].into(), false).is_err() {
                return;
            }
            left -= room;
        }
        pending::<()>().await;
    };
    let ((), response) = tokio::join!(send, response);
    let status = response.ok()?.headers().get("grpc-status")?.clone();
    Some(status.to_str().ok()?.to_owned())
}
