//! [`Query`]: the query string, decoded strictly.
//!
//! The usual decoders replace invalid text (`%zz`, a byte that is not UTF-8), and choose one of two
//! values. This one responds with a 400 that names the fault.

use std::{borrow::Cow, convert::Infallible, fmt::Display};

use axum::extract::FromRequestParts;
use http::{StatusCode, Uri, request::Parts};
use percent_encoding::percent_decode_str;

use crate::problem::Problem;

/// The query string of a request, as an extractor.
///
/// ```
/// use common::{Problem, server::Query};
///
/// async fn handler(query: Query) -> Result<String, Problem> {
///     let name = query.get("name")?.unwrap_or_default(); // missing is empty
///     Ok(format!("Hello, {name}!"))
/// }
/// # use axum::{Router, body::Body, routing::get};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let router = Router::new().route("/", get(handler));
/// let ask = async |path| {
///     let request = http::Request::get(path).body(Body::empty())?;
///     Ok::<_, http::Error>(router.clone().oneshot(request).await.unwrap().status())
/// };
/// assert_eq!(ask("/?name=Zo%C3%AB").await?, 200);
/// assert_eq!(ask("/?name=%zz").await?, 400);
/// assert_eq!(ask("/?name=a&name=b").await?, 400);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Query(Uri);

impl Query {
    /// The decoded value of the parameter `name`, or `None` if the query lacks it.
    ///
    /// The error is a 400: the parameter is given twice, or its value is not percent-encoded UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<String>, Problem> {
        let pairs = self.0.query().unwrap_or_default().split('&');
        let mut values = pairs.filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key).as_deref() == Some(name)).then_some(value)
        });
        let value = values.next();
        if values.next().is_some() {
            return Err(bad(name, "is given more than once; give it once."));
        }
        value
            .map(|value| {
                decode(value).map(Cow::into_owned).ok_or_else(|| {
                    bad(
                        name,
                        "is not percent-encoded UTF-8; encode it as RFC 3986 says.",
                    )
                })
            })
            .transpose()
    }

    /// The value of the parameter `name` as a whole number, or `None` if the query lacks it.
    ///
    /// The error is a 400: that of [`Query::get`], or the value is not an `i32`. The caller checks
    /// the range.
    pub fn integer(&self, name: &str) -> Result<Option<i32>, Problem> {
        let parse = |value: String| {
            value.parse().map_err(|_| {
                bad(
                    name,
                    format_args!("must be a whole number from 0 to {}.", i32::MAX),
                )
            })
        };
        self.get(name)?.map(parse).transpose()
    }
}

fn bad(name: &str, what: impl Display) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        format!("The parameter {name} {what}"),
    )
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.uri.clone()))
    }
}

/// Decodes text as HTML forms encode it (`%41`, and `+` for a space); `None` if it is not
/// percent-encoded UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(text.into());
    }
    let well_formed = text.split('%').skip(1).all(|escape| {
        let digits = escape.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    });
    if !well_formed {
        return None;
    }
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Some(Cow::Owned(
            percent_decode_str(&spaced).decode_utf8().ok()?.into_owned(),
        ));
    }
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(query: &str) -> Result<Option<String>, ()> {
        let uri = Uri::builder().path_and_query(format!("/?{query}")).build();
        Query(uri.unwrap()).get("name").map_err(drop)
    }

    #[test]
    fn values_are_decoded() {
        assert_eq!(get("name=stra%C3%9Fe"), Ok(Some("straße".into())));
        assert_eq!(
            get("a=b&name=two+words%2B&c"),
            Ok(Some("two words+".into()))
        );
        assert_eq!(get("n%61me=test"), Ok(Some("test".into())));
        assert_eq!(get("name="), Ok(Some(String::new())));
        assert_eq!(get("name"), Ok(Some(String::new())));
        assert_eq!(get("other=1"), Ok(None));
        assert_eq!(get(""), Ok(None));
    }

    #[test]
    fn invalid_encodings_and_repeated_parameters_are_refused() {
        for query in [
            "name=%",
            "name=%zz",
            "name=%4",
            "name=%ff",
            "name=%C3",
            "name=a&name=a",
            "name&n%61me",
        ] {
            assert_eq!(get(query), Err(()), "{query}");
        }
    }
}
