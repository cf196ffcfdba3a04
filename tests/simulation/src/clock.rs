//! The clock of the day, as the libraries see it: it stands still, but for the steps that a run makes.
//!
//! hyper writes it into each response, and a response whose head has another second is longer. So
//! `clock_gettime` is replaced for the whole program. What measures time is tokio's paused clock in both
//! stacks, which no step may disturb.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use rustix::time::{ClockId, Timespec, clock_gettime as of_the_system};

static IS_STILL: AtomicBool = AtomicBool::new(false);
static SECONDS: AtomicI64 = AtomicI64::new(1_800_000_000);

/// Stops the clock.
pub fn stop() {
    IS_STILL.store(true, Relaxed);
}

/// Sets the clock forward, or back.
pub fn step(seconds: i64) {
    SECONDS.fetch_add(seconds, Relaxed);
}

const REALTIME: i32 = ClockId::Realtime as i32;
const REALTIME_COARSE: i32 = ClockId::RealtimeCoarse as i32;

/// The C library's function. rustix asks the kernel itself.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the C library's function has this form")]
extern "C" fn clock_gettime(clock: i32, time: &mut Timespec) -> i32 {
    *time = match clock {
        REALTIME | REALTIME_COARSE if IS_STILL.load(Relaxed) => Timespec {
            tv_sec: SECONDS.load(Relaxed),
            tv_nsec: 0,
        },
        REALTIME | REALTIME_COARSE => of_the_system(ClockId::Realtime),
        _ => of_the_system(ClockId::Monotonic),
    };
    0
}
