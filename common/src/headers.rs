//! [`first`] and [`all`]: look a header up by comparing names. [`HeaderMap`] hashes the name that it is asked for,
//! which takes ten times as long as comparing it with another: that pays for many headers only. The most that a
//! head may have, 24 KiB, takes less time than to put its headers into the map.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The first value of a header.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    all(headers, name).next()
}

/// All values of a header.
pub(crate) fn all<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a HeaderValue> {
    let all = headers.iter().filter(move |(found, _)| *found == name);
    all.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST};

    use super::*;

    #[test]
    fn a_header_is_found_with_each_of_its_values() {
        let mut headers = HeaderMap::new();
        assert_eq!(first(&headers, &HOST), None);
        for (name, value) in [(HOST, "a"), (ACCEPT, "*"), (HOST, "b")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(first(&headers, &HOST).unwrap(), "a");
        assert!(all(&headers, &HOST).eq(["a", "b"]));
        assert!(all(&headers, &ACCEPT).eq(["*"]));
    }
}
