//! A log that nobody reads, or that can't be written, does not hold up requests.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tests::{Port, Record, command, http, wait_for};

/// A service whose log is read up to the line with its address, and no further.
struct Unread {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Unread {
    fn start() -> Self {
        let mut child = command("fixture", &[("DEADLINE", "3s")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::with_capacity(1, child.stdout.take().expect("it is piped"));
        let mut address_of = |protocol: &str| loop {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("the log is UTF-8");
            let record = Record::read(&line);
            if record.text("protocol") == protocol {
                break record.text("address").parse().expect("it listens");
            }
        };
        // The operators' port opens first.
        let (admin, address) = (address_of("admin"), address_of("http"));
        Self {
            child,
            stdout: Some(stdout),
            address,
            admin,
        }
    }

    /// Makes the service log more than its pipe can hold.
    fn fill(&self) {
        let path = format!("/nope?{}", "x".repeat(8_000));
        for _ in 0..100 {
            assert_eq!(http::get(self.address, &path).status, 404);
        }
    }

    fn signal(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), Signal::TERM).expect("it is ours");
    }

    fn ends_with(mut self) -> Option<i32> {
        let status = wait_for("its end", || self.child.try_wait().expect("it is ours"));
        status.code()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn requests_and_signals_do_not_wait_for_the_reader_of_the_log() {
    let service = Unread::start();
    service.fill();
    assert_eq!(http::get(service.address, "/healthz").status, 200);
    service.signal();
    assert_eq!(service.ends_with(), Some(0));
}

#[test]
fn a_second_signal_ends_the_service_at_once() {
    let service = Unread::start();
    service.fill();
    let _in_flight = http::send(service.address, b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n");
    service.signal();
    // The service accepts no more, so it has seen the first signal.
    wait_for("the drain", || {
        std::net::TcpStream::connect(service.address)
            .is_err()
            .then_some(())
    });
    // A second signal at once is the same one.
    service.signal();
    thread::sleep(Duration::from_millis(600));
    service.signal();
    assert_eq!(service.ends_with(), Some(128 + 15));
}

#[test]
fn the_last_lines_wait_for_a_slow_reader() {
    let mut service = Unread::start();
    service.fill();
    service.signal();
    wait_for("the drain", || {
        std::net::TcpStream::connect(service.address)
            .is_err()
            .then_some(())
    });
    // The service ends meanwhile, unless it waits for the reader.
    thread::sleep(Duration::from_millis(200));
    let stdout = service.stdout.take().expect("it is read once");
    let lines = BufReader::new(stdout.into_inner()).lines();
    let last = lines.last().expect("a line").expect("the log is UTF-8");
    assert_eq!(Record::read(&last).text("action"), "stop");
    assert_eq!(service.ends_with(), Some(0));
}

#[test]
fn lost_lines_are_counted_and_logged_once_the_log_is_read_again() {
    let mut service = Unread::start();
    service.fill();
    wait_for("lines to be lost", || {
        http::get(service.address, &format!("/nope?{}", "x".repeat(8_000)));
        let metrics = http::get(service.admin, "/metrics");
        let lost = metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix("log_lost_bytes_total "));
        (lost.expect("it is counted") != "0").then_some(())
    });
    let (lines, log) = mpsc::channel();
    let stdout = service.stdout.take().expect("it is read once");
    thread::spawn(move || stdout.lines().try_for_each(|line| lines.send(line)));
    let report = loop {
        let line = log.recv_timeout(tests::PATIENCE).expect("another line");
        let record = Record::read(&line.expect("the log is UTF-8")); // each line is whole
        if record.text("action") == "log" {
            break record;
        }
    };
    assert_eq!(report.text("status"), "lost");
    assert!(report.number("lost_bytes").is_some_and(|bytes| bytes > 0.0));
}

#[test]
fn lines_that_cannot_be_written_are_counted_as_lost() {
    let (port, admin) = (Port::keep(), Port::keep());
    let address = admin.address();
    let full = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let ports = [
        ("PORT", &*port.variable()),
        ("ADMIN_PORT", &admin.variable()),
    ];
    let mut child = command("service1", &ports)
        .stdout(full)
        .spawn()
        .expect("the program starts");
    wait_for("it to listen", || {
        std::net::TcpStream::connect(address).ok()
    });
    let metrics = http::get(address, "/metrics");
    let value = |name: &str| {
        let value = metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(name));
        value
            .expect("it is counted")
            .trim()
            .parse::<u64>()
            .expect("a number")
    };
    assert_eq!(value("log_written_bytes_total "), 0);
    assert!(value("log_lost_bytes_total ") > 0);
    let _ = child.kill();
    let _ = child.wait();
}
