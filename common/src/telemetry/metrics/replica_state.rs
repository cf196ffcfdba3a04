//! [`ReplicaState`]: the state of a replica, as metrics and `/status` name it.

/// The state of a replica, as one client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplicaState {
    /// The replica has no connection yet or has lost it. A new one is being opened.
    Connecting,
    /// The last attempt to connect failed.
    Unreachable,
    /// The replica is connected and gets calls.
    Up,
    /// A health check was sent and has no reply yet.
    Late,
    /// The replica asked for no calls for some time.
    PushedBack,
    /// The replica fails. Single calls try it.
    Ejected,
}

impl ReplicaState {
    pub(super) const ALL: [Self; 6] = [
        Self::Connecting,
        Self::Unreachable,
        Self::Up,
        Self::Late,
        Self::PushedBack,
        Self::Ejected,
    ];

    /// The name in metrics and on `/status`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Unreachable => "unreachable",
            Self::Up => "up",
            Self::Late => "late",
            Self::PushedBack => "resting",
            Self::Ejected => "ejected",
        }
    }

    pub(crate) fn is_connected(self) -> bool {
        !matches!(self, Self::Connecting | Self::Unreachable)
    }
}
