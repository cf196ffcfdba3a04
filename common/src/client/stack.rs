//! The outbound stack, all of it, top to bottom.

use super::layers::{AttemptsService, DeadlineService, TimingService};
use crate::methods::Deadlines;

/// What every outbound call passes:
///
/// 1. [`TimingService`]: the call is in the `Server-Timing` of its request. On top, to measure
///    what the handler waits for.
/// 2. [`DeadlineService`]: with nothing left no call is made, and no call outlives its deadline.
///    Above all the rest, as all attempts must fit in.
/// 3. [`AttemptsService`]: what is safe to send again is; what is late gets company. Above the
///    choice of a replica, so that each attempt goes to the one that is best then. Below it are
///    no layers, but what all calls of a worker share:
///    - `pool`: which replica an attempt goes to.
///    - `wire`: the attempt on its connection. `request_id` and `grpc-timeout` are written there,
///      last, so that the timeout says what is left when the attempt leaves.
pub type Client = TimingService<DeadlineService<AttemptsService>>;

/// Puts the upper layers on the attempts.
pub(super) fn outbound(attempts: AttemptsService, deadlines: Deadlines) -> Client {
    TimingService::new(DeadlineService::new(attempts, deadlines))
}
