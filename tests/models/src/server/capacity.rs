//! The limits on requests in flight.

#[path = "../../../../common/src/server/capacity/handle.rs"]
pub(crate) mod handle;
pub mod models;
#[path = "../../../../common/src/server/capacity/permits.rs"]
pub(crate) mod permits;
#[path = "../../../../common/src/server/capacity/stalled.rs"]
mod stalled;

pub(crate) mod connections {
    use std::sync::Arc;

    use super::handle::ConnectionHandle;

    /// The open connections, of which none comes or goes.
    #[derive(Debug)]
    pub(crate) struct Connections(pub(super) Vec<Arc<ConnectionHandle>>);

    impl Connections {
        pub(crate) fn for_each(&self, look: impl FnMut(&Arc<ConnectionHandle>)) {
            self.0.iter().for_each(look);
        }
    }
}
