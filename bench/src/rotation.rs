//! A closed loop that rotates through many connections. The number of requests in flight stays the
//! same, so that only the number of connections differs.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{
    Result,
    question::{Connection, Question},
};

/// The requests in flight; fewer if there are fewer connections.
const IN_FLIGHT: usize = 100;

/// Open connections, in groups. Each group has one request in flight.
#[derive(Debug)]
pub(crate) struct Rotation {
    question: Question,
    groups: Vec<Vec<Connection>>,
}

impl Rotation {
    /// Opens all groups at once, as a server does not wait long for the first request.
    pub(crate) async fn open(question: &Question, connections: usize) -> Result<Self> {
        let count = connections.min(IN_FLIGHT);
        let mut opening = JoinSet::new();
        for group in 0..count {
            let size = connections / count + usize::from(group < connections % count);
            let address = question.address;
            opening.spawn(async move {
                let mut group = Vec::with_capacity(size);
                for _ in 0..size {
                    group.push(Connection::open(address).await?);
                }
                Result::Ok(group)
            });
        }
        let mut groups = Vec::with_capacity(count);
        while let Some(opened) = opening.join_next().await {
            groups.push(opened??);
        }
        Ok(Self {
            question: question.clone(),
            groups,
        })
    }

    /// Sends requests for at least `time`, and at least one on each connection. Returns the number
    /// of requests and the time that they took.
    pub(crate) async fn run(&mut self, time: Duration) -> Result<(u64, Duration)> {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for mut group in self.groups.drain(..) {
            let question = self.question.clone();
            tasks.spawn(async move {
                let mut requests = 0;
                loop {
                    for connection in &mut group {
                        connection.ask(&question).await?;
                        requests += 1;
                    }
                    if begin.elapsed() >= time {
                        return Result::Ok((requests, group));
                    }
                }
            });
        }
        let mut requests = 0;
        while let Some(ended) = tasks.join_next().await {
            let (more, group) = ended??;
            requests += more;
            self.groups.push(group);
        }
        Ok((requests, begin.elapsed()))
    }
}
