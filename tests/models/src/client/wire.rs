//! A connection.

pub mod models;
#[path = "../../../../common/src/client/wire/room.rs"]
mod room;
#[path = "../../../../common/src/client/wire/signs.rs"]
mod signs;

mod h2_connection {
    use std::sync::Arc;

    use super::signs::Signs;

    /// A connection without HTTP/2.
    #[derive(Debug)]
    pub(in crate::client) struct Connection {
        pub(in crate::client) signs: Arc<Signs>,
    }
}
