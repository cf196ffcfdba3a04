//! Faults that a call asks for with the metadata `fault`, so that a person can see what service2 does
//! about them. Only with `FAULTS=on`.
//!
//! | `fault` | what the first attempt of the call gets |
//! |---|---|
//! | `delay` | the response, but [`DELAY`] later |
//! | `fail-once` | `UNAVAILABLE` |
//!
//! A retry or a hedge of such a call is served as usual.

use std::time::Duration;

use common::context;
use tokio::time::sleep;
use tonic::{Request, Status};
use tracing::warn;

/// The metadata key of a fault.
const FAULT: &str = "fault";

/// The metadata key of an attempt that is not the first of its call (gRFC A6).
const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// Far longer than any response takes, and far shorter than the usual deadline.
const DELAY: Duration = Duration::from_secs(2);

/// Whether calls may ask for faults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults(bool);

impl Faults {
    /// The setting. The error says why the service must not start with it.
    pub(crate) fn new(is_on: bool, has_certificates: bool) -> Result<Self, &'static str> {
        if is_on && has_certificates {
            return Err(
                "FAULTS=on lets any caller fail calls, so it goes without MESH_TLS_DIR; unset one of the two",
            );
        }
        Ok(Self(is_on))
    }

    /// Warns that the setting is on.
    pub(crate) fn warn(self) {
        if self.0 {
            warn!(
                action = "faults",
                status = "on",
                "FAULTS=on: every caller can delay and fail calls; never set this in production"
            );
        }
    }

    /// Does what the call asks for.
    pub(crate) async fn apply<T>(self, request: &Request<T>) -> Result<(), Status> {
        if !self.0 {
            return Ok(());
        }
        let metadata = request.metadata();
        let Some(fault) = metadata.get(FAULT) else {
            return Ok(());
        };
        if metadata.contains_key(PREVIOUS_ATTEMPTS) {
            return Ok(());
        }
        match fault.as_bytes() {
            b"delay" => {
                let deadline = context::deadline().and_then(common::Deadline::remaining);
                let delay = deadline.map_or(DELAY, |left| DELAY.min(left / 2));
                warn!(
                    action = "fault",
                    status = "delay",
                    ?delay,
                    "delayed, as the call asks"
                );
                sleep(delay).await;
                Ok(())
            }
            b"fail-once" => {
                warn!(
                    action = "fault",
                    status = "failure",
                    "failed, as the call asks"
                );
                Err(Status::unavailable("failed once, as the call asks"))
            }
            _ => Err(Status::invalid_argument(
                "fault must be delay or fail-once; leave it out for none",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    const ON: Faults = Faults(true);

    fn call(metadata: &[(&'static str, &'static str)]) -> Request<()> {
        let mut call = Request::new(());
        for (key, value) in metadata {
            call.metadata_mut().insert(*key, value.parse().unwrap());
        }
        call
    }

    async fn outcome(faults: Faults, call: Request<()>) -> (Code, Duration) {
        let begin = Instant::now();
        let outcome = faults.apply(&call).await;
        let code = outcome.err().map_or(Code::Ok, |status| status.code());
        (code, begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_gets_the_fault_that_it_asks_for() {
        let none = Duration::ZERO;
        assert_eq!(outcome(ON, call(&[])).await, (Code::Ok, none));
        let delayed = outcome(ON, call(&[(FAULT, "delay")])).await;
        assert_eq!(delayed, (Code::Ok, DELAY));
        let failed = outcome(ON, call(&[(FAULT, "fail-once")])).await;
        assert_eq!(failed, (Code::Unavailable, none));
        let unknown = outcome(ON, call(&[(FAULT, "panic")])).await;
        assert_eq!(unknown, (Code::InvalidArgument, none));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_ends_before_the_deadline() {
        let second = Duration::from_secs(1);
        let deadline = common::Deadline::after(second);
        let request = common::Context::new("order-17".parse().unwrap(), deadline);
        let delayed = request.scope(outcome(ON, call(&[(FAULT, "delay")]))).await;
        assert_eq!(delayed.0, Code::Ok);
        assert!((second / 4..second).contains(&delayed.1), "{delayed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_attempt_and_a_service_without_faults_serve_the_call() {
        for fault in ["delay", "fail-once", "panic"] {
            let second = call(&[(FAULT, fault), (PREVIOUS_ATTEMPTS, "1")]);
            assert_eq!(outcome(ON, second).await, (Code::Ok, Duration::ZERO));
            let off = outcome(Faults(false), call(&[(FAULT, fault)])).await;
            assert_eq!(off, (Code::Ok, Duration::ZERO));
        }
    }

    #[test]
    fn faults_go_without_certificates() {
        assert!(Faults::new(true, true).is_err());
        for (is_on, has_certificates) in [(true, false), (false, true), (false, false)] {
            assert!(Faults::new(is_on, has_certificates).is_ok());
        }
    }
}
