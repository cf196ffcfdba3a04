//! Models of the permits for requests, and of connections that must end.

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
    handle::{Close, ConnectionHandle},
    permits::{Permit, PermitPool, Permits, RequestClass, RequestPermit, WorkerPermits},
};
use crate::check;

/// So many that each worker takes nothing in advance.
const MANY_WORKERS: usize = usize::MAX;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn handle() -> Arc<ConnectionHandle> {
    Arc::new(ConnectionHandle::new(ADDRESS))
}

fn permits(limit: usize, connections: &[&Arc<ConnectionHandle>]) -> Arc<Permits> {
    let connections = connections.iter().copied().cloned().collect();
    Arc::new(Permits::new(limit, Arc::new(Connections(connections))))
}

fn worker(permits: &Arc<Permits>) -> Arc<WorkerPermits> {
    Arc::new(WorkerPermits::new(permits.clone(), MANY_WORKERS))
}

fn take(worker: &Arc<WorkerPermits>, handle: &Arc<ConnectionHandle>) -> Option<RequestPermit> {
    worker.take(handle, RequestClass::Ordinary, None).ok()
}

/// The permits that one connection after the other can take.
fn free(worker: &Arc<WorkerPermits>) -> usize {
    let all: Vec<_> = std::iter::from_fn(|| take(worker, &handle())).collect();
    all.len()
}

/// Two workers want the only permit: never do both have it, one has it, and it comes back.
pub fn one_permit_is_never_taken_twice() {
    check(|| {
        let permits = permits(1, &[]);
        let held = Arc::new(AtomicUsize::new(0));
        let ask = {
            let held = held.clone();
            move |worker: Arc<WorkerPermits>| {
                let permit = take(&worker, &handle());
                if permit.is_some() {
                    assert_eq!(held.fetch_add(1, SeqCst), 0);
                    thread::yield_now();
                    held.fetch_sub(1, SeqCst);
                }
                permit.is_some()
            }
        };
        let (mine, others) = (worker(&permits), worker(&permits));
        let other = {
            let ask = ask.clone();
            thread::spawn(move || ask(others))
        };
        let is_mine = ask(mine.clone());
        assert!(other.join().expect("it ends") || is_mine);
        assert_eq!(free(&mine), 1);
    });
}

/// Two connections of a network want the last permit, which is a reserve: one gets it, and it comes back to
/// the process and to its network.
pub fn a_permit_of_the_reserve_comes_back() {
    check(|| {
        let permits = permits(8, &[]);
        let of_process = worker(&permits);
        let busy = handle();
        let _all_but_one: Vec<_> = (0..7).map_while(|_| take(&of_process, &busy)).collect();
        let held = Arc::new(AtomicUsize::new(0));
        let ask = {
            let worker = of_process.clone();
            move || {
                if let Some(permit) = take(&worker, &handle()) {
                    assert_eq!(held.fetch_add(1, SeqCst), 0);
                    held.fetch_sub(1, SeqCst);
                    drop(permit);
                }
            }
        };
        let other = thread::spawn(ask.clone());
        ask();
        other.join().expect("it ends");
        assert_eq!(free(&of_process), 1);
    });
}

/// The only permit, and the client that has it and takes nothing.
fn stalled() -> (Arc<ConnectionHandle>, Arc<WorkerPermits>, RequestPermit) {
    let stalled = handle();
    let worker = worker(&permits(1, &[&stalled]));
    let mut its = take(&worker, &stalled).expect("it is free");
    its.note_waits_for_service(false);
    stalled.usage.look(1);
    (stalled, worker, its)
}

/// Two requests come while a client that takes nothing has the only permit: one of them gets it in advance,
/// and once all have ended there is one permit.
pub fn a_permit_is_given_in_advance_once() {
    check(|| {
        let (stalled, worker, its) = stalled();
        let ask = {
            let worker = worker.clone();
            move || take(&worker, &handle())
        };
        let other = thread::spawn(ask.clone());
        let mine = ask();
        let others = other.join().expect("it ends");
        assert_ne!(mine.is_some(), others.is_some());
        assert!(stalled.is_preempted());
        drop((mine, others, its));
        assert_eq!(free(&worker), 1);
    });
}

/// A request comes for which a connection is preempted: it gets the permit, the connection hears of that, and in
/// the end there is one permit again.
pub fn a_connection_is_preempted() {
    check(|| {
        let (stalled, worker, its) = stalled();
        let asks = {
            let worker = worker.clone();
            thread::spawn(move || take(&worker, &handle()).is_some())
        };
        block_on(poll_fn(|cx| {
            stalled.wake_to_close(cx.waker());
            if stalled.is_preempted() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
        drop(its);
        assert!(asks.join().expect("it ends"));
        assert_eq!(free(&worker), 1);
    });
}

/// In a process with threads of another maker, requests end on any of them: no permit is lost
/// or made up.
pub fn threads_of_another_maker_lose_no_permit() {
    check(|| {
        // So many that one worker would take some in advance; few of them are left for one client.
        let permits = permits(100, &[]);
        let (worker, client) = (worker(&permits), handle());
        for in_advance in [60, 13] {
            let taken = permits.take(&client, PermitPool::Requests, in_advance, None);
            assert!(matches!(taken, Ok(Permit::Common { .. })));
        }
        let [one, another] = [(); 2].map(|()| take(&worker, &client).expect("it is free"));
        let other = thread::spawn(move || drop(one));
        drop(another);
        other.join().expect("it ends");
        let left: Vec<_> = std::iter::from_fn(|| take(&worker, &client)).collect();
        assert_eq!(left.len(), 13);
    });
}

/// A connection looks once for reasons to end, and again whenever it is woken: it hears each, also the
/// second that comes while it hears of the first.
pub fn a_connection_hears_each_reason_to_close() {
    check(|| {
        let handle = handle();
        let connection = {
            let handle = handle.clone();
            thread::spawn(move || {
                // As in `ServeConnection`.
                let mut waker: Option<Waker> = None;
                block_on(poll_fn(|cx| {
                    let is_known = |waker: &Waker| waker.will_wake(cx.waker());
                    if !waker.as_ref().is_some_and(is_known) {
                        handle.wake_to_close(cx.waker());
                        waker = Some(cx.waker().clone());
                    }
                    if handle.told_to_close() == Some(Close::MakeRoom) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                }));
            })
        };
        handle.close(Close::Leave);
        handle.close(Close::MakeRoom);
        connection.join().expect("it ends");
    });
}
