//! [`Trace`]: what happens in a run, in the order of simulated time.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A part of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client begins a call.
    Begin {
        /// The number of the call.
        call: u64,
        /// Its method and what it is to do.
        what: String,
    },
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
        outcome: String,
    },
    /// A fault begins or ends, or an operator does something.
    Fault(String),
    /// A log record of a service.
    Record(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { call, what } => write!(f, "call {call} begins: {what}"),
            Self::Processed { call, replica } => write!(f, "call {call} is processed by {replica}"),
            Self::Does {
                replica,
                call,
                what,
            } => write!(f, "replica {replica}, call {call}: {what}"),
            Self::End { call, outcome } => write!(f, "call {call} ends: {outcome}"),
            Self::Fault(what) => write!(f, "fault: {what}"),
            Self::Record(record) => write!(f, "log: {record}"),
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
        let at = self.begin.elapsed();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push((at, event));
    }

    /// What has happened, each with the time since the begin of the run.
    pub fn events(&self) -> Vec<(Duration, Event)> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone()
    }
}
