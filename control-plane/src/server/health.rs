//! `grpc.health.v1.Health`: whether xDS is served.
//!
//! Must not know: proxies. Every service here is as healthy as the process.

use std::sync::Arc;

use futures_util::Stream;
use tonic::Status;

use super::Shared;
use super::grpc::knows;
use crate::generate::Generator;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthRequest {
    /// The service asked about; empty for all.
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthResponse {
    #[prost(enumeration = "Health", tag = "1")]
    pub(super) status: i32,
}

/// `HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Health {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

fn status<G: Generator>(shared: &Shared<G>, service: &str) -> Health {
    if !service.is_empty() && !knows(service) {
        Health::ServiceUnknown
    } else if shared.stop.is_cancelled() {
        Health::NotServing
    } else {
        Health::Serving
    }
}

/// The status now.
pub(super) fn check<G: Generator>(shared: &Shared<G>, request: &HealthRequest) -> Result<HealthResponse, Status> {
    match status(shared, &request.service) {
        Health::ServiceUnknown => Err(Status::not_found(format!("{} is not served here", request.service))),
        known => Ok(HealthResponse { status: known.into() }),
    }
}

/// The status now, and when the server stops.
pub(super) fn watch<G: Generator>(
    shared: Arc<Shared<G>>,
    request: HealthRequest,
) -> impl Stream<Item = Result<HealthResponse, Status>> + Send + 'static {
    futures_util::stream::unfold(None, move |last| {
        let (shared, service) = (shared.clone(), request.service.clone());
        async move {
            match last {
                None => {}
                Some(Health::Serving) => shared.stop.cancelled().await,
                // It stays so.
                Some(Health::NotServing) => return None,
                Some(Health::Unknown | Health::ServiceUnknown) => std::future::pending().await,
            }
            let now = status(&shared, &service);
            Some((Ok(HealthResponse { status: now.into() }), Some(now)))
        }
    })
}
