//! [`WorkerPermits`]: a worker's access to the permits of the process; [`RequestPermit`]: the permits of one
//! request; and [`UnreadRefusal`]: a
//! response without a permit.

use std::sync::Arc;

use super::{
    handle::ConnectionHandle,
    permits::{NoPermit, Permit, Permits},
    request_class::{PermitPool, RequestClass},
};
use crate::{
    limits,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A worker's access to the permits of the process.
///
/// It takes a few permits of [`PermitPool::Requests`] in advance, so that most requests do not change the
/// count that all workers share.
#[derive(Debug)]
pub(crate) struct WorkerPermits {
    permits: Arc<Permits>,
    /// The permits that were taken in advance. Only the thread of the worker changes their number.
    spare: AtomicUsize,
    max_spare: usize,
    /// The responses without a permit that clients of this worker have not read yet.
    refusals: AtomicUsize,
}

impl WorkerPermits {
    pub(crate) fn new(permits: Arc<Permits>, workers: usize) -> Self {
        Self {
            max_spare: limits::MAX_SPARE
                .min(permits.max_in_flight() / limits::SPARE_SHARE / workers),
            permits,
            spare: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.permits.max_in_flight()
    }

    /// The permits of [`PermitPool::Requests`] that requests hold, if the process has one worker.
    pub(crate) fn in_flight(&self) -> usize {
        self.permits.taken(PermitPool::Requests) - self.spare.load(Relaxed)
    }

    pub(crate) fn take(
        self: &Arc<Self>,
        handle: &Arc<ConnectionHandle>,
        class: RequestClass,
    ) -> Result<RequestPermit, NoPermit> {
        let mut taken = [None; 2];
        for (index, pool) in class.pools().iter().enumerate() {
            match self.take_one(handle, *pool) {
                Ok(permit) => taken[index] = Some(permit),
                Err(error) => {
                    self.release(handle, class, taken);
                    return Err(error);
                }
            }
        }
        handle.usage.begin();
        Ok(RequestPermit {
            class,
            taken,
            handle: handle.clone(),
            permits: self.clone(),
            waits_for_service: true,
        })
    }

    fn take_one(&self, handle: &ConnectionHandle, pool: PermitPool) -> Result<Permit, NoPermit> {
        if pool != PermitPool::Requests {
            return self.permits.take(handle, pool, 0);
        }
        let spare = self.spare.load(Relaxed);
        if let Some(left) = spare.checked_sub(1) {
            self.spare.store(left, Relaxed);
            return Ok(Permit::Common { in_advance: 0 });
        }
        let permit = self.permits.take(handle, pool, self.max_spare / 2)?;
        if let Permit::Common { in_advance } = permit {
            self.spare.store(in_advance, Relaxed);
        }
        Ok(permit)
    }

    fn release(
        &self,
        handle: &ConnectionHandle,
        class: RequestClass,
        permits: [Option<Permit>; 2],
    ) {
        for (pool, permit) in class.pools().iter().zip(permits.into_iter().flatten()) {
            let spare = self.spare.load(Relaxed);
            if matches!(permit, Permit::Reserve) {
                self.permits.leave_reserve(*pool, handle.network);
            } else if *pool == PermitPool::Requests && spare < self.max_spare {
                self.spare.store(spare + 1, Relaxed);
                continue;
            }
            self.permits.release(*pool, 1);
        }
    }

    /// Counts a response without a permit. `None` if clients have left too many of them unread.
    pub(crate) fn refuse(
        self: &Arc<Self>,
        handle: &Arc<ConnectionHandle>,
    ) -> Option<UnreadRefusal> {
        let is_allowed = self.refusals.load(Relaxed) < limits::MAX_REFUSALS;
        is_allowed.then(|| {
            self.refusals.fetch_add(1, Relaxed);
            handle.usage.begin_refusal();
            UnreadRefusal {
                handle: handle.clone(),
                permits: self.clone(),
            }
        })
    }
}

/// The permits of a request. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    class: RequestClass,
    /// In the order of the pools of `class`.
    taken: [Option<Permit>; 2],
    handle: Arc<ConnectionHandle>,
    permits: Arc<WorkerPermits>,
    /// Whether the client waits for the service, and not the service for the client.
    waits_for_service: bool,
}

impl RequestPermit {
    /// Notes whether the client waits for the service, or a part of the response for the client.
    pub(crate) fn note_waits_for_service(&mut self, waits: bool) {
        if self.waits_for_service != waits {
            self.waits_for_service = waits;
            self.handle.usage.note_waits_for_service(waits);
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.note_waits_for_service(false);
        self.handle.usage.end();
        self.permits.release(&self.handle, self.class, self.taken);
    }
}

/// A response without a permit, until its client has read it.
#[derive(Debug)]
pub(crate) struct UnreadRefusal {
    handle: Arc<ConnectionHandle>,
    permits: Arc<WorkerPermits>,
}

impl Drop for UnreadRefusal {
    fn drop(&mut self) {
        self.handle.usage.end_refusal();
        self.permits.refusals.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::server::capacity::connections::Connections;

    /// The access of one worker to 1,000 permits, of which it keeps up to ten.
    fn worker() -> (Arc<WorkerPermits>, Arc<ConnectionHandle>) {
        let permits = Permits::new(1_000, Arc::new(Connections::new(1)));
        let worker = Arc::new(WorkerPermits::new(Arc::new(permits), 1));
        let handle = Arc::new(ConnectionHandle::new(Ipv4Addr::LOCALHOST.into()));
        (worker, handle)
    }

    #[test]
    fn a_worker_takes_permits_in_advance_and_keeps_some_of_those_that_are_given_back() {
        let (worker, handle) = worker();
        let taken = || worker.permits.taken(PermitPool::Requests);
        assert_eq!(worker.max_in_flight(), 1_000);
        let mut requests = Vec::new();
        for all in [6, 6, 6, 6, 6, 6, 12] {
            requests.extend(worker.take(&handle, RequestClass::Ordinary));
            assert_eq!((worker.in_flight(), taken()), (requests.len(), all));
        }
        for all in [12, 12, 12, 12, 12, 11, 10] {
            requests.pop();
            assert_eq!((worker.in_flight(), taken()), (requests.len(), all));
        }
    }

    #[test]
    fn no_probe_is_counted_in_advance() {
        let (worker, handle) = worker();
        let taken = |limit| worker.permits.taken(limit);
        let probe = worker.take(&handle, RequestClass::Probe);
        assert_eq!(taken(PermitPool::Probes), 1);
        assert_eq!(taken(PermitPool::Requests), 0);
        drop(probe);
        assert_eq!(taken(PermitPool::Probes), 0);
        let long_lived = worker.take(&handle, RequestClass::LongLived);
        assert_eq!(taken(PermitPool::LongLived), 1);
        assert_eq!(worker.in_flight(), 1);
        drop(long_lived);
        assert_eq!(taken(PermitPool::LongLived), 0);
        assert_eq!(worker.in_flight(), 0);
    }

    #[test]
    fn a_request_waits_for_the_service_or_for_its_client() {
        let (worker, handle) = worker();
        for now in [1, 3] {
            let mut request = worker.take(&handle, RequestClass::Ordinary).unwrap();
            assert_eq!(handle.usage.look(now), None);
            for _ in 0..2 {
                request.note_waits_for_service(false);
                assert_eq!(handle.usage.look(now), Some(now));
            }
            request.note_waits_for_service(true);
            assert_eq!(handle.usage.look(now + 1), None);
        }
    }
}
