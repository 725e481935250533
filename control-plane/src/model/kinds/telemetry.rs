//! Istio's Telemetry: what is counted, and with which labels.

use std::collections::BTreeMap;

use super::destination_rule::WorkloadSelector;
use crate::model::read::{choice, record};

record! {
    /// A Telemetry. **Source**: `telemetry.istio.io/v1.Telemetry`.
    pub struct Telemetry (ignoring "status") {
        /// What is told.
        spec: TelemetrySpec,
    }
}

record! {
    /// What is told. **Source**: `telemetry.istio.io/v1.Telemetry`.
    pub struct TelemetrySpec {
        /// Whose. None: all of the namespace; in the root namespace: all.
        selector: Option<WorkloadSelector>,
        /// Metrics.
        metrics: Vec<Metrics>,
    }
}

record! {
    /// Metrics. **Source**: `telemetry.istio.io/v1.Metrics`. Whoever reads them, they are the same: `providers` is left alone.
    pub struct Metrics (ignoring "providers") {
        /// What differs from the standard ones.
        overrides: Vec<MetricOverride>,
    }
}

record! {
    /// What differs. **Source**: `telemetry.istio.io/v1.MetricsOverrides`.
    pub struct MetricOverride {
        /// Of which metrics. None: of all.
        r#match: Option<MetricSelector> = "match",
        /// They are not counted.
        disabled: Option<bool>,
        /// Labels.
        tag_overrides: BTreeMap<String, TagOverride>,
    }
}

record! {
    /// Which metrics. **Source**: `telemetry.istio.io/v1.MetricSelector`.
    pub struct MetricSelector {
        /// By its name.
        metric: StandardMetric,
        /// On which side.
        mode: WorkloadMode,
    }
}

record! {
    /// A label. **Source**: `telemetry.istio.io/v1.MetricsOverrides.TagOverride`.
    pub struct TagOverride {
        /// What becomes of it.
        operation: TagOperation,
        /// What it is made of: an expression.
        value: Option<String>,
    }
}

choice! {
    /// What becomes of a label. **Source**: `telemetry.istio.io/v1.MetricsOverrides.TagOverride.Operation`.
    pub enum TagOperation {
        /// It is there, with this value.
        #[default]
        Upsert = "UPSERT",
        /// It is not.
        Remove = "REMOVE",
    }
}

choice! {
    /// On which side. **Source**: `telemetry.istio.io/v1.WorkloadMode`.
    pub enum WorkloadMode {
        /// On both.
        #[default]
        ClientAndServer = "CLIENT_AND_SERVER",
        /// The caller's.
        Client = "CLIENT",
        /// That of who is called.
        Server = "SERVER",
    }
}

choice! {
    /// A metric. **Source**: `telemetry.istio.io/v1.MetricSelector.IstioMetric`.
    pub enum StandardMetric {
        /// All.
        #[default]
        All = "ALL_METRICS",
        /// `istio_requests_total`
        RequestCount = "REQUEST_COUNT",
        /// `istio_request_duration_milliseconds`
        RequestDuration = "REQUEST_DURATION",
        /// `istio_request_bytes`
        RequestSize = "REQUEST_SIZE",
        /// `istio_response_bytes`
        ResponseSize = "RESPONSE_SIZE",
        /// `istio_tcp_connections_opened_total`
        TcpOpened = "TCP_OPENED_CONNECTIONS",
        /// `istio_tcp_connections_closed_total`
        TcpClosed = "TCP_CLOSED_CONNECTIONS",
        /// `istio_tcp_sent_bytes_total`
        TcpSent = "TCP_SENT_BYTES",
        /// `istio_tcp_received_bytes_total`
        TcpReceived = "TCP_RECEIVED_BYTES",
        /// `istio_request_messages_total`
        GrpcRequests = "GRPC_REQUEST_MESSAGES",
        /// `istio_response_messages_total`
        GrpcResponses = "GRPC_RESPONSE_MESSAGES",
    }
}

impl StandardMetric {
    /// Each by itself.
    pub const EACH: [Self; 10] = [
        Self::RequestCount,
        Self::RequestDuration,
        Self::RequestSize,
        Self::ResponseSize,
        Self::TcpOpened,
        Self::TcpClosed,
        Self::TcpSent,
        Self::TcpReceived,
        Self::GrpcRequests,
        Self::GrpcResponses,
    ];

    /// Its name in the filter; empty: all.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "",
            Self::RequestCount => "requests_total",
            Self::RequestDuration => "request_duration_milliseconds",
            Self::RequestSize => "request_bytes",
            Self::ResponseSize => "response_bytes",
            Self::TcpOpened => "tcp_connections_opened_total",
            Self::TcpClosed => "tcp_connections_closed_total",
            Self::TcpSent => "tcp_sent_bytes_total",
            Self::TcpReceived => "tcp_received_bytes_total",
            Self::GrpcRequests => "request_messages_total",
            Self::GrpcResponses => "response_messages_total",
        }
    }
}

impl MetricOverride {
    /// Whether it counts on this side.
    #[must_use]
    pub fn is_of(&self, client: bool) -> bool {
        match self.r#match.as_ref().map(|of| of.mode).unwrap_or_default() {
            WorkloadMode::ClientAndServer => true,
            WorkloadMode::Client => client,
            WorkloadMode::Server => !client,
        }
    }

    /// Which metrics.
    #[must_use]
    pub fn metric(&self) -> StandardMetric {
        self.r#match.as_ref().map(|of| of.metric).unwrap_or_default()
    }
}
