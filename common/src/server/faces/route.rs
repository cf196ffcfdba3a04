//! [`note`]: notes the route of a request, for the metrics.

use axum::extract::MatchedPath;
use http::Request;

use crate::context;

/// Notes the route of a request in its timings. Runs below the router, which finds the route.
pub(crate) fn note<B>(request: Request<B>) -> Request<B> {
    if let Some(route) = request.extensions().get::<MatchedPath>()
        && let Some(timings) = context::timings()
    {
        timings.set_route(route.clone());
    }
    request
}
