//! What threads share state with, for the types whose orders of steps `tests/models` tries out: it builds
//! their files with its own form of this module.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

pub(crate) use tokio::sync::{Notify, futures::Notified};
