//! The export of spans over OTLP/gRPC: exporter, sampling, and the ids that spans get.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use opentelemetry::trace::{SpanId as OtelSpanId, TraceId as OtelTraceId, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        IdGenerator, ParentBasedSampler, RandomIdGenerator, Sampler, SdkTracerProvider, SpanData,
        SpanExporter,
    },
};
use tracing::{Subscriber, info, warn};
use tracing_subscriber::{Layer, registry::LookupSpan};

use super::{TelemetryError, exported};
use nomad_config::OtlpConfig;
use nomad_core::model::trace::{SpanId, TraceId};

/// How long the end of the process waits for the collector.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Holds the exporter, if there is one. Flush it before the process ends.
#[derive(Debug, Clone)]
#[must_use = "spans that are not flushed are lost"]
pub struct Guard(Option<SdkTracerProvider>);

impl Guard {
    /// Opens the exporter that the settings describe, or none.
    pub(super) fn open(otlp: &OtlpConfig) -> Result<Self, TelemetryError> {
        let Some(endpoint) = &otlp.endpoint else { return Ok(Self(None)) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| TelemetryError::Export { endpoint: endpoint.clone(), source })?;
        Ok(Self::around(exporter, otlp.sample_ratio))
    }

    /// Exports in batches through `exporter`.
    pub(super) fn around(exporter: impl SpanExporter + 'static, ratio: f64) -> Self {
        let by_id = || Sampler::TraceIdRatioBased(ratio);
        // A request that started here has a parent too, the step that sent the message, and it is judged by its id,
        // so that all its steps are judged alike. Only a caller's own decision comes first.
        let sampler = ParentBasedSampler::new(by_id()).with_remote_parent_not_sampled(by_id());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Reporting { exporter, is_failing: AtomicBool::new(false) })
            .with_sampler(sampler)
            .with_id_generator(Ids::default())
            .with_resource(Resource::builder().with_service_name("nomad").build())
            .build();
        Self(Some(provider))
    }

    /// Tells whether spans leave the process.
    pub(super) fn exports(&self) -> bool {
        self.0.is_some()
    }

    /// The layer of the log, and one that hands spans to the exporter if there is one. An absent layer would not do: it
    /// has no filter, so that it seems to want every span.
    pub(super) fn beside<S>(
        &self,
        log: Box<dyn Layer<S> + Send + Sync>,
    ) -> Vec<Box<dyn Layer<S> + Send + Sync>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let mut layers = vec![log];
        if let Some(provider) = &self.0 {
            let exporting = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("nomad"))
                .with_threads(false)
                .with_location(false);
            layers.push(exporting.with_filter(exported()).boxed());
        }
        layers
    }

    /// Sends what has not been sent, for some seconds at most, and ends the export.
    pub async fn flush(self) {
        let Some(provider) = self.0 else { return };
        // It waits for a thread which needs the runtime: not on a runtime thread.
        let flushed =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_MAX)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the last spans were not exported"),
            Err(error) => warn!(%error, "the last spans were not exported"),
        }
    }
}

/// An exporter that says when spans begin to be lost, and when they are no longer: the library says neither.
#[derive(Debug)]
struct Reporting<E> {
    exporter: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(exported.is_err(), Relaxed);
        match &exported {
            Err(error) if !was_failing => warn!(%error, "spans are lost: they cannot be exported"),
            Ok(()) if was_failing => info!("spans are exported again"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

thread_local! {
    /// The ids that the next span gets which starts on this thread.
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Gives the span that `start` starts these ids.
pub(super) fn naming(trace: TraceId, own: SpanId, start: impl FnOnce()) {
    NEXT.set(Some((trace, own)));
    start();
    NEXT.set(None);
}

/// Ids as they were named, and random ones for spans that belong to no request.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> OtelTraceId {
        match NEXT.get() {
            Some((trace, _)) if trace.0 != 0 => OtelTraceId::from(trace.0),
            _ => self.0.new_trace_id(),
        }
    }

    fn new_span_id(&self) -> OtelSpanId {
        match NEXT.get() {
            Some((_, own)) if own.0 != 0 => OtelSpanId::from(own.0),
            _ => self.0.new_span_id(),
        }
    }
}
