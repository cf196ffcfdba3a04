//! The text format of Prometheus.

use prometheus_client::encoding::text::{encode_eof, encode_registry};

use super::{own, process::process_registry};

/// The media type of [`text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process.
pub(crate) fn text() -> String {
    const WRITABLE: &str = "a string takes it";
    let mut text = String::new();
    encode_registry(&mut text, &process_registry()).expect(WRITABLE);
    own::append(&mut text);
    encode_eof(&mut text).expect(WRITABLE);
    text
}
