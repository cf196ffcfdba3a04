//! [`WorkerPermits`]: a worker's access to the places of the process; and [`RequestPermit`]: the places of one
//! request.

use std::sync::Arc;

use super::{
    open::Open,
    permits::{NoPermit, Permit, Permits},
    request_class::{PermitPool, RequestClass},
};
use crate::{
    limits,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A worker's access to the places of the process.
///
/// A share reserves a few places of [`PermitPool::RequestPermit`], so that most requests do not change the
/// count that all workers share.
#[derive(Debug)]
pub(crate) struct WorkerPermits {
    places: Arc<Permits>,
    /// The reserved places. Only the thread of the worker changes their number.
    spare: AtomicUsize,
    max_spare: usize,
}

impl WorkerPermits {
    pub(crate) fn new(places: Arc<Permits>, workers: usize) -> Self {
        Self {
            max_spare: limits::MAX_SPARE
                .min(places.max_in_flight() / limits::SPARE_SHARE / workers),
            places,
            spare: AtomicUsize::new(0),
        }
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.places.max_in_flight()
    }

    /// The places of [`PermitPool::RequestPermit`] that requests hold, if the process has one worker.
    pub(crate) fn in_flight(&self) -> usize {
        self.places.taken(PermitPool::RequestPermit) - self.spare.load(Relaxed)
    }

    pub(crate) fn take(
        self: &Arc<Self>,
        open: &Arc<Open>,
        kind: RequestClass,
    ) -> Result<RequestPermit, NoPermit> {
        let mut places = [None; 2];
        for (index, limit) in kind.limits().iter().enumerate() {
            match self.take_one(open, *limit) {
                Ok(place) => places[index] = Some(place),
                Err(error) => {
                    self.release(open, kind, places);
                    return Err(error);
                }
            }
        }
        open.begin_request();
        Ok(RequestPermit {
            kind,
            places,
            open: open.clone(),
            share: self.clone(),
            waits_for_service: true,
        })
    }

    fn take_one(&self, open: &Open, limit: PermitPool) -> Result<Permit, NoPermit> {
        if limit != PermitPool::RequestPermit {
            return self.places.take(open, limit, 0);
        }
        let spare = self.spare.load(Relaxed);
        if let Some(left) = spare.checked_sub(1) {
            self.spare.store(left, Relaxed);
            return Ok(Permit::Common { in_advance: 0 });
        }
        let place = self.places.take(open, limit, self.max_spare / 2)?;
        if let Permit::Common { in_advance } = place {
            self.spare.store(in_advance, Relaxed);
        }
        Ok(place)
    }

    fn release(&self, open: &Open, kind: RequestClass, places: [Option<Permit>; 2]) {
        for (limit, place) in kind.limits().iter().zip(places.into_iter().flatten()) {
            let spare = self.spare.load(Relaxed);
            if matches!(place, Permit::Reserve) {
                self.places.leave_reserve(*limit, open.network);
            } else if *limit == PermitPool::RequestPermit && spare < self.max_spare {
                self.spare.store(spare + 1, Relaxed);
                continue;
            }
            self.places.release(*limit, 1);
        }
    }
}

/// The places of a request. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    kind: RequestClass,
    /// In the order of the limits of `kind`.
    places: [Option<Permit>; 2],
    pub(crate) open: Arc<Open>,
    share: Arc<WorkerPermits>,
    /// Whether the client waits for the service, and not the service for the client.
    waits_for_service: bool,
}

impl RequestPermit {
    /// Notes whether the client waits for the service, or a part of the response for the client.
    pub(crate) fn note_waits_for_service(&mut self, waits: bool) {
        if self.waits_for_service != waits {
            self.waits_for_service = waits;
            self.open.held.note_waits_for_service(waits);
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.note_waits_for_service(false);
        self.open.end_request();
        self.share.release(&self.open, self.kind, self.places);
    }
}
