//! [`InFlight`]: a call on a connection.

use std::sync::Arc;

use super::connection::Connection;

/// A call in flight, up to the end of its response. Its connection is watched for as long.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) connection: Arc<Connection>,
    is_settled: bool,
}

impl InFlight {
    pub(crate) fn begin(connection: Arc<Connection>) -> Self {
        connection.activity.count_begun();
        Self {
            connection,
            is_settled: false,
        }
    }

    /// Notes that a part of the response has come.
    pub(crate) fn note_answer(&self) {
        self.connection.activity.note_answer();
    }

    /// Notes that the response has begun.
    pub(crate) fn settle(&mut self) {
        if !self.is_settled {
            self.is_settled = true;
            self.connection.activity.count_settled();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.settle();
        self.connection.activity.count_ended();
    }
}
