//! Writes a stream of items as chunks of bytes, for the body of a response.

use axum::body::Bytes;
use futures_util::{Stream, StreamExt, stream};

/// The most items in a chunk: about 13 KB of JSON.
const CHUNK: usize = 400;

/// Room for an item, in bytes.
const ITEM: usize = 48;

/// Writes all items that are ready into one chunk, up to [`CHUNK`] of them. A ready item never
/// waits for another. An error comes after the chunk of the items before it.
pub(crate) fn chunks<T, E>(
    items: impl Stream<Item = Result<T, E>>,
    mut write: impl FnMut(&T, &mut Vec<u8>),
) -> impl Stream<Item = Result<Bytes, E>> {
    items.ready_chunks(CHUNK).flat_map(move |items| {
        let mut chunk = Vec::with_capacity(items.len() * ITEM);
        let mut failure = None;
        for item in items {
            match item {
                Ok(item) => write(&item, &mut chunk),
                Err(error) => failure = Some(Err(error)),
            }
        }
        let chunk = (!chunk.is_empty()).then(|| Ok(chunk.into()));
        stream::iter(chunk.into_iter().chain(failure))
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    type Text = Result<&'static str, &'static str>;

    /// The chunks that are ready.
    fn ready_chunks(items: impl Stream<Item = Text>) -> Vec<Result<Bytes, &'static str>> {
        let write = |item: &&str, chunk: &mut Vec<u8>| chunk.extend_from_slice(item.as_bytes());
        let mut chunks = Box::pin(chunks(items, write));
        let mut ready = Vec::new();
        while let Some(Some(chunk)) = chunks.next().now_or_never() {
            ready.push(chunk);
        }
        ready
    }

    #[test]
    fn ready_items_are_one_chunk_and_wait_for_no_other() {
        let items = stream::iter([Ok("a"), Ok("b")]);
        let waiting = stream::once(pending());
        assert_eq!(ready_chunks(items.clone()), [Ok("ab".into())]);
        assert_eq!(ready_chunks(items.chain(waiting)), [Ok("ab".into())]);
        assert_eq!(ready_chunks(stream::empty()), []);
        assert_eq!(ready_chunks(stream::pending()), []);
    }

    #[test]
    fn an_error_comes_after_the_items_before_it() {
        let items = stream::iter([Ok("a"), Err("broken")]);
        assert_eq!(ready_chunks(items), [Ok("a".into()), Err("broken")]);
        let error = stream::once(ready(Err("broken")));
        assert_eq!(ready_chunks(error), [Err("broken")]);
    }

    #[test]
    fn a_chunk_has_a_limit() {
        let chunks = ready_chunks(stream::iter(vec![Ok("0123456789"); 1_000]));
        let sizes = chunks.into_iter().map(|chunk| chunk.unwrap().len());
        assert_eq!(sizes.collect::<Vec<_>>(), [4_000, 4_000, 2_000]);
    }
}
