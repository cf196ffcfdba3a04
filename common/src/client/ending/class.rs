//! [`Ending`]: how an attempt of a call ended, and [`Class`]: what follows from that.
//!
//! This is the one place that judges. The memory of failures, the cost, the next attempt, the
//! metric, the span, the log line and the status that the caller gets all read the class. What is
//! not said here is not the replica's fault.
//!
//! The codes are those of gRPC's documents: [the mapping of HTTP statuses][http], [the table of
//! resets][reset] and [the codes that libraries make][codes].
//!
//! [http]: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
//! [reset]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors
//! [codes]: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md

use h2::Reason;
use http::StatusCode;
use tonic::Code;

use super::{judgement::Judgement, pushback::Pushback};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With a gRPC status, whatever the HTTP status.
    Status(Code, Pushback),
    /// With a status of the replica's admission, which no handler has seen.
    Shed(Code, Pushback),
    /// With `RESOURCE_EXHAUSTED`, which the replica says is the fault of the caller.
    CallerFault(Pushback),
    /// Without a gRPC status, and with this HTTP status, which is not 200.
    Http(StatusCode),
    /// With a content type that is not gRPC's.
    NotGrpc,
    /// With messages that are compressed in a way for which this side did not ask.
    UnknownEncoding,
    /// Without any status.
    NoStatus,
    /// In the middle of a message.
    CutShort,
    /// With OK, but without the only message of the response.
    NoMessage,
    /// With a compression flag that is neither 0 nor 1, or with 1 and no encoding in the head.
    InvalidFlag,
    /// With a second message where the response has one.
    SecondMessage,
    /// With a message that the codec of the caller refused: it was too large, or not of its type.
    Undecodable,
    /// The replica reset the stream before its response began.
    ResetBeforeHead(Reason),
    /// The replica reset the stream after the head of its response.
    ResetAfterHead(Reason),
    /// This side reset the stream, as what came breaks HTTP/2.
    Invalid(Reason),
    /// The connection was lost. The call may have been processed.
    ConnectionLost,
    /// The call never left: its connection had been closed.
    NotSent,
    /// The GOAWAY of the replica says that the call was not processed.
    NotProcessed,
    /// The replica refused the call without processing it (`REFUSED_STREAM`).
    Refused,
    /// Too many other calls wait for a stream of the connection.
    Full,
    /// No replica could take the call.
    NoReplica,
    /// The side of the caller failed, with this code.
    Request(Code),
    /// The deadline passed. `is_late`: long after a response is usually there.
    DeadlineExceeded { is_late: bool },
    /// Its caller dropped it, or another attempt was faster.
    Abandoned { is_late: bool },
}

/// Which attempt may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// None would help.
    None,
    /// The call never left, and is sent on another connection, for nothing.
    Resend,
    /// The call was not processed, and may be sent again whatever its method.
    Unprocessed,
    /// An idempotent call is sent again after a pause, on another replica if there is one.
    Retry,
    /// An idempotent call is sent again to another replica: this one would fail again.
    Elsewhere,
}

/// What follows from the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class {
    /// For the metric, the span, the log line and the caller.
    pub(crate) code: Code,
    pub(crate) judgement: Judgement,
    pub(crate) next: Next,
    pub(crate) pushback: Pushback,
}

impl Ending {
    /// The end of an attempt that was dropped. `is_over` is whether its deadline has passed.
    pub(crate) fn of_dropped(is_over: bool, is_late: bool) -> Self {
        if is_over {
            Self::DeadlineExceeded { is_late }
        } else {
            Self::Abandoned { is_late }
        }
    }

    /// The same end, if the head of the response has come. Then the call was processed.
    pub(crate) fn after_head(self) -> Self {
        match self {
            Self::ResetBeforeHead(reason) => Self::ResetAfterHead(reason),
            Self::Refused => Self::ResetAfterHead(Reason::REFUSED_STREAM),
            Self::NotSent | Self::NotProcessed => Self::ConnectionLost,
            other => other,
        }
    }

    /// Whether the replica sent a status, which the caller gets as it is.
    pub(crate) fn is_status(self) -> bool {
        matches!(
            self,
            Self::Status(..) | Self::Shed(..) | Self::CallerFault(_)
        )
    }

    /// Whether the attempt ended because no response came in time.
    pub(crate) fn is_without_response(self) -> bool {
        matches!(self, Self::DeadlineExceeded { .. } | Self::Abandoned { .. })
    }

    /// Whether the connection is closed to new calls.
    pub(crate) fn is_of_closed_connection(self) -> bool {
        matches!(self, Self::NotSent | Self::NotProcessed)
    }

    /// What was wrong with a response, for people.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Http(status) => format!("the response is HTTP's {status}, and not gRPC"),
            Self::NotGrpc => "the content type of the response is not gRPC's".to_owned(),
            Self::UnknownEncoding => {
                "the response is compressed in a way that was not asked for".to_owned()
            }
            Self::NoStatus => "the response ended without a status".to_owned(),
            Self::CutShort => "the response ended in the middle of a message".to_owned(),
            Self::NoMessage => "the response has no message".to_owned(),
            Self::InvalidFlag => "the response has an invalid compression flag".to_owned(),
            Self::SecondMessage => "the response has more than one message".to_owned(),
            Self::Undecodable => "the response can't be decoded".to_owned(),
            other => format!("{other:?}"),
        }
    }

    pub(crate) fn code(self) -> Code {
        self.class().code
    }

    pub(crate) fn class(self) -> Class {
        use Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
        use Judgement::{Ambiguous, Failure, Lost, NoResponse, Nothing};
        use Next::{Elsewhere, Resend, Retry, Unprocessed};
        let late = |is_late, judgement| if is_late { judgement } else { Nothing };
        let (code, judgement, next) = match self {
            Self::Status(code, pushback) => return of_status(code, pushback),
            Self::Shed(code, pushback) => {
                return Class {
                    code,
                    judgement: Nothing,
                    next: Unprocessed,
                    pushback,
                };
            }
            Self::CallerFault(pushback) => {
                return Class {
                    code: Code::ResourceExhausted,
                    judgement: Nothing,
                    next: Next::None,
                    pushback,
                };
            }
            Self::Http(status) => of_http(status),
            Self::NotGrpc | Self::NoStatus => (Unknown, Failure, Elsewhere),
            // The caller may have asked for too much: a message, or a head over our limit, for which
            // h2 has the reason of any malformed response.
            Self::Undecodable | Self::Invalid(Reason::PROTOCOL_ERROR) => {
                (Internal, Ambiguous, Elsewhere)
            }
            Self::CutShort
            | Self::UnknownEncoding
            | Self::NoMessage
            | Self::InvalidFlag
            | Self::ResetAfterHead(Reason::CANCEL)
            | Self::Invalid(_) => (Internal, Failure, Elsewhere),
            Self::SecondMessage => (Unimplemented, Failure, Elsewhere),
            Self::ResetBeforeHead(Reason::CANCEL) => (Unavailable, Failure, Retry),
            Self::ResetBeforeHead(reason) | Self::ResetAfterHead(reason) => of_reset(reason),
            Self::ConnectionLost => (Unavailable, Lost, Retry),
            Self::NotSent => (Unavailable, Nothing, Resend),
            Self::NotProcessed | Self::Full => (Unavailable, Nothing, Unprocessed),
            Self::Refused => (Unavailable, Failure, Unprocessed),
            Self::NoReplica => (Unavailable, Nothing, Next::None),
            Self::Request(code) => (code, Nothing, Next::None),
            Self::DeadlineExceeded { is_late } => {
                (DeadlineExceeded, late(is_late, Failure), Next::None)
            }
            Self::Abandoned { is_late } => (Cancelled, late(is_late, NoResponse), Next::None),
        };
        Class {
            code,
            judgement,
            next,
            pushback: Pushback::Unspecified,
        }
    }
}

fn of_status(code: Code, pushback: Pushback) -> Class {
    use Judgement::{Ambiguous, Failure, Nothing, Success};
    let rests = matches!(pushback, Pushback::After(_));
    let (judgement, next) = match code {
        Code::Unavailable => (Failure, Next::Retry),
        Code::Internal | Code::Unknown | Code::DataLoss => (Failure, Next::Elsewhere),
        // The replica has no room. Another one may have.
        Code::ResourceExhausted if rests => (Nothing, Next::Elsewhere),
        // The replica may be older than the others.
        Code::Unimplemented => (Ambiguous, Next::Elsewhere),
        // The caller may be at fault; a replica that is alone with it is. Our own server marks the former.
        Code::ResourceExhausted | Code::DeadlineExceeded => (Ambiguous, Next::None),
        // The caller is at fault. All calls of one caller may go to one replica, so a count proves nothing.
        Code::PermissionDenied | Code::Unauthenticated => (Nothing, Next::None),
        _ => (Success, Next::None),
    };
    Class {
        code,
        judgement,
        next,
        pushback,
    }
}

fn of_http(status: StatusCode) -> (Code, Judgement, Next) {
    use Judgement::{Ambiguous, Failure, Nothing};
    match status.as_u16() {
        // One user's long header must not count against replicas.
        400 => (Code::Internal, Nothing, Next::None),
        413 | 431 => (Code::Unknown, Nothing, Next::None),
        401 => (Code::Unauthenticated, Ambiguous, Next::None),
        403 => (Code::PermissionDenied, Ambiguous, Next::None),
        404 => (Code::Unimplemented, Ambiguous, Next::Elsewhere),
        429 => (Code::Unavailable, Ambiguous, Next::Retry),
        402..=499 => (Code::Unknown, Ambiguous, Next::Elsewhere),
        502..=504 => (Code::Unavailable, Failure, Next::Retry),
        _ => (Code::Unknown, Failure, Next::Elsewhere),
    }
}

fn of_reset(reason: Reason) -> (Code, Judgement, Next) {
    use Judgement::Failure;
    match reason {
        Reason::REFUSED_STREAM => (Code::Unavailable, Failure, Next::Retry),
        // The replica refuses, which is no fault of the caller.
        Reason::ENHANCE_YOUR_CALM => (Code::ResourceExhausted, Failure, Next::Elsewhere),
        Reason::INADEQUATE_SECURITY => (Code::PermissionDenied, Failure, Next::Elsewhere),
        Reason::STREAM_CLOSED | Reason::HTTP_1_1_REQUIRED => {
            (Code::Unknown, Failure, Next::Elsewhere)
        }
        _ => (Code::Internal, Failure, Next::Elsewhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::ending::reading::Reading, problem::Problem};

    fn of(ending: Ending) -> (Code, Judgement, Next) {
        let Class {
            code,
            judgement,
            next,
            ..
        } = ending.class();
        (code, judgement, next)
    }

    #[test]
    fn a_response_without_a_grpc_status_has_the_code_of_its_http_status() {
        use Judgement::{Ambiguous, Failure, Nothing};
        for (status, class) in [
            (400, (Code::Internal, Nothing, Next::None)),
            (401, (Code::Unauthenticated, Ambiguous, Next::None)),
            (403, (Code::PermissionDenied, Ambiguous, Next::None)),
            (404, (Code::Unimplemented, Ambiguous, Next::Elsewhere)),
            (413, (Code::Unknown, Nothing, Next::None)),
            (422, (Code::Unknown, Ambiguous, Next::Elsewhere)),
            (429, (Code::Unavailable, Ambiguous, Next::Retry)),
            (431, (Code::Unknown, Nothing, Next::None)),
            (500, (Code::Unknown, Failure, Next::Elsewhere)),
            (502, (Code::Unavailable, Failure, Next::Retry)),
            (503, (Code::Unavailable, Failure, Next::Retry)),
            (504, (Code::Unavailable, Failure, Next::Retry)),
        ] {
            let http = StatusCode::from_u16(status).unwrap();
            assert_eq!(of(Ending::Http(http)), class, "{status}");
        }
    }

    #[test]
    fn no_fault_of_a_client_is_a_failure_of_the_replica() {
        let all = (400..500).map(|status| StatusCode::from_u16(status).unwrap());
        for status in all {
            let problem = tonic::Status::from(Problem::new(status, ""));
            let code = problem.code();
            let response = problem.into_http::<()>();
            let ending = Reading::begin(&response, true).expect_err("the head is all of it");
            let is_counted = ending.class().judgement == Judgement::Ambiguous;
            // The replica may be older than the others.
            assert_eq!(
                is_counted,
                code == Code::Unimplemented,
                "{status}: {code:?}"
            );
            for ending in [ending, Ending::Http(status)] {
                let judgement = ending.class().judgement;
                assert_ne!(judgement, Judgement::Failure, "{status}: {ending:?}");
            }
        }
    }

    #[test]
    fn a_reset_has_the_code_of_its_reason() {
        for (reason, code, next) in [
            (Reason::NO_ERROR, Code::Internal, Next::Elsewhere),
            (Reason::PROTOCOL_ERROR, Code::Internal, Next::Elsewhere),
            (Reason::STREAM_CLOSED, Code::Unknown, Next::Elsewhere),
            (Reason::HTTP_1_1_REQUIRED, Code::Unknown, Next::Elsewhere),
            (Reason::REFUSED_STREAM, Code::Unavailable, Next::Retry),
            (
                Reason::ENHANCE_YOUR_CALM,
                Code::ResourceExhausted,
                Next::Elsewhere,
            ),
            (
                Reason::INADEQUATE_SECURITY,
                Code::PermissionDenied,
                Next::Elsewhere,
            ),
        ] {
            let class = (code, Judgement::Failure, next);
            for ending in [
                Ending::ResetBeforeHead(reason),
                Ending::ResetAfterHead(reason),
            ] {
                assert_eq!(of(ending), class, "{ending:?}");
            }
        }
        // The replica gave up, before its response or in the middle of it.
        let before = of(Ending::ResetBeforeHead(Reason::CANCEL));
        assert_eq!(before, (Code::Unavailable, Judgement::Failure, Next::Retry));
        let after = of(Ending::ResetAfterHead(Reason::CANCEL));
        assert_eq!(after, (Code::Internal, Judgement::Failure, Next::Elsewhere));
    }

    #[test]
    fn a_call_whose_response_has_begun_was_processed() {
        for (before, after) in [
            (
                Ending::Refused,
                Ending::ResetAfterHead(Reason::REFUSED_STREAM),
            ),
            (
                Ending::ResetBeforeHead(Reason::NO_ERROR),
                Ending::ResetAfterHead(Reason::NO_ERROR),
            ),
            (Ending::NotSent, Ending::ConnectionLost),
            (Ending::NotProcessed, Ending::ConnectionLost),
            (Ending::NoStatus, Ending::NoStatus),
        ] {
            assert_eq!(before.after_head(), after);
        }
    }

    #[test]
    fn only_an_attempt_that_nobody_answered_took_at_least_its_time() {
        let is_late = false;
        assert!(Ending::DeadlineExceeded { is_late }.is_without_response());
        assert!(Ending::Abandoned { is_late }.is_without_response());
        for ending in [Ending::Refused, Ending::NotSent, Ending::ConnectionLost] {
            assert!(!ending.is_without_response(), "{ending:?}");
        }
    }

    #[test]
    fn a_connection_is_closed_to_calls_that_it_did_not_take() {
        assert!(Ending::NotSent.is_of_closed_connection());
        assert!(Ending::NotProcessed.is_of_closed_connection());
        for ending in [Ending::Refused, Ending::ConnectionLost, Ending::Full] {
            assert!(!ending.is_of_closed_connection(), "{ending:?}");
        }
    }

    #[test]
    fn people_read_what_was_wrong_with_a_response() {
        for (ending, part) in [
            (Ending::Http(StatusCode::BAD_GATEWAY), "502 Bad Gateway"),
            (Ending::NotGrpc, "content type"),
            (Ending::UnknownEncoding, "compressed"),
            (Ending::NoStatus, "without a status"),
            (Ending::CutShort, "in the middle of a message"),
            (Ending::NoMessage, "no message"),
            (Ending::InvalidFlag, "compression flag"),
            (Ending::SecondMessage, "more than one message"),
            (Ending::Undecodable, "can't be decoded"),
        ] {
            let text = ending.text();
            assert!(text.starts_with("the ") && text.contains(part), "{text}");
        }
    }
}
