//! The query parameters, as the description of the API has them.

use protos::limits;
use utoipa::{
    IntoParams,
    openapi::{
        ObjectBuilder, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

/// `name`, of the greeting.
pub(super) struct Name;

/// `length`, of a list.
pub(super) struct ListLength;

/// `length`, of a stream.
pub(super) struct StreamLength;

impl ListLength {
    pub(super) const DEFAULT: i32 = 10;
}

impl StreamLength {
    pub(super) const DEFAULT: i32 = 5;
}

fn query(name: &str, description: &str, schema: ObjectBuilder) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(description))
        .schema(Some(schema))
}

fn length(most: i32, default: i32) -> Vec<Parameter> {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(most))
        .default(Some(default.into()));
    let parameter = query("length", "The number of items.", schema);
    vec![parameter.example(Some(default.into())).build()]
}

impl IntoParams for Name {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .max_length(Some(limits::NAME))
            .default(Some("".into()));
        let parameter = query("name", "The name to greet.", schema);
        vec![parameter.example(Some("test".into())).build()]
    }
}

impl IntoParams for ListLength {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        length(limits::LIST, Self::DEFAULT)
    }
}

impl IntoParams for StreamLength {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        length(i32::MAX, Self::DEFAULT)
    }
}
