//! `DRAIN_DELAY`: from its first moment clients are told to go elsewhere, and nothing that they send
//! meanwhile is lost.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tests::{
    Process,
    frame::{self, ACK, CONNECTION, Frame},
    http::{self, End},
};

/// Long enough for what a test does meanwhile, on a busy machine.
const DELAY: &str = "3s";
const DEADLINE: &str = "4s";

const REQUEST: &[u8] = b"GET /path HTTP/1.1\r\nhost: test\r\n\r\n";

/// The fixture, once it has begun the delay. `before` is what its clients do until then.
fn draining<T>(before: impl FnOnce(&Process) -> T) -> (Process, T) {
    let variables = [("DRAIN_DELAY", DELAY), ("DEADLINE", DEADLINE)];
    let fixture = Process::start("fixture", &variables);
    let clients = before(&fixture);
    fixture.signal("TERM");
    fixture.line(&[("action", "drain")]);
    (fixture, clients)
}

/// Sends the request and reads the head of its response, and a body of one read.
fn ask(connection: &mut TcpStream) -> String {
    connection.write_all(REQUEST).expect("it is open");
    let (mut response, mut some) = (Vec::new(), [0; 1_024]);
    while !response.ends_with(b"the path") {
        let length = connection.read(&mut some).expect("a response");
        assert_ne!(length, 0, "{}", String::from_utf8_lossy(&response));
        response.extend(&some[..length]);
    }
    String::from_utf8(response).expect("UTF-8")
}

fn connect(address: SocketAddr) -> TcpStream {
    http::send(address, b"")
}

#[test]
fn over_http_1_the_next_response_is_the_last_and_an_idle_connection_stays_for_the_delay() {
    let (fixture, [mut busy, mut late]) = draining(|fixture| {
        [(); 2].map(|()| {
            let mut connection = connect(fixture.http());
            let response = ask(&mut connection);
            assert!(
                response.contains("\r\nkeep-alive: timeout=70\r\n"),
                "{response}"
            );
            connection
        })
    });
    let mut new = connect(fixture.http());
    let begin = Instant::now();
    for connection in [&mut busy, &mut new] {
        let response = ask(connection);
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
        assert!(!response.contains("\r\nkeep-alive:"), "{response}");
    }
    // A client that did not look. The kernel would answer with a reset if nobody read this.
    busy.write_all(&REQUEST.repeat(100)).expect("it is open");
    let ends = [busy, new].map(|connection| http::read_to_end(connection).expect("the end"));
    for end in ends {
        assert_eq!(end, (vec![], End::Closed));
    }
    std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
    assert!(ask(&mut late).contains("\r\nconnection: close\r\n"));
    assert_drained(fixture);
}

#[test]
fn a_connection_that_idles_through_the_delay_ends_without_a_reset() {
    let (fixture, mut idle) = draining(|fixture| {
        let mut connection = connect(fixture.http());
        ask(&mut connection);
        connection
    });
    let mut bytes = [0];
    assert_eq!(idle.read(&mut bytes).expect("no reset"), 0);
    // Too late.
    idle.write_all(REQUEST).expect("it is half open");
    assert_eq!(idle.read(&mut bytes).expect("no reset"), 0);
    drop(idle);
    assert_drained(fixture);
}

/// Asserts that the drain ends well, and does not wait for any client.
fn assert_drained(fixture: Process) {
    let ended = fixture.ended();
    assert_eq!(ended.status.code(), Some(0));
    assert!(!ended.has_line(&[("action", "drain"), ("status", "failure")]));
}

/// A client over HTTP/2 that sends what it is told to.
struct Client {
    connection: TcpStream,
    received: BytesMut,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self {
            connection: http::send(address, &frame::hello()),
            received: BytesMut::new(),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.connection.write_all(bytes).expect("it is open");
    }

    /// The next frame that the test looks at, or `None` at the end. Acknowledges others.
    fn next(&mut self) -> Option<Frame> {
        loop {
            let Some(next) = Frame::take(&mut self.received) else {
                let mut some = [0; 4_096];
                let length = self.connection.read(&mut some).expect("no reset");
                if length == 0 {
                    return None;
                }
                self.received.extend_from_slice(&some[..length]);
                continue;
            };
            match next.kind {
                frame::SETTINGS | frame::PING if next.flags & ACK == 0 => {
                    let payload = if next.kind == frame::PING {
                        &*next.payload
                    } else {
                        b""
                    };
                    self.send(&frame::frame(next.kind, ACK, CONNECTION, payload));
                }
                frame::HEADERS | frame::GOAWAY => return Some(next),
                _ => {}
            }
        }
    }

    /// Reads a GOAWAY, and returns the last stream that it allows.
    fn goaway(&mut self) -> u32 {
        let goaway = self.next().expect("a frame");
        assert_eq!(goaway.kind, frame::GOAWAY);
        last_stream(&goaway)
    }

    /// Reads the head of a response, and returns its stream.
    fn response(&mut self) -> u32 {
        let headers = self.next().expect("a frame");
        assert_eq!(headers.kind, frame::HEADERS);
        last_stream(&headers)
    }
}

/// The last stream that a GOAWAY without an error allows, or else the stream of the frame.
fn last_stream(frame: &Frame) -> u32 {
    if frame.kind != frame::GOAWAY {
        return u32::from_be_bytes(frame.stream);
    }
    assert_eq!(frame.payload[4..8], [0; 4], "no error");
    u32::from_be_bytes(*frame.payload.first_chunk().expect("an id"))
}

const HIGHEST: u32 = u32::MAX >> 1;

#[test]
fn over_http_2_goaway_comes_in_two_stages_and_streams_run_to_their_end() {
    let (fixture, mut client) = draining(|fixture| {
        let mut client = Client::new(fixture.http());
        client.send(&frame::request(0, true, "/hang"));
        fixture.line(&[("action", "started")]);
        client
    });
    let begin = Instant::now();
    assert_eq!(client.goaway(), HIGHEST);
    assert!(
        begin.elapsed() < Duration::from_millis(2_500),
        "the first half"
    );
    // A request that was on its way. The PING between the two is acknowledged after it.
    client.send(&frame::request(1, true, "/path"));
    let mut both = [(); 2].map(|()| client.next().expect("a frame"));
    both.sort_by_key(|frame| frame.kind);
    assert_eq!(both.each_ref().map(last_stream), [3, 3]);
    // Its deadline comes after the delay.
    assert_eq!(client.response(), 1);
    assert!(client.next().is_none());
    assert_drained(fixture);
}

#[test]
fn a_new_connection_over_http_2_leaves_after_its_first_response_or_a_second() {
    let (fixture, ()) = draining(|_| ());
    let mut client = Client::new(fixture.http());
    client.send(&frame::request(0, true, "/path"));
    assert_eq!(client.response(), 1);
    assert_eq!(client.goaway(), HIGHEST);
    assert_eq!(client.goaway(), 1);
    assert!(client.next().is_none());

    let begin = Instant::now();
    let mut silent = Client::new(fixture.http());
    assert_eq!(silent.goaway(), HIGHEST);
    assert!(begin.elapsed() > Duration::from_millis(900), "not at once");
    drop((client, silent));
    assert_drained(fixture);
}
