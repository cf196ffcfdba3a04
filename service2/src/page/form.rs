//! The form of the page: for each field its text, and its value or what is wrong with the text.

use std::fmt::Display;

use common::{Problem, server::Query};
use protos::limits;

/// The defaults of the original page.
const NAME: &str = "Gonzalo";
const LENGTH: i32 = 10;
const STREAM_LENGTH: i32 = 5;

/// The most items of the list and of the stream: what a person can read. The REST API has more.
const MAX_ITEMS: i32 = 1_000;

/// The fields of the form.
pub(super) struct Form {
    pub(super) name: Field<String>,
    pub(super) length: Field<i32>,
    pub(super) stream_length: Field<i32>,
}

impl Form {
    pub(super) fn read(query: &Query) -> Self {
        let number = |name, label, default| Field::number(query, name, label, default);
        Self {
            name: Field::text(query, "name", "Name", NAME),
            length: number("length", "Items in the list", LENGTH),
            stream_length: number("stream_length", "Items in the stream", STREAM_LENGTH),
        }
    }

    pub(super) fn has_mistake(&self) -> bool {
        self.name.value.is_err() || self.length.value.is_err() || self.stream_length.value.is_err()
    }

    /// The bytes of the texts.
    pub(super) fn size(&self) -> usize {
        self.name.size() + self.length.size() + self.stream_length.size()
    }
}

/// A field.
pub(super) struct Field<T> {
    /// The name of the parameter.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    /// What the field takes.
    pub(super) hint: &'static str,
    /// The text, as typed.
    pub(super) typed: String,
    /// The value of the text, or what is wrong with it, in a sentence that begins with the label.
    pub(super) value: Result<T, String>,
}

impl<T> Field<T> {
    fn new<F: Display>(
        (name, label, hint): (&'static str, &'static str, &'static str),
        typed: Result<String, Problem>,
        parse: impl FnOnce(&str) -> Result<T, F>,
    ) -> Self {
        // A query that gives a parameter twice, or text that is not UTF-8, is not of this form.
        let twice = "be given once, as text in UTF-8";
        let value = match &typed {
            Ok(typed) => parse(typed).map_err(|must| format!("{label} must {must}.")),
            Err(_) => Err(format!("{label} must {twice}.")),
        };
        Self {
            name,
            label,
            hint,
            typed: typed.unwrap_or_default(),
            value,
        }
    }

    /// What is wrong with the text, if anything is.
    pub(super) fn mistake(&self) -> Option<&str> {
        self.value.as_ref().err().map(String::as_str)
    }

    fn size(&self) -> usize {
        self.typed.len() + self.mistake().map_or(self.typed.len(), str::len)
    }
}

impl Field<String> {
    fn text(query: &Query, name: &'static str, label: &'static str, default: &str) -> Self {
        let typed = query
            .get(name)
            .map(|text| text.unwrap_or_else(|| default.to_owned()));
        let about = (name, label, "at most 1,024 characters");
        Self::new(about, typed, |typed| {
            let fits = typed.chars().count() <= limits::NAME;
            fits.then(|| typed.to_owned())
                .ok_or("have at most 1,024 characters")
        })
    }
}

impl Field<i32> {
    fn number(query: &Query, name: &'static str, label: &'static str, default: i32) -> Self {
        let typed = query
            .get(name)
            .map(|text| text.unwrap_or_else(|| default.to_string()));
        Self::new((name, label, "0 to 1,000"), typed, |typed| {
            let number = typed.parse().ok();
            number
                .filter(|number| (0..=MAX_ITEMS).contains(number))
                .ok_or("be a whole number from 0 to 1,000")
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;
    use futures_util::FutureExt;
    use http::Request;

    use super::*;

    fn form(query: &str) -> Form {
        let request = Request::get(format!("/?{query}")).body(()).unwrap();
        let mut head = request.into_parts().0;
        let query = Query::from_request_parts(&mut head, &()).now_or_never();
        Form::read(&query.unwrap().unwrap())
    }

    #[test]
    fn an_empty_query_is_the_original_page() {
        let form = form("");
        assert_eq!(form.name.value, Ok("Gonzalo".into()));
        assert_eq!(
            (form.length.value, form.length.typed),
            (Ok(10), "10".into())
        );
        assert_eq!(form.stream_length.value, Ok(5));
    }

    #[test]
    fn the_texts_name_the_limits() {
        assert_eq!((MAX_ITEMS, limits::NAME), (1_000, 1_024));
        assert_eq!(form("length=1000").length.value, Ok(1_000));
        let longest = "é".repeat(1_024);
        assert_eq!(
            form(&format!("name={}", "%C3%A9".repeat(1_024))).name.value,
            Ok(longest)
        );
    }

    #[test]
    fn a_mistake_is_a_sentence_about_the_label() {
        let number = "must be a whole number from 0 to 1,000.";
        for typed in ["", "abc", "1e3", "-1", "1001", "10000", "99999999999", "+"] {
            let form = form(&format!("length={typed}&stream_length={typed}"));
            let mistake = form.length.mistake().unwrap();
            assert_eq!(mistake, format!("Items in the list {number}"), "{typed}");
            let mistake = form.stream_length.mistake().unwrap();
            assert_eq!(mistake, format!("Items in the stream {number}"), "{typed}");
            assert!(form.has_mistake());
        }
        let too_long = form(&format!("name={}", "x".repeat(1_025)));
        let mistake = too_long.name.mistake();
        assert_eq!(mistake, Some("Name must have at most 1,024 characters."));
        for query in ["name=%ff", "name=a&name=b"] {
            let form = form(query);
            let mistake = form.name.mistake();
            assert_eq!(mistake, Some("Name must be given once, as text in UTF-8."));
        }
    }
}
