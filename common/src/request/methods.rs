//! [`Methods`] and [`RouteTable`]: what the descriptors of a service declare about its methods, for
//! both stacks. The declarations are protobuf's `idempotency_level` and the options of
//! `common/protos/mesh/options.proto`.
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
//! Write the descriptors with `mesh-build`, or with protox's `encode_file_descriptor_set`: they keep
//! the options that are extensions. prost's own types drop them.

use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Duration};

use prost::Message;

/// The declarations of a method. The default is a method that is not idempotent and streams both
/// ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is declared on its own
pub(crate) struct Method {
    /// A call may be repeated: `idempotency_level` is `NO_SIDE_EFFECTS` or `IDEMPOTENT`.
    pub(crate) is_idempotent: bool,
    /// The request is one message.
    pub(crate) has_one_request: bool,
    /// The response is one message.
    pub(crate) has_one_response: bool,
    /// The longest that a call may take: `(mesh.deadline)`.
    pub(crate) deadline: Option<Duration>,
    /// A call never has two attempts at once: `(mesh.hedge)` is `"off"`.
    pub(crate) is_never_hedged: bool,
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
    #[error("(mesh.hedge) of {method} is {text:?}; write \"off\", or leave it out")]
    Hedge { method: String, text: String },
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
    let hedge = options.and_then(|options| options.hedge.as_deref());
    if let Some(text) = hedge.filter(|text| *text != "off") {
        return Err(InvalidDescriptors::Hedge {
            method: path.to_owned(),
            text: text.to_owned(),
        });
    }
    Ok(Method {
        is_never_hedged: hedge.is_some(),
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

/// What is declared about the path of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The longest that the request may take.
    pub(crate) longest: Duration,
    /// Whether that is longer than the default.
    pub(crate) is_long_lived: bool,
    /// The method of a gRPC call; see [`RouteTable::path`].
    pub(crate) method: Option<usize>,
    /// Whether the method takes one message.
    pub(crate) has_one_request: bool,
}

impl Terms {
    /// The terms of a path with this deadline, if it has one of its own.
    pub(crate) fn of(deadline: Option<Duration>, default: Duration) -> Self {
        let longest = deadline.unwrap_or(default);
        Self {
            longest,
            is_long_lived: longest > default,
            method: None,
            has_one_request: false,
        }
    }
}

/// The declared methods of a service, sorted by [`by_length`], and the deadline of those that declare
/// none.
#[derive(Debug, Clone)]
pub(crate) struct RouteTable {
    default: Duration,
    methods: Arc<[Known]>,
}

/// A method and its path.
type Known = (Box<str>, Method);

/// Compares lengths first, so that few comparisons read the text.
fn by_length(one: &str, other: &str) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

impl RouteTable {
    /// The deadlines of these methods and of the built-in streams.
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
            methods: methods.into(),
        }
    }

    /// What is declared about the method with this path.
    pub(crate) fn terms(&self, path: &str) -> Terms {
        let find = |(known, _): &Known| by_length(known, path);
        let Ok(index) = self.methods.binary_search_by(find) else {
            return Terms::of(None, self.default);
        };
        let method = &self.methods[index].1;
        Terms {
            method: Some(index),
            has_one_request: method.has_one_request,
            ..Terms::of(method.deadline, self.default)
        }
    }

    /// The path of the gRPC method with this index, as it is in the descriptors.
    pub(crate) fn path(&self, index: usize) -> &str {
        &self.methods[index].0
    }
}

/// The part of google/protobuf/descriptor.proto that is read here.
mod descriptor {
    /// The `idempotency_level` of a method that declares none.
    pub(crate) const IDEMPOTENCY_UNKNOWN: i32 = 0;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct FileSet {
        #[prost(message, repeated, tag = "1")]
        pub(crate) file: Vec<File>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct File {
        #[prost(string, tag = "2")]
        pub(crate) package: String,
        #[prost(message, repeated, tag = "6")]
        pub(crate) service: Vec<Service>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Service {
        #[prost(string, tag = "1")]
        pub(crate) name: String,
        #[prost(message, repeated, tag = "2")]
        pub(crate) method: Vec<Method>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Method {
        #[prost(string, tag = "1")]
        pub(crate) name: String,
        #[prost(message, optional, tag = "4")]
        pub(crate) options: Option<Options>,
        #[prost(bool, tag = "5")]
        pub(crate) client_streaming: bool,
        #[prost(bool, tag = "6")]
        pub(crate) server_streaming: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Options {
        #[prost(int32, tag = "34")]
        pub(crate) idempotency_level: i32,
        /// `(mesh.deadline)`, of `common/protos/mesh/options.proto`.
        #[prost(string, optional, tag = "50100")]
        pub(crate) deadline: Option<String>,
        /// `(mesh.hedge)`, of the same file.
        #[prost(string, optional, tag = "50101")]
        pub(crate) hedge: Option<String>,
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
            rpc Dear (M) returns (M) {
              option idempotency_level = NO_SIDE_EFFECTS;
              option (mesh.hedge) = "off";
            }
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
        assert!(methods["/a.S/Dear"].is_never_hedged && methods["/a.S/Dear"].is_idempotent);

        let deadlines = RouteTable::of_methods(DEFAULT, &methods);
        assert_eq!(deadlines.terms("/a.S/Unary").longest, DEFAULT);
        assert_eq!(deadlines.terms("/a.S/Watch").longest, Duration::MAX);
        assert_eq!(deadlines.terms("/a.S/Long").longest, Duration::from_mins(2));
        assert_eq!(deadlines.terms("/not.Declared/Method").longest, DEFAULT);
        assert!(
            deadlines.terms("/a.S/Watch").is_long_lived
                && deadlines.terms("/a.S/Long").is_long_lived
        );
        assert!(!deadlines.terms("/a.S/Unary").is_long_lived);
    }

    #[test]
    fn only_the_streams_of_built_in_services_have_no_deadline() {
        let methods = declared_in(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let deadlines = RouteTable::of_methods(DEFAULT, &methods);
        assert_eq!(
            deadlines.terms("/grpc.health.v1.Health/Check").longest,
            DEFAULT
        );
        for path in BUILT_IN_STREAMS {
            assert_eq!(deadlines.terms(path).longest, Duration::MAX, "{path}");
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
        let method = r#"rpc Get (M) returns (M) { option (mesh.hedge) = "on"; }"#;
        let error = declared_in(&descriptors(method)).unwrap_err().to_string();
        assert!(
            error.contains("/a.S/Get") && error.contains("\"on\""),
            "{error}"
        );
        let error = declared_in(b"no descriptors").unwrap_err().to_string();
        assert!(
            error.contains("not an encoded file descriptor set"),
            "{error}"
        );
    }
}
