//! [`Trace`]: what happens in a run, in the order of simulated time.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    call::{Outcome, Plan},
    clock, lock,
    records::Record,
    visit::{Ask, Got},
};

/// A part of the run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A client begins a call.
    Begin(Plan),
    /// A replica has begun to process a call: it has the first message.
    Processed {
        /// The number of the call.
        call: u64,
        /// The number of the replica.
        replica: usize,
    },
    /// What a replica does with a call, or with its connection.
    Does {
        /// The number of the replica.
        replica: usize,
        /// The number of the call, or 0.
        call: u64,
        /// What it does.
        what: String,
    },
    /// A call has ended for its client.
    End {
        /// The number of the call.
        call: u64,
        /// How.
        outcome: Outcome,
    },
    /// An HTTP client sends a request.
    Asks(Ask),
    /// It has got what it gets of the response.
    Got {
        /// The number of the request.
        call: u64,
        /// The time since it was sent.
        took: Duration,
        /// What it got.
        got: Got,
    },
    /// The connection of an HTTP client ended before the response to a request.
    Unanswered {
        /// The number of the request.
        call: u64,
        /// That of the request before it on the connection, whose response was whole.
        after: Option<u64>,
        /// The time since it was sent.
        took: Duration,
        /// What the client says of it.
        error: String,
    },
    /// The kernel of the edge has taken so many bytes for these requests, and takes no more.
    Taken {
        /// The numbers of the requests.
        calls: Vec<u64>,
        /// The bytes.
        bytes: u64,
    },
    /// The edge has closed a connection with half a head.
    Hurried {
        /// The time since the half head was sent.
        took: Duration,
    },
    /// A client has ended a connection to a fake on which nothing was wrong.
    CutOff {
        /// The number of the replica.
        replica: usize,
        /// The calls that were processed.
        calls: usize,
    },
    /// The edge has closed a connection between two requests, without an announcement.
    Closed {
        /// The number of the last request.
        call: u64,
        /// The time since its response.
        idle: Duration,
    },
    /// The edge begins to drain.
    Drains,
    /// A fault begins or ends, or an operator does something.
    Fault(String),
    /// The faults are over.
    Healed,
    /// All clients have had the time to recover.
    Settled,
    /// From now on equal replicas get equal shares.
    Even,
    /// A log record of a service.
    Record(Record),
    /// What must not be.
    Violation(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(plan) => write!(f, "call {} begins: {plan:?}", plan.order.call),
            Self::Processed { call, replica } => write!(f, "call {call} is processed by {replica}"),
            Self::Does {
                replica,
                call,
                what,
            } => write!(f, "replica {replica}, call {call}: {what}"),
            Self::End { call, outcome } => write!(f, "call {call} ends: {outcome:?}"),
            Self::Asks(ask) => write!(f, "request {}: {ask:?}", ask.call),
            Self::Got { call, took, got } => write!(f, "request {call} got {got:?} in {took:?}"),
            Self::Unanswered {
                call, took, error, ..
            } => {
                write!(f, "request {call} got no response in {took:?}: {error}")
            }
            Self::Taken { calls, bytes } => write!(f, "requests {calls:?} took {bytes} bytes"),
            Self::Hurried { took } => write!(f, "half a head was closed after {took:?}"),
            Self::Closed { call, idle } => {
                write!(
                    f,
                    "the connection of request {call} was closed within {idle:?}"
                )
            }
            Self::CutOff { replica, calls } => {
                write!(f, "a connection to {replica} was ended with {calls} calls")
            }
            Self::Drains => write!(f, "the edge drains"),
            Self::Fault(what) => write!(f, "fault: {what}"),
            Self::Healed => write!(f, "the faults are over"),
            Self::Even => write!(f, "equal calls begin"),
            Self::Settled => write!(f, "the clients have recovered"),
            Self::Record(record) => write!(f, "log: {record}"),
            Self::Violation(what) => write!(f, "VIOLATION: {what}"),
        }
    }
}

/// The events of a run. Clones share their state.
#[derive(Debug, Clone)]
pub struct Trace {
    begin: Instant,
    events: Arc<Mutex<Vec<(Duration, Event)>>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            events: Arc::default(),
        }
    }
}

impl Trace {
    /// Notes what happens now.
    pub fn note(&self, event: Event) {
        clock::tick();
        let at = self.begin.elapsed();
        lock(&self.events).push((at, event));
    }

    /// Notes what must not be.
    pub fn violation(&self, what: impl Into<String>) {
        self.note(Event::Violation(what.into()));
    }

    /// The time since the begin of the run.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The time since another one of the run.
    pub fn since(&self, before: Duration) -> Duration {
        self.now().saturating_sub(before)
    }

    /// What has happened, each with the time since the begin of the run.
    pub fn events(&self) -> Vec<(Duration, Event)> {
        lock(&self.events).clone()
    }
}
