//! The primitives that threads share state with. `tests/models` compiles the files that use them with its
//! own form of this module, and tries all orders of their steps.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

pub(crate) use tokio::sync::{Notify, futures::Notified};
