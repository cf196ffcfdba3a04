//! Streams of items, written into chunks of bytes for the body of an answer.

use std::task::Poll;

use axum::body::Bytes;
use futures_util::{Stream, StreamExt, stream};

/// A chunk is full with that many bytes, which are 400 items as JSON.
const CHUNK: usize = 16 * 1024;

/// Room for the item that crosses the limit.
const CAPACITY: usize = CHUNK + 1024;

/// Writes all items that are ready, up to [`CHUNK`] bytes, into one chunk. It never waits for
/// another item while it has one, so each leaves when it comes. An error ends the chunks, after
/// what came before it.
pub(crate) fn chunks<T, E>(
    items: impl Stream<Item = Result<T, E>>,
    mut write: impl FnMut(&T, &mut Vec<u8>),
) -> impl Stream<Item = Result<Bytes, E>> {
    let mut items = Box::pin(items.fuse());
    let mut failure = None;
    stream::poll_fn(move |cx| {
        if let Some(error) = failure.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let next = items.poll_next_unpin(cx);
            let Poll::Ready(Some(Ok(item))) = next else {
                if chunk.is_empty() {
                    return next.map_ok(|_| Bytes::new());
                }
                if let Poll::Ready(Some(Err(error))) = next {
                    failure = Some(error);
                }
                break;
            };
            if chunk.is_empty() {
                chunk.reserve(CAPACITY);
            }
            write(&item, &mut chunk);
        }
        Poll::Ready(Some(Ok(chunk.into())))
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    type Text = Result<&'static str, &'static str>;

    /// What of this stream is ready, chunk by chunk.
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
    fn what_is_ready_leaves_in_one_chunk_and_waits_for_nothing() {
        let items = stream::iter([Ok("a"), Ok("b")]);
        let waiting = stream::once(pending());
        assert_eq!(ready_chunks(items.clone()), [Ok("ab".into())]);
        assert_eq!(ready_chunks(items.chain(waiting)), [Ok("ab".into())]);
        assert_eq!(ready_chunks(stream::empty()), []);
        assert_eq!(ready_chunks(stream::pending()), []);
    }

    #[test]
    fn an_error_comes_after_what_was_there_before_it() {
        let items = stream::iter([Ok("a"), Err("broken")]);
        assert_eq!(ready_chunks(items), [Ok("a".into()), Err("broken")]);
        let error = stream::once(ready(Err("broken")));
        assert_eq!(ready_chunks(error), [Err("broken")]);
    }

    #[test]
    fn a_chunk_has_a_limit() {
        let items = stream::iter(vec![Ok("0123456789"); 5_000]);
        let sizes: Vec<_> = ready_chunks(items)
            .into_iter()
            .map(|chunk| chunk.unwrap().len())
            .collect();
        assert_eq!(sizes.iter().sum::<usize>(), 50_000);
        assert!(sizes.iter().all(|size| *size <= CAPACITY), "{sizes:?}");
        assert_eq!(sizes.len(), 4);
    }
}
