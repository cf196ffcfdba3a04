//! What the README and the docs show.

use tests::{Process, http};

#[test]
fn the_third_service_works_with_the_pair() {
    let service1 = Process::start("service1", &[]);
    let channel = service1.grpc().to_string();
    let service3 = Process::start("service3", &[("SERVICE1_CHANNEL", &channel)]);
    service3.wait_until_ready();
    let answer = http::get(service3.http(), "/api/v1/say-goodbye?name=test");
    assert_eq!((answer.status, answer.text()), (200, "\"Goodbye, TEST!\""));
    let access = service3.access_line(answer.id());
    assert_eq!(access.number("response_status"), Some(200.0));
    assert_eq!(
        service1
            .line(&[("request_id", answer.id())])
            .text("processed_name"),
        "TEST"
    );
    assert_eq!(
        http::get(service3.http(), "/api/v1/say-goodbye?name=%").status,
        400
    );
}

#[test]
fn the_docs_show_the_third_service_as_it_is() {
    let page = include_str!("../../../docs/third-service.md");
    let example = include_str!("../../examples/service3.rs");
    assert!(
        page.contains(example),
        "copy tests/examples/service3.rs into docs/third-service.md"
    );
}

#[test]
fn the_id_of_make_trace_is_never_run() {
    let made = std::env::temp_dir().join(format!("made-by-an-id-{}", std::process::id()));
    let id = format!("$(shell touch {})`touch {0}`", made.display());
    let trace = std::process::Command::new("make")
        .args(["--silent", "trace", &format!("ID={id}")])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("make is there");
    assert!(!made.exists());
    let said = String::from_utf8_lossy(&trace.stderr);
    assert!(said.contains(&id), "{said}");
}
