//! What the pages `/status` and `/docs` share: their style sheet, and `plain.html` around them.

use axum::response::IntoResponse;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

/// The media type of a page.
pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// The style sheet.
pub(crate) fn style() -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "text/css"), (CACHE_CONTROL, "max-age=300")];
    (headers, include_str!("../assets/plain.css"))
}
