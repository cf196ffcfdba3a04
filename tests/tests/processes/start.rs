//! Starting: configuration, ports, health.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
};

use tests::{Ended, Port, Process, grpc, http, wait_for};

const CHECK: &str = "/grpc.health.v1.Health/Check";

fn run(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    Process::spawn(program, arguments, variables).ended()
}

#[test]
fn a_bad_flag_or_variable_is_one_line_that_names_it_and_exit_code_2() {
    for program in ["service1", "service2"] {
        for (arguments, variables, named) in [
            (&["--port", "x"][..], &[][..], "--port"),
            (&["--nope"], &[], "--nope"),
            (&[], &[("PORT", "65536")], "PORT"),
            (&[], &[("DEADLINE", "soon")], "DEADLINE"),
            (&[], &[("DEADLINE", "0s")], "DEADLINE"),
            (&[], &[("DRAIN_TIMEOUT", "-1s")], "DRAIN_TIMEOUT"),
            (&[], &[("MAX_IN_FLIGHT", "0")], "MAX_IN_FLIGHT"),
            (&[], &[("MAX_CONNECTIONS", "many")], "MAX_CONNECTIONS"),
            (&[], &[("WORKERS", "0")], "WORKERS"),
            (&[], &[("HOST", "x86_64-conda-linux-gnu")], "conda"),
            (&[], &[("ADMIN_HOST", "nowhere")], "ADMIN_HOST"),
            (&[], &[("REFLECTION", "maybe")], "REFLECTION"),
            (&[], &[("RUST_LOG", "loud=very")], "RUST_LOG"),
            (
                &[],
                &[("RUST_LOG", "info,[span{id=1}]=debug")],
                "span or field",
            ),
            (
                &[],
                &[("MESH_TLS_DIR", "")],
                "the variable MESH_TLS_DIR is empty",
            ),
            (
                &[],
                &[("EDGE_TLS_DIR", "")],
                "the variable EDGE_TLS_DIR is empty",
            ),
            (
                &[],
                &[("MESH_ALLOWED_PEERS", "")],
                "the variable MESH_ALLOWED_PEERS is empty",
            ),
        ] {
            let ended = run(program, arguments, variables);
            assert_eq!(ended.status.code(), Some(2), "{named}");
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            assert!(ended.stderr.contains(named), "{}", ended.stderr);
            assert!(ended.log().is_empty());
        }
    }
    let ended = run(
        "service2",
        &[],
        &[("SERVICE1_CHANNEL", "https://service1:50051")],
    );
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        ended.stderr.contains("SERVICE1_CHANNEL"),
        "{}",
        ended.stderr
    );
}

#[test]
fn what_belongs_to_another_runtime_is_one_line_that_says_where_and_exit_code_2() {
    for variable in ["SPAWNS_IN_MAIN", "RUNS_IN_RUNTIME"] {
        let ended = run("fixture", &[], &[(variable, "true")]);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for text in ["faces", "Builder::shared"] {
            assert!(ended.stderr.contains(text), "{}", ended.stderr);
        }
        assert!(ended.log().is_empty());
    }
}

#[test]
fn a_panic_without_a_runtime_has_its_backtrace_where_one_is_asked_for() {
    let variables = [("SPAWNS_IN_MAIN", "true"), ("RUST_BACKTRACE", "1")];
    let ended = run("fixture", &[], &variables);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("stack backtrace"), "{}", ended.stderr);
    assert!(ended.stderr.contains("faces"), "{}", ended.stderr);
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let help = run("service2", &["--help"], &[]).stdout.join("\n");
    let names = help.split("[env: ").skip(1);
    let names = names.map(|rest| rest.split_once('=').expect("a variable").0);
    let doors = ["MESH_TLS_DIR", "EDGE_TLS_DIR", "MESH_ALLOWED_PEERS"];
    // Those that the harness sets come last.
    let ports = ["HOST", "PORT", "ADMIN_PORT"];
    let others = names.filter(|name| !doors.contains(name) && !ports.contains(name));
    let of_traces = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER"];
    let empty: Vec<_> = others.chain(of_traces).map(|name| (name, "")).collect();
    assert!(empty.len() > 20, "{empty:?}");
    let service2 = Process::start("service2", &empty);
    let page = http::get(service2.admin(), "/status");
    let unset = "DEADLINE</th><td data-label=\"value\" class=\"long\">10s</td><td data-label=\"from\">default";
    assert!(page.text().contains(unset), "{}", page.text());
    assert!(!page.text().contains("OTEL_"), "{}", page.text());
    assert_eq!(service2.terminate().stderr, "");
    // Two services may be on the default ports.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let ended = run(
        "service2",
        &["--port", &port, "--admin-port", "0"],
        &ports.map(|name| (name, "")),
    );
    assert!(
        ended.stderr.contains(&format!("0.0.0.0:{port}")),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_link_of_kubernetes_is_ignored_with_one_warning() {
    let links = [
        ("GRPC_PORT", "tcp://10.0.0.7:50051"),
        ("ADMIN_PORT", "tcp://10.0.0.7:9080"),
        ("SERVICE1_PORT", "tcp://10.0.0.8:8080"),
    ];
    // Those of the flags are free.
    let ports = ["--grpc-port", "0", "--admin-port", "0"];
    let service1 = Process::spawn("service1", &ports, &links);
    service1.http();
    let ended = service1.terminate();
    let warnings = ended
        .log()
        .iter()
        .filter(|line| line.has(&[("status", "ignored")]))
        .count();
    assert_eq!((warnings, ended.stderr.as_str()), (1, ""));
    assert!(ended.has_line(&[("variables", "GRPC_PORT, ADMIN_PORT")]));
}

#[test]
fn a_taken_port_is_one_line_that_names_it_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    for (program, variable) in [
        ("service1", "PORT"),
        ("service1", "GRPC_PORT"),
        ("service1", "ADMIN_PORT"),
        ("service2", "PORT"),
    ] {
        let ended = run(program, &[], &[(variable, &port)]);
        assert_eq!(ended.status.code(), Some(1));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&port), "{}", ended.stderr);
    }
}

#[test]
fn the_port_for_operators_is_on_loopback_unless_another_address_is_set() {
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    let answers_elsewhere = |host: &[(&str, &str)]| {
        let variables = [&[("HOST", "0.0.0.0")], host].concat();
        let service1 = Process::start("service1", &variables);
        let port = service1.http().port();
        assert_eq!(http::get((ELSEWHERE, port).into(), "/healthz").status, 200);
        let healthcheck = run("service1", &["healthcheck"], &[("PORT", &port.to_string())]);
        assert_eq!(healthcheck.status.code(), Some(0)); // the harness sets ADMIN_PORT to 0
        assert_eq!(http::get(service1.admin(), "/healthz").status, 200);
        TcpStream::connect((ELSEWHERE, service1.admin().port())).is_ok()
    };
    assert!(!answers_elsewhere(&[]));
    assert!(answers_elsewhere(&[("ADMIN_HOST", "0.0.0.0")]));
}

/// Whatever the setting of the system, which the kernel reports apart.
#[test]
fn a_service_declines_transparent_huge_pages() {
    let service1 = Process::start("service1", &[]);
    assert_eq!(service1.memory("THP_enabled"), 0);
}

#[test]
fn of_port_0_the_log_has_the_port_that_the_system_gave() {
    let service1 = Process::start("service1", &[]); // the harness sets 0 for all three
    for address in [service1.http(), service1.grpc(), service1.admin()] {
        assert_ne!(address.port(), 0);
        assert!(TcpStream::connect(address).is_ok(), "{address}");
    }
}

#[test]
fn a_router_that_takes_a_path_of_every_service_is_one_line_that_names_it_and_exit_code_2() {
    for path in ["/healthz", "/readyz"] {
        let ended = run("fixture", &["--path", path], &[]);
        assert_eq!(ended.status.code(), Some(2));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(path), "{}", ended.stderr);
        // The operators' port opens first.
        let log = ended.log();
        assert!(log.iter().all(|line| line.has(&[("protocol", "admin")])));
    }
}

#[test]
fn a_clock_before_1970_is_one_line_and_exit_code_1() {
    let service = tests::command("service1", &[]);
    let started = Command::new("faketime")
        .arg("1965-01-01 00:00:00")
        .arg(service.get_program())
        .output();
    let Ok(ended) = started else {
        println!("skipped: faketime is not installed");
        return;
    };
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).expect("UTF-8");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("before 1970"), "{stderr}");
}

#[test]
fn help_explains_every_setting() {
    for program in ["service1", "service2"] {
        let ended = run(program, &["--help"], &[]);
        assert!(ended.status.success());
        let help = ended.stdout.join("\n");
        for variable in [
            "HOST",
            "PORT",
            "ADMIN_HOST",
            "ADMIN_PORT",
            "DEADLINE",
            "DRAIN_TIMEOUT",
            "DRAIN_DELAY",
            "WORKERS",
            "REFLECTION",
            "MAX_IN_FLIGHT",
            "MAX_CALLS",
            "MAX_CONNECTIONS",
            "IDLE_TIMEOUT",
            "MAX_CONNECTION_AGE",
            "TRUSTED_PROXIES",
            "FORWARDED_HEADER",
            "SERVER_TIMING",
            "ADMIN_NAMES",
            "RUST_LOG",
            "CLIENT_ERROR_LINES",
        ] {
            assert!(
                help.contains(&format!("[env: {variable}=")),
                "{variable}: {help}"
            );
        }
    }
}

#[test]
fn help_has_the_same_groups_for_both_services_after_their_own_settings() {
    const COMMON: [&str; 7] = [
        "Process:",
        "Limits:",
        "Edge:",
        "Drain:",
        "TLS:",
        "Operators:",
        "Logging:",
    ];
    for (program, own) in [
        ("service1", &["Options:"][..]),
        ("service2", &["Options:", "Calls to other services:"]),
    ] {
        let help = run(program, &["--help"], &[]).stdout;
        let is_group = |line: &&str| line.ends_with(':') && !line.starts_with(' ');
        let groups: Vec<_> = help.iter().map(String::as_str).filter(is_group).collect();
        let traces = "Traces, by the variables of OpenTelemetry:";
        let expected = [&["Commands:"], own, &COMMON, &[traces]].concat();
        assert_eq!(groups, expected);
        // One form: a flag, and its help on the next line.
        for (index, line) in help.iter().enumerate() {
            if line.starts_with("      --") {
                assert_eq!(line.matches("  ").count(), 3, "{line}");
                assert!(help[index + 1].starts_with("          "), "{line}");
            }
        }
    }
}

#[test]
fn the_healthcheck_says_whether_the_service_is_ready() {
    let healthcheck = |program: &str, process: &Process| {
        let port = process.admin().port().to_string();
        run(program, &["healthcheck"], &[("ADMIN_PORT", &port)])
    };
    let service1 = Process::start("service1", &[]);
    assert_eq!(healthcheck("service1", &service1).status.code(), Some(0));
    let service2 = Process::service2(&service1, &[]);
    assert_eq!(healthcheck("service2", &service2).status.code(), Some(0));
    let alone = Process::start("service2", &[("SERVICE1_CHANNEL", "127.0.0.1:1")]);
    let ended = healthcheck("service2", &alone);
    assert_eq!(ended.status.code(), Some(1));
    let reason = "503 Service Unavailable: The service waits";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    for variables in [
        &[("ADMIN_PORT", "1")][..],
        &[("PORT", "1"), ("ADMIN_PORT", "0")],
    ] {
        let ended = run("service2", &["healthcheck"], variables);
        let lines = ended.stderr.lines().count();
        assert_eq!(
            (ended.status.code(), lines),
            (Some(1), 1),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn the_healthcheck_reads_where_to_ask_and_nothing_else() {
    let service1 = Process::start("service1", &[]);
    let port = service1.admin().port().to_string();
    let mut variables = vec![("ADMIN_PORT", port.as_str())];
    for name in [
        "DEADLINE",
        "WORKERS",
        "RUST_LOG",
        "GRPC_PORT",
        "PORT",
        "HOST",
        "FAULTS",
        "MAX_IN_FLIGHT",
    ] {
        variables.push((name, "no value of any setting"));
    }
    for name in ["MESH_TLS_DIR", "EDGE_TLS_DIR", "MESH_ALLOWED_PEERS"] {
        for value in ["", "/nowhere"] {
            let all = [&variables[..], &[(name, value)]].concat();
            let ended = run("service1", &["healthcheck"], &all);
            assert_eq!(ended.status.code(), Some(0), "{name}: {}", ended.stderr);
        }
    }
    // A service whose ports were given by flags, and one without a port for operators.
    for address in [service1.admin(), service1.http()] {
        let address = address.to_string();
        let ended = run("service1", &["healthcheck", "--address", &address], &[]);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    }
    let port = service1.http().port().to_string();
    let variables = [("PORT", &*port), ("ADMIN_PORT", "tcp://10.0.0.7:9080")];
    let ended = run("fixture", &["healthcheck"], &variables);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn workers_that_are_stuck_make_a_service_not_ready() {
    let fixture = Process::start("fixture", &[("WORKERS", "2")]);
    fixture.wait_until_ready();
    assert_eq!(http::get(fixture.admin(), "/readyz").status, 200);
    // Each goes to the worker with the fewest connections.
    let blocked: Vec<_> = (0..4)
        .map(|_| {
            let mut client = TcpStream::connect(fixture.http()).expect("it listens");
            let request = b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n";
            client.write_all(request).expect("it is sent");
            client
        })
        .collect();
    let response = wait_for("it to be stuck", || {
        let response = http::get(fixture.admin(), "/readyz");
        (response.status == 503 && response.problem().contains("2 of 2")).then_some(response)
    });
    assert!(response.problem().contains("stuck for"), "{response:?}");
    fixture.line(&[("action", "readiness"), ("status", "failure")]);
    let page = http::get(fixture.admin(), "/status");
    assert!(
        page.text().contains("<h1>not ready: 2 of 2 workers"),
        "{}",
        page.text()
    );
    let port = fixture.admin().port().to_string();
    let ended = run("fixture", &["healthcheck"], &[("ADMIN_PORT", &port)]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("2 of 2 workers"), "{}", ended.stderr);
    // Its own port is that of the workers.
    let port = fixture.http().port().to_string();
    let ended = run("fixture", &["healthcheck"], &[("PORT", &port)]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stderr.contains("no response within 2s"),
        "{}",
        ended.stderr
    );
    drop(blocked);
}

#[test]
fn grpc_health_and_reflection_know_the_service() {
    let service1 = Process::start("service1", &[]);
    for name in ["", "app.grpc.Service1"] {
        let request = [
            &[0x0A, u8::try_from(name.len()).expect("short")],
            name.as_bytes(),
        ]
        .concat();
        // The service listens before all of its workers have started.
        wait_for("it to serve", || {
            let response = grpc::call(service1.grpc(), CHECK, &[], &request);
            assert_eq!(response.code(), 0);
            (response.body[5..] == [0x08, 1]).then_some(())
        });
    }
    assert_eq!(
        grpc::call(service1.grpc(), CHECK, &[], b"\x0A\x04nope").code(),
        5
    );
    for version in ["v1", "v1alpha"] {
        // list_services: ""
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let response = grpc::call(service1.grpc(), &path, &[], b"\x3A\x00");
        assert_eq!(response.code(), 0);
        let text = String::from_utf8_lossy(&response.body);
        assert!(
            text.contains("app.grpc.Service1") && text.contains("grpc.health.v1.Health"),
            "{text}"
        );
    }
}

#[test]
fn without_reflection_a_grpc_port_lists_nothing_and_serves_the_rest() {
    let service1 = Process::start("service1", &[("REFLECTION", "off")]);
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let response = grpc::call(service1.grpc(), &path, &[], b"\x3A\x00");
        assert_eq!(response.code(), 12);
    }
    assert_eq!(grpc::call(service1.grpc(), CHECK, &[], b"").code(), 0);
    let name = grpc::process_name(service1.grpc(), "test", &[]);
    assert!(name.body.ends_with(b"TEST"));
}

#[test]
fn a_draining_service_is_not_ready_and_accepts_for_the_drain_delay() {
    let service1 = Process::start("service1", &[("DRAIN_DELAY", "1500ms")]);
    service1.wait_until_ready();
    assert_eq!(
        &grpc::call(service1.grpc(), CHECK, &[], b"").body[5..],
        [8, 1]
    );
    service1.signal("TERM");
    service1.line(&[("action", "drain")]);
    let response = http::get(service1.http(), "/readyz");
    assert_eq!(response.status, 503);
    assert!(response.problem().contains("draining"));
    wait_for("not serving", || {
        let response = grpc::call(service1.grpc(), CHECK, &[], b"");
        response.body.ends_with(&[8, 2]).then_some(())
    });
    let response = http::get(service1.http(), "/api/v1/name?name=test");
    assert_eq!(response.status, 200);
    let (http, ended) = (service1.http(), service1.ended());
    assert_eq!(ended.status.code(), Some(0));
    assert!(TcpStream::connect(http).is_err());
}

#[test]
fn a_service_whose_database_is_away_says_so_and_starts_once_it_is_there() {
    let (port, database) = (Port::keep(), Port::keep());
    let address = database.address().to_string();
    let variables = [("PORT", &*port.variable()), ("DATABASE", &address)];
    let waiting = Process::spawn("waiting", &[], &variables);
    waiting.line(&[("action", "make"), ("status", "failure")]);
    let readiness = http::get(waiting.admin(), "/readyz");
    assert_eq!(readiness.status, 503);
    assert!(readiness.problem().contains("database"), "{readiness:?}");
    let page = http::get(waiting.admin(), "/status");
    assert!(page.text().contains("Connection refused"), "{page:?}");
    assert!(TcpStream::connect(port.address()).is_err());

    let _database = TcpListener::bind(database.address()).expect("the port is kept");
    waiting.wait_until_ready();
    assert_eq!(http::get(waiting.http(), "/peer").text(), address);
    assert_eq!(waiting.terminate().status.code(), Some(0));
}

#[test]
fn a_service_that_waits_for_its_database_can_be_stopped() {
    let database = Port::keep().address().to_string();
    let waiting = Process::spawn("waiting", &[], &[("DATABASE", &database)]);
    waiting.line(&[("action", "make"), ("status", "failure")]);
    let ended = waiting.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(ended.has_line(&[("action", "stop"), ("status", "success")]));
}

#[test]
fn run_within_a_runtime_is_one_line_that_says_what_to_do_and_exit_code_2() {
    let ended = run("waiting", &["--in-runtime"], &[]);
    assert_eq!(ended.status.code(), Some(2));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("#[tokio::main]"), "{}", ended.stderr);
}
