//! `grpc.testing.TestService` and `testing.Calls`, as their `.proto` files describe them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{extract::Request as HttpRequest, middleware::Next, response::Response as HttpResponse};
use common::context;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tokio::time::sleep;
use tonic::{
    Code, Request, Response, Status, Streaming,
    codec::CompressionEncoding,
    metadata::{MetadataMap, MetadataValue},
};
use tracing::{info, warn};

use super::proto::{
    calls::{
        Attempts, Chunk, FailRequest, Total,
        calls_server::{self, CallsServer},
    },
    grpc::testing::{
        BoolValue, EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse,
        StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
        StreamingOutputCallResponse,
        test_service_server::{self, TestServiceServer},
    },
};

/// The metadata that is echoed in the head of a response, and in its trailers.
pub(super) const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
pub(super) const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// The services, for any router.
pub fn services() -> (TestServiceServer<TestService>, CallsServer<Calls>) {
    let service = TestServiceServer::new(TestService)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    (service, CallsServer::new(Calls))
}

/// Echoes the metadata. tonic lets no handler add trailers to a successful call.
pub async fn echo(request: HttpRequest, next: Next) -> HttpResponse {
    let initial = asked(&request, ECHO_INITIAL);
    let trailing = asked(&request, ECHO_TRAILING);
    let mut response = next.run(request).await;
    response.headers_mut().extend(initial);
    let Some(trailing) = trailing else {
        return response;
    };
    response.map(|body| {
        axum::body::Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                trailers.extend([trailing.clone()]);
            }
            frame
        }))
    })
}

fn asked(request: &HttpRequest, name: &'static str) -> Option<(HeaderName, HeaderValue)> {
    let value = request.headers().get(name)?;
    Some((HeaderName::from_static(name), value.clone()))
}

/// Logs what is left of the deadline of the call.
fn log_call() {
    if let Some(deadline) = context::deadline() {
        let left = deadline.remaining().unwrap_or_default();
        info!(action = "call", remaining = left.as_secs_f64());
    }
}

fn is_true(value: Option<BoolValue>) -> bool {
    value.is_some_and(|value| value.value)
}

/// Refuses a request that should be compressed and is not.
fn check_compression(metadata: &MetadataMap, expected: Option<BoolValue>) -> Result<(), Status> {
    if is_true(expected) && metadata.get("grpc-encoding").is_none() {
        return Err(Status::invalid_argument("the request is not compressed"));
    }
    Ok(())
}

fn check_status(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(EchoStatus { code, message }) if code != 0 => {
            Err(Status::new(Code::from_i32(code), message))
        }
        _ => Ok(()),
    }
}

fn payload(size: i32) -> Payload {
    let size = usize::try_from(size).unwrap_or_default();
    let body = vec![0; size];
    Payload { body }
}

fn size(payload: Option<Payload>) -> usize {
    payload.map_or(0, |payload| payload.body.len())
}

type Responses = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

/// The responses that one request of a stream asks for.
fn responses(request: StreamingOutputCallRequest) -> Responses {
    if let Err(status) = check_status(request.response_status) {
        return stream::once(async { Err(status) }).boxed();
    }
    let responses = stream::iter(request.response_parameters).then(async |parameters| {
        let pause = u64::try_from(parameters.interval_us).unwrap_or_default();
        if pause > 0 {
            sleep(Duration::from_micros(pause)).await;
        }
        let payload = Some(payload(parameters.size));
        Ok(StreamingOutputCallResponse { payload })
    });
    responses.boxed()
}

/// gRPC's own service.
#[derive(Debug, Clone, Copy)]
pub struct TestService;

#[tonic::async_trait]
impl test_service_server::TestService for TestService {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        log_call();
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        log_call();
        let (metadata, _, request) = request.into_parts();
        check_compression(&metadata, request.expect_compressed)?;
        check_status(request.response_status)?;
        let payload = Some(payload(request.response_size));
        let mut response = Response::new(SimpleResponse { payload });
        if !is_true(request.response_compressed) {
            response.disable_compression();
        }
        Ok(response)
    }

    type StreamingOutputCallStream = Responses;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Responses>, Status> {
        log_call();
        let request = request.into_inner();
        let mut parameters = request.response_parameters.iter();
        let is_compressed = parameters.any(|parameters| is_true(parameters.compressed));
        let mut response = Response::new(responses(request));
        if !is_compressed {
            response.disable_compression();
        }
        Ok(response)
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        log_call();
        let (metadata, _, mut requests) = request.into_parts();
        let mut sum = 0;
        while let Some(request) = requests.message().await? {
            check_compression(&metadata, request.expect_compressed)?;
            sum += size(request.payload);
        }
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size: i32::try_from(sum).unwrap_or(i32::MAX),
        }))
    }

    type FullDuplexCallStream = Responses;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        log_call();
        let requests = request.into_inner();
        let responses = requests.map_ok(responses).try_flatten().boxed();
        let mut response = Response::new(responses as Responses);
        response.disable_compression();
        Ok(response)
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("nobody serves it"))
    }
}

/// The service for calls that gRPC's own does not have.
#[derive(Debug, Clone, Copy)]
pub struct Calls;

#[tonic::async_trait]
impl calls_server::Calls for Calls {
    async fn fail(&self, request: Request<FailRequest>) -> Result<Response<Attempts>, Status> {
        static ATTEMPTS: Mutex<Option<HashMap<String, i32>>> = Mutex::new(None);
        let FailRequest {
            key,
            times,
            pushback,
        } = request.into_inner();
        let attempts = {
            let mut all = ATTEMPTS.lock().unwrap_or_else(PoisonError::into_inner);
            let attempts = all.get_or_insert_default().entry(key).or_default();
            *attempts += 1;
            *attempts
        };
        if attempts > times {
            return Ok(Response::new(Attempts { attempts }));
        }
        let mut metadata = MetadataMap::new();
        if !pushback.is_empty()
            && let Ok(pushback) = MetadataValue::try_from(pushback)
        {
            metadata.insert("grpc-retry-pushback-ms", pushback);
        }
        let message = format!("this was attempt {attempts}");
        Err(Status::with_metadata(Code::Unavailable, message, metadata))
    }

    type ChatStream = Streaming<Chunk>;

    async fn chat(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Streaming<Chunk>>, Status> {
        log_call();
        Ok(Response::new(request.into_inner()))
    }

    async fn upload(&self, request: Request<Streaming<Chunk>>) -> Result<Response<Total>, Status> {
        log_call();
        let mut chunks = request.into_inner();
        let mut bytes = 0;
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => bytes += i64::try_from(chunk.bytes.len()).unwrap_or(i64::MAX),
                Ok(None) => {
                    info!(action = "upload", status = "success", bytes);
                    return Ok(Response::new(Total { bytes }));
                }
                Err(error) => {
                    warn!(action = "upload", status = "failure", bytes, %error);
                    return Err(error);
                }
            }
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn watch(&self, request: Request<Chunk>) -> Result<Response<Self::WatchStream>, Status> {
        log_call();
        let chunk = request.into_inner();
        let once = stream::once(async { Ok(chunk) });
        Ok(Response::new(once.chain(stream::pending()).boxed()))
    }
}
