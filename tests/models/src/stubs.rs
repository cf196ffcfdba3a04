//! The few lines that the files need of the rest of `common`.

pub(crate) mod tls {
    pub(crate) mod identity {
        /// The authorities that have vouched for a client.
        #[derive(Debug)]
        pub(crate) struct TrustVersion;
    }
}

pub(crate) mod telemetry {
    /// Counters that count nothing.
    pub(crate) mod metrics {
        use std::{net::SocketAddr, sync::Arc};

        pub(crate) use crate::replica_state::ReplicaState;

        pub(crate) struct Counter;

        pub(crate) struct Counters {
            pub(crate) retries: Counter,
            pub(crate) retries_refused: Counter,
        }

        pub(crate) fn count(_which: impl FnOnce(&Counters) -> &Counter) {}

        #[derive(Debug)]
        pub(crate) struct ReplicaMetrics;

        impl ReplicaMetrics {
            #[expect(clippy::unused_self)] // as its callers have it
            pub(crate) fn set_state(&self, _state: ReplicaState) {}
        }

        #[derive(Debug)]
        pub(crate) struct CountedReplica {
            pub(crate) address: SocketAddr,
            pub(crate) replica: Arc<ReplicaMetrics>,
        }

        impl CountedReplica {
            pub(crate) fn new(address: SocketAddr) -> Self {
                let replica = Arc::new(ReplicaMetrics);
                Self { address, replica }
            }
        }
    }
}
