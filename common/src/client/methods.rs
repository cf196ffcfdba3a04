//! [`Methods`]: what the descriptors of a service declare about each of its methods.

use std::collections::HashMap;

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto, method_options::IdempotencyLevel};

/// What is declared of a method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Method {
    /// It can be called twice: its `idempotency_level` is `NO_SIDE_EFFECTS` or `IDEMPOTENT`.
    pub(super) is_idempotent: bool,
    /// Its request is one message.
    pub(super) has_one_request: bool,
    /// Its response is one message.
    pub(super) has_one_response: bool,
}

impl From<&MethodDescriptorProto> for Method {
    fn from(method: &MethodDescriptorProto) -> Self {
        let options = method.options.as_ref();
        let level = options.map(prost_types::MethodOptions::idempotency_level);
        Self {
            is_idempotent: level.is_some_and(|level| level != IdempotencyLevel::IdempotencyUnknown),
            has_one_request: !method.client_streaming(),
            has_one_response: !method.server_streaming(),
        }
    }
}

/// The methods by their paths, such as `/app.grpc.Service1/ProcessName`. Nothing is known of a
/// method that is not declared: it is called once, and its request may be a stream.
pub(super) type Methods = HashMap<String, Method>;

/// Reads an encoded file descriptor set.
pub(super) fn methods_of(descriptors: &[u8]) -> Result<Methods, prost::DecodeError> {
    let set = FileDescriptorSet::decode(descriptors)?;
    let mut methods = Methods::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let service = match file.package() {
                    "" => service.name().to_owned(),
                    package => format!("{package}.{}", service.name()),
                };
                let path = format!("/{service}/{}", method.name());
                methods.insert(path, method.into());
            }
        }
    }
    Ok(methods)
}
