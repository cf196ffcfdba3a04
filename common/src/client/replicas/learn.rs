//! What a replica learns from each of its attempts, and from a health check in place of a trial.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::replica::Replica;
use crate::{
    client::{
        ejection::state::Event,
        ending::{
            class::{Class, Ending, Judgement},
            pushback::Pushback,
        },
        method::called::CalledMethod,
    },
    request::codes::code_name,
};

impl Replica {
    /// Asks an ejected replica whether it serves, for lack of an idempotent call that could try it.
    pub(crate) fn try_by_health_check(self: Arc<Self>) {
        tokio::spawn(async move {
            if self.connections.first.serves().await.is_ok() {
                let memory = self.balancer.memory();
                memory.readmit(self.address, &self.record, Instant::now());
            }
        });
    }

    /// Whether a call has failed lately, on any worker.
    pub(crate) fn has_failed_lately(&self, now: Instant) -> bool {
        self.record.failure_rate(now).failures > 0
    }

    /// Learns how long a good response took to begin.
    pub(crate) fn learn_latency(&self, method: &CalledMethod, took: Duration, now: Instant) {
        self.cost.responded(took, method.usual(), now);
        method.record(took);
    }

    /// Learns from the end of an attempt. `responded` is when its response began.
    pub(crate) fn learn(
        &self,
        method: &CalledMethod,
        ending: Ending,
        start: Instant,
        responded: Option<Instant>,
        now: Instant,
    ) {
        let class = ending.class();
        let is_unary = method.declared.has_one_response;
        match (class.judgement, responded) {
            (Judgement::Success, Some(responded)) if is_unary => {
                self.learn_latency(method, responded - start, now);
            }
            (_, None) if ending.is_without_response() && !method.is_endless() => {
                self.cost.took_at_least(now - start, method.usual(), now);
            }
            _ => {}
        }
        self.remember(class, start, responded, now);
        match class.judgement {
            Judgement::Failure => {
                let code = code_name(class.code);
                self.metrics
                    .set_last_error(format!("{code} to {}", method.name));
            }
            Judgement::Success if self.was_late.swap(false, Relaxed) => {
                self.apply(Event::Succeeded);
            }
            _ => {}
        }
        if let Pushback::After(rest) = class.pushback {
            self.apply(Event::PushedBack(rest));
        }
        if ending.is_of_closed_connection() && self.connections.first.activity.is_closed() {
            // At once, or the next attempt would pick the replica again.
            self.balancer.close(self.address, self);
        }
    }

    fn remember(&self, class: Class, start: Instant, responded: Option<Instant>, now: Instant) {
        let memory = self.balancer.memory();
        if class.judgement == Judgement::Success {
            self.successes.add(&self.record, now);
        } else {
            self.successes.flush(&self.record, now);
        }
        memory.learn(self.address, &self.record, class.judgement, start, now);
        let proves_nothing = class.judgement == Judgement::Nothing && responded.is_some();
        if proves_nothing && self.record.was_trial(start) {
            // Its caller or its deadline ended a response that went on.
            self.record.try_again_soon(now);
        }
    }
}
