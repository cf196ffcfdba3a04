//! [`Turns`]: the HTTP/2 streams of a connection, as one task.
//!
//! A task of its own for each stream would give a connection with 500 streams 500 times as much of a
//! worker as one with a single stream: all others would wait until each of the 500 had been polled. So
//! a connection has one task, which polls its streams for a [turn](limits::TURN) and then lets the other
//! connections have theirs. Within a connection, new streams and woken ones alternate: a short call
//! does not wait for the long responses of others behind the same proxy.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU8, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use slab::Slab;
use tokio::{task::yield_now, time::Instant};

use crate::{limits, sync::lock};

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The streams of a connection. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Shared>);

impl Turns {
    /// Adds a stream. It is polled by a task of this worker.
    pub(crate) fn add(&self, stream: Stream) {
        self.0.add(stream, |queue| &mut queue.new);
    }

    /// Adds a stream whose request was refused. Few of them are polled in a turn.
    pub(crate) fn add_refused(&self, stream: Stream) {
        self.0.add(stream, |queue| &mut queue.refused);
    }

    /// Whether a new stream has to wait until many others have begun.
    pub(crate) fn are_many(&self) -> bool {
        self.0.new.load(Relaxed) >= limits::MANY_NEW_STREAMS
    }

    /// Drops the streams that have not begun: their connection has ended.
    pub(crate) fn end(&self) {
        self.0.end();
    }
}

/// What the connection, the task and the wakers share.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// The number of new streams.
    new: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    /// The streams that have not been polled yet.
    new: VecDeque<Stream>,
    /// The same for streams whose requests were refused. A client that repeats each of them at once would
    /// otherwise take the worker, and its own time, from the requests that have a permit.
    refused: VecDeque<Stream>,
    /// The keys of the streams that were woken.
    woken: VecDeque<usize>,
    /// Whether the last stream that was polled was a new one.
    was_new: bool,
    is_ended: bool,
    task: Task,
}

/// The task that polls the streams.
#[derive(Default)]
enum Task {
    /// The first stream spawns it: a connection over HTTP/1 has none.
    #[default]
    None,
    Polls,
    Waits(Waker),
}

/// What a turn may still do.
struct Turn {
    /// The number of refused streams that may begin.
    refusals: usize,
    /// The number of woken streams that the turn still polls: those that were woken before it. A stream that
    /// wakes itself is polled in the next turn, so that its connection writes what it has sent: h2 drops what
    /// is not written when a response breaks off.
    woken: Option<usize>,
}

/// What the task does next.
enum Next {
    Begin(Stream),
    GoOn(usize),
    EndTurn,
    Wait { is_ended: bool },
}

impl Shared {
    fn add(self: &Arc<Self>, stream: Stream, to: fn(&mut Queue) -> &mut VecDeque<Stream>) {
        let mut queue = lock(&self.queue);
        to(&mut queue).push_back(stream);
        self.new.store(queue.new.len(), Relaxed);
        let task = queue.task.go_on();
        drop(queue);
        match task {
            Task::None => drop(tokio::spawn(Polling {
                shared: self.clone(),
                streams: Slab::new(),
            })),
            Task::Polls => {}
            Task::Waits(waker) => waker.wake(),
        }
    }

    fn wake(&self, key: usize) {
        let mut queue = lock(&self.queue);
        queue.woken.push_back(key);
        let task = queue.task.go_on();
        drop(queue);
        if let Task::Waits(waker) = task {
            waker.wake();
        }
    }

    fn end(&self) {
        let mut queue = lock(&self.queue);
        queue.is_ended = true;
        let dropped = (mem::take(&mut queue.new), mem::take(&mut queue.refused));
        self.new.store(0, Relaxed);
        // A task that never began must not be taken for one that polls.
        let waits = matches!(queue.task, Task::Waits(_));
        let task = waits.then(|| queue.task.go_on());
        drop(queue);
        drop(dropped);
        if let Some(Task::Waits(waker)) = task {
            waker.wake();
        }
    }

    /// Takes what comes next in a turn, and says whether there is more. If there is nothing, the waker is
    /// called when there is.
    fn next(&self, turn: &mut Turn, cx: &Context<'_>) -> (Next, bool) {
        let mut queue = lock(&self.queue);
        if turn.refusals > 0
            && let Some(stream) = queue.refused.pop_front()
        {
            turn.refusals -= 1;
            return (Next::Begin(stream), true);
        }
        let woken = turn.woken.get_or_insert(queue.woken.len());
        let takes_new = *woken == 0 || !queue.was_new;
        queue.was_new = takes_new && !queue.new.is_empty();
        let next = if queue.was_new
            && let Some(stream) = queue.new.pop_front()
        {
            self.new.store(queue.new.len(), Relaxed);
            Next::Begin(stream)
        } else if *woken > 0
            && let Some(key) = queue.woken.pop_front()
        {
            *woken -= 1;
            Next::GoOn(key)
        } else if !(queue.woken.is_empty() && queue.refused.is_empty()) {
            Next::EndTurn
        } else {
            queue.task = Task::Waits(cx.waker().clone());
            queue.new.shrink_to(limits::MANY_NEW_STREAMS);
            queue.refused.shrink_to(limits::MANY_NEW_STREAMS);
            queue.woken.shrink_to(limits::MANY_NEW_STREAMS);
            let is_ended = queue.is_ended;
            Next::Wait { is_ended }
        };
        (next, !queue.new.is_empty() || *woken > 0)
    }
}

impl Task {
    /// Notes that the task polls the streams. Returns what it did before.
    fn go_on(&mut self) -> Self {
        mem::replace(self, Self::Polls)
    }
}

/// Polls the streams of a connection.
struct Polling {
    shared: Arc<Shared>,
    streams: Slab<(Stream, Arc<StreamWaker>)>,
}

impl Polling {
    fn begin(&mut self, stream: Stream) -> usize {
        let entry = self.streams.vacant_entry();
        let key = entry.key();
        let waker = Arc::new(StreamWaker {
            key,
            state: AtomicU8::new(QUEUED),
            shared: self.shared.clone(),
        });
        entry.insert((stream, waker));
        key
    }

    fn go_on(&mut self, key: usize) {
        let Some((stream, own)) = self.streams.get_mut(key) else {
            return; // no queue has the key of a stream that has ended
        };
        own.state.swap(POLLED, AcqRel);
        let waker = Waker::from(own.clone());
        let mut cx = Context::from_waker(&waker);
        // As in a task of its own, a panic ends this stream and no other.
        let poll = catch_unwind(AssertUnwindSafe(|| stream.as_mut().poll(&mut cx)));
        if matches!(poll, Ok(Poll::Pending)) {
            own.wait();
        } else {
            own.state.store(ENDED, Relaxed);
            let ended = self.streams.remove(key);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(ended)));
        }
    }

    /// Frees the memory of a burst.
    fn rest(&mut self) {
        if self.streams.is_empty() && self.streams.capacity() > limits::MANY_NEW_STREAMS {
            self.streams = Slab::new();
        }
    }
}

impl Future for Polling {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut begin = None;
        let mut turn = Turn {
            refusals: limits::REFUSALS_PER_TURN,
            woken: None,
        };
        loop {
            let (next, has_more) = self.shared.next(&mut turn, cx);
            let key = match next {
                Next::Begin(stream) => self.begin(stream),
                Next::GoOn(key) => key,
                Next::EndTurn => break,
                Next::Wait { is_ended } if is_ended && self.streams.is_empty() => {
                    return Poll::Ready(());
                }
                Next::Wait { .. } => {
                    self.rest();
                    return Poll::Pending;
                }
            };
            if has_more {
                // A single stream ends its turn by itself, and costs no look at the clock.
                begin.get_or_insert_with(Instant::now);
            }
            self.go_on(key);
            if begin.is_some_and(|begin| begin.elapsed() >= limits::TURN) {
                break;
            }
        }
        // Continues once all other tasks have run and the sockets were polled. After a mere wake-up, the
        // runtime always has a task, and polls the sockets at every 61st only.
        pin!(yield_now()).poll(cx)
    }
}

// The states of a stream.
const WAITS: u8 = 0;
/// Its key is in the queue. A new stream is polled without.
const QUEUED: u8 = 1;
const POLLED: u8 = 2;
const WOKEN_WHILE_POLLED: u8 = 3;
const ENDED: u8 = 4;

/// Wakes a stream. The queue has its key at most once, and not once the stream has ended: the key would
/// then poll the next stream that has it, whose own entry would be left over in turn. The queue would
/// grow, and a stream that was woken once would wait behind all that is left over.
struct StreamWaker {
    key: usize,
    state: AtomicU8,
    shared: Arc<Shared>,
}

impl StreamWaker {
    /// Notes that a poll has ended and the stream has not.
    fn wait(&self) {
        if self.change(POLLED, WAITS).is_err() {
            self.state.store(QUEUED, Relaxed);
            self.shared.wake(self.key);
        }
    }

    fn change(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.state.compare_exchange(from, to, AcqRel, Acquire)
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Another thread may end the poll between the two attempts, so the first is made again.
        loop {
            if self.change(WAITS, QUEUED).is_ok() {
                return self.shared.wake(self.key);
            }
            match self.change(POLLED, WOKEN_WHILE_POLLED) {
                Err(WAITS) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        sync::atomic::AtomicBool,
        thread,
        time::Duration,
    };

    use tokio::sync::Notify;

    use super::*;

    /// A stream that takes a part of a turn whenever it is polled, without end.
    async fn long(polls: Arc<AtomicUsize>) {
        loop {
            polls.fetch_add(1, Relaxed);
            thread::sleep(limits::TURN / 4);
            yield_now().await;
        }
    }

    fn add_long(turns: &Turns, count: usize) -> Arc<AtomicUsize> {
        let polls = Arc::default();
        for _ in 0..count {
            turns.add(Box::pin(long(Arc::clone(&polls))));
        }
        polls
    }

    #[tokio::test]
    async fn a_connection_with_many_streams_gets_no_more_than_one_with_few() {
        let (many, few) = (Turns::default(), Turns::default());
        let (of_many, of_few) = (add_long(&many, 500), add_long(&few, 5));
        for _ in 0..100 {
            yield_now().await;
        }
        let (of_many, of_few) = (of_many.load(Relaxed), of_few.load(Relaxed));
        assert!(of_few > 0 && of_many < 3 * of_few, "{of_many}, {of_few}");
    }

    #[tokio::test]
    async fn a_stream_that_wakes_itself_goes_on_after_other_tasks() {
        let turns = Turns::default();
        let (has_run, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        turns.add(Box::pin({
            let (seen, mut is_first) = (seen.clone(), true);
            poll_fn(move |cx| {
                if mem::take(&mut is_first) {
                    let has_run = has_run.clone();
                    tokio::spawn(async move { has_run.store(true, Relaxed) });
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if has_run.load(Relaxed) {
                    seen.notify_one();
                }
                Poll::Ready(())
            })
        }));
        let seen = tokio::time::timeout(Duration::from_secs(5), seen.notified()).await;
        assert!(seen.is_ok(), "it went on at once");
    }

    #[tokio::test]
    async fn another_task_waits_for_one_turn() {
        let turns = Turns::default();
        let polls = add_long(&turns, 500);
        let before = tokio::spawn(async move { polls.load(Relaxed) });
        let before = before.await.unwrap();
        assert!((1..=4).contains(&before), "{before}");
    }

    #[tokio::test]
    async fn a_new_stream_does_not_wait_for_those_that_go_on() {
        let turns = Turns::default();
        let polls = add_long(&turns, 100);
        while polls.load(Relaxed) < 300 {
            yield_now().await;
        }
        let before = polls.load(Relaxed);
        let done = Arc::new(AtomicUsize::new(0));
        turns.add(Box::pin({
            let (polls, done) = (polls.clone(), done.clone());
            async move { done.store(polls.load(Relaxed), Relaxed) }
        }));
        while done.load(Relaxed) == 0 {
            yield_now().await;
        }
        let more = done.load(Relaxed) - before;
        assert!(more <= 1, "{more}");
    }

    #[tokio::test]
    async fn few_refusals_have_a_turn_and_each_has_one() {
        let turns = Turns::default();
        let refused = Arc::new(AtomicUsize::new(0));
        let polls = add_long(&turns, 1);
        for _ in 0..100 {
            let refused = refused.clone();
            turns.add_refused(Box::pin(async move {
                refused.fetch_add(1, Relaxed);
            }));
        }
        let of_turn = tokio::spawn({
            let refused = refused.clone();
            async move { refused.load(Relaxed) }
        });
        assert_eq!(of_turn.await.unwrap(), limits::REFUSALS_PER_TURN);
        while refused.load(Relaxed) < 100 {
            yield_now().await;
        }
        assert!(polls.load(Relaxed) >= 10, "{polls:?}");
    }

    #[tokio::test]
    async fn each_stream_goes_on_when_it_is_woken_and_only_then() {
        let turns = Turns::default();
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let polls = Arc::new(AtomicUsize::new(0));
        turns.add(Box::pin({
            let (first, second, polls) = (first.clone(), second.clone(), polls.clone());
            async move {
                first.notified().await;
                polls.fetch_add(1, Relaxed);
                second.notify_one();
            }
        }));
        turns.add(Box::pin(pending()));
        for _ in 0..5 {
            yield_now().await;
        }
        assert_eq!(polls.load(Relaxed), 0);
        first.notify_one();
        second.notified().await;
        assert_eq!(polls.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_stream_that_wakes_itself_in_its_last_poll_leaves_no_turn_to_the_next() {
        let turns = Turns::default();
        let done = Arc::new(Notify::new());
        turns.add(Box::pin(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        })));
        let polls = Arc::new(AtomicUsize::new(0));
        turns.add(Box::pin({
            let polls = polls.clone();
            poll_fn(move |_| {
                polls.fetch_add(1, Relaxed);
                Poll::Pending
            })
        }));
        turns.add(Box::pin({
            let (done, mut rounds) = (done.clone(), 0..10);
            poll_fn(move |cx| {
                cx.waker().wake_by_ref();
                if rounds.next().is_some() {
                    return Poll::Pending;
                }
                done.notify_one();
                Poll::Ready(())
            })
        }));
        done.notified().await;
        assert_eq!(polls.load(Relaxed), 1, "nobody woke it");
    }

    #[tokio::test]
    async fn a_panic_ends_its_stream_and_no_other() {
        let turns = Turns::default();
        let done = Arc::new(Notify::new());
        turns.add(Box::pin(async { panic!("the handler panics") }));
        turns.add(Box::pin({
            let done = done.clone();
            async move { done.notify_one() }
        }));
        done.notified().await;
    }

    #[tokio::test]
    async fn what_has_not_begun_is_dropped_with_the_connection() {
        let turns = Turns::default();
        let polls = add_long(&turns, 100);
        let left = tokio::spawn(async move {
            turns.end();
            Arc::strong_count(&polls) - 1
        });
        let left = left.await.unwrap();
        assert!((1..=4).contains(&left), "{left}");
    }

    #[tokio::test]
    async fn the_task_ends_with_the_connection_and_its_last_stream() {
        let turns = Turns::default();
        let last = Arc::new(Notify::new());
        turns.add(Box::pin({
            let last = last.clone();
            async move { last.notified().await }
        }));
        yield_now().await;
        turns.end();
        yield_now().await;
        let shared = Arc::downgrade(&turns.0);
        drop(turns);
        assert!(shared.strong_count() > 0, "a stream is open");
        last.notify_one();
        let ended = async {
            while shared.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .unwrap();
    }
}
