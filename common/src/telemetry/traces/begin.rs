//! Starts to record: the process ([`init`]), a request, an attempt.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::{
    export,
    follow::FollowLimit,
    settings::{self, Sampler},
    user_spans::current_span,
};
use crate::request::{
    context::{self, Context},
    trace::{Recording, Trace},
};

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Starts to record and to export spans, if the environment says where to. The environment may name
/// another service or version than these. A second, so many requests from outside are recorded because their
/// callers ask for it.
pub(crate) fn init(service: &str, version: &str, followed_per_second: u32) {
    if let Some(settings) = settings::of_environment()
        && export::start(service, version, settings.collector)
    {
        let _ = RECORDER.set(Recorder {
            sampler: settings.sampler,
            limit: FollowLimit::per_second(followed_per_second),
        });
    }
}

/// The trace of a request that came with `inbound`, from inside or from outside, at `arrived`. Without spans, it
/// is passed on as it came.
pub(crate) fn of_request(
    inbound: Option<Trace>,
    is_inside: bool,
    arrived: Instant,
) -> Option<Trace> {
    match RECORDER.get() {
        Some(recorder) => Some(recorder.trace(inbound, is_inside, arrived)),
        None => inbound,
    }
}

/// Decides which requests are recorded.
struct Recorder {
    sampler: Sampler,
    limit: FollowLimit,
}

impl Recorder {
    fn trace(&self, inbound: Option<Trace>, is_inside: bool, arrived: Instant) -> Trace {
        let span_id = fastrand::u64(1..);
        let recording = |parent| Recording {
            parent,
            is_remote: true,
        };
        match inbound {
            Some(inbound) if self.follows(&inbound, is_inside, arrived) => {
                let parent = Some(inbound.numbers().1);
                inbound.at(span_id, true).recorded(recording(parent))
            }
            Some(inbound) if inbound.is_sampled() => inbound.at(span_id, false),
            // Nothing is recorded, so the trace is passed on unchanged.
            Some(inbound) => inbound,
            None => {
                let trace_id = fastrand::u128(1..);
                if self.sampler.samples(trace_id) {
                    let trace = Trace::new(trace_id, span_id, true);
                    trace.recorded(recording(None))
                } else {
                    Trace::new(trace_id, span_id, false)
                }
            }
        }
    }

    /// Whether a request with this trace is recorded. A stranger chooses the flag, and the id, by which a ratio
    /// samples. So for strangers it is a random share, and what they ask for up to the limit.
    fn follows(&self, inbound: &Trace, is_inside: bool, arrived: Instant) -> bool {
        let is_wanted = self.sampler.follows(inbound);
        is_wanted && (is_inside || self.sampler.draws() || self.limit.allow(arrived))
    }
}

/// The context of an attempt of the current request, if the request is recorded. The parent of its
/// span is the innermost span of the service, or else the span of the request.
pub(crate) fn of_attempt() -> Option<(Context, Arc<Trace>)> {
    context::with_current(|context| {
        let trace = context?.shared.trace.as_deref();
        let trace = trace.filter(|it| it.recording.is_some())?;
        let child = Arc::new(trace.child(current_span()));
        let context = context?.clone();
        let context = context.with(|shared| shared.trace = Some(child.clone()));
        Some((context, child))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const IN_A_SECOND: usize = 10_000;

    /// The requests with this trace that are recorded within a second.
    fn recorded(sampler: Sampler, inbound: &Trace, is_inside: bool) -> usize {
        let recorder = Recorder {
            sampler,
            limit: FollowLimit::per_second(50),
        };
        let now = Instant::now();
        let requests = (0..IN_A_SECOND).map(|_| {
            let trace = recorder.trace(Some(inbound.clone()), is_inside, now);
            assert_eq!(trace.numbers().0, inbound.numbers().0, "the id is kept");
            assert_eq!(trace.is_sampled(), trace.recording.is_some());
            trace
        });
        requests.filter(|trace| trace.recording.is_some()).count()
    }

    fn stranger(is_sampled: bool) -> Trace {
        Trace::new(1 << 64, 1, is_sampled) // an id that every ratio samples
    }

    #[test]
    fn a_stranger_overrides_the_ratio_up_to_the_limit() {
        for follows_parent in [true, false] {
            let of_ratio = |ratio| Sampler::new(follows_parent, ratio);
            assert_eq!(recorded(of_ratio(1.0), &stranger(true), false), IN_A_SECOND);
            let some = recorded(of_ratio(0.01), &stranger(true), false);
            assert!((90..250).contains(&some), "{some}");
        }
        let never = Sampler::new(true, 0.0);
        assert_eq!(recorded(never, &stranger(true), false), 50);
        assert_eq!(recorded(never, &stranger(false), false), 0);
    }

    #[test]
    fn a_caller_inside_is_followed() {
        let never = Sampler::new(true, 0.0);
        assert_eq!(recorded(never, &stranger(true), true), IN_A_SECOND);
        assert_eq!(recorded(never, &stranger(false), true), 0);
    }

    #[test]
    fn the_limit_begins_anew_each_second() {
        let recorder = Recorder {
            sampler: Sampler::new(true, 0.0),
            limit: FollowLimit::per_second(2),
        };
        let now = Instant::now();
        for second in 0..3 {
            let now = now + Duration::from_secs(second);
            let all = (0..10).map(|_| recorder.follows(&stranger(true), false, now));
            assert_eq!(all.filter(|is_followed| *is_followed).count(), 2);
        }
    }
}
