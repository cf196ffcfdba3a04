//! Lists items 1 to `length`: all at once, or one by one.

use std::{iter::FusedIterator, ops::RangeInclusive};

use protos::limits;
use tracing::info;

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: i32,
    pub(crate) name: String,
}

impl Item {
    fn new(id: i32) -> Self {
        Self {
            id,
            name: format!("name {id}"),
        }
    }
}

/// The length is not allowed for a list, or not for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidLength {
    #[error("length is {0}; it must be 0 or more")]
    Negative(i32),
    #[error("length is {0}; a list has at most {most} items, a stream has no limit", most = limits::LIST)]
    TooLong(i32),
}

impl InvalidLength {
    fn check(action: &'static str, length: i32, limit: i32) -> Result<(), Self> {
        let error = match length {
            ..0 => Self::Negative(length),
            _ if length > limit => Self::TooLong(length),
            _ => return Ok(()),
        };
        info!(action, status = "failure", %error, "length refused");
        Err(error)
    }
}

/// Items 1 to `length`.
pub(crate) fn get_all(length: i32) -> Result<impl Iterator<Item = Item>, InvalidLength> {
    InvalidLength::check("get_all", length, limits::LIST)?;
    info!(
        action = "get_all",
        status = "success",
        items = length,
        "items listed"
    );
    Ok((1..=length).map(Item::new))
}

/// Items 1 to `length`, each made when it is polled.
pub(crate) fn get_stream(length: i32) -> Result<Stream, InvalidLength> {
    InvalidLength::check("get_stream", length, i32::MAX)?;
    Ok(Stream {
        ids: 1..=length,
        length,
    })
}

/// The items of [`get_stream`]. Dropping this logs how many were made.
#[derive(Debug)]
pub(crate) struct Stream {
    ids: RangeInclusive<i32>,
    length: i32,
}

impl Iterator for Stream {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        self.ids.next().map(Item::new)
    }
}

impl FusedIterator for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            info!(
                action = "get_stream",
                status = "success",
                items = self.length,
                "items streamed"
            );
        } else {
            // Most likely by the caller. The access line says by whom.
            info!(
                action = "get_stream",
                status = "failure",
                items = self.ids.start() - 1,
                length = self.length,
                "the stream was ended early"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(items: impl Iterator<Item = Item>) -> Vec<i32> {
        items
            .inspect(|item| assert_eq!(item.name, format!("name {}", item.id)))
            .map(|item| item.id)
            .collect()
    }

    #[test]
    fn items_are_numbered_from_1() {
        for length in [0, 1, 5] {
            let numbers: Vec<_> = (1..=length).collect();
            assert_eq!(ids(get_all(length).unwrap()), numbers);
            assert_eq!(ids(get_stream(length).unwrap()), numbers);
        }
    }

    #[test]
    fn a_list_has_a_limit_and_a_stream_has_none() {
        assert_eq!(get_all(limits::LIST).unwrap().count(), 10_000);
        let too_long = get_all(limits::LIST + 1).map(drop).unwrap_err();
        assert_eq!(too_long, InvalidLength::TooLong(10_001));
        assert!(too_long.to_string().contains("10000"), "names the limit");
        assert!(too_long.to_string().contains("stream"), "and the way");
        assert_eq!(
            ids(get_stream(i32::MAX).unwrap().skip(9_999).take(2)),
            [10_000, 10_001]
        );
    }

    #[test]
    fn a_negative_length_is_refused() {
        for length in [-1, i32::MIN] {
            let error = InvalidLength::Negative(length);
            assert_eq!(get_all(length).map(drop), Err(error));
            assert_eq!(get_stream(length).map(drop), Err(error));
        }
    }
}
