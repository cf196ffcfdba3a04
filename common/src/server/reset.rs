//! Layer 7, for uploads: one that its client resets does not look like a whole one.
//!
//! tonic takes the `CANCELLED` of a request stream for its end, and a handler would go on with
//! what it has.

use std::error::Error;

use axum::BoxError;
use h2::Reason;
use http::Request;
use http_body::Body;
use http_body_util::{BodyExt, combinators::MapErr};

/// What a handler sees of a request that its client broke off.
#[derive(Debug, thiserror::Error)]
#[error("the client broke off the request")]
pub(super) struct BrokenOff;

/// A request whose body, where its stream is reset, ends with an error that is not read as its
/// proper end.
pub(super) fn made_visible<B>(request: Request<B>) -> Request<Visible<B>>
where
    B: Body<Error: Into<BoxError>>,
{
    request.map(|body| body.map_err(visible::<B::Error> as fn(B::Error) -> BoxError))
}

/// The body of such a request.
pub(super) type Visible<B> = MapErr<B, fn(<B as Body>::Error) -> BoxError>;

fn visible<E: Into<BoxError>>(error: E) -> BoxError {
    let error = error.into();
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        let reset = error.downcast_ref::<h2::Error>();
        if reset.and_then(h2::Error::reason) == Some(Reason::CANCEL) {
            return BrokenOff.into();
        }
        cause = error.source();
    }
    error
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::{Code, Status};

    use super::*;

    /// How tonic reads the end of a request that ends with this error.
    async fn code(error: BoxError) -> Code {
        let frames = stream::iter([Err::<Frame<bytes::Bytes>, _>(error)]);
        let request = made_visible(Request::new(StreamBody::new(frames)));
        Status::from_error(request.into_body().collect().await.unwrap_err()).code()
    }

    #[tokio::test]
    async fn a_request_that_is_broken_off_is_not_at_its_end() {
        let reset = || h2::Error::from(Reason::CANCEL);
        assert_eq!(Status::from_error(reset().into()).code(), Code::Cancelled);
        assert_eq!(code(reset().into()).await, Code::Unknown);
        assert_eq!(code(axum::Error::new(reset()).into()).await, Code::Unknown);
    }

    #[tokio::test]
    async fn other_errors_stay_what_they_are() {
        assert_eq!(
            code(h2::Error::from(Reason::PROTOCOL_ERROR).into()).await,
            Code::Internal
        );
    }
}
