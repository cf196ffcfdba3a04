//! [`Judgement`]: what an attempt says about its replica.

/// What an attempt says about its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The replica does its work.
    Success,
    /// The replica is at fault.
    Failure,
    /// No response came for long, and nobody knows whether one would have. This counts only if the
    /// replica does nothing else.
    NoResponse,
    /// The replica or the caller is at fault. This counts only if the replica has more of it than
    /// the others.
    Ambiguous,
    /// The connection ended. This counts once for all calls on the connections that were open then: a process
    /// that is killed ends those of all workers.
    Lost,
    /// Nothing.
    Nothing,
}
