//! `istio.v1.auth.IstioCertificateService`: certificates for workloads.
//!
//! Owns the way of a request to the authority and what is said of refusals. Must not know: how certificates are made.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use weft_proto::own::istio_auth::{IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::pb::google::protobuf::value::Kind;

use super::caller::{Door, Origin, proven};
use crate::ca::{Ca, CaError, Identity};

/// The largest request that is taken: one with an RSA key has some 2 KB.
pub(super) const MAX_BYTES: usize = 64 << 10;
/// What tells processes of one identity apart, in the request's metadata.
const PROCESS: &str = "WEFT_PROCESS";
/// For whom a node's agent asks (Istio's).
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// The longest name of a process that is kept.
const MAX_PROCESS_BYTES: usize = 128;

/// Answers a request for a certificate.
///
/// # Errors
/// UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT or RESOURCE_EXHAUSTED, with the reason; it is logged with the address.
pub(super) async fn create(
    door: Door,
    request: tonic::Request<IstioCertificateRequest>,
) -> Result<IstioCertificateResponse, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let Door::Guarded { ca: Some(ca), .. } = door else {
        return Err(Status::unimplemented("certificates are made only over TLS, and where there is an authority"));
    };
    let origin = Origin::of(&extensions);
    let peer = origin.address.map(|address| address.to_string()).unwrap_or_default();
    if origin.address.is_some_and(|address| !ca.admits(address.ip())) {
        ca.counts.limited.add(1);
        tracing::warn!(peer, "certificate refused: too many requests from this address");
        return Err(Status::resource_exhausted("too many requests for certificates; try later"));
    }
    let headers = metadata.into_headers();
    let caller = match proven(Some(&ca), &origin, &headers) {
        Ok(caller) => caller,
        Err(reason) => {
            ca.counts.unauthenticated.add(1);
            tracing::warn!(peer, "certificate refused: {reason}");
            return Err(Status::unauthenticated(reason));
        }
    };
    let id = caller.to_string();
    let made = made(ca.clone(), caller, request).await;
    match &made {
        Ok(_) => tracing::info!(peer, identity = id, "certificate made"),
        Err(status) => {
            ca.counts.refused.add(1);
            tracing::warn!(peer, identity = id, "certificate refused: {}", status.message());
        }
    }
    made
}

async fn made(
    ca: Arc<Ca>,
    caller: Identity,
    request: IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    if caller.trust_domain != ca.trust_domain() {
        return Err(Status::permission_denied(format!("{caller} is not of trust domain {:?}", ca.trust_domain())));
    }
    let told = |key: &str| {
        let value = request.metadata.as_ref()?.fields.get(key)?;
        if let Some(Kind::StringValue(text)) = &value.kind { Some(text.clone()) } else { None }
    };
    if let Some(other) = told(IMPERSONATED).filter(|other| *other != caller.to_string()) {
        let text = format!("{caller} may not ask for a certificate of {other:?}");
        return Err(Status::permission_denied(text));
    }
    let process = told(PROCESS).filter(|text| !text.is_empty() && text.len() <= MAX_PROCESS_BYTES);
    let ttl = u64::try_from(request.validity_duration)
        .map(Duration::from_secs)
        .map_err(|_| Status::invalid_argument("validity_duration is negative"))?;
    // Large keys take a while, and files may be written.
    let signing = move || ca.sign(&caller, &request.csr, ttl, process.as_deref());
    let signed = tokio::task::spawn_blocking(signing).await.map_err(|error| Status::internal(error.to_string()))?;
    let cert_chain = signed.map_err(|error| match error {
        CaError::Request(crate::ca::CsrError::Names { .. }) => Status::permission_denied(error.to_string()),
        CaError::Request(_) => Status::invalid_argument(error.to_string()),
        other => {
            tracing::error!("a certificate cannot be made: {other}");
            Status::unavailable("the authority cannot sign, see its log")
        }
    })?;
    Ok(IstioCertificateResponse { cert_chain })
}
