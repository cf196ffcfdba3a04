//! [`Manner`]: what a fake may do.

/// What a manner is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call,
    /// A health check.
    Health,
    /// A connection.
    Connection,
}

macro_rules! manners {
    ($($kind:ident { $($(#[$doc:meta])* $name:ident $(= $fails:ident)?,)* })*) => {
        /// What a fake may do with a call, a health check or a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Manner {
            $($($(#[$doc])* $name,)*)*
        }

        impl Manner {
            /// Each of them.
            pub const ALL: &[Self] = &[$($(Self::$name,)*)*];

            /// The stable name, for counts.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Self::$name => stringify!($name),)*)*
                }
            }

            /// What it is about.
            pub fn kind(self) -> Kind {
                match self {
                    $($(Self::$name)|* => Kind::$kind,)*
                }
            }

            /// Whether no call can succeed with it, whatever its method.
            pub fn always_fails(self) -> bool {
                match self {
                    $($($(Self::$name => stringify!($fails) == "fails",)?)*)*
                    _ => false,
                }
            }
        }
    };
}

mod table;

pub use table::Manner;

impl Manner {
    /// Whether a call is refused, so that it is not processed.
    pub(super) fn refuses(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::RefusedLate | Self::RefusedAfterHead
        ) || self.refuses_by_goodbye()
    }

    /// Whether a call fails so that a client sees whose fault it is, and its connection goes on.
    pub(super) fn shows_fault(self) -> bool {
        matches!(
            self,
            Self::Hang
                | Self::NoTrailers
                | Self::EndOnHead
                | Self::Html
                | Self::Garbage
                | Self::OtherType
                | Self::InvalidFlag
                | Self::Compressed
                | Self::UnknownEncoding
                | Self::TooLongDeclared
                | Self::CutShort
                | Self::CutInPrefix
                | Self::StatusMissing
                | Self::StatusNoNumber
                | Self::StatusUnknownNumber
                | Self::Unavailable
                | Self::Internal
                | Self::Unknown
                | Self::OddMessage
                | Self::InvalidDetails
                | Self::ResetBeforeHead
                | Self::ResetAfterHead
                | Self::ResetInMessage
                | Self::ResetAfterMessage
                | Self::Refused
                | Self::RefusedLate
        )
    }

    /// Whether a client can't complain.
    pub(super) fn is_kind(self) -> bool {
        matches!(
            self,
            Self::Good
                | Self::Slow
                | Self::TinyFrames
                | Self::Trickle
                | Self::Serving
                | Self::HealthGoAwayAtTimes
                | Self::Plain
                | Self::SomeStreams
                | Self::LargeWindow
                | Self::GoAwayLater
        )
    }

    /// Whether a call can succeed in another way than its order says.
    pub fn alters_success(self) -> bool {
        matches!(
            self,
            Self::MessageTwice | Self::TrailersFirst | Self::NoMessage | Self::StatusInHead
        )
    }

    /// Whether a GOAWAY refuses a call.
    pub(super) fn refuses_by_goodbye(self) -> bool {
        matches!(
            self,
            Self::GoAwayRefusing | Self::GoAwayRefusingThenClose | Self::GoAwayRefusingThenMute
        )
    }
}
