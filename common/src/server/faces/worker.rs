//! [`Worker`]: the worker whose routers are being built.

use std::{cell::RefCell, future::Future};

use super::readiness::Readiness;
use crate::methods::Methods;

/// The worker whose routers are being built.
#[derive(Debug)]
pub struct Worker {
    readiness: Readiness,
    /// The declarations of the worker's gRPC services.
    methods: RefCell<Methods>,
}

impl Worker {
    pub(crate) fn new(readiness: Readiness) -> Self {
        Self {
            readiness,
            methods: RefCell::default(),
        }
    }

    /// Keeps the process from being ready until `condition` completes.
    pub fn ready_when(&self, condition: impl Future<Output = ()> + Send + 'static) {
        self.readiness.require();
        let readiness = self.readiness.clone();
        tokio::spawn(async move {
            condition.await;
            readiness.fulfil();
        });
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(crate) fn declare(&self, methods: Methods) {
        self.methods.borrow_mut().extend(methods);
    }

    pub(crate) fn into_methods(self) -> Methods {
        self.methods.into_inner()
    }
}
