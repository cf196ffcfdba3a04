//! The description of the API, for programs and for people.

use std::net::SocketAddr;

use serde_json::Value;
use tests::{Process, certificates::Certificates, http};

fn document(service: &Process) -> Value {
    let response = http::get(service.http(), "/openapi.json");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

#[test]
fn the_description_has_the_limits_that_are_checked() {
    let (_service1, service2) = Process::pair(&[]);
    let document = document(&service2);
    for (path, parameter, limit) in [
        ("/api/v1/say-hello", "name", "maxLength"),
        ("/api/v1/items", "length", "maximum"),
    ] {
        let schema = &document["paths"][path]["get"]["parameters"][0]["schema"];
        let most = schema[limit].as_u64().expect("a limit");
        let ask = |most: u64| {
            let value = match parameter {
                "name" => "a".repeat(usize::try_from(most).expect("it fits")),
                _ => most.to_string(),
            };
            http::get(service2.http(), &format!("{path}?{parameter}={value}")).status
        };
        assert_eq!((ask(most), ask(most + 1)), (200, 400), "{path}");
    }
}

#[test]
fn the_page_of_the_api_runs_no_script_and_tries_each_operation() {
    let (service1, service2) = Process::pair(&[]);
    for service in [&service1, &service2] {
        let page = http::get(service.http(), "/docs");
        assert_eq!(page.status, 200);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!page.text().contains("<script"));
        assert_eq!(http::get(service.http(), "/docs.css").status, 200);
        for path in document(service)["paths"]
            .as_object()
            .expect("paths")
            .keys()
        {
            let form = format!("<form action=\"{path}\" method=\"get\">");
            assert!(page.text().contains(&form), "{path}");
            let command = format!("curl -i &#39;http://test{path}?");
            assert!(page.text().contains(&command), "{}", page.text());
        }
        for example in ["&#34;name&#34;: &#34;", "&#34;request_id&#34;: &#34;"] {
            assert!(page.text().contains(example), "{example}");
        }
    }
    let (page, _) = http::get(service2.http(), "/").chunked();
    assert!(page.contains("<a href=\"/docs\">"));
}

#[test]
fn the_page_of_the_api_has_a_command_for_each_grpc_method_with_and_without_tls() {
    let certificates = Certificates::new();
    let directory = certificates.directory("service1");
    for (variables, security) in [
        (&[][..], "-plaintext"),
        (
            &[("MESH_TLS_DIR", directory.as_str())],
            "-cacert $CERTS/ca.crt",
        ),
    ] {
        let service1 = Process::start("service1", variables);
        let page = http::get(service1.http(), "/docs");
        let port = service1.grpc().port();
        for method in [
            "app.grpc.Service1/ProcessName",
            "api.Api/sayHello",
            "api.Api/getAll",
            "api.Api/getStream",
        ] {
            let mut commands = page.text().split("<code>grpcurl ").skip(1);
            let is_it = |command: &str| {
                let (command, _) = command.split_once("</code>").expect("it ends");
                command.starts_with(security)
                    && command.ends_with(&format!(" test:{port} {method}"))
            };
            assert!(commands.any(is_it), "{method} in {}", page.text());
        }
        for text in [
            "one request, a stream of responses",
            "no side effects",
            "From 1 on.",
        ] {
            assert!(page.text().contains(text), "{text}");
        }
    }
}

/// The response to a browser on this machine.
fn get_by_name(address: SocketAddr, path: &str) -> http::Response {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost:{}\r\nconnection: close\r\n\r\n",
        address.port()
    );
    http::read(http::send(address, request.as_bytes())).expect("a response")
}

#[test]
fn the_pages_of_a_service_lead_to_each_other_and_have_an_icon() {
    let (service1, service2) = Process::pair(&[]);
    for (address, target) in [
        (service1.http(), "/docs"),
        (service1.admin(), "/status"),
        (service2.admin(), "/status"),
    ] {
        let root = http::get(address, "/");
        assert_eq!((root.status, root.header("location")), (303, Some(target)));
    }
    for service in [&service1, &service2] {
        let status = format!("http://localhost:{}/status", service.admin().port());
        let docs = format!("http://localhost:{}/docs", service.http().port());
        let page = get_by_name(service.http(), "/docs");
        assert!(page.text().contains(&status), "{}", page.text());
        let page = get_by_name(service.admin(), "/status");
        assert!(page.text().contains(&docs), "{}", page.text());
        // A browser elsewhere does not reach the other port.
        let page = http::get(service.http(), "/docs");
        assert!(!page.text().contains("/status"), "{}", page.text());

        for (address, page) in [(service.http(), "/docs"), (service.admin(), "/status")] {
            let page = http::get(address, page);
            let (_, icon) = page
                .text()
                .split_once("rel=\"icon\" href=\"")
                .expect("an icon");
            let (icon, _) = icon.split_once('"').expect("it ends");
            for icon in [icon, "/favicon.ico"] {
                let icon = http::get(address, icon);
                assert_eq!(icon.header("content-type"), Some("image/svg+xml"));
                assert!(icon.status == 200 && !icon.text().contains("<script"));
            }
        }
    }
}
