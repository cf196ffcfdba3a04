//! The query parameters, as the description of the API has them.

use common::openapi::query;
use protos::limits;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

/// `name`, of the greeting.
pub(super) struct Name;

/// `length`, of a list.
pub(super) type ListLength = Length<{ limits::LIST }, 10>;

/// `length`, of a stream.
pub(super) type StreamLength = Length<{ i32::MAX }, 5>;

/// A number of items, at most `MOST`.
pub(super) struct Length<const MOST: i32, const DEFAULT: i32>;

impl<const MOST: i32, const DEFAULT: i32> Length<MOST, DEFAULT> {
    pub(super) const DEFAULT: i32 = DEFAULT;
}

impl IntoParams for Name {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let name = query::text("name", "The name to greet.", limits::NAME);
        vec![name.example(Some("test".into())).build()]
    }
}

impl<const MOST: i32, const DEFAULT: i32> IntoParams for Length<MOST, DEFAULT> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let length = query::integer("length", "The number of items.", 0..=MOST, DEFAULT);
        vec![length.build()]
    }
}
