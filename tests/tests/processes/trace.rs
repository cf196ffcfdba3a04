//! `make trace`: one request's way, from the logs.

use std::{
    fs,
    process::{Output, Stdio},
};

use super::readme::Directory;

/// A log line of a service.
fn line(service: &str, time: &str, rest: &str, id: &str) -> String {
    format!(r#"{{"v":0,"name":"{service}","level":30,"time":"{time}",{rest},"request_id":"{id}"}}"#)
}

/// The lines of a request over midnight, the later ones first.
fn request(id: &str) -> [String; 3] {
    [
        line(
            "service2",
            "2027-01-01T00:00:00.0005Z",
            r#""msg":"request","remote_address":"127.0.0.1","first_request_line":"GET /api/v1/say-hello?name=test HTTP/1.1","response_status":200,"response_size":14,"request_time_frac":0.0012"#,
            id,
        ),
        line(
            "service2",
            "2027-01-01T00:00:00.000000001Z",
            r#""msg":"said hello","action":"say_hello","status":"failure","error":"no \"replica\"""#,
            id,
        ),
        line(
            "service1",
            "2026-12-31T23:59:59.999500001Z",
            r#""msg":"name processed","action":"process_name","status":"success""#,
            id,
        ),
    ]
}

const TABLE: &str = "\
offset     service   what                             took      outcome
+0.000 ms  service1  name processed                   -         success
+0.500 ms  service2  said hello                       -         failure: no \"replica\"
+1.000 ms  service2  GET /api/v1/say-hello?name=test  1.200 ms  200, 14 bytes
";

/// What `make trace` says of this log.
fn trace(directory: &Directory, log: &[u8], id: &str, raw: bool) -> Output {
    fs::create_dir_all(directory.0.join("target")).expect("a directory");
    fs::write(directory.0.join("target/run.log"), log).expect("a file");
    let id = format!("ID={id}");
    let mut arguments = vec!["--silent", "trace", id.as_str()];
    arguments.extend(raw.then_some("RAW=1"));
    let mut trace = directory.command("make", &arguments);
    let output = trace.env_remove("RAW").stdin(Stdio::null()).output();
    output.expect("make is there")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn the_lines_of_a_request_are_a_table_by_time() {
    let directory = Directory::new("trace-table");
    let other = line(
        "service1",
        "2026-12-31T23:59:59.9Z",
        r#""msg":"other""#,
        "order-170",
    );
    let log = request("order-17").join("\n") + "\n" + &other + "\n";
    let traced = trace(&directory, log.as_bytes(), "order-17", false);
    assert_eq!(text(&traced.stdout), TABLE, "{}", text(&traced.stderr));
    assert_eq!(traced.status.code(), Some(0));

    let [last, middle, first] = request("order-17");
    let traced = trace(&directory, log.as_bytes(), "order-17", true);
    assert_eq!(text(&traced.stdout), format!("{first}\n{middle}\n{last}\n"));
}

#[test]
fn an_id_may_have_any_visible_ascii() {
    let directory = Directory::new("trace-ids");
    let all: String = ('!'..='~').collect();
    for id in [
        all.as_str(),
        "-e",
        "--help",
        ".*",
        "$(shell touch made)`touch made`",
        "a'b\"c\\",
    ] {
        let escaped = id.replace('\\', r"\\").replace('"', r#"\""#);
        let log = request(&escaped).join("\n") + "\n";
        let traced = trace(&directory, log.as_bytes(), id, false);
        assert_eq!(
            text(&traced.stdout),
            TABLE,
            "{id}: {}",
            text(&traced.stderr)
        );
    }
    assert!(!directory.0.join("made").exists());
}

#[test]
fn where_there_is_nothing_it_says_so_and_fails() {
    let directory = Directory::new("trace-nothing");
    let log = request("order-17").join("\n") + "\n";
    for raw in [false, true] {
        let traced = trace(&directory, log.as_bytes(), "order-1", raw);
        // 1 of the script, 2 of make.
        assert_eq!(traced.status.code(), Some(2));
        let said = "no line has the request id order-1\n";
        assert!(
            text(&traced.stderr).starts_with(said),
            "{}",
            text(&traced.stderr)
        );
        assert!(traced.stdout.is_empty());
    }
}

#[test]
fn a_damaged_log_does_not_fool_it() {
    let directory = Directory::new("trace-damaged");
    let [last, middle, first] = request("order-17");
    let cut = format!("{}{last}", &middle[..40]);
    let mut log = vec![0; 5_000];
    log.extend(format!("{first}\n{cut}\n\u{1}\n").into_bytes());
    log.extend(b"\xFF\xFE\n");
    let traced = trace(&directory, &log, "order-17", false);
    assert_eq!(traced.status.code(), Some(0));
    let header = "offset     service   what            took  outcome\n";
    let row = "+0.000 ms  service1  name processed  -     success\n";
    assert_eq!(text(&traced.stdout), format!("{header}{row}{cut}\n"));
}

#[test]
fn a_request_line_of_any_length_is_one_row() {
    let directory = Directory::new("trace-long");
    let path = "x".repeat(20_000);
    let rest = format!(
        r#""msg":"request","first_request_line":"GET /{path} HTTP/1.1","response_status":404,"response_size":1,"request_time_frac":1e-6"#
    );
    let log = line("service2", "2026-12-31T23:59:59Z", &rest, "long") + "\n";
    let traced = trace(&directory, log.as_bytes(), "long", false);
    let rows: Vec<_> = text(&traced.stdout).lines().collect();
    assert!(rows[1].ends_with("x~  0.001 ms  404, 1 bytes"), "{rows:?}");
    assert!(rows.len() == 2 && rows[1].len() < 130, "{rows:?}");
}
