//! Limits on requests in flight, and which requests give way at a limit.
//!
//! The workers share the [`Places`] of the process; each takes from them through its [`Share`].
//! Below a limit, a request costs a count. At a limit, requests give way to those of peers that
//! hold little: first a request whose client takes nothing of the response, then one of the
//! connection or the address that has the most in flight. A peer alone may have every place.

use std::{
    cell::Cell,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;

use super::connections::{Connections, Open, now};
use crate::{lock::lock, metrics};

/// The part of the requests in flight that may be long-lived; the others are for those that end.
const LONG_LIVED_SHARE: usize = 4;

/// Probes that may be in flight, beside all other requests: those of an orchestrator, and the
/// questions of clients that find us late, one for each of their connections.
const MAX_PROBES: usize = 1_024;

/// Reads of the metrics that may be in flight, as each of them is a text of some 10 KB to 200 KB.
const MAX_SCRAPES: usize = 16;

/// The part of the places that workers may keep free together: a hundredth, so that a limit of less
/// than a hundred for each worker holds exactly, and a larger one within 1 %.
const SPARE_SHARE: usize = 100;

/// The places that one worker may keep free: enough for the requests that come with one look at
/// its sockets.
const MAX_SPARE: usize = 16;

/// A client that takes nothing of its response for that long, in milliseconds, makes no progress.
const STALLED: u64 = 100;

/// There is something to take, and nobody has looked at it yet.
const OFFERED: u64 = u64::MAX;

/// How often all requests are looked at, at the most, in milliseconds.
const LOOK_INTERVAL: u64 = 10;

/// One gives way to another if it holds at least so many times as much: between those who hold
/// about the same, work that has begun is worth more than work that has not.
const MUCH_MORE: usize = 2;

/// What is limited by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    InFlight,
    LongLived,
    Probes,
    Scrapes,
}

/// What a request is, for the limits that it comes under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    /// It may take longer than others.
    LongLived,
    /// It asks how the service is.
    Probe,
    /// It reads the metrics.
    Scrape,
}

impl Kind {
    /// Its name in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "all",
            Self::LongLived => "long-lived",
            Self::Probe => "probes",
            Self::Scrape => "scrapes",
        }
    }

    fn limits(self) -> &'static [Limit] {
        match self {
            Self::Ordinary => &[Limit::InFlight],
            Self::LongLived => &[Limit::LongLived, Limit::InFlight],
            Self::Probe => &[Limit::Probes],
            Self::Scrape => &[Limit::Scrapes],
        }
    }
}

/// The places of the process for requests in flight.
#[derive(Debug)]
pub(super) struct Places {
    /// In the order of [`Limit`].
    counts: [Count; 4],
    connections: Arc<Connections>,
}

#[derive(Debug)]
struct Count {
    limit: usize,
    /// By all workers.
    taken: AtomicUsize,
    held: Mutex<Held>,
}

/// Who holds the places, as of the last look.
#[derive(Debug, Default)]
struct Held {
    looked: Option<u64>,
    /// Requests whose clients take nothing, the one that waits for longest last.
    stalled: Vec<(u64, Arc<Request>)>,
    /// How many places each network and its connections hold.
    networks: HashMap<IpAddr, Holder>,
}

#[derive(Debug, Default)]
struct Holder {
    count: usize,
    connections: Vec<(usize, Arc<Open>)>,
}

/// There is no place for a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoPlace {
    pub(super) limit: usize,
}

impl Places {
    /// For a process that may have this many requests in flight, over these connections.
    pub(super) fn new(max_in_flight: usize, connections: Arc<Connections>) -> Self {
        let long_lived = max_in_flight.div_ceil(LONG_LIVED_SHARE);
        let limits = [max_in_flight, long_lived, MAX_PROBES, MAX_SCRAPES];
        let counts = limits.map(|limit| Count {
            limit,
            taken: AtomicUsize::new(0),
            held: Mutex::default(),
        });
        Self {
            counts,
            connections,
        }
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.counts[Limit::InFlight as usize].limit
    }

    /// Takes one place for this connection, and up to `in_advance` others while there are many.
    /// Returns how many others.
    fn take(&self, open: &Arc<Open>, limit: Limit, in_advance: usize) -> Result<usize, NoPlace> {
        let count = &self.counts[limit as usize];
        let before = count.taken.fetch_add(1 + in_advance, Relaxed);
        if before + in_advance < count.limit / 4 * 3 {
            return Ok(in_advance);
        }
        self.release(limit, in_advance);
        if before < count.limit {
            self.look_ahead(limit);
            return Ok(0);
        }
        if self.make_room(open, limit) {
            return Ok(0);
        }
        self.release(limit, 1);
        Err(NoPlace { limit: count.limit })
    }

    fn release(&self, limit: Limit, places: usize) {
        self.counts[limit as usize].taken.fetch_sub(places, Relaxed);
    }

    /// Near the limit: looks for clients that take nothing, to know at the limit for how long.
    fn look_ahead(&self, limit: Limit) {
        if let Ok(mut held) = self.counts[limit as usize].held.try_lock() {
            let now = now();
            if held.looked.is_none_or(|looked| now >= looked + STALLED) {
                *held = self.look(limit, now);
            }
        }
    }

    /// Whether another request gives way to one of this connection.
    fn make_room(&self, newcomer: &Arc<Open>, limit: Limit) -> bool {
        let mut held = lock(&self.counts[limit as usize].held);
        if self.end_one(&mut held, newcomer, limit) {
            return true;
        }
        let now = now();
        if held
            .looked
            .is_some_and(|looked| now < looked + LOOK_INTERVAL)
        {
            return false;
        }
        *held = self.look(limit, now);
        self.end_one(&mut held, newcomer, limit)
    }

    /// Looks at all requests that come under a limit.
    fn look(&self, limit: Limit, now: u64) -> Held {
        let mut held = Held {
            looked: Some(now),
            ..Held::default()
        };
        self.connections.for_each(|open| {
            if open.in_flight() == 0 {
                return;
            }
            let mut count = 0;
            for (_, request) in &*lock(&open.requests) {
                if request.gives_way() || !request.kind.limits().contains(&limit) {
                    continue;
                }
                count += 1;
                match request.untaken_since.load(Relaxed) {
                    0 => {}
                    // The clock is not read for each response: the time begins with the first look.
                    OFFERED => {
                        let _ = request
                            .untaken_since
                            .compare_exchange(OFFERED, now, Relaxed, Relaxed);
                    }
                    since if since + STALLED > now => {}
                    since => held.stalled.push((since, request.clone())),
                }
            }
            if count > 0 {
                let holder = held.networks.entry(open.network).or_default();
                holder.count += count;
                holder.connections.push((count, open.clone()));
            }
        });
        held.stalled
            .sort_unstable_by_key(|(since, _)| u64::MAX - since);
        held
    }

    /// Ends one of those that are held, if one of them has to give way to the newcomer.
    fn end_one(&self, held: &mut Held, newcomer: &Arc<Open>, limit: Limit) -> bool {
        self.end_stalled(held) || self.end_of_who_has_most(held, newcomer, limit)
    }

    fn end_stalled(&self, held: &mut Held) -> bool {
        while let Some((since, request)) = held.stalled.pop() {
            if request.untaken_since.load(Relaxed) == since && self.end(&request) {
                return true;
            }
        }
        false
    }

    fn end_of_who_has_most(&self, held: &mut Held, newcomer: &Arc<Open>, limit: Limit) -> bool {
        let own = held.networks.get(&newcomer.network);
        let own = own.map_or(0, |holder| holder.count);
        let networks = held.networks.iter_mut();
        let Some((network, holder)) = networks.max_by_key(|(_, holder)| holder.count) else {
            return false;
        };
        let connections = holder.connections.iter_mut();
        let Some((count, open)) = connections.max_by_key(|(count, _)| *count) else {
            return false;
        };
        let is_much = if *network == newcomer.network {
            *count >= MUCH_MORE * (newcomer.in_flight() + 1)
        } else {
            holder.count >= MUCH_MORE * (own + 1)
        };
        if !is_much {
            return false;
        }
        *count -= 1;
        holder.count -= 1;
        let requests = lock(&open.requests);
        let newest_first = requests.iter().map(|(_, request)| request).rev();
        let mut under_limit = newest_first.filter(|request| request.kind.limits().contains(&limit));
        under_limit.any(|request| self.end(request))
    }

    /// Ends a request, whose place is free from now on.
    fn end(&self, request: &Request) -> bool {
        let (active, gives_way) = (State::Active as u8, State::GivesWay as u8);
        let ended = request
            .state
            .compare_exchange(active, gives_way, Relaxed, Relaxed);
        if ended.is_err() {
            return false;
        }
        metrics::mine(|mine| mine.gave_way.add(1));
        for limit in request.kind.limits() {
            self.release(*limit, 1);
        }
        request.waker.wake();
        true
    }
}

/// What a worker takes places with.
///
/// It keeps some free places of [`Limit::InFlight`], so that most requests do not touch the count
/// that the workers share.
#[derive(Debug)]
pub(super) struct Share {
    places: Arc<Places>,
    /// Places that this worker has taken in advance. Only its own thread changes it.
    spare: AtomicUsize,
    max_spare: usize,
}

impl Share {
    /// That of one of so many workers. Together they keep a [`SPARE_SHARE`]th of all places at most.
    pub(super) fn new(places: Arc<Places>, workers: usize) -> Self {
        Self {
            max_spare: MAX_SPARE.min(places.max_in_flight() / SPARE_SHARE / workers),
            places,
            spare: AtomicUsize::new(0),
        }
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.places.max_in_flight()
    }

    /// Takes a place for a request of this connection.
    pub(super) fn take(
        self: &Arc<Self>,
        open: &Arc<Open>,
        kind: Kind,
    ) -> Result<InFlight, NoPlace> {
        let limits = kind.limits();
        for (index, limit) in limits.iter().enumerate() {
            if let Err(error) = self.take_one(open, *limit) {
                self.release(&limits[..index]);
                return Err(error);
            }
        }
        let request = Arc::new(Request::new(kind));
        BEGUN.set(Some(request.clone()));
        Ok(InFlight {
            key: open.begin_request(request.clone()),
            request,
            open: open.clone(),
            share: self.clone(),
        })
    }

    fn take_one(&self, open: &Arc<Open>, limit: Limit) -> Result<(), NoPlace> {
        if limit != Limit::InFlight {
            return self.places.take(open, limit, 0).map(|_| ());
        }
        let spare = self.spare.load(Relaxed);
        let left = match spare.checked_sub(1) {
            Some(left) => left,
            None => self.places.take(open, limit, self.max_spare / 2)?,
        };
        self.spare.store(left, Relaxed);
        Ok(())
    }

    fn release(&self, limits: &[Limit]) {
        for limit in limits {
            let spare = self.spare.load(Relaxed);
            if *limit == Limit::InFlight && spare < self.max_spare {
                self.spare.store(spare + 1, Relaxed);
            } else {
                self.places.release(*limit, 1);
            }
        }
    }
}

/// What is true of a request.
#[derive(Debug, Clone, Copy)]
enum State {
    Active,
    /// It has to end for another, which has its place already.
    GivesWay,
    Over,
}

/// A request in flight, as other threads than its own see it.
#[derive(Debug)]
pub(super) struct Request {
    kind: Kind,
    /// Since when its client has taken nothing though there is something to take; [`OFFERED`] until
    /// somebody looks, and 0 where the client waits for us.
    untaken_since: AtomicU64,
    /// A [`State`].
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Request {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            untaken_since: AtomicU64::new(0),
            state: AtomicU8::new(State::Active as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// Whether it has to end for another.
    pub(super) fn gives_way(&self) -> bool {
        self.state.load(Relaxed) == State::GivesWay as u8
    }

    /// The waker is called when it has to; at once, where it has to by now.
    pub(super) fn wake_to_give_way(&self, waker: &Waker) {
        self.waker.register(waker);
        if self.gives_way() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.load(Relaxed) == State::Over as u8
    }

    /// Whether it has to end, and what carries it must do so, as its body is not asked any more.
    pub(super) fn is_cut_off(&self) -> bool {
        self.gives_way() && self.untaken_since.load(Relaxed) != 0
    }

    /// There is something for the client to take.
    pub(super) fn note_offered(&self) {
        self.untaken_since.store(OFFERED, Relaxed);
    }

    /// The client waits for us.
    pub(super) fn note_waited_for(&self) {
        self.untaken_since.store(0, Relaxed);
    }
}

/// A request in flight; its places are free when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) request: Arc<Request>,
    key: usize,
    open: Arc<Open>,
    share: Arc<Share>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.open.end_request(self.key);
        let before = self.request.state.swap(State::Over as u8, Relaxed);
        if before == State::Active as u8 {
            self.share.release(self.request.kind.limits());
        }
    }
}

thread_local! {
    /// The request that was given its place last, for what carries it.
    static BEGUN: Cell<Option<Arc<Request>>> = const { Cell::new(None) };
}

/// The request that has begun on this thread since the last call.
pub(super) fn take_begun() -> Option<Arc<Request>> {
    BEGUN.take()
}
