//! [`Reading`]: follows a response from its head to its end, and says how it ended.
//!
//! tonic panics on details of a status (`grpc-status-details-bin`) that are no base64, in the task that reads
//! the status (`Status::from_header_map`), and puts `UNKNOWN` in place of a status whose `grpc-message` is no
//! UTF-8. So what a replica sends is checked before tonic reads it. Other implementations of gRPC read such a
//! status without its details or message.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tonic::{Code, Status, metadata::MetadataMap};

use super::{class::Ending, pushback::Pushback};
use crate::{
    headers::first,
    problem::{CALLER_FAULT, NOT_PROCESSED},
};

/// How messages may be compressed.
pub(crate) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The bytes before each message: a compression flag and the length.
const PREFIX: usize = 5;

/// The longest message that gRPC clients accept by default, in bytes.
const USUAL_LIMIT: usize = 4 * 1_024 * 1_024;

/// What was read of a response.
#[derive(Debug)]
pub(crate) struct Reading {
    http: StatusCode,
    /// Whether the response has one message.
    is_unary: bool,
    /// Whether messages may be compressed.
    is_encoded: bool,
    messages: u64,
    /// The part of a prefix that was read.
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// The bytes of the current message that are still to come.
    left: usize,
    /// The length of the current message.
    length: usize,
}

impl Reading {
    /// Begins with the head of a response. The error is its end, if the head is all of it.
    pub(crate) fn begin<B>(response: &Response<B>, is_unary: bool) -> Result<Self, Ending> {
        let headers = response.headers();
        if let Some(ending) = status_in(headers) {
            return Err(match ending {
                Ending::Status(Code::Ok, _) if is_unary => Ending::NoMessage,
                Ending::Status(code, pushback) if headers.contains_key(NOT_PROCESSED) => {
                    Ending::Shed(code, pushback)
                }
                ending => ending,
            });
        }
        let media_type = first(headers, &CONTENT_TYPE);
        let is_grpc = media_type.is_some_and(|media_type| is_grpc(media_type.as_bytes()));
        match response.status() {
            // The trailers may have a status.
            _ if is_grpc => Ok(Self {
                http: response.status(),
                is_unary,
                is_encoded: first(headers, &ENCODING).is_some_and(|it| it != "identity"),
                messages: 0,
                prefix: [0; PREFIX],
                prefix_len: 0,
                left: 0,
                length: 0,
            }),
            StatusCode::OK => Err(Ending::NotGrpc),
            status => Err(Ending::Http(status)),
        }
    }

    /// Reads a frame of data. The error is the end of the response, which breaks off here.
    pub(crate) fn read(&mut self, mut data: &[u8]) -> Result<(), Ending> {
        if self.http != StatusCode::OK {
            return Ok(()); // this is no message
        }
        while !data.is_empty() {
            if self.left > 0 {
                let part = self.left.min(data.len());
                self.left -= part;
                data = &data[part..];
                continue;
            }
            let part = (PREFIX - self.prefix_len).min(data.len());
            let (head, rest) = data.split_at(part);
            self.prefix[self.prefix_len..self.prefix_len + part].copy_from_slice(head);
            self.prefix_len += part;
            data = rest;
            if self.prefix_len == PREFIX {
                self.prefix_len = 0;
                self.begin_message()?;
            }
        }
        Ok(())
    }

    fn begin_message(&mut self) -> Result<(), Ending> {
        let [flag, length @ ..] = self.prefix;
        if flag > u8::from(self.is_encoded) {
            return Err(Ending::InvalidFlag);
        }
        if self.is_unary && self.messages > 0 {
            return Err(Ending::SecondMessage);
        }
        self.messages += 1;
        self.left = u32::from_be_bytes(length) as usize;
        self.length = self.left;
        Ok(())
    }

    /// Whether messages may be compressed.
    pub(crate) fn is_encoded(&self) -> bool {
        self.is_encoded
    }

    /// Whether data is for the caller.
    pub(crate) fn is_message(&self) -> bool {
        self.http == StatusCode::OK
    }

    /// Whether the current message is not complete and, as its prefix says, longer than most clients
    /// accept.
    pub(crate) fn is_too_long(&self) -> bool {
        self.left > 0 && self.length > USUAL_LIMIT
    }

    /// The bytes of the current message that are still to come.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// How the response ended, with these trailers if it has some.
    pub(crate) fn end(&self, trailers: Option<&HeaderMap>) -> Ending {
        let is_cut_short = self.left > 0 || self.prefix_len > 0;
        match trailers.and_then(status_in) {
            Some(Ending::Status(Code::Ok, _)) if is_cut_short => Ending::CutShort,
            Some(Ending::Status(Code::Ok, _)) if self.is_unary && self.messages == 0 => {
                Ending::NoMessage
            }
            Some(ending) => ending,
            None if self.http != StatusCode::OK => Ending::Http(self.http),
            None if is_cut_short => Ending::CutShort,
            None => Ending::NoStatus,
        }
    }
}

/// The end that headers or trailers state.
fn status_in(headers: &HeaderMap) -> Option<Ending> {
    let code = first(headers, &Status::GRPC_STATUS)?;
    let code = Code::from_bytes(code.as_bytes());
    let pushback = match code {
        Code::Ok => Pushback::Unspecified,
        _ => Pushback::of(headers),
    };
    Some(match code {
        Code::ResourceExhausted if headers.contains_key(CALLER_FAULT) => {
            Ending::CallerFault(pushback)
        }
        _ => Ending::Status(code, pushback),
    })
}

/// Whether a media type is that of gRPC, with any encoding of messages. `application/grpc-web` is
/// another protocol.
fn is_grpc(media_type: &[u8]) -> bool {
    let rest = media_type.strip_prefix(b"application/grpc");
    matches!(rest, Some([] | [b'+' | b';' | b' ', ..]))
}

/// Removes the details and the message of a status that tonic can't decode.
pub(crate) fn remove_invalid(status: &mut HeaderMap) {
    if status.len() < 2 {
        return; // a code alone, as after most calls
    }
    if let Some(message) = status.get(Status::GRPC_MESSAGE) {
        // Alone with a code that stays, if the message can be decoded.
        let internal = (Status::GRPC_STATUS, HeaderValue::from_static("13"));
        let message = (Status::GRPC_MESSAGE, message.clone());
        let read = Status::from_header_map(&HeaderMap::from_iter([internal, message]));
        if read.is_none_or(|read| read.code() != Code::Internal) {
            status.remove(Status::GRPC_MESSAGE);
        }
    }
    let Some(details) = status.get(Status::GRPC_STATUS_DETAILS) else {
        return;
    };
    let details = (Status::GRPC_STATUS_DETAILS, details.clone());
    // The only public way to tonic's decoding, which is the one that must not fail.
    let alone = MetadataMap::from_headers(HeaderMap::from_iter([details]));
    let details = alone.get_bin(Status::GRPC_STATUS_DETAILS.as_str());
    if details.is_none_or(|details| details.to_bytes().is_err()) {
        status.remove(Status::GRPC_STATUS_DETAILS);
    }
}

/// A response whose head and trailers have neither invalid details nor an invalid message.
pub(crate) fn without_invalid<B>(
    mut response: Response<B>,
) -> Response<impl Body<Data = Bytes, Error = B::Error> + use<B>>
where
    B: Body<Data = Bytes>,
{
    remove_invalid(response.headers_mut());
    response.map(|body| {
        body.map_frame(|mut frame: Frame<Bytes>| {
            frame.trailers_mut().map(remove_invalid);
            frame
        })
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const MESSAGE: &[u8] = &[0, 0, 0, 0, 3, b'a', b'b', b'c'];

    fn response(status: u16, headers: &[(&'static str, &'static str)]) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    fn trailers(code: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static(code))])
    }

    fn ok(code: Code) -> Ending {
        Ending::Status(code, Pushback::Unspecified)
    }

    /// The end of a response with this HTTP status and data, cut into frames of each size.
    fn end(http: u16, is_unary: bool, data: &[u8], status: Option<&'static str>) -> Ending {
        let ends: Vec<_> = (1..=data.len().max(1))
            .map(|size| {
                let mut reading = Reading::begin(&response(http, &[GRPC]), is_unary).unwrap();
                for frame in data.chunks(size) {
                    if let Err(ending) = reading.read(frame) {
                        return ending;
                    }
                }
                reading.end(status.map(trailers).as_ref())
            })
            .collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        ends[0]
    }

    #[test]
    fn a_head_may_be_the_whole_response() {
        let end = |status, headers: &[_]| Reading::begin(&response(status, headers), true).err();
        assert_eq!(end(200, &[GRPC]), None);
        assert_eq!(
            end(200, &[("content-type", "application/grpc+proto")]),
            None
        );
        assert_eq!(end(503, &[GRPC]), None, "its trailers may have a status");
        for (status, headers, ending) in [
            (200, ("grpc-status", "5"), ok(Code::NotFound)),
            (503, ("grpc-status", "5"), ok(Code::NotFound)),
            (200, ("grpc-status", "0"), Ending::NoMessage),
            (200, ("grpc-status", "what"), ok(Code::Unknown)),
            (200, ("content-type", "text/html"), Ending::NotGrpc),
            (
                200,
                ("content-type", "application/grpc-web"),
                Ending::NotGrpc,
            ),
            (200, ("server", "none"), Ending::NotGrpc),
            (
                502,
                ("content-type", "text/html"),
                Ending::Http(StatusCode::BAD_GATEWAY),
            ),
        ] {
            assert_eq!(
                end(status, &[headers]),
                Some(ending),
                "{status} {headers:?}"
            );
        }
        let stream = Reading::begin(&response(200, &[("grpc-status", "0")]), false);
        assert_eq!(stream.err(), Some(ok(Code::Ok)), "a stream may be empty");
    }

    #[test]
    fn each_end_of_the_messages_is_told_apart() {
        let two = [MESSAGE, MESSAGE].concat();
        let flag = [2, 0, 0, 0, 0];
        for is_unary in [true, false] {
            assert_eq!(end(200, is_unary, MESSAGE, Some("0")), ok(Code::Ok));
            assert_eq!(end(200, is_unary, MESSAGE, Some("5")), ok(Code::NotFound));
            assert_eq!(end(200, is_unary, &[], Some("5")), ok(Code::NotFound));
            assert_eq!(end(200, is_unary, MESSAGE, None), Ending::NoStatus);
            assert_eq!(end(200, is_unary, &[], None), Ending::NoStatus);
            for cut in [1, 4, 5, 7] {
                let part = &MESSAGE[..cut];
                assert_eq!(end(200, is_unary, part, None), Ending::CutShort);
                assert_eq!(end(200, is_unary, part, Some("0")), Ending::CutShort);
                assert_eq!(end(200, is_unary, part, Some("13")), ok(Code::Internal));
            }
            assert_eq!(end(200, is_unary, &flag, Some("0")), Ending::InvalidFlag);
            let compressed = [1, 0, 0, 0, 0]; // and the head has no encoding
            assert_eq!(
                end(200, is_unary, &compressed, Some("0")),
                Ending::InvalidFlag
            );
            let http = Ending::Http(StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(end(503, is_unary, b"no backend", None), http);
            assert_eq!(
                end(503, is_unary, b"no backend", Some("5")),
                ok(Code::NotFound)
            );
        }
        assert_eq!(end(200, true, &[], Some("0")), Ending::NoMessage);
        assert_eq!(end(200, false, &[], Some("0")), ok(Code::Ok));
        assert_eq!(end(200, true, &two, Some("0")), Ending::SecondMessage);
        assert_eq!(end(200, false, &two, Some("0")), ok(Code::Ok));
    }

    #[test]
    fn a_message_that_is_no_utf_8_is_none_and_leaves_the_code() {
        for (sent, read) in [("%FF%FE", ""), ("%E2%82%AC", "€"), ("plain", "plain")] {
            let message = HeaderValue::from_static(sent);
            let mut status = status(&[]);
            status.insert(Status::GRPC_MESSAGE, message);
            remove_invalid(&mut status);
            let status = Status::from_header_map(&status).unwrap();
            assert_eq!((status.code(), status.message()), (Code::Internal, read));
        }
    }

    fn status(details: &[&'static [u8]]) -> HeaderMap {
        let mut status = HeaderMap::new();
        status.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
        for details in details {
            let details = HeaderValue::from_bytes(details).unwrap();
            status.append(Status::GRPC_STATUS_DETAILS, details);
        }
        status
    }

    /// The details that tonic reads.
    fn read(details: &[&'static [u8]]) -> Vec<u8> {
        let mut status = status(details);
        remove_invalid(&mut status);
        let status = Status::from_header_map(&status).expect("it has a code");
        assert_eq!(status.code(), tonic::Code::Internal);
        status.details().to_owned()
    }

    #[test]
    fn a_status_with_invalid_details_is_one_without() {
        for invalid in [&b"="[..], b"no base64!", b"%", b"a", b"YWI-", b"\xfc"] {
            assert_eq!(read(&[invalid]), b"", "{invalid:?}");
            assert_eq!(read(&[invalid, b"YWI"]), b"", "{invalid:?}");
        }
    }

    #[test]
    fn details_in_base64_stay_with_and_without_padding() {
        assert_eq!(read(&[]), b"");
        assert_eq!(read(&[b""]), b"");
        assert_eq!(read(&[b"YWI"]), b"ab");
        assert_eq!(read(&[b"YWI="]), b"ab");
        // tonic reads the first.
        assert_eq!(read(&[b"YWI", b"%"]), b"ab");
    }
}
