//! [`LogFields`]: the fields that the code of a service adds to every log line of a request.

use std::sync::Mutex;

use serde_json::Value;

use crate::{limits, sync::lock};

/// The fields of one request, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct LogFields(Mutex<Vec<LogField>>);

/// A field of every log line of a request.
#[derive(Debug)]
pub(crate) struct LogField {
    pub(crate) name: &'static str,
    /// A text, a number, a boolean or null.
    pub(crate) value: Value,
}

/// The reason why a field is not added to the log lines of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLogField {
    /// There is no current request.
    #[error("there is no request")]
    NoRequest,
    /// The name is not a name: it is empty, too long, or has other characters than letters, digits,
    /// `_` and `.`.
    #[error("a name has 1 to {} letters, digits, _ and .", limits::LOG_FIELD_NAME)]
    Name,
    /// Each record has a field with this name.
    #[error("each record has a field with this name")]
    Reserved,
    /// The request has a field with this name.
    #[error("the request has a field with this name")]
    Taken,
    /// The request has as many fields as it may have.
    #[error("a request has at most {} fields", limits::LOG_FIELDS)]
    TooMany,
}

impl LogFields {
    pub(crate) fn add(&self, name: &'static str, value: Value) -> Result<(), InvalidLogField> {
        let mut fields = lock(&self.0);
        if fields.iter().any(|field| field.name == name) {
            return Err(InvalidLogField::Taken);
        }
        if fields.len() == limits::LOG_FIELDS {
            return Err(InvalidLogField::TooMany);
        }
        fields.push(LogField { name, value });
        Ok(())
    }

    /// Calls `read` with each field.
    pub(crate) fn for_each(&self, read: impl FnMut(&LogField)) {
        lock(&self.0).iter().for_each(read);
    }
}

/// Whether each record has this field by itself, or bunyan reserves the name.
pub(crate) fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "v" | "name" | "msg" | "level" | "hostname" | "pid" | "time" // bunyan
            | "target" | "line" | "file"
            | "trace_id" | "span_id" | "trace_flags" | "request_id" | "fields_left_out"
    )
}

/// The value as it is kept, if the name is allowed.
pub(crate) fn checked(name: &str, value: Value) -> Result<Value, InvalidLogField> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !(1..=limits::LOG_FIELD_NAME).contains(&name.len()) || !name.bytes().all(is_allowed) {
        return Err(InvalidLogField::Name);
    }
    if is_reserved(name) {
        return Err(InvalidLogField::Reserved);
    }
    Ok(bounded(value))
}

fn bounded(value: Value) -> Value {
    let mut text = match value {
        Value::String(text) => text,
        Value::Array(_) | Value::Object(_) => value.to_string(),
        scalar => return scalar,
    };
    // Still over the limit, so that the log line shows that the text was cut.
    text.truncate(text.floor_char_boundary(limits::LOG_FIELD_OF_REQUEST + 4));
    text.shrink_to_fit();
    Value::String(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{InvalidLogField::*, *};
    use crate::request::{
        context::{Context, Deadline, log_field},
        id::RequestId,
        timings::Timings,
    };

    fn request() -> Context {
        let deadline = Deadline::after(Duration::from_secs(10));
        Context::new(RequestId::fresh(), deadline)
    }

    fn fields(context: &Context) -> Vec<(&'static str, Value)> {
        let mut seen = Vec::new();
        if let Some(fields) = context.shared.log_fields.get() {
            fields.for_each(|field| seen.push((field.name, field.value.clone())));
        }
        seen
    }

    #[test]
    fn a_name_is_refused_unless_a_record_can_have_it_once() {
        assert_eq!(log_field("caller", 1), Err(NoRequest));
        let context = request();
        context.clone().sync_scope(|| {
            for name in ["name", "msg", "level", "time", "pid", "hostname", "v"] {
                assert_eq!(log_field(name, 1), Err(Reserved), "{name}");
            }
            for name in ["request_id", "trace_id", "target", "line"] {
                assert_eq!(log_field(name, 1), Err(Reserved), "{name}");
            }
            for name in ["", "a\"b", "a b", "ä", &"x".repeat(65).leak()[..]] {
                assert_eq!(log_field(name, 1), Err(Name), "{name}");
            }
            assert_eq!(log_field("caller", "first"), Ok(()));
            assert_eq!(log_field("caller", "second"), Err(Taken));
        });
        assert_eq!(fields(&context), [("caller", "first".into())]);
    }

    #[test]
    fn the_fields_of_a_request_have_a_bound() {
        let context = request();
        context.clone().sync_scope(|| {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            assert_eq!(names.len(), limits::LOG_FIELDS);
            for name in names {
                assert_eq!(log_field(name, "ä".repeat(10_000)), Ok(()));
            }
            assert_eq!(log_field("i", 1), Err(TooMany));
        });
        for (name, value) in fields(&context) {
            let length = value.as_str().unwrap().len();
            assert!(
                length > limits::LOG_FIELD_OF_REQUEST,
                "{name} shows the cut"
            );
            assert!(length <= limits::LOG_FIELD_OF_REQUEST + 4, "{name}");
        }
    }

    #[test]
    fn a_list_is_its_text_and_a_scalar_stays_one() {
        let context = request();
        context.clone().sync_scope(|| {
            log_field("list", vec![1, 2]).unwrap();
            log_field("number", 1.5).unwrap();
            log_field("is", true).unwrap();
            log_field("none", None::<u8>).unwrap();
        });
        let seen = fields(&context).into_iter().map(|(_, value)| value);
        let expected = ["[1,2]".into(), 1.5.into(), true.into(), Value::Null];
        assert_eq!(seen.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_copy_of_a_context_with_a_change_has_the_same_fields() {
        let context = request();
        let timings = Timings::since(std::time::Instant::now());
        let copy = context
            .clone()
            .with(|shared| shared.timings = Some(timings));
        copy.clone().sync_scope(|| log_field("in_copy", 1).unwrap());
        context
            .clone()
            .sync_scope(|| log_field("in_first", 2).unwrap());
        let both = [("in_copy", 1.into()), ("in_first", 2.into())];
        assert_eq!(fields(&context), both);
        assert_eq!(fields(&copy), both);
    }

    #[test]
    fn a_request_that_adds_no_field_has_no_memory_for_them() {
        let context = request().with(|shared| shared.timings = None);
        assert!(context.shared.log_fields.get().is_none());
    }
}
