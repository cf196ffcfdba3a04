//! Limits of clients: they can't fill the metrics or the log, take all places, or hold connections
//! for ever.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use socket2::{Domain, Socket, Type};
use tests::{Process, Record, frame, grpc, http as plain, wait_for};
use tokio::{runtime::Runtime, task::JoinSet};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Opens an HTTP/2 connection.
async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let (sender, connection) = client::handshake(socket).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Sends that many requests at once, and returns the statuses of their responses; 0 stands for a
/// request that failed.
async fn ask(sender: &SendRequest<Bytes>, path: String, count: usize) -> Vec<u16> {
    let mut responses = JoinSet::new();
    for _ in 0..count {
        let mut sender = sender.clone().ready().await.expect("it is open");
        let request = Request::get(&path).body(()).expect("a request");
        let (response, _) = sender.send_request(request, true).expect("it is sent");
        responses.spawn(async {
            response
                .await
                .map_or(0, |response| response.status().as_u16())
        });
    }
    responses.join_all().await
}

/// Waits until the server closes the connection without sending anything before.
fn closed_after(mut connection: &TcpStream) -> Duration {
    let begin = Instant::now();
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    match connection.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("it is not closed: {other:?}"),
    }
    begin.elapsed()
}

#[test]
fn a_trusted_proxy_says_who_the_client_is() {
    let forwarded: [(&str, &[u8]); 3] = [
        ("x-forwarded-for", b"6.6.6.6, 1.2.3.4:5"),
        ("x-forwarded-for", b"10.1.1.1"),
        ("x-real-ip", b"7.7.7.7"),
    ];
    for (networks, client) in [("", "127.0.0.1"), ("127.0.0.0/8,10.0.0.0/8", "1.2.3.4")] {
        let variables = [("TRUSTED_PROXIES", networks), ("SERVER_TIMING", "off")];
        let fixture = Process::start("fixture", &variables);
        let response = plain::get_with(fixture.http(), "/path", &forwarded);
        assert_eq!(
            (response.status, response.header("server-timing")),
            (200, None)
        );
        let line = fixture.access_line(response.id());
        assert_eq!(line.text("remote_address"), client, "{networks}");
    }
}

#[test]
fn unknown_routes_do_not_fill_the_metrics() {
    let (service1, service2) = Process::pair(&[("RUST_LOG", "error")]);
    let call: [(&str, &[u8]); 2] = [
        ("content-type", b"application/grpc"),
        ("grpc-timeout", b"1n"),
    ];
    for number in 0..600 {
        let path = format!("/made.Up/{number}{}", "A".repeat(8_000));
        assert_eq!(
            plain::request(service2.http(), "POST", &path, &call, b"").status,
            404
        );
        if number % 10 == 0 {
            assert_eq!(grpc::call(service1.grpc(), &path, &[], b"").code(), 12);
        }
    }
    assert_eq!(
        plain::get(service2.http(), "/api/v1/say-hello?name=x").status,
        200
    );
    for (service, line) in [
        (
            &service2,
            "{http_request_method=\"GET\",http_route=\"/api/v1/say-hello\",http_response_status_code=\"200\"} 1\n",
        ),
        (
            &service2,
            "{http_request_method=\"POST\",http_route=\"other\",http_response_status_code=\"404\"} 600\n",
        ),
        (
            &service1,
            "{rpc_method=\"app.grpc.Service1/ProcessName\",rpc_grpc_status_code=\"0\"} 1\n",
        ),
        (
            &service1,
            "{rpc_method=\"other\",rpc_grpc_status_code=\"12\"} 60\n",
        ),
    ] {
        let metrics = plain::get(service.admin(), "/metrics");
        assert!(
            metrics.text().contains(line),
            "{line} in {}",
            metrics.text()
        );
        assert!(metrics.body.len() < 256 * 1_024);
    }
}

#[test]
fn a_flood_of_control_frames_ends_its_connection_and_leaves_one_line() {
    let service1 = Process::start("service1", &[]);
    let mut connection = TcpStream::connect(service1.grpc()).expect("it listens");
    connection.write_all(&frame::hello()).expect("it is open");
    let ack = frame::frame(frame::PING, frame::ACK, frame::CONNECTION, b"abcdefgh");
    let acks = ack.repeat(1_000);
    let mut sent = 0;
    while connection.write_all(&acks).is_ok() {
        sent += acks.len();
        assert!(sent < 100_000_000, "it takes any number of them");
    }
    wait_for("the flood to be counted", || {
        (service1.metric("connections_flooding_total") > 0.0).then_some(())
    });
    let log = service1.terminate().log();
    let is_usual = |line: &&Record| ["listen", "drain", "stop"].contains(&line.text("action"));
    let (usual, others): (Vec<_>, Vec<_>) = log.iter().partition(is_usual);
    assert!(usual.len() >= 4 && others.len() == 1, "{log:?}");
    assert!(others[0].has(&[
        ("code", "ENHANCE_YOUR_CALM"),
        ("reason", "too many control frames")
    ]));
}

#[test]
fn a_client_with_few_requests_is_served_while_another_holds_all_places() {
    let fixture = Process::start("fixture", &[("MAX_IN_FLIGHT", "16"), ("DEADLINE", "5s")]);
    let address = fixture.http();
    let greedy = thread::spawn(move || {
        runtime().block_on(async {
            let sender = connect(address).await;
            ask(&sender, format!("http://{address}/hang"), 16).await
        })
    });
    wait_for("seven eighths of the places to be taken", || {
        (fixture.metric("requests_in_flight") >= 15.0).then_some(())
    });
    for _ in 0..4 {
        assert_eq!(plain::get(address, "/bare/200").status, 200);
    }
    let mut statuses = greedy.join().expect("no panic");
    statuses.sort_unstable();
    // Two found no place, and the others ran into their deadline.
    assert_eq!(statuses, [&[503; 2][..], &[504; 14]].concat());
}

#[test]
fn at_the_limit_a_client_that_takes_nothing_gives_way_and_one_that_takes_a_little_stays() {
    let patient = ("DEADLINE", "60s");
    let service1 = Process::start("service1", &[patient]);
    let service2 = Process::service2(
        &service1,
        &[patient, ("MAX_IN_FLIGHT", "2"), ("MAX_CALLS", "8")],
    );
    let endless = |id: &str| {
        let path = "/api/v1/items/stream?length=2147483647";
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n\r\n");
        // A small buffer, so that the kernel acknowledges no more than what is read.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a valid size");
        socket.connect(&service2.http().into()).expect("it listens");
        let mut connection = TcpStream::from(socket);
        let patience = Some(tests::PATIENCE);
        connection.set_read_timeout(patience).expect("a timeout");
        connection
            .write_all(request.as_bytes())
            .expect("it is open");
        connection
    };
    let (_stalled, mut slow) = (endless("stalled"), endless("slow"));
    let (stop, stopped) = mpsc::channel();
    let reader = thread::spawn(move || {
        // 64 kbit/s.
        while stopped.recv_timeout(Duration::from_millis(100)).is_err() {
            assert!(slow.read(&mut [0; 800]).expect("it is open") > 0);
        }
    });
    let wait_for_status = |status| {
        wait_for("this status", || {
            (plain::get(service2.http(), "/docs").status == status).then_some(())
        });
    };
    wait_for_status(503);
    wait_for_status(200);
    let line = service2.access_line("stalled");
    assert_eq!(line.integer("response_status"), Some(503), "{line:?}");
    assert!(line.text("reason").contains("took nothing"), "{line:?}");
    let has_ended = |line: &Record| line.integer("response_status").is_some();
    assert!(!service2.log_of("slow").iter().any(has_ended));
    stop.send(()).expect("the reader has not panicked");
    reader.join().expect("it is open");
}

#[test]
fn the_limit_holds_for_the_process_whatever_the_number_of_workers() {
    let limits = [("MAX_IN_FLIGHT", "128"), ("WORKERS", "16")];
    let fixture = Process::start("fixture", &limits);
    let address = fixture.http();
    let slow = format!("http://{address}/slow");
    let statuses = runtime().block_on(async {
        let sender = connect(address).await;
        ask(&sender, slow, 100).await
    });
    assert_eq!(statuses, [200; 100]);
}

#[test]
fn idle_connections_last_for_their_timeout_and_no_longer() {
    let service1 = Process::start("service1", &[("IDLE_TIMEOUT", "7s")]);
    let mut idle = TcpStream::connect(service1.http()).expect("it listens");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("it is open");
    let mut response = [0; 1_024];
    assert!(idle.read(&mut response).expect("a response") > 0);
    let mut http2 = TcpStream::connect(service1.grpc()).expect("it listens");
    http2.write_all(&frame::hello()).expect("it is open");
    http2
        .set_read_timeout(Some(tests::PATIENCE))
        .expect("a timeout");
    let http2 = thread::spawn(|| plain::read_to_end(http2));
    // Longer than the head of a request may take.
    assert!(closed_after(&idle) > Duration::from_secs(6));
    let goaway = b"\0\0\x08\x07\0";
    let (sent, _) = http2.join().expect("no panic").expect("it is closed");
    assert!(
        sent.windows(goaway.len()).any(|frame| frame == goaway),
        "{sent:?}"
    );
}

#[test]
fn an_idle_connection_takes_another_request_whatever_the_last_one_was() {
    let fixture = Process::start("fixture", &[]);
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
    let get = "GET /bare/200 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    // The body comes after the head, and after the response where the path is not served.
    let requests = [
        (get, "", "200"),
        (post("/echo"), "hello", "200"),
        (post("/nope"), "hello", "404"),
    ];
    let connections = requests.map(|(head, body, status)| {
        let mut connection = plain::send(fixture.http(), head.as_bytes());
        thread::sleep(Duration::from_millis(100));
        connection.write_all(body.as_bytes()).expect("it is open");
        let mut response = [0; 4_096];
        let read = connection.read(&mut response).expect("a response");
        let response = String::from_utf8_lossy(&response[..read]);
        let line = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&line), "{response}");
        connection
    });
    // Longer than the head of a request may take.
    thread::sleep(Duration::from_secs(6));
    let last = b"GET /bare/200 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for mut connection in connections {
        connection.write_all(last).expect("it is open");
        assert_eq!(plain::read(connection).expect("a response").status, 200);
    }
}

#[test]
fn an_old_connection_ends_with_a_response_that_says_so() {
    let service1 = Process::start("service1", &[("MAX_CONNECTION_AGE", "500ms")]);
    let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut connection = TcpStream::connect(service1.http()).expect("it listens");
    let mut response = [0; 1_024];
    let says_so = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(50));
        connection.write_all(request).expect("it is open");
        let read = connection.read(&mut response).expect("a response");
        let response = String::from_utf8_lossy(&response[..read]).to_lowercase();
        assert!(response.starts_with("http/1.1 200 "), "{response}");
        response.contains("\r\nconnection: close\r\n")
    });
    assert!(says_so, "it lasts for ever");
    closed_after(&connection);
}

#[test]
fn at_the_limit_the_longest_idle_connection_makes_room() {
    let service1 = Process::start("service1", &[("MAX_CONNECTIONS", "4")]);
    let idle: Vec<_> = (0..4)
        .map(|_| {
            let connection = plain::send(service1.http(), b"G");
            thread::sleep(Duration::from_millis(5)); // so that the first is idle for longest
            connection
        })
        .collect();
    assert_eq!(plain::get(service1.http(), "/healthz").status, 200);
    closed_after(&idle[0]);
    let told = service1.line(&[("action", "accept"), ("status", "failure")]);
    assert_eq!(told.number("limit"), Some(4.0));
    assert!(service1.metric("connections_at_limit_total") >= 1.0);
    // The gRPC port still accepts.
    assert_eq!(grpc::process_name(service1.grpc(), "a", &[]).code(), 0);
}

/// Connects from this address, sends a request, and reads the response.
fn ask_from(address: [u8; 4], service: &Process) -> TcpStream {
    let connection = runtime().block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::from(address), 0).into())?;
        socket.connect(service.http()).await?.into_std()
    });
    let mut connection = connection.expect("it listens");
    connection.set_nonblocking(false).expect("it is open");
    ask_again(&mut connection);
    connection
}

fn ask_again(connection: &mut TcpStream) {
    let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    connection.write_all(request).expect("it is open");
    let mut response = [0; 1_024];
    let read = connection.read(&mut response).expect("a response");
    assert!(
        response[..read].starts_with(b"HTTP/1.1 200 "),
        "it is closed"
    );
}

#[test]
fn at_the_limit_new_connections_of_one_address_close_its_own() {
    let service1 = Process::start("service1", &[("MAX_CONNECTIONS", "64")]);
    let mut others: Vec<_> = (0..8)
        .map(|number| ask_from([127, 0, 0, 2 + number], &service1))
        .collect();
    let mut flood: Vec<_> = (0..200)
        .map(|_| ask_from([127, 0, 0, 1], &service1))
        .collect();
    others.push(ask_from([127, 0, 0, 100], &service1));
    others.iter_mut().for_each(ask_again);
    ask_again(flood.last_mut().expect("it is the newest"));
    closed_after(&flood[0]);
}

#[test]
fn with_fewer_files_than_connections_everybody_is_served_in_turn() {
    tests::raise_file_limit();
    let few_files = ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"];
    let service1 = Process::start_within(&few_files, "service1", &[]);
    let kept: Vec<_> = (0..600)
        .map(|_| ask_from([127, 0, 0, 1], &service1))
        .collect();
    let limit = service1.metric("connections_open_limit");
    assert!((1.0..256.0).contains(&limit), "{limit}");
    assert!(service1.open_files() <= 256);
    drop(kept);
    let log = service1.terminate().log();
    let warnings = log.iter().filter(|line| line.text("action") == "start");
    let warnings: Vec<_> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].number("open_files"), Some(256.0));
    assert_eq!(warnings[0].number("connections"), Some(limit));
    let failed = |line: &&Record| line.text("msg").contains("can't accept");
    assert!(!log.iter().any(|line| failed(&line)), "{log:?}");
}

#[test]
fn where_no_connection_is_idle_the_next_that_is_makes_room() {
    let limits = [("MAX_CONNECTIONS", "8"), ("DEADLINE", "20s")];
    let fixture = Process::start("fixture", &limits);
    let slow = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut all: Vec<_> = (0..8).map(|_| plain::send(fixture.http(), slow)).collect();
    wait_for("all to be busy", || {
        (fixture.metric("requests_in_flight") >= 8.0).then_some(())
    });
    let newcomer = plain::send(
        fixture.http(),
        b"GET /bare/200 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    for connection in &mut all {
        let read = connection.read(&mut [0; 1_024]).expect("a response");
        assert!(read > 0, "none of those with a request is closed");
    }
    // Long before a connection has been idle for too long.
    let begin = Instant::now();
    assert_eq!(plain::read(newcomer).expect("a response").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_burst_of_connections_waits_to_be_accepted() {
    const BURST: usize = 2_000;
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux has it");
    if limit.trim().parse::<usize>().expect("a number") < BURST {
        println!("skipped: the system lets no more than {limit} connections wait");
        return;
    }
    tests::raise_file_limit();
    let service1 = Process::start("service1", &[]);
    service1.signal("STOP");
    // Nobody accepts them. One beyond the backlog would wait a second for its next SYN.
    let burst: Vec<_> = (0..BURST)
        .map(|_| TcpStream::connect_timeout(&service1.http(), Duration::from_millis(900)))
        .collect();
    service1.signal("CONT");
    let refused = burst.iter().filter(|connection| connection.is_err());
    assert_eq!(refused.count(), 0);
    assert_eq!(plain::get(service1.http(), "/healthz").status, 200);
}

#[test]
fn a_half_closed_connection_gets_its_response_and_closes() {
    let fixture = Process::start("fixture", &[]);
    for path in ["/bare/200", "/slow"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let connection = plain::send(fixture.http(), request.as_bytes());
        connection.shutdown(Shutdown::Write).expect("it is open");
        let response = plain::read(connection).expect("a response, and the end");
        assert_eq!(response.status, 200, "{path}");
    }
}

#[test]
fn a_silent_client_does_not_hold_the_drain_and_waiting_requests_are_served() {
    let service1 = Process::start("service1", &[]);
    let mut silent = TcpStream::connect(service1.grpc()).expect("it listens");
    silent.write_all(&frame::hello()).expect("it is open");
    wait_for("the silent client", || {
        (service1.metric("connections_open") >= 2.0).then_some(())
    });
    service1.signal("STOP");
    let request = b"GET /api/v1/name?name=a HTTP/1.1\r\nhost: a\r\n\r\n";
    // More than the service accepts before it looks at the signal.
    let sent: Vec<_> = (0..300)
        .map(|_| plain::send(service1.http(), request))
        .collect();
    service1.signal("TERM");
    let begin = Instant::now();
    service1.signal("CONT");
    for connection in sent {
        assert_eq!(plain::read(connection).expect("a response").status, 200);
    }
    let ended = service1.ended();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "it waits for the silent one"
    );
    assert_eq!(ended.status.code(), Some(0));
    assert!(!ended.has_line(&[("action", "drain"), ("status", "failure")]));
}
