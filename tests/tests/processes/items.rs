//! The list and the stream: over gRPC at service1, as JSON at service2.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use ::http::Method;
use protos::api::{ApiRequest, HelloRequest, Item, api_client::ApiClient};
use tests::{Process, grpc, http};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

/// Items 1 to `length` as lines of JSON.
fn lines(length: i32) -> String {
    let line = |id| format!("{{\"id\":{id},\"name\":\"name {id}\"}}\n");
    (1..=length).map(line).collect::<Vec<_>>().concat()
}

/// Items 1 to `length` as a JSON array.
fn array(length: i32) -> String {
    format!("[{}]", lines(length).trim_end().replace('\n', ","))
}

/// Runs these calls of `api.Api` at this address.
fn with_api<R>(address: SocketAddr, calls: impl AsyncFnOnce(ApiClient<Channel>) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        calls(ApiClient::new(endpoint.connect_lazy())).await
    })
}

#[test]
fn items_are_listed_and_streamed_as_json() {
    let (service1, service2) = Process::pair(&[]);
    let response = http::get(service2.http(), "/api/v1/items?length=2");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    let list = r#"[{"id":1,"name":"name 1"},{"id":2,"name":"name 2"}]"#;
    assert_eq!(response.chunked(), (list.to_owned(), true));
    for (service, action) in [(&service1, "get_stream"), (&service2, "get_all")] {
        let id = ("request_id", response.id());
        let line = service.line(&[("action", action), ("status", "success"), id]);
        assert_eq!(line.number("items"), Some(2.0));
    }
    let head = http::request(service2.http(), "HEAD", "/api/v1/items", &[], b"");
    assert_eq!((head.status, head.text()), (200, ""));
    assert_eq!(head.header("content-type"), Some("application/json"));

    let response = http::get(service2.http(), "/api/v1/items/stream?length=5000");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("application/x-ndjson")
    );
    assert_eq!(response.chunked(), (lines(5000), true));
    let streamed = [("action", "get_stream"), ("status", "success")];
    for service in [&service1, &service2] {
        let line = service.line(&[&streamed[..], &[("request_id", response.id())]].concat());
        assert_eq!(line.number("items"), Some(5000.0));
    }
    let access = service2.access_line(response.id());
    assert_eq!(
        access.number("response_size"),
        Some(f64::from(u32::try_from(lines(5000).len()).expect("small")))
    );
}

#[test]
fn a_length_may_be_zero_and_a_missing_one_is_that_of_the_page() {
    let (_service1, service2) = Process::pair(&[]);
    let list = |query| http::get(service2.http(), &format!("/api/v1/items{query}"));
    assert_eq!(list("?length=0").chunked(), ("[]".to_owned(), true));
    assert_eq!(list("/stream?length=0").chunked(), (String::new(), true));
    assert_eq!(list("").chunked(), (array(10), true));
    assert_eq!(list("/stream").chunked(), (lines(5), true));
    assert_eq!(list("?length=10000").chunked(), (array(10_000), true));
}

#[test]
fn an_invalid_length_is_a_400() {
    let (service1, service2) = Process::pair(&[]);
    for length in ["abc", "", "1e3", "99999999999", "-1", "%20", "1&length=1"] {
        for path in ["/api/v1/items", "/api/v1/items/stream"] {
            let response = http::get(service2.http(), &format!("{path}?length={length}"));
            assert_eq!(response.status, 400, "{path} {length}");
            assert!(response.problem().contains("length"), "{path} {length}");
        }
    }
    let response = http::get(service2.http(), "/api/v1/items?length=10001");
    assert_eq!(response.status, 400);
    // Both services have the limit, and say the same.
    with_api(service1.grpc(), async |mut api| {
        let refused = api.get_all(ApiRequest { length: 10_001 }).await;
        let refused = refused.expect_err("a list has a limit");
        assert_eq!(refused.message(), response.problem());
    });
    let line = service2.line(&[("action", "get_all"), ("request_id", response.id())]);
    assert_eq!(line.text("status"), "failure");
    assert_eq!(line.text("error"), response.problem());
}

#[test]
fn the_api_keeps_its_limits() {
    let service1 = Process::start("service1", &[]);
    with_api(service1.grpc(), async |mut api| {
        let name = "Gonzalo".to_owned();
        let hello = api.say_hello(HelloRequest { name }).await.expect("hello");
        assert_eq!(hello.into_inner().message, "Hello Gonzalo!");
        let name = "x".repeat(1025);
        let refused = api
            .say_hello(HelloRequest { name })
            .await
            .expect_err("too long");
        assert_eq!(refused.code(), Code::InvalidArgument);

        for (length, code) in [
            (10_001, Code::InvalidArgument),
            (i32::MAX, Code::InvalidArgument),
            (-1, Code::InvalidArgument),
            (i32::MIN, Code::InvalidArgument),
        ] {
            let refused = api.get_all(ApiRequest { length }).await;
            let refused = refused.expect_err("not in range");
            assert_eq!(refused.code(), code, "{length}");
            assert!(refused.message().contains(&length.to_string()));
            assert!(
                refused
                    .metadata()
                    .get("request_id")
                    .is_some_and(|id| id.len() == 36)
            );
        }
        let all = api.get_all(ApiRequest { length: 10_000 }).await;
        assert_eq!(all.expect("the limit").into_inner().items.len(), 10_000);

        for length in [0, 1, 1_000] {
            let items = api.get_stream(ApiRequest { length }).await;
            let mut items = items.expect("a stream").into_inner();
            for id in 1..=length {
                let name = format!("name {id}");
                let item = items.message().await.expect("whole");
                assert_eq!(item, Some(Item { id, name }));
            }
            assert_eq!(items.message().await.expect("whole"), None);
        }
        let refused = api.get_stream(ApiRequest { length: -1 }).await;
        let refused = refused.expect_err("not in range");
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

#[test]
fn a_stream_ends_with_deadline_exceeded_at_the_deadline() {
    let service1 = Process::start("service1", &[]);
    with_api(service1.grpc(), async |mut api| {
        let mut request = tonic::Request::new(ApiRequest { length: i32::MAX });
        let timeout = "300m".parse().expect("ASCII");
        request.metadata_mut().insert("grpc-timeout", timeout);
        let items = api.get_stream(request).await;
        let mut items = items.expect("a stream").into_inner();
        let mut received = 0;
        let end = loop {
            match items.message().await {
                Ok(Some(_)) => received += 1,
                Ok(None) => panic!("the stream ended before its deadline"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::DeadlineExceeded);
        assert!(received > 0);
    });
    let line = service1.line(&[("action", "get_stream"), ("status", "failure")]);
    assert_eq!(line.number("length"), Some(2_147_483_647.0));
}

/// Begins to read a stream of service2, up to the end of the head.
fn begin(service2: &Process, length: i32, id: &str) -> BufReader<TcpStream> {
    begin_path(service2, &format!("{STREAM}?length={length}"), id)
}

const LIST: &str = "/api/v1/items";
const STREAM: &str = "/api/v1/items/stream";

/// Begins to read a response of service2, up to the end of the head.
fn begin_path(service2: &Process, path: &str, id: &str) -> BufReader<TcpStream> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n"
    );
    let mut response = BufReader::new(http::send(service2.http(), request.as_bytes()));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        let read = response.read_line(&mut line).expect("there is a response");
        assert!(read > 0, "the connection ended before the head");
    }
    response
}

/// Reads up to this text.
fn read_to(response: &mut impl BufRead, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let line = response.read_line(&mut read).expect("there is more");
        assert!(line > 0, "the end came first: {read}");
    }
    read
}

/// Reads the items that the fixture makes before the release, and returns them.
fn read_to_third(response: &mut impl Read) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("name 3\"}") {
        let mut byte = [0];
        response.read_exact(&mut byte).expect("there is more");
        read.extend(byte);
    }
    String::from_utf8(read).expect("it is UTF-8")
}

#[test]
fn each_item_leaves_when_it_comes() {
    for path in [LIST, STREAM] {
        let fixture = Process::start("fixture", &[]);
        let service2 = Process::service2(&fixture, &[]);
        let mut response = begin_path(&service2, &format!("{path}?length=5"), "slowly");
        let read = read_to_third(&mut response);
        // The fixture makes no more items before the release.
        assert!(service2.log_of("slowly").is_empty());
        assert_eq!(http::get(fixture.http(), "/release").status, 200);
        let rest = read_to(&mut response, "\r\n0\r\n\r\n");
        assert!(read.contains("name 1") && rest.contains("name 5"));
        assert_eq!(
            service2.access_line("slowly").number("response_status"),
            Some(200.0)
        );
    }
}

/// The rest of a response.
fn rest(mut response: BufReader<TcpStream>) -> String {
    let mut rest = String::new();
    response.read_to_string(&mut rest).expect("it ends");
    rest
}

#[test]
fn a_client_can_tell_that_a_stream_broke_off() {
    broken_off(STREAM, "get_stream");
}

#[test]
fn a_client_can_tell_that_a_list_broke_off() {
    broken_off(LIST, "get_all");
}

fn broken_off(path: &str, action: &str) {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[("DEADLINE", "2s")]);
    let broken = |id: &str| {
        let access = service2.access_line(id);
        assert_eq!(access.text("reason"), "the response broke off", "{id}");
        let line = service2.line(&[("action", action), ("request_id", id)]);
        assert_eq!(line.text("status"), "failure");
        line
    };

    // The deadline passes while the fixture holds the fourth item back.
    let mut response = begin_path(&service2, &format!("{path}?length=5"), "late");
    let mut read = read_to_third(&mut response);
    read += &rest(response);
    assert!(
        !read.contains("name 4") && !read.contains(']') && !read.ends_with("0\r\n\r\n"),
        "{read}"
    );
    assert_eq!(broken("late").number("items"), Some(3.0));

    // The backend fails. The items before its error are sent.
    assert_eq!(http::get(fixture.http(), "/release").status, 200);
    let response = begin_path(&service2, &format!("{path}?length=20"), "error");
    let response = rest(response);
    assert!(
        response.contains("name 12") && !response.contains(']') && !response.ends_with("0\r\n\r\n"),
        "{response}"
    );
    assert!(!response.contains("the fixture's text"));
    let line = broken("error");
    assert_eq!(line.number("items"), Some(12.0));
    assert!(line.text("error").contains("the fixture's text"));
}

#[test]
fn a_client_can_tell_that_the_service1_of_its_stream_was_killed() {
    let fixture = Process::start("fixture", &[]);
    let service2 = Process::service2(&fixture, &[]);
    let mut response = begin(&service2, 5, "killed");
    let mut read = read_to(&mut response, "name 3");
    drop(fixture); // kill -9
    read += &rest(response);
    assert!(!read.ends_with("0\r\n\r\n"), "{read}");
    let access = service2.access_line("killed");
    assert_eq!(access.text("reason"), "the response broke off");

    for path in ["/api/v1/items", "/api/v1/items/stream"] {
        let response = http::get(service2.http(), path);
        assert_eq!(
            (response.status, response.header("retry-after")),
            (503, Some("1"))
        );
        response.problem();
    }
}

/// The CPU time that a process has used, in ticks.
fn cpu_time(process: &Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("its name is in parentheses");
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    let mut next = || times.next().expect("two times").expect("a number");
    next() + next()
}

/// Asserts that the producer of a stream has stopped: it logs so, and uses no more CPU time.
fn assert_stopped(service1: &Process, id: &str) {
    let line = service1.line(&[("action", "get_stream"), ("request_id", id)]);
    assert_eq!(line.text("status"), "failure");
    assert!(line.number("items") > Some(0.0));
    let before = cpu_time(service1);
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu_time(service1) <= before + 2, "it works on");
}

#[test]
fn the_producer_stops_when_its_client_goes_away() {
    let (service1, service2) = Process::pair(&[("DEADLINE", "1m")]);
    let mut response = begin(&service2, i32::MAX, "gone");
    read_to(&mut response, "name 10000\"");
    let gone = Instant::now();
    drop(response);
    service1.line(&[("action", "get_stream"), ("request_id", "gone")]);
    let took = gone.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_stopped(&service1, "gone");
    assert_eq!(
        service2.access_line("gone").number("response_status"),
        Some(499.0)
    );

    with_api(service1.grpc(), async |mut api| {
        let mut request = tonic::Request::new(ApiRequest { length: i32::MAX });
        let id = "reset".parse().expect("ASCII");
        request.metadata_mut().insert("request_id", id);
        let items = api.get_stream(request).await;
        let mut items = items.expect("a stream").into_inner();
        assert!(items.message().await.expect("an item").is_some());
        drop(items);
        // The stream is gone, and the channel still works.
        assert!(api.get_all(ApiRequest { length: 1 }).await.is_ok());
    });
    assert_stopped(&service1, "reset");
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_a_stream_past_the_deadline() {
    // A deadline long enough for the buffers of the sockets to fill up.
    let (service1, service2) = Process::pair(&[("DEADLINE", "3s")]);
    // Over HTTP/1, at the edge: the client does not read its socket.
    let idle = begin(&service2, i32::MAX, "idle");
    assert_stopped(&service1, "idle");
    // The deadline layer or the socket cuts it off, depending on the buffers.
    assert_ne!(service2.access_line("idle").text("reason"), "");
    drop(idle);

    // Over HTTP/2, at service1: the client reads its socket, but opens no window for this stream.
    with_api(service1.grpc(), async |mut api| {
        let mut request = tonic::Request::new(ApiRequest { length: i32::MAX });
        let id = "no-room".parse().expect("ASCII");
        request.metadata_mut().insert("request_id", id);
        let items = api.get_stream(request).await.expect("a stream");
        assert!(api.get_all(ApiRequest { length: 1 }).await.is_ok());
        let watch = tokio::task::spawn_blocking(move || assert_stopped(&service1, "no-room"));
        watch.await.expect("it does not panic");
        drop(items);
    });
}

#[test]
fn ten_million_items_need_no_more_memory_than_a_few() {
    let (service1, service2) = Process::pair(&[("DEADLINE", "10m")]);
    let stream = |length: i32| {
        let mut response = begin(&service2, length, "long");
        let (mut buffer, mut end, mut items) = (vec![0; 64 * 1024], Vec::new(), 0);
        loop {
            let read = response.read(&mut buffer).expect("there is more");
            if read == 0 {
                break;
            }
            items += buffer[..read].split(|byte| *byte == b'{').count() - 1;
            end.extend_from_slice(&buffer[..read]);
            end.drain(..end.len().saturating_sub(5));
        }
        assert_eq!(end, b"0\r\n\r\n");
        assert_eq!(items, usize::try_from(length).expect("positive"));
    };
    stream(10_000);
    let before = [&service1, &service2].map(|service| service.memory("VmRSS"));
    stream(10_000_000);
    // The peak counts, not the end.
    let peak = [&service1, &service2].map(|service| service.memory("VmHWM"));
    for (before, peak) in before.into_iter().zip(peak) {
        assert!(peak <= before + 8 * 1024, "{before} to {peak} KiB");
    }
}

#[test]
fn the_response_says_where_its_time_went() {
    let (service1, service2) = Process::pair(&[]);
    let names = |header: Option<&str>| -> Vec<String> {
        let entries = header.expect("Server-Timing").split(", ");
        let pairs = entries.map(|entry| entry.split_once(";dur=").expect("a duration"));
        pairs
            .map(|(name, millis)| {
                assert!(millis.parse::<f64>().expect("a number") < 20_000.0);
                name.to_owned()
            })
            .collect()
    };
    for (path, expected) in [
        ("/api/v1/say-hello?name=test", &["ProcessName", "total"][..]),
        ("/api/v1/say-hello?name=%", &["total"]),
        ("/api/v1/items", &["getStream", "total"]),
        ("/api/v1/items?length=10001", &["total"]),
        ("/api/v1/items/stream", &["getStream", "total"]),
        ("/", &["sayHello", "getAll", "getStream", "total"]),
        ("/nope", &["total"]),
    ] {
        let response = http::get(service2.http(), path);
        assert_eq!(names(response.header("server-timing")), expected, "{path}");
        assert_eq!(
            response.header("trailer"),
            None,
            "nobody asked for trailers"
        );
    }

    let stream = "/api/v1/items/stream";
    let response = http::get_with(service2.http(), stream, &[("te", b"trailers")]);
    assert_eq!(response.header("trailer"), Some("server-timing"));
    let end = String::from_utf8_lossy(&response.body);
    let (_, trailer) = end.rsplit_once("server-timing: ").expect("a trailer");
    assert_eq!(names(Some(trailer.trim_end())), ["getStream", "total"]);

    let response = grpc::request(service2.http(), Method::GET, stream, &[], Vec::new());
    assert_eq!(response.body, lines(5));
    let trailer = response.trailers["server-timing"].to_str().ok();
    assert_eq!(names(trailer), ["getStream", "total"]);

    // gRPC has no Server-Timing.
    let response = grpc::process_name(service1.grpc(), "test", &[]);
    assert!(!response.headers.contains_key("server-timing"));
}
