//! [`RequestBody`]: what a call sends.

use bytes::Bytes;

/// What a call sends.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// One message, which can be sent again.
    Message(Bytes),
    /// Messages that come one by one, and can be sent once.
    Stream(tonic::body::Body),
}
