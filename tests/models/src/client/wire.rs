//! A connection.

#[path = "../../../../common/src/client/wire/activity.rs"]
pub(in crate::client) mod activity;

#[path = "../../../../common/src/client/wire/in_flight.rs"]
pub(in crate::client) mod in_flight;

pub(in crate::client) mod connection {
    use std::sync::Arc;

    use super::activity::ConnectionActivity;

    /// A connection without HTTP/2.
    #[derive(Debug)]
    pub(crate) struct Connection {
        pub(crate) activity: Arc<ConnectionActivity>,
    }
}
