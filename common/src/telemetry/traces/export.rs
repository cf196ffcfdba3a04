//! The thread that exports spans. It has a runtime of its own, so whatever the exporter does, no worker
//! waits for it.

use std::{
    env,
    sync::{Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::BoxError;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, error::OTelSdkError, trace::SpanExporter};
use tokio::{runtime, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    buffer,
    client::OtlpClient,
    last_failure::LastFailure,
    secure,
    settings::{Collector, headers_of_environment},
};
use crate::{sync::lock, telemetry::metrics};

/// The time between two exports. OpenTelemetry's default of 5 s would need larger buffers.
const INTERVAL: Duration = Duration::from_millis(200);

/// The most spans of one export, as by OpenTelemetry's default.
const BATCH: usize = 512;

/// The longest that the process waits, at its end, for the last spans.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

static EXPORTER: Mutex<Option<Running>> = Mutex::new(None);

struct Running {
    /// Ends the thread, after a last export.
    stop: CancellationToken,
    ended: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

/// Starts the thread. Returns whether it could start.
pub(crate) fn start(service: &str, version: &str, collector: Collector) -> bool {
    let resource = resource(service, version);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let (end, ended) = mpsc::channel();
    let thread = thread::Builder::new().name("traces".into()).spawn(move || {
        let _end = end; // dropped at the end, also of a panic
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(run(&collector, &resource, &stopped)),
            Err(error) => {
                warn!(action = "traces", status = "failure", %error, "no spans are exported");
            }
        }
    });
    match thread {
        Ok(thread) => {
            *lock(&EXPORTER) = Some(Running {
                stop,
                ended,
                thread,
            });
            true
        }
        Err(error) => {
            warn!(action = "traces", status = "failure", %error, "no spans are exported");
            false
        }
    }
}

/// Exports the last spans, and ends the thread. Spans that can't be exported in time are lost.
pub(crate) fn finish() {
    let Some(running) = lock(&EXPORTER).take() else {
        return;
    };
    running.stop.cancel();
    if running.ended.recv_timeout(FINISH_TIMEOUT) == Err(mpsc::RecvTimeoutError::Disconnected) {
        let _ = running.thread.join();
    } else {
        warn!(
            action = "traces",
            status = "failure",
            "the last spans are not exported in time"
        );
    }
}

/// What the spans say of their service: the environment has priority.
fn resource(service: &str, version: &str) -> Resource {
    let attributes = env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let has_name = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || attributes
            .split(',')
            .any(|pair| pair.trim().starts_with("service.name="));
    let mut resource = Resource::builder();
    if !has_name {
        resource = resource.with_service_name(service.to_owned());
    }
    if !version.is_empty() && !attributes.contains("service.version=") {
        resource = resource.with_attribute(KeyValue::new("service.version", version.to_owned()));
    }
    resource.build()
}

/// The exporter over HTTP: what it sends over gRPC is the same message. For HTTP the builder reads the endpoint
/// from the environment.
fn exporter(collector: &Collector, failure: LastFailure) -> Result<Otlp, BoxError> {
    let tls = collector.tls.as_ref().map(secure::tls).transpose()?;
    let builder = Otlp::builder()
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_timeout(collector.timeout)
        .with_headers(headers_of_environment())
        .with_http_client(OtlpClient::new(collector.protocol, tls, failure));
    Ok(match &collector.grpc_endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint).build()?,
        None => builder.build()?,
    })
}

async fn run(collector: &Collector, resource: &Resource, stopped: &CancellationToken) {
    let failure = LastFailure::default();
    let mut exporter = match exporter(collector, failure.clone()) {
        Ok(exporter) => exporter,
        Err(error) => {
            warn!(action = "traces", status = "failure", %error, "no spans are exported");
            return;
        }
    };
    exporter.set_resource(resource);
    let mut is_failing = false;
    loop {
        let is_last = timeout(INTERVAL, stopped.cancelled()).await.is_ok();
        let mut spans = buffer::take_all().into_iter();
        loop {
            let batch: Vec<_> = spans.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let count = batch.len() as u64;
            let end = timeout(collector.timeout, exporter.export(batch)).await;
            let end = end.unwrap_or(Err(OTelSdkError::Timeout(collector.timeout)));
            report(end, failure.take().as_deref(), count, &mut is_failing);
        }
        if is_last {
            return;
        }
    }
}

/// Counts an export, and logs the first that fails and the first that succeeds again.
fn report(end: Result<(), OTelSdkError>, cause: Option<&str>, spans: u64, is_failing: &mut bool) {
    let counters = metrics::of_this_thread();
    match end {
        Ok(()) => {
            counters.spans_exported.add(spans);
            if std::mem::take(is_failing) {
                info!(
                    action = "traces",
                    status = "success",
                    "spans are exported again"
                );
            }
        }
        Err(error) => {
            counters.spans_dropped.add(spans);
            if !std::mem::replace(is_failing, true) {
                warn!(
                    action = "traces",
                    status = "failure",
                    %error,
                    cause,
                    "the collector does not take spans; they are dropped until it does"
                );
            }
        }
    }
}
