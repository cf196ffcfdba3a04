//! [`LastFailure`]: why a request failed. The exporter says "network error" of whatever it was.

use std::{
    error::Error,
    sync::{Arc, Mutex},
};

use crate::sync::lock;

/// Why the last request failed, if it did. Clones share the text.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastFailure(Arc<Mutex<Option<String>>>);

impl LastFailure {
    pub(crate) fn take(&self) -> Option<String> {
        lock(&self.0).take()
    }

    pub(crate) fn forget(&self) {
        self.take();
    }

    pub(crate) fn set(&self, cause: String) {
        *lock(&self.0) = Some(cause);
    }

    /// Keeps the text of the error below all others.
    pub(crate) fn set_innermost(&self, mut error: &(dyn Error + 'static)) {
        while let Some(source) = error.source() {
            error = source;
        }
        self.set(error.to_string());
    }
}
