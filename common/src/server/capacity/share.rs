//! [`Share`]: a worker's access to the places of the process; and [`InFlight`]: the places of one
//! request.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{
    in_flight::Request,
    kind::{Kind, Limit},
    open::Open,
    places::{NoPlace, Places},
};
use crate::limits;

/// A worker's access to the places of the process.
///
/// A share reserves a few places of [`Limit::InFlight`], so that most requests do not change the
/// count that all workers share.
#[derive(Debug)]
pub(crate) struct Share {
    places: Arc<Places>,
    /// The reserved places. Only the thread of the worker changes their number.
    spare: AtomicUsize,
    max_spare: usize,
}

impl Share {
    pub(crate) fn new(places: Arc<Places>, workers: usize) -> Self {
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

    pub(crate) fn take(
        self: &Arc<Self>,
        open: &Arc<Open>,
        kind: Kind,
    ) -> Result<InFlight, NoPlace> {
        for (index, limit) in kind.limits().iter().enumerate() {
            if let Err(error) = self.take_one(open, *limit) {
                self.release(&kind.limits()[..index]);
                return Err(error);
            }
        }
        let request = Request::begin(kind);
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

/// The places of a request. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) request: Arc<Request>,
    key: usize,
    open: Arc<Open>,
    share: Arc<Share>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.open.end_request(self.key);
        if self.request.end() {
            self.share.release(self.request.kind.limits());
        }
    }
}
