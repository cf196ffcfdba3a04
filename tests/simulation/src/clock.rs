//! The clocks of the system, as the libraries see them: both follow the simulation.
//!
//! The stacks of `common` measure time with tokio's clock, which the simulation pauses. Libraries do not:
//! h2 forgets reset streams by the clock of the machine, and hyper writes the time of day into each
//! response. So `clock_gettime` is replaced for the whole program.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_gettime as of_the_system};
use tokio::time::Instant;

static IS_SIMULATED: AtomicBool = AtomicBool::new(false);
/// The seconds of the clock of the day.
static DAY: AtomicI64 = AtomicI64::new(1_800_000_000);
/// The simulated time, in nanoseconds.
static PASSED: AtomicU64 = AtomicU64::new(0);
static BEGIN: OnceLock<Instant> = OnceLock::new();

/// What the clock of the machine shows at the begin, in seconds.
const BOOTED: i64 = 1_000;

/// Lets the clocks of this process follow the simulation. Call it before there is a runtime.
pub fn simulate() {
    IS_SIMULATED.store(true, Relaxed);
}

/// Lets the clock of the machine catch up with that of the runtime. Whatever happens often calls it.
pub fn tick() {
    let now = Instant::now();
    let begin = BEGIN.get_or_init(|| now);
    let passed = now.saturating_duration_since(*begin).as_nanos();
    PASSED.store(u64::try_from(passed).unwrap_or(u64::MAX), Relaxed);
}

/// Sets the clock of the day forward, or back.
pub fn step(seconds: i64) {
    DAY.fetch_add(seconds, Relaxed);
}

const REALTIME: i32 = ClockId::Realtime as i32;
const REALTIME_COARSE: i32 = ClockId::RealtimeCoarse as i32;

/// The C library's function. rustix asks the kernel itself.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the C library's function has this form")]
extern "C" fn clock_gettime(clock: i32, time: &mut Timespec) -> i32 {
    let is_of_day = matches!(clock, REALTIME | REALTIME_COARSE);
    *time = if IS_SIMULATED.load(Relaxed) {
        let passed = Duration::from_nanos(PASSED.load(Relaxed));
        let begin = if is_of_day { DAY.load(Relaxed) } else { BOOTED };
        Timespec {
            tv_sec: begin + passed.as_secs().cast_signed(),
            tv_nsec: passed.subsec_nanos().into(),
        }
    } else if is_of_day {
        of_the_system(ClockId::Realtime)
    } else {
        of_the_system(ClockId::Monotonic)
    };
    0
}
