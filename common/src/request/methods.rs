//! [`Methods`] and [`Deadlines`]: what the descriptors of a service declare about its methods, for
//! both stacks; and the deadlines of routes. The declarations are protobuf's `idempotency_level` and
//! the option of `common/protos/mesh/options.proto`.
//!
//! ```proto
//! import "mesh/options.proto";
//!
//! service Orders {
//!   rpc Get (GetRequest) returns (Order) { option idempotency_level = NO_SIDE_EFFECTS; }
//!   rpc Watch (WatchRequest) returns (stream Order) { option (mesh.deadline) = "none"; }
//! }
//! ```
//!
//! Write the descriptors with protox's `encode_file_descriptor_set`, which keeps the options that
//! are extensions. prost's own types drop them.

use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Duration};

use prost::Message;

/// The declarations of a method. The default is a method that is not idempotent and streams both
/// ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Method {
    /// A call may be repeated: `idempotency_level` is `NO_SIDE_EFFECTS` or `IDEMPOTENT`.
    pub(crate) is_idempotent: bool,
    /// The request is one message.
    pub(crate) has_one_request: bool,
    /// The response is one message.
    pub(crate) has_one_response: bool,
    /// The longest that a call may take: `(mesh.deadline)`.
    pub(crate) deadline: Option<Duration>,
}

/// The methods by their paths, such as `/app.grpc.Service1/ProcessName`.
pub(crate) type Methods = HashMap<String, Method>;

/// The reason why descriptors are invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidDescriptors {
    #[error("they are not an encoded file descriptor set: {0}")]
    Encoding(#[from] prost::DecodeError),
    #[error(
        "(mesh.deadline) of {method} is {text:?}: {reason}; write a duration such as \"2m\", or \"none\""
    )]
    Deadline {
        method: String,
        text: String,
        reason: String,
    },
}

/// The streams of built-in services, which last until their clients end them.
const BUILT_IN_STREAMS: [&str; 3] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Reads the declarations of an encoded file descriptor set.
pub(crate) fn declared_in(descriptors: &[u8]) -> Result<Methods, InvalidDescriptors> {
    let mut methods = Methods::new();
    for file in &descriptor::FileSet::decode(descriptors)?.file {
        for service in &file.service {
            for method in &service.method {
                let path = match &*file.package {
                    "" => format!("/{}/{}", service.name, method.name),
                    package => format!("/{package}.{}/{}", service.name, method.name),
                };
                let declared = declared_of(method, &path)?;
                methods.insert(path, declared);
            }
        }
    }
    Ok(methods)
}

fn declared_of(method: &descriptor::Method, path: &str) -> Result<Method, InvalidDescriptors> {
    let options = method.options.as_ref();
    let deadline = options.and_then(|options| options.deadline.as_deref());
    let deadline = deadline.map(|text| {
        parse_deadline(text).map_err(|reason| InvalidDescriptors::Deadline {
            method: path.to_owned(),
            text: text.to_owned(),
            reason,
        })
    });
    Ok(Method {
        is_idempotent: options
            .is_some_and(|options| options.idempotency_level != descriptor::IDEMPOTENCY_UNKNOWN),
        has_one_request: !method.client_streaming,
        has_one_response: !method.server_streaming,
        deadline: deadline.transpose()?,
    })
}

fn parse_deadline(text: &str) -> Result<Duration, String> {
    match text {
        "none" => Ok(Duration::MAX),
        text => match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("a deadline must be longer than 0s".to_owned()),
            Ok(deadline) => Ok(deadline),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// The longest that the requests of a port may take: the deadline of their route or method, or the
/// default. For gRPC, also what else is declared about a method.
#[derive(Debug, Clone)]
pub(crate) struct Deadlines {
    default: Duration,
    paths: Paths,
}

#[derive(Debug, Clone)]
enum Paths {
    /// No path is special.
    Alike,
    /// In the order of [`by_length`].
    Methods(Arc<[Known]>),
    Routes(Arc<matchit::Router<Duration>>),
}

/// A method and its path.
type Known = (Box<str>, Method);

/// Compares lengths first, so that few comparisons read the text.
fn by_length(one: &str, other: &str) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

impl Deadlines {
    /// The deadlines of an HTTP port. The error is a route that is invalid or has two deadlines.
    pub(crate) fn of_routes(
        default: Duration,
        routes: Vec<(String, Duration)>,
    ) -> Result<Self, String> {
        let is_empty = routes.is_empty();
        let mut matcher = matchit::Router::new();
        for (route, deadline) in routes {
            matcher.insert(&route, deadline).map_err(|_| route)?;
        }
        let paths = if is_empty {
            Paths::Alike
        } else {
            Paths::Routes(Arc::new(matcher))
        };
        Ok(Self { default, paths })
    }

    /// The deadlines of a gRPC port with these methods and the built-in streams.
    pub(crate) fn of_methods(default: Duration, methods: &Methods) -> Self {
        let mut methods = methods.clone();
        for path in BUILT_IN_STREAMS {
            methods.entry(path.to_owned()).or_default().deadline = Some(Duration::MAX);
        }
        let mut methods: Vec<_> = methods
            .into_iter()
            .map(|(path, method)| (path.into_boxed_str(), method))
            .collect();
        methods.sort_unstable_by(|(one, _), (other, _)| by_length(one, other));
        Self {
            default,
            paths: Paths::Methods(methods.into()),
        }
    }

    /// The gRPC method with this path, and the path as it is in the descriptors.
    pub(crate) fn find(&self, path: &str) -> Option<(&str, &Method)> {
        let Paths::Methods(methods) = &self.paths else {
            return None;
        };
        let index = methods.binary_search_by(|(known, _)| by_length(known, path));
        let (path, method) = &methods[index.ok()?];
        Some((path, method))
    }

    /// The longest that a request with this path may take.
    pub(crate) fn of(&self, path: &str) -> Duration {
        let declared = match &self.paths {
            Paths::Alike => None,
            Paths::Methods(_) => self.find(path).and_then(|(_, method)| method.deadline),
            Paths::Routes(routes) => routes.at(path).ok().map(|route| *route.value),
        };
        declared.unwrap_or(self.default)
    }

    /// Whether requests with this path may take longer than the default.
    pub(crate) fn is_long_lived(&self, path: &str) -> bool {
        self.of(path) > self.default
    }
}

/// The part of google/protobuf/descriptor.proto that is read here.
mod descriptor {
    /// The `idempotency_level` of a method that declares none.
    pub(super) const IDEMPOTENCY_UNKNOWN: i32 = 0;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct FileSet {
        #[prost(message, repeated, tag = "1")]
        pub(super) file: Vec<File>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct File {
        #[prost(string, tag = "2")]
        pub(super) package: String,
        #[prost(message, repeated, tag = "6")]
        pub(super) service: Vec<Service>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Service {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, repeated, tag = "2")]
        pub(super) method: Vec<Method>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Method {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "4")]
        pub(super) options: Option<Options>,
        #[prost(bool, tag = "5")]
        pub(super) client_streaming: bool,
        #[prost(bool, tag = "6")]
        pub(super) server_streaming: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Options {
        #[prost(int32, tag = "34")]
        pub(super) idempotency_level: i32,
        /// `(mesh.deadline)`, of `common/protos/mesh/options.proto`.
        #[prost(string, optional, tag = "50100")]
        pub(super) deadline: Option<String>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Duration = Duration::from_secs(10);

    /// The descriptors of a service with these methods, as protox encodes them.
    fn descriptors(methods: &str) -> Vec<u8> {
        let source = format!(
            r#"
            syntax = "proto3";
            package a;
            import "mesh/options.proto";
            message M {{}}
            service S {{ {methods} }}
            "#
        );
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("service.proto");
        std::fs::write(&file, source).expect("written");
        let includes = [directory.path(), "protos".as_ref()];
        let mut compiler = protox::Compiler::new(includes).expect("directories");
        compiler.include_imports(true);
        compiler.open_file(&file).expect("a valid file");
        compiler.encode_file_descriptor_set()
    }

    #[test]
    fn declarations_are_read_from_the_descriptors() {
        let methods = declared_in(&descriptors(
            r#"
            rpc Unary (M) returns (M);
            rpc Get (M) returns (M) { option idempotency_level = NO_SIDE_EFFECTS; }
            rpc Put (stream M) returns (M) { option idempotency_level = IDEMPOTENT; }
            rpc Watch (M) returns (stream M) { option (mesh.deadline) = "none"; }
            rpc Long (M) returns (M) { option (mesh.deadline) = "2m"; }
            "#,
        ))
        .unwrap();
        let unary = Method {
            has_one_request: true,
            has_one_response: true,
            ..Method::default()
        };
        assert_eq!(methods["/a.S/Unary"], unary);
        let get = Method {
            is_idempotent: true,
            ..unary
        };
        assert_eq!(methods["/a.S/Get"], get);
        assert!(methods["/a.S/Put"].is_idempotent && !methods["/a.S/Put"].has_one_request);
        assert!(!methods["/a.S/Watch"].has_one_response);

        let deadlines = Deadlines::of_methods(DEFAULT, &methods);
        assert_eq!(deadlines.of("/a.S/Unary"), DEFAULT);
        assert_eq!(deadlines.of("/a.S/Watch"), Duration::MAX);
        assert_eq!(deadlines.of("/a.S/Long"), Duration::from_mins(2));
        assert_eq!(deadlines.of("/not.Declared/Method"), DEFAULT);
        assert!(deadlines.is_long_lived("/a.S/Watch") && deadlines.is_long_lived("/a.S/Long"));
        assert!(!deadlines.is_long_lived("/a.S/Unary"));
    }

    #[test]
    fn only_the_streams_of_built_in_services_have_no_deadline() {
        let methods = declared_in(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let deadlines = Deadlines::of_methods(DEFAULT, &methods);
        assert_eq!(deadlines.of("/grpc.health.v1.Health/Check"), DEFAULT);
        for path in BUILT_IN_STREAMS {
            assert_eq!(deadlines.of(path), Duration::MAX, "{path}");
        }
    }

    #[test]
    fn an_invalid_deadline_is_reported_with_its_method() {
        for text in ["soon", "", "0s", "-1s"] {
            let method =
                format!(r#"rpc Watch (M) returns (M) {{ option (mesh.deadline) = "{text}"; }}"#);
            let error = declared_in(&descriptors(&method)).unwrap_err().to_string();
            assert!(error.contains("/a.S/Watch"), "{error}");
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        let error = declared_in(b"no descriptors").unwrap_err().to_string();
        assert!(
            error.contains("not an encoded file descriptor set"),
            "{error}"
        );
    }
}
