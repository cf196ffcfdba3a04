//! The description of the API, for programs and for people.

use serde_json::Value;
use tests::{Process, http};

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
            let command = format!("curl &#39;http://test{path}?");
            assert!(page.text().contains(&command), "{}", page.text());
        }
    }
    let (page, _) = http::get(service2.http(), "/").chunked();
    assert!(page.contains("<a href=\"/docs\">"));
}
