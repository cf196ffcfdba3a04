//! A service of one listener, for the tests of this crate.

use std::{num::NonZeroUsize, time::Duration};

use super::{in_memory::InMemory, service::listener::Listener};
use crate::config::settings::Config;

/// A service without a limit on the requests in flight.
pub(crate) fn in_memory(listener: Listener, deadline: Duration) -> InMemory {
    let config = Config {
        deadline,
        max_in_flight: NonZeroUsize::MAX,
        ..Config::default()
    };
    InMemory::new(&config, |_process| [listener]).expect("the listener is valid")
}
