//! [`note`]: counts and logs the connections that the server ends with an error.
//!
//! All requests on such a connection end, and behind a proxy they are those of many clients.

use std::{error::Error, fmt::Display, iter, net::IpAddr};

use h2::Reason;
use tracing::info;

use crate::{limits, rate_limit::RateLimit, telemetry::metrics};

/// The last frame to a client that floods: GOAWAY (type 7) with `ENHANCE_YOUR_CALM` (11). It names
/// the highest possible stream, because all requests in flight may have been processed.
pub(crate) const GOAWAY_CALM: [u8; 17] = [
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 11,
];

thread_local! {
    /// The lines of this worker alone, so that workers share nothing.
    static LINES: RateLimit = RateLimit::per_second(limits::CONNECTION_ERROR_LINES);
}

/// Counts a GOAWAY with this error code to a client, and logs it unless there are many.
pub(crate) fn note(client: IpAddr, code: Reason, reason: impl Display) {
    metrics::count(|counters| &counters.connection_errors);
    if let Some(untold) = LINES.with(RateLimit::allow) {
        info!(
            action = "connection",
            status = "failure",
            remote_address = %client,
            ?code,
            %reason,
            untold,
            "frames of a client ended its connection"
        );
    }
}

/// The error code and the reason of the GOAWAY that h2 has sent, if this error is about one.
pub(crate) fn sent_by_h2<'a>(error: &'a (dyn Error + 'static)) -> Option<(Reason, &'a h2::Error)> {
    iter::successors(Some(error), |error| (*error).source())
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .find(|error| error.is_go_away() && error.is_library())
        .and_then(|error| Some((error.reason()?, error)))
}
