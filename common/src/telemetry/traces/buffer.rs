//! The spans that have ended and are not exported yet: a list for each thread.

use std::sync::{Arc, Mutex};

use opentelemetry_sdk::trace::SpanData;

use crate::{sync::lock, telemetry::metrics};

/// The most spans of one thread that wait for the exporter, each about 1 KB. A worker at 15,000
/// requests/s fills it in half a second.
const MAX_WAITING: usize = 16_384;

/// The spans of one thread. Only the exporter, a few times a second, contends for the lock.
type Spans = Arc<Mutex<Vec<SpanData>>>;

static ALL: Mutex<Vec<Spans>> = Mutex::new(Vec::new());

thread_local! {
    /// The spans of this thread, which are in [`ALL`], too.
    static MINE: Spans = {
        let mine = Spans::default();
        lock(&ALL).push(mine.clone());
        mine
    };
}

/// Adds a span that has ended. One beyond the limit is dropped, and counted.
pub(crate) fn push(span: SpanData) {
    let is_kept = MINE.with(|mine| {
        let mut spans = lock(mine);
        let has_room = spans.len() < MAX_WAITING;
        if has_room {
            spans.push(span);
        }
        has_room
    });
    if !is_kept {
        metrics::count(|counters| &counters.spans_dropped);
    }
}

/// Takes the spans of all threads.
pub(crate) fn take_all() -> Vec<SpanData> {
    let all = lock(&ALL).clone();
    let spans = all
        .iter()
        .flat_map(|spans| std::mem::take(&mut *lock(spans)));
    spans.collect()
}

/// Takes the spans of this thread.
#[cfg(test)]
pub(crate) fn take_mine() -> Vec<SpanData> {
    MINE.with(|mine| std::mem::take(&mut *lock(mine)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::spans::tests::span;

    #[test]
    fn a_thread_keeps_a_bounded_number_of_spans() {
        for _ in 0..MAX_WAITING + 10 {
            push(span("one of many"));
        }
        assert_eq!(take_mine().len(), MAX_WAITING);
        push(span("after them"));
        assert_eq!(take_mine()[0].name, "after them");
    }
}
