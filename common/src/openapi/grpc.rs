//! [`services`]: the gRPC methods of a service, from its descriptors, as `/docs` shows them.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MessageOptions, MethodDescriptorProto, MethodOptions,
    field_descriptor_proto::{Label, Type},
    method_options::IdempotencyLevel,
    source_code_info::Location,
};
use serde_json::{Map, Value, json};

use super::markdown;
use crate::request::methods::{self, Methods, declared_in};

/// The deepest nesting of an example: a message may contain itself.
const DEPTH: usize = 6;

/// The numbers of fields in google/protobuf/descriptor.proto, which are the paths of comments.
mod number {
    pub(super) const MESSAGES: i32 = 4;
    pub(super) const SERVICES: i32 = 6;
    pub(super) const METHODS: i32 = 2;
    pub(super) const FIELDS: i32 = 2;
    pub(super) const NESTED: i32 = 3;
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    /// As HTML.
    pub(super) about: String,
    pub(super) methods: Vec<GrpcMethod>,
}

#[derive(Debug)]
pub(super) struct GrpcMethod {
    /// Such as `app.grpc.Service1/ProcessName`.
    pub(super) path: String,
    pub(super) name: String,
    /// As HTML.
    pub(super) about: String,
    /// Which side streams, and what is declared.
    pub(super) traits: Vec<String>,
    pub(super) request: Message,
    pub(super) response: Message,
    /// A request in JSON, as grpcurl takes it.
    pub(super) example: String,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: String,
    /// As HTML.
    pub(super) about: String,
}

/// The services of an encoded file descriptor set.
///
/// # Panics
///
/// If it is not a file descriptor set, or declares an invalid deadline.
pub(super) fn services(descriptors: &[u8]) -> Vec<Service> {
    const INVALID: &str = "the descriptors of the gRPC services are valid";
    let declared = declared_in(descriptors).expect(INVALID);
    let set = FileDescriptorSet::decode(descriptors).expect(INVALID);
    let types = Types::of(&set);
    let services = set.file.iter().flat_map(|file| {
        let (types, declared) = (&types, &declared);
        let services = file.service.iter().zip(0..);
        services.map(move |(service, index)| {
            let path = [number::SERVICES, index];
            let name = full_name(file.package(), service.name());
            let methods = service.method.iter().zip(0..);
            let methods = methods.map(|(method, index)| {
                let path = [path[0], path[1], number::METHODS, index];
                let about = markdown::blocks(&comment(file, &path));
                types.method(&name, method, about, declared)
            });
            Service {
                about: markdown::blocks(&comment(file, &path)),
                methods: methods.collect(),
                name,
            }
        })
    });
    services.collect()
}

fn full_name(scope: &str, name: &str) -> String {
    match scope {
        "" => name.to_owned(),
        scope => format!("{scope}.{name}"),
    }
}

/// The comment above an element of a file, with this path.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.iter().flat_map(|it| &it.location);
    let mut found = locations.filter(|location| location.path == path);
    let comment = found.next().map(Location::leading_comments);
    comment.unwrap_or_default().to_owned()
}

/// The messages and enumerations by their full names, such as `.api.Item`.
struct Types<'a> {
    messages: BTreeMap<String, Known<'a>>,
    enumerations: BTreeMap<String, &'a EnumDescriptorProto>,
}

/// A message, its file, and the path of its comments.
struct Known<'a> {
    message: &'a DescriptorProto,
    file: &'a FileDescriptorProto,
    path: Vec<i32>,
}

impl<'a> Types<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut types = Self {
            messages: BTreeMap::new(),
            enumerations: BTreeMap::new(),
        };
        for file in &set.file {
            let scope = full_name("", file.package());
            let scope = if scope.is_empty() {
                scope
            } else {
                format!(".{scope}")
            };
            for (message, index) in file.message_type.iter().zip(0..) {
                types.add(file, &scope, message, vec![number::MESSAGES, index]);
            }
            types.add_enumerations(&scope, &file.enum_type);
        }
        types
    }

    fn add(
        &mut self,
        file: &'a FileDescriptorProto,
        scope: &str,
        message: &'a DescriptorProto,
        path: Vec<i32>,
    ) {
        let name = format!("{scope}.{}", message.name());
        for (nested, index) in message.nested_type.iter().zip(0..) {
            let path = [&path[..], &[number::NESTED, index]].concat();
            self.add(file, &name, nested, path);
        }
        self.add_enumerations(&name, &message.enum_type);
        let known = Known {
            message,
            file,
            path,
        };
        self.messages.insert(name, known);
    }

    fn add_enumerations(&mut self, scope: &str, all: &'a [EnumDescriptorProto]) {
        for it in all {
            self.enumerations
                .insert(format!("{scope}.{}", it.name()), it);
        }
    }

    fn method(
        &self,
        service: &str,
        method: &MethodDescriptorProto,
        about: String,
        declared: &Methods,
    ) -> GrpcMethod {
        let path = format!("{service}/{}", method.name());
        let declared = declared.get(&format!("/{path}"));
        GrpcMethod {
            name: method.name().to_owned(),
            about,
            traits: traits(method, declared),
            request: self.message(method.input_type()),
            response: self.message(method.output_type()),
            example: self.example(method.input_type(), DEPTH).to_string(),
            path,
        }
    }

    fn message(&self, name: &str) -> Message {
        let known = self.messages.get(name);
        let fields = known.into_iter().flat_map(|known| {
            let fields = known.message.field.iter().zip(0..);
            fields.map(|(field, index)| {
                let path = [&known.path[..], &[number::FIELDS, index]].concat();
                Field {
                    name: field.name().to_owned(),
                    kind: self.kind(field),
                    about: markdown::inline(comment(known.file, &path).trim()),
                }
            })
        });
        Message {
            name: name.trim_start_matches('.').to_owned(),
            fields: fields.collect(),
        }
    }

    /// The type of a field, as a `.proto` file has it.
    fn kind(&self, field: &FieldDescriptorProto) -> String {
        if let Some([key, value]) = self.entry_of(field) {
            return format!("map<{}, {}>", self.kind(key), self.kind(value));
        }
        let name = match field.r#type() {
            Type::Message | Type::Enum | Type::Group => {
                field.type_name().trim_start_matches('.').to_owned()
            }
            scalar => scalar
                .as_str_name()
                .trim_start_matches("TYPE_")
                .to_lowercase(),
        };
        match field.label() {
            Label::Repeated => format!("repeated {name}"),
            _ => name,
        }
    }

    /// The key and the value of a map.
    fn entry_of(&self, field: &FieldDescriptorProto) -> Option<&[FieldDescriptorProto; 2]> {
        let message = self.messages.get(field.type_name())?.message;
        let is_map = message
            .options
            .as_ref()
            .is_some_and(MessageOptions::map_entry);
        message.field.as_array().filter(|_| is_map)
    }

    /// A message in JSON.
    fn example(&self, name: &str, depth: usize) -> Value {
        match name {
            ".google.protobuf.Timestamp" => return json!("2026-01-01T00:00:00Z"),
            ".google.protobuf.Duration" => return json!("1s"),
            _ => {}
        }
        let Some((known, depth)) = self.messages.get(name).zip(depth.checked_sub(1)) else {
            return json!({});
        };
        let mut alternatives = Vec::new();
        let members = known.message.field.iter().filter_map(|field| {
            // Of the fields of a `oneof`, a message has one.
            if let Some(index) = field.oneof_index {
                if alternatives.contains(&index) {
                    return None;
                }
                alternatives.push(index);
            }
            let value = match (self.entry_of(field), field.label()) {
                (Some(_), _) => json!({}),
                (None, Label::Repeated) => json!([self.value(field, depth)]),
                (None, _) => self.value(field, depth),
            };
            Some((field.name().to_owned(), value))
        });
        Value::Object(members.collect::<Map<_, _>>())
    }

    fn value(&self, field: &FieldDescriptorProto, depth: usize) -> Value {
        match field.r#type() {
            Type::Message | Type::Group => self.example(field.type_name(), depth),
            Type::Enum => {
                let values = self.enumerations.get(field.type_name());
                let last = values.and_then(|it| it.value.last()); // the first often means "none"
                last.map_or(json!(0), |value| json!(value.name()))
            }
            Type::String => json!("test"),
            Type::Bytes => json!("dGVzdA=="),
            Type::Bool => json!(true),
            _ => json!(3),
        }
    }
}

/// Which side streams, whether a call may be repeated, and its deadline.
fn traits(method: &MethodDescriptorProto, declared: Option<&methods::Method>) -> Vec<String> {
    let streaming = match (method.client_streaming(), method.server_streaming()) {
        (false, false) => "one request, one response",
        (false, true) => "one request, a stream of responses",
        (true, false) => "a stream of requests, one response",
        (true, true) => "streams both ways",
    };
    let level = method
        .options
        .as_ref()
        .map(MethodOptions::idempotency_level);
    let level = match level {
        Some(IdempotencyLevel::NoSideEffects) => Some("no side effects, so a call may be repeated"),
        Some(IdempotencyLevel::Idempotent) => Some("idempotent, so a call may be repeated"),
        _ => None,
    };
    let deadline = declared.and_then(|declared| declared.deadline);
    let deadline = deadline.map(|deadline| match deadline {
        Duration::MAX => "no deadline of its own".to_owned(),
        deadline => format!("deadline: {}", humantime::format_duration(deadline)),
    });
    let declared = [Some(streaming), level].into_iter().flatten();
    declared.map(str::to_owned).chain(deadline).collect()
}
