//! [`of_media`] and [`of_schema`]: examples of bodies and values, as the document gives them or made of
//! its schemas.

use serde_json::{Map, Value};

/// The deepest nesting of an example: a schema may contain itself.
const DEPTH: usize = 6;

/// An example of a body of this media type, as a client sends or receives it.
pub(super) fn of_media(document: &Value, media_type: &str, media: &Value) -> Option<String> {
    let named = media["examples"].as_object();
    let named = named.and_then(|examples| examples.values().next());
    let example = [Some(&media["example"]), named.map(|named| &named["value"])];
    let example = example.into_iter().flatten().find(|it| !it.is_null());
    let example = match example {
        Some(example) => example.clone(),
        None => of_schema(document, &media["schema"]),
    };
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    match example {
        Value::Null => None,
        Value::String(text) if !is_json => Some(text),
        example => Some(serde_json::to_string_pretty(&example).expect("it is JSON")),
    }
}

/// A value that fits the schema, or null if the schema does not say what fits.
pub(super) fn of_schema(document: &Value, schema: &Value) -> Value {
    at_depth(document, schema, DEPTH)
}

fn at_depth(document: &Value, schema: &Value, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    let inner = |schema: &Value| at_depth(document, schema, depth);
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').unwrap_or_default();
        return document.pointer(pointer).map_or(Value::Null, inner);
    }
    let given = [
        &schema["example"],
        &schema["examples"][0],
        &schema["const"],
        &schema["default"],
        &schema["enum"][0],
    ];
    if let Some(given) = given.into_iter().find(|it| !it.is_null()) {
        return given.clone();
    }
    if let Some(all) = schema["allOf"].as_array() {
        let objects = all.iter().map(inner);
        let members = objects.filter_map(|it| it.as_object().cloned()).flatten();
        return Value::Object(members.collect());
    }
    for choice in ["oneOf", "anyOf"] {
        let choices = schema[choice].as_array().into_iter().flatten();
        if let Some(found) = choices.map(inner).find(|it| !it.is_null()) {
            return found;
        }
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null"),
        kind => Some(kind),
    };
    match kind.and_then(Value::as_str) {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let members = properties.map(|(name, schema)| (name.clone(), inner(schema)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Some("array") => Value::Array(vec![inner(&schema["items"])]),
        Some("integer" | "number") => match &schema["minimum"] {
            Value::Null => 1.into(),
            least => least.clone(),
        },
        Some("boolean") => true.into(),
        Some("string") => match schema["format"].as_str() {
            Some("date-time") => "2026-01-01T00:00:00Z".into(),
            Some("date") => "2026-01-01".into(),
            Some("uuid") => "2a7b3f0c-8d55-4b2e-9a37-6f1f6f0f9d11".into(),
            _ => "text".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_example_is_the_one_given_or_made_of_the_schema() {
        let document = json!({ "components": { "schemas": {
            "Item": { "type": "object", "properties": {
                "id": { "type": "integer", "minimum": 3 },
                "name": { "type": ["null", "string"], "example": "name 3" },
                "next": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Kind" }] },
            } },
            "Kind": { "type": "string", "enum": ["one", "two"] },
            "Both": { "allOf": [
                { "$ref": "#/components/schemas/Item" },
                { "type": "object", "properties": { "at": { "type": "string", "format": "date" } } },
            ] },
        } } });
        let item = json!({ "id": 3, "name": "name 3", "next": "one" });
        let list = json!({ "type": "array", "items": { "$ref": "#/components/schemas/Item" } });
        assert_eq!(of_schema(&document, &list), json!([item]));
        let both = of_schema(&document, &json!({ "$ref": "#/components/schemas/Both" }));
        assert_eq!(
            (&both["at"], &both["id"]),
            (&json!("2026-01-01"), &json!(3))
        );
        let media = json!({ "schema": list, "example": "a line\n" });
        let of_media = |media_type| of_media(&document, media_type, &media).unwrap();
        assert_eq!(of_media("application/x-ndjson"), "a line\n");
        assert_eq!(of_media("application/json"), "\"a line\\n\"");
    }

    #[test]
    fn a_schema_that_contains_itself_has_an_end() {
        let document = json!({ "a": { "type": "array", "items": { "$ref": "#/a" } } });
        let example = of_schema(&document, &json!({ "$ref": "#/a" })).to_string();
        assert!(example.len() < 4 * DEPTH, "{example}");
        let circle = json!({ "a": { "$ref": "#/a" } });
        assert_eq!(of_schema(&circle, &circle["a"]), Value::Null);
        assert_eq!(
            of_schema(&circle, &json!({ "$ref": "elsewhere.json#/a" })),
            Value::Null
        );
    }
}
