//! [`Rules`]: the rules for the messages of a gRPC request, checked before tonic reads them.
//!
//! tonic reserves memory for a message as soon as its length is known, and accepts several messages
//! for a method that takes one. [`Messages`] reads the prefix of each message, and refuses long and
//! surplus messages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::{methods::Deadlines, protocol::Protocol, server::prefixed::Prefixed};

/// The bytes of a message's prefix: a flag for compression, and the length.
const PREFIX: usize = 5;

/// The rules for the messages of a port. HTTP ports have none.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) protocol: Protocol,
    pub(crate) methods: Deadlines,
    /// The longest message, in bytes.
    pub(crate) limit: usize,
}

impl Rules {
    /// Returns the request with a body that checks the rules.
    pub(crate) fn apply<B>(&self, request: Request<B>) -> Request<Messages<B>> {
        let checks = (self.protocol == Protocol::Grpc).then(|| Checks {
            limit: self.limit,
            has_one: self
                .methods
                .find(request.uri().path())
                .is_some_and(|(_, method)| method.has_one_request),
            messages: Prefixed::new(),
            seen: 0,
        });
        request.map(|body| Messages { body, checks })
    }
}

#[derive(Debug)]
struct Checks {
    messages: Prefixed<PREFIX>,
    limit: usize,
    /// Whether the method takes one message.
    has_one: bool,
    /// Messages that have begun.
    seen: usize,
}

impl Checks {
    fn check(&mut self, data: &[u8]) -> Result<(), Status> {
        self.messages.read(data, |[_, length @ ..]| {
            let length = u32::from_be_bytes(length) as usize;
            self.seen += 1;
            if self.has_one && self.seen > 1 {
                return Err(Status::invalid_argument(
                    "The method takes one message, and the request has more; send one.",
                ));
            }
            if length > self.limit {
                return Err(Status::resource_exhausted(format!(
                    "A message has {length} bytes; the limit is {}. Send less.",
                    self.limit
                )));
            }
            Ok(length)
        })
    }
}

pin_project_lite::pin_project! {
    /// A body that fails at the first message that breaks a rule.
    #[derive(Debug)]
    pub(crate) struct Messages<B> {
        #[pin]
        body: B,
        checks: Option<Checks>,
    }
}

impl<B> Body for Messages<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx)).transpose();
        let frame = frame.map_err(Into::into)?;
        if let (Some(checks), Some(data)) = (this.checks, frame.as_ref().and_then(Frame::data_ref))
        {
            checks.check(data)?;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(limit: usize, has_one: bool) -> Checks {
        Checks {
            limit,
            has_one,
            messages: Prefixed::new(),
            seen: 0,
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &prefix, &vec![b'x'; length]].concat()
    }

    #[test]
    fn messages_within_the_limit_pass_however_they_are_split() {
        let stream = [message(8), message(0), message(7)].concat();
        for size in 1..=stream.len() {
            let mut checks = checks(8, false);
            for data in stream.chunks(size) {
                checks.check(data).unwrap();
            }
            assert_eq!(checks.seen, 3);
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_its_prefix() {
        let stream = [message(8), message(9)].concat();
        for size in 1..=stream.len() {
            let mut checks = checks(8, false);
            let mut results = stream.chunks(size).map(|data| checks.check(data));
            let error = results.find_map(Result::err).expect("it is refused");
            assert_eq!(error.code(), tonic::Code::ResourceExhausted);
            assert!(error.message().contains("has 9 bytes; the limit is 8"));
        }
    }

    #[test]
    fn a_second_message_is_refused_if_the_method_takes_one() {
        let mut checks = checks(8, true);
        checks.check(&message(8)).unwrap();
        let error = checks.check(&message(0)).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}
