//! [`Waterfall`]: the way of a request as rows with bars, from the times of its calls and attempts.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use common::timings::{self, AttemptKind, Record};

/// The narrowest bar, in percent: one that is still seen.
const NARROWEST: f64 = 0.6;

/// A time span, from the arrival of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    begin: Duration,
    took: Duration,
}

/// A call.
pub(super) struct Call {
    method: String,
    span: Span,
    attempts: Vec<Attempt>,
}

/// An attempt of a call.
pub(super) struct Attempt {
    kind: AttemptKind,
    replica: String,
    span: Span,
    /// The gRPC code; `None` while the attempt runs.
    outcome: Option<&'static str>,
    /// The time that the replica says it took.
    replica_took: Option<Duration>,
    /// What was left of the deadline at the start.
    left: Duration,
}

/// The calls of a recorded request.
pub(super) fn calls_of(record: &Record) -> Vec<Call> {
    let since = |instant| std::time::Instant::duration_since(&instant, record.arrived());
    let attempt = |it: &timings::Attempt| Attempt {
        kind: it.kind(),
        replica: it.replica().to_string(),
        span: Span {
            begin: since(it.started()),
            took: it.duration(),
        },
        outcome: it.outcome(),
        replica_took: it.replica_took(),
        left: it.left(),
    };
    let calls = record.calls();
    let call = |it: &timings::Call| Call {
        method: it.method().to_owned(),
        span: Span {
            begin: since(it.started()),
            took: it.duration(),
        },
        attempts: it.attempts().iter().map(attempt).collect(),
    };
    calls.iter().map(call).collect()
}

/// Whether an attempt was made beside another.
pub(super) fn has_hedge(record: &Record) -> bool {
    let calls = record.calls();
    let mut attempts = calls.iter().flat_map(timings::Call::attempts);
    attempts.any(|attempt| attempt.kind() == AttemptKind::Hedge)
}

/// The rows of a request, of its calls, and of their attempts.
#[derive(Debug)]
pub(super) struct Waterfall {
    pub(super) rows: Vec<Row>,
    /// The end of the time axis.
    pub(super) took: Duration,
}

/// A row: a bar and what it means.
#[derive(Debug)]
pub(super) struct Row {
    /// Also the class of the row in the style sheet.
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) note: String,
    /// `None` for a call that was never made.
    pub(super) took: Option<Duration>,
    pub(super) bar: Bar,
    /// The part of an attempt that is the replica's own.
    pub(super) own: Option<Bar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Request,
    Call,
    /// An attempt that has answered.
    Answered,
    /// An attempt that has failed.
    Failed,
    /// An attempt that was given up or still runs.
    Open,
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Call => "call",
            Self::Answered => "attempt answered",
            Self::Failed => "attempt failed",
            Self::Open => "attempt open",
        })
    }
}

/// A part of the time axis, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bar {
    pub(super) x: f64,
    pub(super) width: f64,
}

impl Bar {
    /// The bar of a span on an axis of `total`. It lies within the axis, and is wide enough to be
    /// seen.
    fn of(span: Span, total: Duration) -> Self {
        let percent = |time: Duration| match total.as_secs_f64() {
            0.0 => 0.0,
            total => (time.as_secs_f64() / total * 100.0).min(100.0),
        };
        let begin = percent(span.begin);
        let end = percent(span.begin + span.took);
        let width = (end - begin).max(NARROWEST);
        Self {
            x: begin.min(100.0 - width),
            width,
        }
    }
}

impl Waterfall {
    /// The rows of a request that `took` this time, and had `left` of its `deadline` then.
    pub(super) fn of(calls: &[Call], took: Duration, deadline: Duration, left: Duration) -> Self {
        let whole = Span {
            begin: Duration::ZERO,
            took,
        };
        let mut rows = vec![Row {
            level: Level::Request,
            what: "service2, the edge".to_owned(),
            note: format!("{} of {} were left", millis(left), millis(deadline)),
            took: Some(took),
            bar: Bar::of(whole, took),
            own: None,
        }];
        for call in calls {
            let is_made = !call.attempts.is_empty();
            rows.push(Row {
                level: Level::Call,
                what: call.method.clone(),
                note: if is_made {
                    ""
                } else {
                    "no replica could take it"
                }
                .to_owned(),
                took: is_made.then_some(call.span.took),
                bar: Bar::of(call.span, took),
                own: None,
            });
            rows.extend(call.attempts.iter().map(|it| it.row(call, took)));
        }
        Self { rows, took }
    }
}

impl Attempt {
    fn row(&self, call: &Call, total: Duration) -> Row {
        let kind = match self.kind {
            AttemptKind::First => "first attempt",
            AttemptKind::Retry => "retry",
            AttemptKind::Hedge => "hedge",
        };
        let has_answer = |attempt: &&Attempt| attempt.outcome == Some("OK");
        let (level, outcome) = match self.outcome {
            Some("OK") => (Level::Answered, "OK"),
            Some("CANCELLED") => match call.attempts.iter().find(has_answer) {
                Some(_) => (Level::Open, "given up, as another attempt was faster"),
                None => (Level::Open, "given up"),
            },
            Some(code) => (Level::Failed, code),
            None => (Level::Open, "still running"),
        };
        let own = self.replica_took.map(|own| own.min(self.span.took));
        let own_note = own.map_or_else(String::new, |own| format!(", {} in service1", millis(own)));
        Row {
            level,
            what: format!("{kind} on {}", self.replica),
            note: format!("{outcome}{own_note}; grpc-timeout {}", millis(self.left)),
            took: Some(self.span.took),
            bar: Bar::of(self.span, total),
            own: own.map(|own| {
                // In the middle: the clocks of two machines differ.
                let begin = self.span.begin + self.span.took.saturating_sub(own) / 2;
                Bar::of(Span { begin, took: own }, total)
            }),
        }
    }
}

/// A duration, for people.
pub(super) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..1.0 => format!("{millis:.2} ms"),
        ..1_000.0 => format!("{millis:.1} ms"),
        _ => format!("{:.2} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn span(begin: u64, took: u64) -> Span {
        Span {
            begin: ms(begin),
            took: ms(took),
        }
    }

    fn attempt(kind: AttemptKind, span: Span, outcome: Option<&'static str>) -> Attempt {
        Attempt {
            kind,
            replica: "127.0.0.1:50051".to_owned(),
            span,
            outcome,
            replica_took: None,
            left: ms(9_500),
        }
    }

    fn call(span: Span, attempts: Vec<Attempt>) -> Call {
        Call {
            method: "sayHello".to_owned(),
            span,
            attempts,
        }
    }

    fn waterfall(calls: &[Call]) -> Vec<Row> {
        Waterfall::of(calls, ms(100), ms(10_000), ms(9_900)).rows
    }

    /// Where a bar begins and how long it is, in whole percents.
    fn rounded(bar: Bar) -> (f64, f64) {
        (bar.x.round(), bar.width.round())
    }

    #[test]
    fn bars_lie_where_their_spans_lie_in_the_request() {
        let retried = vec![
            attempt(AttemptKind::First, span(10, 20), Some("UNAVAILABLE")),
            attempt(AttemptKind::Retry, span(50, 25), Some("OK")),
        ];
        let rows = waterfall(&[call(span(10, 65), retried)]);
        let bars: Vec<_> = rows.iter().map(|row| rounded(row.bar)).collect();
        assert_eq!(
            bars,
            [(0.0, 100.0), (10.0, 65.0), (10.0, 20.0), (50.0, 25.0)]
        );
        assert_eq!(rows[0].note, "9.90 s of 10.00 s were left");
        assert_eq!(rows[2].what, "first attempt on 127.0.0.1:50051");
        assert_eq!(rows[2].note, "UNAVAILABLE; grpc-timeout 9.50 s");
        assert_eq!(rows[3].what, "retry on 127.0.0.1:50051");
        let levels: Vec<_> = rows.iter().map(|row| row.level).collect();
        let expected = [Level::Request, Level::Call, Level::Failed, Level::Answered];
        assert_eq!(levels, expected);
    }

    #[test]
    fn an_attempt_that_lost_against_a_hedge_was_given_up() {
        let hedged = vec![
            attempt(AttemptKind::First, span(0, 40), Some("CANCELLED")),
            attempt(AttemptKind::Hedge, span(20, 20), Some("OK")),
        ];
        let rows = waterfall(&[call(span(0, 40), hedged)]);
        assert!(
            rows[2]
                .note
                .starts_with("given up, as another attempt was faster")
        );
        assert_eq!(rows[2].level, Level::Open);
        let late = vec![attempt(AttemptKind::First, span(0, 40), Some("CANCELLED"))];
        let rows = waterfall(&[call(span(0, 40), late)]);
        assert!(rows[2].note.starts_with("given up;"));
        let running = vec![attempt(AttemptKind::First, span(0, 40), None)];
        let rows = waterfall(&[call(span(0, 40), running)]);
        assert!(rows[2].note.starts_with("still running;"));
    }

    #[test]
    fn the_own_time_of_a_replica_lies_in_the_middle_of_its_attempt_and_never_outside() {
        for (told, own) in [(10, (25.0, 10.0)), (1_000, (20.0, 20.0))] {
            let mut answered = attempt(AttemptKind::First, span(20, 20), Some("OK"));
            answered.replica_took = Some(ms(told));
            let rows = waterfall(&[call(span(20, 20), vec![answered])]);
            assert_eq!(rounded(rows[2].own.unwrap()), own);
        }
    }

    #[test]
    fn a_call_without_an_attempt_says_why() {
        let rows = waterfall(&[call(span(0, 1), vec![])]);
        assert_eq!(rows[1].note, "no replica could take it");
        assert_eq!(rows[1].took, None, "it was never made");
    }

    #[test]
    fn bars_stay_within_the_axis_and_can_be_seen() {
        let spans = [
            span(0, 0),
            span(100, 0),
            span(99, 500),
            span(5_000, 1),
            span(50, 10),
        ];
        for total in [ms(0), ms(100), Duration::MAX] {
            for span in spans {
                let Bar { x, width } = Bar::of(span, total);
                assert!(x >= 0.0 && width >= NARROWEST, "{span:?} {x} {width}");
                assert!(x + width <= 100.01, "{span:?} {x} {width}");
            }
        }
    }

    #[test]
    fn durations_are_short_to_read() {
        let texts = [50, 1_500, 12_340, 2_010_000]
            .map(Duration::from_micros)
            .map(millis);
        assert_eq!(texts, ["0.05 ms", "1.5 ms", "12.3 ms", "2.01 s"]);
    }
}
