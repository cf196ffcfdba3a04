//! A log line is one line of JSON without duplicate keys, and has nothing that a terminal acts on.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::Value;

struct Record(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut entries: M) -> Result<Record, M::Error> {
                let mut record = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry()? {
                    if record.insert(key, value).is_some() {
                        return Err(M::Error::custom("a duplicate key"));
                    }
                }
                Ok(Record(record))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}

pub fn run(text: &str) {
    let line = common::fuzzing::log_line(text);
    let line = String::from_utf8(line).expect("UTF-8");
    let line = line.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains(|c: char| c.is_control() || ('\u{2028}'..='\u{202E}').contains(&c)));
    let Record(record) = serde_json::from_str(line).expect("JSON");
    for key in ["name", "text", "display", "msg"] {
        assert_eq!(record[key], text, "{key}");
    }
}
