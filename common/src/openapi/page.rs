//! [`DocsPage`]: the page `/docs`, from the document and the descriptors.

use askama::Template;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    example,
    grpc::{self, Service},
    markdown,
};
use crate::{
    pages::Links,
    ports::{Bound, Port},
};

/// What is encoded in a query: all but the unreserved characters (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The host where a client's own can't be used.
const HOST: &str = "localhost";

/// The API as people read it. Fields named `about` and `description` are HTML.
#[derive(Debug)]
pub(super) struct DocsPage {
    title: String,
    version: String,
    description: String,
    operations: Vec<Operation>,
    services: Vec<Service>,
    /// The body of an error.
    problem: String,
}

#[derive(Debug)]
struct Operation {
    id: String,
    method: String,
    path: String,
    about: String,
    parameters: Vec<Parameter>,
    request: Option<Body>,
    responses: Vec<Response>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    /// `query` or `path`.
    place: String,
    about: String,
    limits: String,
    example: String,
    is_number: bool,
}

#[derive(Debug)]
struct Response {
    status: String,
    about: String,
    media_types: String,
    /// Errors have none: they are all alike.
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    media_type: String,
    example: String,
}

#[derive(Template)]
#[template(path = "docs.html")]
struct View<'a> {
    page: &'a DocsPage,
    links: Links,
    /// The scheme and the host of the client, for commands.
    origin: &'a str,
    grpc: Option<GrpcPort<'a>>,
}

/// The gRPC port as the client reaches it.
struct GrpcPort<'a> {
    host: &'a str,
    port: u16,
    speaks_tls: bool,
}

impl GrpcPort<'_> {
    /// The command that makes the call with the example.
    fn grpcurl(&self, method: &grpc::GrpcMethod) -> String {
        let security = if self.speaks_tls {
            "-cacert $CERTS/ca.crt -cert $CERTS/tls.crt -key $CERTS/tls.key"
        } else {
            "-plaintext"
        };
        let (Self { host, port, .. }, grpc::GrpcMethod { path, example, .. }) = (self, method);
        format!("grpcurl {security} -d '{example}' {host}:{port} {path}")
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl DocsPage {
    pub(super) fn of(document: &Value, services: Vec<Service>) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(|(method, operation)| Operation::of(document, path, method, operation))
        });
        let problem = &document["components"]["schemas"]["Problem"];
        let problem = example::of_schema(document, problem);
        Self {
            title: text(&document["info"]["title"]).to_owned(),
            version: text(&document["info"]["version"]).to_owned(),
            description: markdown::blocks(text(&document["info"]["description"])),
            operations: operations.collect(),
            services,
            problem: serde_json::to_string_pretty(&problem).expect("it is JSON"),
        }
    }

    /// The page for a client that has asked this host, of a process with these ports.
    pub(super) fn render_for(&self, host: &str, links: Links, bound: Option<&Bound>) -> String {
        // It goes into commands that people copy.
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-:[]".contains(letter);
        let is_usable = !host.is_empty() && host.chars().all(is_plain);
        let host = if is_usable { host } else { HOST };
        let speaks_tls = bound.is_some_and(|bound| bound.http.is_some_and(|it| it.speaks_tls));
        let scheme = if speaks_tls { "https" } else { "http" };
        let grpc = bound.and_then(|bound| bound.grpc);
        let view = View {
            page: self,
            links,
            origin: &format!("{scheme}://{host}"),
            grpc: grpc.map(|Port { number, speaks_tls }| GrpcPort {
                host: without_port(host),
                port: number,
                speaks_tls,
            }),
        };
        view.render().expect("writing to a String cannot fail")
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

impl Operation {
    fn of(document: &Value, path: &str, method: &str, operation: &Value) -> Self {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters = parameters.filter(|it| it["in"] == "query" || it["in"] == "path");
        let responses = operation["responses"].as_object().into_iter().flatten();
        let about = [&operation["summary"], &operation["description"]].map(text);
        Self {
            id: text(&operation["operationId"]).to_owned(),
            method: method.to_uppercase(),
            path: path.to_owned(),
            about: markdown::blocks(&about.join("\n\n")),
            parameters: parameters.map(|it| Parameter::of(document, it)).collect(),
            request: Body::of(document, &operation["requestBody"]),
            responses: responses
                .map(|(status, response)| Response::of(document, status, response))
                .collect(),
        }
    }

    /// Whether a form of HTML can make the request.
    fn has_form(&self) -> bool {
        self.method == "GET" && self.parameters.iter().all(|it| it.place == "query")
    }

    /// The command that makes the request with the examples.
    fn curl(&self, origin: &str) -> String {
        let mut path = self.path.clone();
        let mut query = Vec::new();
        for it in &self.parameters {
            let value = utf8_percent_encode(&it.example, ENCODED).to_string();
            match it.place.as_str() {
                "query" => query.push(format!("{}={value}", it.name)),
                _ => path = path.replace(&format!("{{{}}}", it.name), &value),
            }
        }
        let method = match self.method.as_str() {
            "GET" => String::new(),
            method => format!(" -X {method}"),
        };
        let body = self.request.as_ref().map_or_else(String::new, |body| {
            let example = body.example.replace('\'', r"'\''");
            format!(" -H 'content-type: {}' -d '{example}'", body.media_type)
        });
        let mark = if query.is_empty() { "" } else { "?" };
        let query = query.join("&");
        format!("curl -i{method}{body} '{origin}{path}{mark}{query}'")
    }
}

impl Parameter {
    fn of(document: &Value, parameter: &Value) -> Self {
        let schema = &parameter["schema"];
        let limit = |name: &str, what: &str| {
            let limit = &schema[name];
            (!limit.is_null()).then(|| format!("{what} {limit}"))
        };
        let limits = [
            limit("minimum", "at least"),
            limit("maximum", "at most"),
            limit("maxLength", "characters: at most"),
            limit("default", "without it:"),
        ];
        let given = Some(&parameter["example"]).filter(|example| !example.is_null());
        let example = given.cloned();
        Self {
            name: text(&parameter["name"]).to_owned(),
            place: text(&parameter["in"]).to_owned(),
            about: markdown::inline(text(&parameter["description"])),
            limits: limits.into_iter().flatten().collect::<Vec<_>>().join("; "),
            example: match example.unwrap_or_else(|| example::of_schema(document, schema)) {
                Value::String(example) => example,
                Value::Null => String::new(),
                example => example.to_string(),
            },
            is_number: schema["type"] == "integer",
        }
    }
}

impl Response {
    fn of(document: &Value, status: &str, response: &Value) -> Self {
        let content = response["content"].as_object().into_iter().flatten();
        let media_types: Vec<_> = content.map(|(media_type, _)| media_type.as_str()).collect();
        let is_error = status.starts_with(['4', '5']);
        Self {
            status: status.to_owned(),
            about: markdown::inline(text(&response["description"])),
            media_types: media_types.join(", "),
            body: Body::of(document, response).filter(|_| !is_error),
        }
    }

    /// The caption of the example.
    fn title(&self) -> String {
        format!("Response {}", self.status)
    }
}

impl Body {
    /// An example of a body, in its first media type that has one.
    fn of(document: &Value, described: &Value) -> Option<Self> {
        let content = described["content"].as_object().into_iter().flatten();
        let mut bodies = content.filter_map(|(media_type, media)| {
            Some(Self {
                media_type: media_type.clone(),
                example: example::of_media(document, media_type, media)?,
            })
        });
        bodies.next()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;
    use crate::{pages, server::Ports};

    fn render(document: &Value, host: &str, bound: Option<&Bound>) -> String {
        let descriptors = tonic_health::pb::FILE_DESCRIPTOR_SET;
        let links = Links::new(&Ports::default(), pages::Page::Docs, &HeaderMap::new());
        DocsPage::of(document, grpc::services(descriptors)).render_for(host, links, bound)
    }

    #[test]
    fn the_host_of_a_client_does_not_become_a_command() {
        let document = json!({ "paths": { "/a": { "get": { "responses": {} } } } });
        let page = render(&document, "api.example.com:8081", None);
        assert!(page.contains("http://api.example.com:8081/a"), "{page}");
        for host in ["a'; reboot; '", "a b", "", "<script>", "$(reboot)"] {
            let page = render(&document, host, None);
            assert!(page.contains("http://localhost/a"), "{host}");
        }
    }

    #[test]
    fn commands_are_those_of_the_ports_with_and_without_tls() {
        let document = json!({ "paths": { "/a/{id}": {
            "get": { "parameters": [
                { "in": "path", "name": "id", "schema": { "type": "integer", "minimum": 7 } },
                { "in": "query", "name": "q", "example": "a b'&c" },
            ] },
            "post": { "requestBody": { "content": { "application/json": { "example": { "it's": 1 } } } } },
        } } });
        for speaks_tls in [false, true] {
            let port = |number| Some(Port { number, speaks_tls });
            let bound = Bound {
                http: port(443),
                grpc: port(50_052),
                admin: None,
            };
            let page = render(&document, "[::1]:443", Some(&bound));
            let scheme = if speaks_tls { "https" } else { "http" };
            for command in [
                format!("curl -i &#39;{scheme}://[::1]:443/a/7?q=a%20b%27%26c&#39;"),
                "curl -i -X POST -H &#39;content-type: application/json&#39; -d &#39;{\n  &#34;it&#39;\\&#39;&#39;s&#34;: 1\n}&#39;".into(),
                format!(
                    "grpcurl {} -d &#39;{{&#34;service&#34;:&#34;test&#34;}}&#39; [::1]:50052 grpc.health.v1.Health/Check",
                    if speaks_tls { "-cacert $CERTS/ca.crt -cert $CERTS/tls.crt -key $CERTS/tls.key" } else { "-plaintext" }
                ),
            ] {
                assert!(page.contains(&command), "{command}\n{page}");
            }
            assert!(!page.contains("<form"), "a form can't make these requests");
        }
    }
}
