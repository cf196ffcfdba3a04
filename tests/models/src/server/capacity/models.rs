//! Models of the places for requests, and of connections that must end.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        // Seen by loom's threads in one order: they check the model and are no part of it.
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Poll, Waker},
};

use loom::{future::block_on, thread};

use super::{
    connections::Connections,
    open::{Close, Open},
    permits::{Permit, Permits},
    request_class::{PermitPool, RequestClass},
    worker_permits::{RequestPermit, WorkerPermits},
};
use crate::check;

/// So many that each worker's share reserves nothing.
const MANY_WORKERS: usize = usize::MAX;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn open() -> Arc<Open> {
    Arc::new(Open::new(ADDRESS))
}

fn places(limit: usize, connections: &[&Arc<Open>]) -> Arc<Permits> {
    let connections = connections.iter().copied().cloned().collect();
    Arc::new(Permits::new(limit, Arc::new(Connections(connections))))
}

fn share(places: &Arc<Permits>) -> Arc<WorkerPermits> {
    Arc::new(WorkerPermits::new(places.clone(), MANY_WORKERS))
}

fn take(share: &Arc<WorkerPermits>, open: &Arc<Open>) -> Option<RequestPermit> {
    share.take(open, RequestClass::Ordinary).ok()
}

/// The places that one connection after the other can take.
fn free(share: &Arc<WorkerPermits>) -> usize {
    let all: Vec<_> = std::iter::from_fn(|| take(share, &open())).collect();
    all.len()
}

/// Two workers want the only place: never do both have it, one has it, and it comes back.
pub fn one_place_is_never_taken_twice() {
    check(|| {
        let places = places(1, &[]);
        let held = Arc::new(AtomicUsize::new(0));
        let ask = {
            let held = held.clone();
            move |share: Arc<WorkerPermits>| {
                let place = take(&share, &open());
                if place.is_some() {
                    assert_eq!(held.fetch_add(1, SeqCst), 0);
                    thread::yield_now();
                    held.fetch_sub(1, SeqCst);
                }
                place.is_some()
            }
        };
        let (mine, others) = (share(&places), share(&places));
        let other = {
            let ask = ask.clone();
            thread::spawn(move || ask(others))
        };
        let is_mine = ask(mine.clone());
        assert!(other.join().expect("it ends") || is_mine);
        assert_eq!(free(&mine), 1);
    });
}

/// Two connections of a network want the last place, which is a reserve: one gets it, and it comes back to
/// the process and to its network.
pub fn a_place_of_the_reserve_comes_back() {
    check(|| {
        let places = places(8, &[]);
        let of_process = share(&places);
        let busy = open();
        let _all_but_one: Vec<_> = (0..7).map_while(|_| take(&of_process, &busy)).collect();
        let held = Arc::new(AtomicUsize::new(0));
        let ask = {
            let share = of_process.clone();
            move || {
                if let Some(place) = take(&share, &open()) {
                    assert_eq!(held.fetch_add(1, SeqCst), 0);
                    held.fetch_sub(1, SeqCst);
                    drop(place);
                }
            }
        };
        let other = thread::spawn(ask.clone());
        ask();
        other.join().expect("it ends");
        assert_eq!(free(&of_process), 1);
    });
}

/// The only place, and the client that has it and takes nothing.
fn stalled() -> (Arc<Open>, Arc<WorkerPermits>, RequestPermit) {
    let stalled = open();
    let share = share(&places(1, &[&stalled]));
    let mut its = take(&share, &stalled).expect("it is free");
    its.note_waits_for_service(false);
    stalled.held.look(1);
    (stalled, share, its)
}

/// Two requests come while a client that takes nothing has the only place: one of them gets it in advance,
/// and once all have ended there is one place.
pub fn a_place_is_given_in_advance_once() {
    check(|| {
        let (stalled, share, its) = stalled();
        let ask = {
            let share = share.clone();
            move || take(&share, &open())
        };
        let other = thread::spawn(ask.clone());
        let mine = ask();
        let others = other.join().expect("it ends");
        assert_ne!(mine.is_some(), others.is_some());
        assert!(stalled.held.gives_way());
        drop((mine, others, its));
        assert_eq!(free(&share), 1);
    });
}

/// A request comes for which a connection gives way: it gets the place, the connection hears of that, and in
/// the end there is one place again.
pub fn a_connection_gives_way() {
    check(|| {
        let (stalled, share, its) = stalled();
        let asks = {
            let share = share.clone();
            thread::spawn(move || take(&share, &open()).is_some())
        };
        block_on(poll_fn(|cx| {
            stalled.wake_to_close(cx.waker());
            if stalled.held.gives_way() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
        drop(its);
        assert!(asks.join().expect("it ends"));
        assert_eq!(free(&share), 1);
    });
}

/// In a process with threads of another maker, requests of one share end on any of them: no place is lost
/// or made up.
pub fn a_share_without_a_worker_of_its_own_loses_no_place() {
    check(|| {
        // So many that a share of one worker would reserve some; few of them are left for one client.
        let places = places(100, &[]);
        let (share, client) = (share(&places), open());
        for in_advance in [60, 13] {
            let taken = places.take(&client, PermitPool::RequestPermit, in_advance);
            assert!(matches!(taken, Ok(Permit::Common { .. })));
        }
        let [one, another] = [(); 2].map(|()| take(&share, &client).expect("it is free"));
        let other = thread::spawn(move || drop(one));
        drop(another);
        other.join().expect("it ends");
        let left: Vec<_> = std::iter::from_fn(|| take(&share, &client)).collect();
        assert_eq!(left.len(), 13);
    });
}

/// A connection looks once for reasons to end, and again whenever it is woken: it hears each, also the
/// second that comes while it hears of the first.
pub fn a_connection_hears_each_reason_to_close() {
    check(|| {
        let open = open();
        let connection = {
            let open = open.clone();
            thread::spawn(move || {
                // As in `Drive`.
                let mut waker: Option<Waker> = None;
                block_on(poll_fn(|cx| {
                    let is_known = |waker: &Waker| waker.will_wake(cx.waker());
                    if !waker.as_ref().is_some_and(is_known) {
                        open.wake_to_close(cx.waker());
                        waker = Some(cx.waker().clone());
                    }
                    if open.told_to_close() == Some(Close::MakeRoom) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                }));
            })
        };
        open.close(Close::Leave);
        open.close(Close::MakeRoom);
        connection.join().expect("it ends");
    });
}
