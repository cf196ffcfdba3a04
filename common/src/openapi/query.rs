//! [`text`] and [`integer`]: parameters of the query string, as the description of the API has them.
//!
//! They are what [`Query`](crate::server::Query) reads. `utoipa::path` takes a type for its `params`,
//! and limits in it are literals. Here they are values, the same that the handler checks:
//!
//! ```
//! use common::openapi::query;
//! use utoipa::{IntoParams, openapi::path::{Parameter, ParameterIn}};
//!
//! /// The longest name, in characters.
//! const LONGEST: usize = 1_024;
//!
//! struct Name; // for `#[utoipa::path(params(Name), …)]`
//!
//! impl IntoParams for Name {
//!     fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
//!         let name = query::text("name", "The name to greet.", LONGEST);
//!         vec![name.example(Some("test".into())).build()]
//!     }
//! }
//! ```

use std::ops::RangeInclusive;

use utoipa::openapi::{
    ObjectBuilder, Type,
    path::{ParameterBuilder, ParameterIn},
};

/// Text of at most `longest` characters; without the parameter, it is empty.
pub fn text(name: &str, description: &str, longest: usize) -> ParameterBuilder {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(longest))
        .default(Some("".into()));
    parameter(name, description, schema)
}

/// A whole number in `range`; without the parameter, it is `default`, which is the example, too.
pub fn integer(
    name: &str,
    description: &str,
    range: RangeInclusive<i32>,
    default: i32,
) -> ParameterBuilder {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(*range.start()))
        .maximum(Some(*range.end()))
        .default(Some(default.into()));
    parameter(name, description, schema).example(Some(default.into()))
}

fn parameter(name: &str, description: &str, schema: ObjectBuilder) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(description))
        .schema(Some(schema))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn described(parameter: ParameterBuilder) -> Value {
        serde_json::to_value(parameter.build()).expect("it is JSON")
    }

    #[test]
    fn a_parameter_has_its_limits_and_its_default() {
        assert_eq!(
            described(text("name", "The name.", 5)),
            json!({
                "name": "name",
                "in": "query",
                "description": "The name.",
                "required": false,
                "schema": { "type": "string", "maxLength": 5, "default": "" },
            })
        );
        assert_eq!(
            described(integer("length", "The length.", 1..=9, 4)),
            json!({
                "name": "length",
                "in": "query",
                "description": "The length.",
                "required": false,
                "schema": { "type": "integer", "minimum": 1, "maximum": 9, "default": 4 },
                "example": 4,
            })
        );
    }
}
