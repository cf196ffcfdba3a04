//! [`SettingsQuestion`]: SETTINGS that ask whether the peer is there.

use std::{sync::OnceLock, task::Waker, time::Duration};

use tokio::time::timeout;

use crate::sync::{
    Notify,
    atomic::{
        AtomicBool,
        Ordering::{AcqRel, Relaxed, Release},
    },
};

/// The longest time for which a driver is waited for: it may have ended.
const DRIVER: Duration = Duration::from_millis(100);

/// Lets the driver of a connection send SETTINGS that change nothing. The peer has to acknowledge them (RFC
/// 9113, 6.5.3). Unlike a health check they need no stream, and unlike PINGs no gRPC server counts them.
#[derive(Debug, Default)]
pub(super) struct SettingsQuestion {
    is_wanted: AtomicBool,
    is_sent: AtomicBool,
    driver: OnceLock<Waker>,
    handled: Notify,
}

impl SettingsQuestion {
    /// Asks. Returns whether that was possible: it is not while the last SETTINGS are not acknowledged, as some
    /// peers never do.
    pub(super) async fn ask(&self) -> bool {
        self.is_sent.store(false, Relaxed);
        self.is_wanted.store(true, Release);
        if let Some(driver) = self.driver.get() {
            driver.wake_by_ref();
        }
        timeout(DRIVER, self.handled.notified()).await.is_ok() && self.is_sent.load(Relaxed)
    }

    /// Calls `send` if the SETTINGS are wanted. The waker of a driver is the same each time.
    pub(super) fn send_if_wanted(&self, driver: &Waker, send: impl FnOnce() -> bool) {
        self.driver.get_or_init(|| driver.clone());
        if self.is_wanted.load(Relaxed) && self.is_wanted.swap(false, AcqRel) {
            self.is_sent.store(send(), Relaxed);
            self.handled.notify_one();
        }
    }
}
