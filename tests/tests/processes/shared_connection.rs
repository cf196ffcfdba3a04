//! Errors of one client, on a connection that a proxy shares among many.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use bytes::BytesMut;
use tests::{
    Process,
    frame::{self, Frame},
    wait_for,
};

const PATH: &[u8] = b"/readyz";
/// h2 resets the stream of a request with this authority.
const BAD_AUTHORITY: &[u8] = b"[::1";
const CODE_ENHANCE_YOUR_CALM: u8 = 11;

struct Client {
    connection: TcpStream,
    received: BytesMut,
}

impl Client {
    fn of(service: &Process) -> Self {
        let mut connection = TcpStream::connect(service.http()).expect("it listens");
        let patience = Some(Duration::from_secs(20));
        connection.set_read_timeout(patience).expect("a timeout");
        connection.write_all(&frame::hello()).expect("it is open");
        Self {
            connection,
            received: BytesMut::new(),
        }
    }

    fn send(&mut self, frames: &[u8]) {
        self.connection.write_all(frames).expect("it is open");
    }

    /// The next frame that the service sends, or `None` at the end of the connection.
    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.received) {
                return Some(frame);
            }
            let mut bytes = [0; 16 * 1_024];
            match self.connection.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.received.extend_from_slice(&bytes[..read]),
            }
        }
    }

    /// The last byte of the payload of the next frame of this kind: of an error code, for example.
    fn next_of(&mut self, kind: u8) -> Option<u8> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return frame.payload.last().copied();
            }
        }
    }
}

#[test]
fn streams_in_error_are_counted_and_end_no_connection() {
    const COUNT: u32 = 1_100;
    let service1 = Process::start("service1", &[]);
    let mut client = Client::of(&service1);
    for number in 0..COUNT {
        client.send(&frame::request_to(BAD_AUTHORITY, number, true, PATH));
        assert_eq!(client.next_of(frame::RST_STREAM), Some(1), "{number}");
    }
    client.send(&frame::request_to(b"a", COUNT, true, PATH));
    assert!(client.next_of(frame::DATA).is_some(), "it is served");
    let counted = |name| service1.metric(name).to_string();
    assert_eq!(counted("http2_stream_errors_total"), COUNT.to_string());
    assert_eq!(counted("http2_connection_errors_total"), "0");
}

/// CVE-2025-8671, "made you reset": requests that are served, and whose streams the server resets.
#[test]
fn a_flood_of_requests_that_the_server_is_made_to_reset_ends_its_connection() {
    const BATCH: u32 = 100;
    let service1 = Process::start("service1", &[]);
    let beyond_the_window = |stream| {
        let most = 0x7FFF_FFFF_u32.to_be_bytes();
        frame::frame(frame::WINDOW_UPDATE, 0, stream, &most)
    };
    let behind_itself = |stream: [u8; 4]| {
        let dependency = [&stream[..], &[0]].concat();
        frame::frame(frame::PRIORITY, 0, stream, &dependency)
    };
    let made: [fn([u8; 4]) -> Vec<u8>; 2] = [beyond_the_window, behind_itself];
    for make_reset in made {
        let mut client = Client::of(&service1);
        let mut connection = client.connection.try_clone().expect("a handle");
        let flood = |batch: u32| {
            let numbers = batch * BATCH..(batch + 1) * BATCH;
            let of = |number| {
                let request = frame::request_to(b"a", number, true, PATH);
                [request, make_reset(frame::stream_of(number))].concat()
            };
            numbers.flat_map(of).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let reader = scope.spawn(|| client.next_of(frame::GOAWAY));
            let batches =
                (0..10_000).take_while(|batch| connection.write_all(&flood(*batch)).is_ok());
            let batches = batches.count();
            assert!(batches < 10_000, "it takes any number of them");
            let code = reader.join().expect("it does not panic");
            assert_eq!(
                code,
                Some(CODE_ENHANCE_YOUR_CALM),
                "after {batches} batches"
            );
        });
    }
    let counted = service1.metric("connections_flooding_total");
    assert_eq!(counted.to_string(), made.len().to_string());
}

#[test]
fn the_end_of_a_connection_with_an_error_is_counted_and_logged() {
    let service1 = Process::start("service1", &[]);
    // h2 takes a path that is not UTF-8 for an error of the connection: docs/h2-report.md.
    for _ in 0..3 {
        let mut client = Client::of(&service1);
        client.send(&frame::request_to(b"a", 0, true, b"/\xFF"));
        assert!(client.next_of(frame::GOAWAY).is_some());
    }
    wait_for("all of them to be counted", || {
        (service1.metric("http2_connection_errors_total") >= 3.0).then_some(())
    });
    let log = service1.terminate().log();
    let lines: Vec<_> = log
        .iter()
        .filter(|line| line.text("action") == "connection")
        .collect();
    assert!((1..=2).contains(&lines.len()), "{lines:?}");
    assert!(
        lines[0].has(&[
            ("status", "failure"),
            ("code", "PROTOCOL_ERROR"),
            ("remote_address", "127.0.0.1"),
        ]),
        "{lines:?}"
    );
}
