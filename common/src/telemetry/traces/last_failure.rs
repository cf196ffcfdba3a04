//! [`Explained`]: an HTTP client that remembers why a request failed. The exporter says "network error" of
//! whatever it was.

use std::{
    error::Error,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};

use crate::sync::lock;

/// Why the last request failed, if it did. Clones share the text.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastFailure(Arc<Mutex<Option<String>>>);

impl LastFailure {
    pub(crate) fn take(&self) -> Option<String> {
        lock(&self.0).take()
    }

    fn set(&self, cause: Option<String>) {
        *lock(&self.0) = cause;
    }
}

/// A client with its [`LastFailure`].
#[derive(Debug)]
pub(crate) struct Explained<C> {
    pub(crate) client: C,
    pub(crate) failure: LastFailure,
}

#[tonic::async_trait]
impl<C: HttpClient> HttpClient for Explained<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.failure.set(None);
        let end = self.client.send_bytes(request).await;
        self.failure
            .set(end.as_ref().err().map(|error| innermost(&**error)));
        end
    }
}

/// The text of the error below all others.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_http::hyper::HyperClient;

    use super::*;

    #[tokio::test]
    async fn a_request_that_fails_leaves_its_cause() {
        let failure = LastFailure::default();
        let client = Explained {
            client: HyperClient::with_default_connector(Duration::from_secs(10), None),
            failure: failure.clone(),
        };
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let request = Request::post(format!("http://{address}/v1/traces"));
        let end = client.send_bytes(request.body(Bytes::new()).unwrap()).await;
        assert!(end.is_err());
        let text = failure.take().unwrap();
        assert!(text.contains("refused"), "{text}");
        assert_eq!(failure.take(), None);
    }
}
