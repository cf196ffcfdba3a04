//! Randomness from a seed: [`Shared`] for the peers, and that of the libraries.
//!
//! Three sources are not `fastrand`, and all of them ask the operating system: the order of the maps of
//! std (and with it tokio's `select!`), `ahash`, and the request ids. So `getrandom` is replaced for the
//! whole program. A thread takes its share once; so a run is the only one of its process.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::lock;

static SEED: AtomicU64 = AtomicU64::new(0);

/// Makes what the libraries draw in this process follow from a seed. Call it first of all, on the thread of
/// the run.
pub fn seed_libraries(seed: u64) {
    SEED.store(seed | 1 << 63, Relaxed);
    fastrand::seed(seed);
}

/// The C library's function, which all libraries call for randomness from the system. Without a seed, what
/// it gives is the same in each process: no library may need secrets here.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the C library's function has this form")]
extern "C" fn getrandom(bytes: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller gives as many bytes that may be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, length) };
    let seed = SEED.fetch_add(1, Relaxed);
    fastrand::Rng::with_seed(seed).fill(bytes);
    length.cast_signed()
}

/// A source of randomness. Clones share it.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<fastrand::Rng>>);

impl Shared {
    /// The source of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A number from 0 to 1.
    pub fn fraction(&self) -> f64 {
        lock(&self.0).f64()
    }

    /// A length from 1 to `most`, which is short in half of the cases.
    pub fn length(&self, most: usize) -> usize {
        let mut random = lock(&self.0);
        let most = if random.bool() { most.min(16) } else { most };
        random.usize(1..=most)
    }

    /// A source of its own, for a peer.
    pub fn fork(&self) -> fastrand::Rng {
        lock(&self.0).fork()
    }
}
