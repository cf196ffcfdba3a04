//! [`Page`]: the page `/docs`, from the document.

use askama::Template;
use serde_json::Value;

/// The API as people read it.
#[derive(Debug)]
pub(super) struct Page {
    title: String,
    version: String,
    description: String,
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    description: String,
    parameters: Vec<Parameter>,
    responses: Vec<Response>,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    description: String,
    limits: String,
    example: String,
    is_number: bool,
}

#[derive(Debug)]
struct Response {
    status: String,
    description: String,
    media_types: String,
}

#[derive(Template)]
#[template(path = "docs.html")]
struct View<'a> {
    page: &'a Page,
    host: &'a str,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Page {
    pub(super) fn of(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(|(method, operation)| Operation::of(path, method, operation))
        });
        Self {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
            description: text(&document["info"]["description"]),
            operations: operations.collect(),
        }
    }

    /// The page for a client that has asked this host.
    pub(super) fn render_for(&self, host: &str) -> String {
        // It goes into commands that people copy.
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-:[]".contains(letter);
        let is_usable = !host.is_empty() && host.chars().all(is_plain);
        let host = if is_usable { host } else { "localhost" };
        let view = View { page: self, host };
        view.render().expect("a string takes it")
    }
}

impl Operation {
    fn of(path: &str, method: &str, operation: &Value) -> Self {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters = parameters.filter(|parameter| parameter["in"] == "query");
        let responses = operation["responses"].as_object().into_iter().flatten();
        Self {
            id: text(&operation["operationId"]),
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text(&operation["summary"]),
            description: text(&operation["description"]),
            parameters: parameters.map(Parameter::of).collect(),
            responses: responses
                .map(|(status, response)| Response::of(status, response))
                .collect(),
        }
    }

    /// The command that makes the call with the examples.
    fn curl(&self, host: &str) -> String {
        let pairs = self
            .parameters
            .iter()
            .map(|it| format!("{}={}", it.name, it.example));
        let query = pairs.collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        format!("curl 'http://{host}{}{mark}{query}'", self.path)
    }
}

impl Parameter {
    fn of(parameter: &Value) -> Self {
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
        Self {
            name: text(&parameter["name"]),
            description: text(&parameter["description"]),
            limits: limits.into_iter().flatten().collect::<Vec<_>>().join("; "),
            example: match &parameter["example"] {
                Value::String(example) => example.clone(),
                example => example.to_string(),
            },
            is_number: schema["type"] == "integer",
        }
    }
}

impl Response {
    fn of(status: &str, response: &Value) -> Self {
        let content = response["content"].as_object().into_iter().flatten();
        let media_types: Vec<_> = content.map(|(media_type, _)| media_type.as_str()).collect();
        Self {
            status: status.to_owned(),
            description: text(&response["description"]),
            media_types: media_types.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_client_does_not_become_a_command() {
        let document = serde_json::json!({ "paths": { "/a": { "get": { "responses": {} } } } });
        let page = Page::of(&document);
        assert!(
            page.render_for("api.example.com:8081")
                .contains("http://api.example.com:8081/a")
        );
        for host in ["a'; reboot; '", "a b", "", "<script>", "$(reboot)"] {
            assert!(
                page.render_for(host).contains("http://localhost/a"),
                "{host}"
            );
        }
    }
}
