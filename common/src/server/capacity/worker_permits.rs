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
