//! [`Record`]: one log line, read strictly.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// The longest record, in bytes, without its line end.
const LONGEST: usize = 8 * 1024 - 1;

/// A line that is a JSON object of at most 8 KiB, without duplicate keys.
#[derive(Debug, Clone)]
pub struct Record(Map<String, Value>);

impl Record {
    /// Reads a line.
    ///
    /// # Panics
    ///
    /// When the line is anything else.
    pub fn read(line: &str) -> Self {
        assert!(line.len() <= LONGEST, "{} bytes: {line:?}", line.len());
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// A text field, or `""` where the field is missing.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number field.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.0.get(key).and_then(Value::as_f64)
    }

    /// A number field without a fraction.
    pub fn integer(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(Value::as_u64)
    }

    /// Whether the line has all of these text fields with these values. A field that is missing
    /// is not a field that is empty.
    pub fn has(&self, fields: &[(&str, &str)]) -> bool {
        let is = |(key, value): &(&str, &str)| self.0.get(*key).is_some_and(|field| field == value);
        fields.iter().all(is)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut entries: M) -> Result<Record, M::Error> {
                let mut map = Map::new();
                while let Some((key, value)) = entries.next_entry::<String, Value>()? {
                    if map.insert(key.clone(), value).is_some() {
                        return Err(M::Error::custom(format!("the key {key} stands twice")));
                    }
                }
                Ok(Record(map))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}
