//! Writes a stream of items as chunks of bytes, for the body of a response.

use std::{future::ready, mem, task::Poll};

use axum::body::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

/// A chunk takes no further item from this number of bytes on. So a chunk of items is a frame of
/// HTTP/2, which has at most 16 KiB.
const CHUNK: usize = 12 * 1_024;

/// Writes all items that are ready into one chunk, up to about [`CHUNK`] bytes. A ready item never
/// waits for another. An error comes after the chunk of the items before it, and nothing comes after
/// an error.
pub(crate) fn chunks<T, E>(
    items: impl Stream<Item = Result<T, E>>,
    mut write: impl FnMut(&T, &mut Vec<u8>),
) -> impl Stream<Item = Result<Bytes, E>> {
    let mut items = Box::pin(items);
    let mut is_over = false;
    let mut error = None;
    stream::poll_fn(move |cx| {
        let mut chunk = Vec::new();
        while !is_over && chunk.len() < CHUNK {
            match items.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(item))) => write(&item, &mut chunk),
                Poll::Ready(end) => {
                    is_over = true;
                    error = end.and_then(Result::err);
                }
                Poll::Pending if chunk.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(if chunk.is_empty() {
            error.take().map(Err)
        } else {
            Some(Ok(chunk.into()))
        })
    })
}

/// Writes items as a JSON array. An array that breaks off has no end.
pub(crate) fn array<T, E>(
    items: impl Stream<Item = Result<T, E>>,
    mut write: impl FnMut(&T, &mut Vec<u8>),
) -> impl Stream<Item = Result<Bytes, E>> {
    let end = stream::once(ready(Ok(None)));
    let mut is_first = true;
    chunks(items.map_ok(Some).chain(end), move |item, chunk| {
        if mem::take(&mut is_first) {
            chunk.push(b'[');
        } else if item.is_some() {
            chunk.push(b',');
        }
        match item {
            Some(item) => write(item, chunk),
            None => chunk.push(b']'),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;

    use super::*;

    type Text = Result<&'static str, &'static str>;

    fn write(item: &&'static str, chunk: &mut Vec<u8>) {
        chunk.extend_from_slice(item.as_bytes());
    }

    /// The chunks of these items that are ready.
    fn ready_chunks(items: impl Stream<Item = Text>) -> Vec<Result<Bytes, &'static str>> {
        all_ready(chunks(items, write))
    }

    /// The chunks of an array of these items that are ready.
    fn ready_array(items: impl Stream<Item = Text>) -> Vec<Result<Bytes, &'static str>> {
        all_ready(array(items, write))
    }

    fn all_ready<T>(chunks: impl Stream<Item = T>) -> Vec<T> {
        let mut chunks = Box::pin(chunks);
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
    fn an_error_comes_after_the_items_before_it_and_is_the_last() {
        let items = stream::iter([Ok("a"), Err("broken"), Ok("b"), Err("again")]);
        assert_eq!(ready_chunks(items.clone()), [Ok("a".into()), Err("broken")]);
        assert_eq!(ready_array(items), [Ok("[a".into()), Err("broken")]);
        let error = stream::iter([Err("broken")]);
        assert_eq!(ready_chunks(error.clone()), [Err("broken")]);
        assert_eq!(ready_array(error), [Err("broken")]);
    }

    #[test]
    fn a_chunk_has_a_limit() {
        let kilobyte: &str = "0123456789abcdef".repeat(64).leak();
        let chunks = ready_chunks(stream::iter(vec![Ok(kilobyte); 30]));
        let sizes = chunks.into_iter().map(|chunk| chunk.unwrap().len());
        assert_eq!(sizes.collect::<Vec<_>>(), [CHUNK, CHUNK, 6 * 1_024]);
    }

    #[test]
    fn an_array_is_json_and_ends_with_its_last_item() {
        let array = |items: &[&'static str]| ready_array(stream::iter(items.to_vec()).map(Ok));
        assert_eq!(array(&[]), [Ok("[]".into())]);
        assert_eq!(array(&["1"]), [Ok("[1]".into())]);
        assert_eq!(array(&["1", "2", "3"]), [Ok("[1,2,3]".into())]);
        let first = stream::iter([Ok("1")]).chain(stream::pending());
        assert_eq!(ready_array(first), [Ok("[1".into())]);
    }
}
