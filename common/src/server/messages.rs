//! Layer 7, for gRPC: the messages of a request, before tonic reads them.
//!
//! tonic reserves memory for a message as soon as its length is known, and takes any number of
//! messages where a method has one. Both are refused here by the five bytes that a message begins
//! with.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::{methods::Deadlines, protocol::Protocol};

/// What a message begins with: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What the messages of a request may be. Nothing is checked where HTTP is spoken.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) protocol: Protocol,
    pub(super) methods: Deadlines,
    /// The longest message, in bytes.
    pub(super) limit: usize,
}

impl Rules {
    /// The request with a body that keeps to these rules.
    pub(super) fn apply<B>(&self, request: Request<B>) -> Request<Messages<B>> {
        let checks = (self.protocol == Protocol::Grpc).then(|| Checks {
            limit: self.limit,
            has_one: self
                .methods
                .find(request.uri().path())
                .is_some_and(|(_, method)| method.has_one_request),
            prefix: [0; PREFIX],
            read: 0,
            left: 0,
            seen: 0,
        });
        request.map(|body| Messages { body, checks })
    }
}

#[derive(Debug)]
struct Checks {
    limit: usize,
    /// Whether there is to be one message and no more.
    has_one: bool,
    prefix: [u8; PREFIX],
    /// How much of the prefix is there.
    read: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    /// The messages that began.
    seen: usize,
}

impl Checks {
    fn check(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let message = self.left.min(data.len());
            self.left -= message;
            data = &data[message..];
            let prefix = (PREFIX - self.read).min(data.len());
            self.prefix[self.read..self.read + prefix].copy_from_slice(&data[..prefix]);
            self.read += prefix;
            data = &data[prefix..];
            if self.read == PREFIX {
                self.begin_message()?;
            }
        }
        Ok(())
    }

    fn begin_message(&mut self) -> Result<(), Status> {
        let [_, length @ ..] = self.prefix;
        let length = u32::from_be_bytes(length) as usize;
        self.read = 0;
        self.left = length;
        self.seen += 1;
        if self.has_one && self.seen > 1 {
            return Err(Status::invalid_argument(
                "The method takes one message, and there is another; send one.",
            ));
        }
        if length > self.limit {
            return Err(Status::resource_exhausted(format!(
                "A message has {length} bytes; the limit is {}. Send less.",
                self.limit
            )));
        }
        Ok(())
    }
}

pin_project_lite::pin_project! {
    /// A body that breaks off where its messages are not as they may be.
    #[derive(Debug)]
    pub(super) struct Messages<B> {
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
            prefix: [0; PREFIX],
            read: 0,
            left: 0,
            seen: 0,
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &prefix, &vec![b'x'; length]].concat()
    }

    #[test]
    fn messages_within_the_limit_pass_however_they_are_cut() {
        let stream = [message(8), message(0), message(7)].concat();
        for size in 1..=stream.len() {
            let mut checks = checks(8, false);
            for data in stream.chunks(size) {
                checks.check(data).unwrap();
            }
            assert_eq!((checks.seen, checks.left, checks.read), (3, 0, 0));
        }
    }

    #[test]
    fn one_over_the_limit_is_refused_by_its_prefix() {
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
    fn a_second_message_is_refused_where_there_is_to_be_one() {
        let mut checks = checks(8, true);
        checks.check(&message(8)).unwrap();
        let error = checks.check(&message(0)).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}
