//! The limits on requests in flight.

#[path = "../../../../common/src/server/capacity/held.rs"]
mod held;
#[path = "../../../../common/src/server/capacity/kind.rs"]
pub(crate) mod kind;
pub mod models;
#[path = "../../../../common/src/server/capacity/newcomers.rs"]
mod newcomers;
#[path = "../../../../common/src/server/capacity/open.rs"]
pub(crate) mod open;
#[path = "../../../../common/src/server/capacity/outbound.rs"]
pub(crate) mod outbound;
#[path = "../../../../common/src/server/capacity/places.rs"]
pub(crate) mod places;
#[path = "../../../../common/src/server/capacity/share.rs"]
pub(crate) mod share;
#[path = "../../../../common/src/server/capacity/stalled.rs"]
mod stalled;
#[path = "../../../../common/src/server/capacity/tail.rs"]
pub(crate) mod tail;

pub(crate) mod clock {
    /// The time of a run, which stands still: long after its begin.
    pub(crate) fn now() -> u64 {
        1_000_000
    }
}

pub(crate) mod connections {
    use std::sync::Arc;

    use super::open::Open;

    /// The open connections, of which none comes or goes.
    #[derive(Debug)]
    pub(crate) struct Connections(pub(super) Vec<Arc<Open>>);

    impl Connections {
        pub(crate) fn for_each(&self, look: impl FnMut(&Arc<Open>)) {
            self.0.iter().for_each(look);
        }
    }
}
