//! [`Messages`]: checks the messages of a gRPC request before tonic reads them.
//!
//! tonic reserves memory for a message as soon as its length is known, and accepts several messages
//! for a method that takes one. A message that is missing, half or without a valid flag is `INTERNAL` to
//! tonic, as if the service had failed. The prefix of each message tells all of these, and they are
//! refused here. A handler that reads on after an error gets the end of the stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::{problem::Problem, request::context};

/// The bytes of a message's prefix: a flag for compression, and the length.
const PREFIX: usize = 5;

/// The state of a request whose messages are checked.
#[derive(Debug)]
struct Checks {
    messages: LengthPrefixed<PREFIX>,
    limit: usize,
    /// Whether the method takes one message.
    has_one: bool,
    /// Messages that have begun.
    seen: usize,
}

impl Checks {
    /// The checks of the current request.
    fn new(limit: usize) -> Self {
        Self {
            messages: LengthPrefixed::new(),
            limit,
            has_one: context::terms().is_some_and(|terms| terms.has_one_request),
            seen: 0,
        }
    }

    fn check(&mut self, data: &[u8]) -> Result<(), Status> {
        self.messages.read(data, |[flag, length @ ..]| {
            if flag > 1 {
                return Err(Status::invalid_argument(
                    "A message has a flag for compression that is neither 0 nor 1.",
                ));
            }
            let length = u32::from_be_bytes(length) as usize;
            self.seen += 1;
            if self.has_one && self.seen > 1 {
                return Err(Status::invalid_argument(
                    "The method takes one message, and the request has more; send one.",
                ));
            }
            if length > self.limit {
                let detail = format!(
                    "A message has {length} bytes; the limit is {}. Send less.",
                    self.limit
                );
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into());
            }
            Ok(length)
        })
    }

    /// Checks what the request has had, at its end.
    fn check_end(&self) -> Result<(), Status> {
        if !self.messages.is_whole() {
            return Err(Status::invalid_argument(
                "The request ends in the middle of a message; send all of it.",
            ));
        }
        if self.has_one && self.seen == 0 {
            return Err(Status::invalid_argument(
                "The method takes one message, and the request has none; send one.",
            ));
        }
        Ok(())
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

impl<B> Messages<B> {
    /// The body of the current request. `limit` is that of each message, in bytes; without one, the
    /// body has no messages.
    pub(crate) fn new(body: B, limit: Option<usize>) -> Self {
        Self {
            body,
            checks: limit.map(Checks::new),
        }
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
        if let Some(checks) = this.checks {
            if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                checks.check(data)?;
            } else {
                checks.check_end()?;
                if !checks.has_one {
                    return Poll::Ready(Some(Ok(frame.unwrap_or_else(end_of_stream))));
                }
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        // While there is an error to tell, the body is polled once more.
        let is_fine = |checks: &Checks| checks.check_end().is_ok();
        self.body.is_end_stream() && self.checks.as_ref().is_none_or(is_fine)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The end of a request stream that has no trailers. A handler may read on after an error in the middle
/// of a message. Without trailers, tonic returns an error then at each poll, for ever (decode.rs,
/// `poll_frame`).
fn end_of_stream() -> Frame<Bytes> {
    Frame::trailers(HeaderMap::new())
}

/// The position in a stream of length-prefixed parts, such as HTTP/2 frames and gRPC messages. The prefixes
/// have `N` bytes.
#[derive(Debug, Clone)]
pub(crate) struct LengthPrefixed<const N: usize> {
    prefix: [u8; N],
    /// Bytes of the prefix that have been read.
    read: usize,
    /// Bytes of the part that are still to come.
    left: usize,
}

impl<const N: usize> LengthPrefixed<N> {
    pub(crate) fn new() -> Self {
        Self {
            prefix: [0; N],
            read: 0,
            left: 0,
        }
    }

    /// Whether the bytes so far end with a whole part.
    pub(crate) fn is_whole(&self) -> bool {
        self.read == 0 && self.left == 0
    }

    /// Reads the next bytes. Calls `begin` with each complete prefix; it returns the length of the
    /// part.
    pub(crate) fn read<E>(
        &mut self,
        mut bytes: &[u8],
        mut begin: impl FnMut([u8; N]) -> Result<usize, E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let part = self.left.min(bytes.len());
            self.left -= part;
            bytes = &bytes[part..];
            let prefix = (N - self.read).min(bytes.len());
            self.prefix[self.read..self.read + prefix].copy_from_slice(&bytes[..prefix]);
            self.read += prefix;
            bytes = &bytes[prefix..];
            if self.read == N {
                self.read = 0;
                self.left = begin(self.prefix)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(limit: usize, has_one: bool) -> Checks {
        Checks {
            limit,
            has_one,
            messages: LengthPrefixed::new(),
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

    #[test]
    fn half_a_message_or_none_is_refused_at_the_end() {
        for (has_one, stream, is_refused) in [
            (true, message(8), false),
            (true, Vec::new(), true),
            (false, Vec::new(), false),
            (false, [message(8), message(0)].concat(), false),
            (false, message(8)[..12].to_vec(), true),
            (false, [message(8), vec![0]].concat(), true),
        ] {
            let mut checks = checks(8, has_one);
            checks.check(&stream).unwrap();
            let code = checks.check_end().map_err(|status| status.code());
            let refused = Err(tonic::Code::InvalidArgument);
            assert_eq!(
                code,
                if is_refused { refused } else { Ok(()) },
                "{stream:?}"
            );
        }
    }

    #[test]
    fn a_flag_for_compression_is_0_or_1() {
        let code = |flag| {
            let checked = checks(8, true).check(&[flag, 0, 0, 0, 0]);
            checked.map_err(|status| status.code())
        };
        assert_eq!([0, 1].map(code), [Ok(()); 2]);
        let refused = Err(tonic::Code::InvalidArgument);
        assert_eq!([2, 255].map(code), [refused; 2]);
    }

    #[test]
    fn parts_are_found_however_the_stream_is_split() {
        // Prefixes of two bytes, the second of which is the length: parts of 3, 0 and 2 bytes.
        let stream = [7, 3, 1, 1, 1, 8, 0, 9, 2, 1, 1];
        for size in 1..=stream.len() {
            let mut found = Vec::new();
            let mut parts = LengthPrefixed::<2>::new();
            for bytes in stream.chunks(size) {
                let begin = |[kind, length]: [u8; 2]| {
                    found.push(kind);
                    Ok::<_, ()>(length.into())
                };
                parts.read(bytes, begin).unwrap();
            }
            assert_eq!(found, [7, 8, 9]);
            assert!(parts.is_whole());
        }
        for end in [1, 3, stream.len() - 1] {
            let mut parts = LengthPrefixed::<2>::new();
            let begin = |[_, length]: [u8; 2]| Ok::<_, ()>(length.into());
            parts.read(&stream[..end], begin).unwrap();
            assert!(!parts.is_whole(), "{end}");
        }
    }
}
