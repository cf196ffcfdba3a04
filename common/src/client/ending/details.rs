//! The details of a gRPC status, `grpc-status-details-bin` in base64, and its `grpc-message`.
//!
//! tonic panics on details that are no base64, in the task that reads the status
//! (`Status::from_header_map`), and puts `UNKNOWN` in place of a status whose message is no UTF-8. So what
//! a replica sends is checked before tonic reads it. Other implementations of gRPC read such a status
//! without its details or message.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tonic::{Code, Status, metadata::MetadataMap};

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
    use super::*;

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
