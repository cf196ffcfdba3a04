//! How an attempt ended.

pub(in crate::client) mod class {
    /// What an attempt says about its replica.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Judgement {
        Success,
        Failure,
        NoResponse,
        Ambiguous,
        Nothing,
    }
}
