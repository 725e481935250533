//! The identity of the workload: a key, a certificate for it, and the roots to trust.
//!
//! Owns the life of the certificate: the key is made here and stays in memory, a certificate is asked for at the start and
//! again when 50 to 80 % of its life are over, with pauses that grow while the authority does not answer. Must not know: who
//! uses them; that is [`crate::xds`], which answers with them what is asked of the cluster `sds_cluster_name`. Runs on: the
//! control thread, as one task.

mod request;
mod schedule;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_proto::own::istio_auth::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::config::{GrpcTarget, WorkloadIdentity};
use crate::stats::{Counter, Gauge, Scope};
use crate::xds::dial::Dialer;
use crate::xds::grpc;
use request::KeyPair;
use schedule::Schedule;

/// The name of the secret with certificate and key (Istio's).
pub const CERTIFICATE: &str = "default";
/// The name of the secret with the roots (Istio's).
pub const ROOTS: &str = "ROOTCA";
/// How long the authority may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What tells this process from others of the same identity, for the authority's books.
const PROCESS: &str = "WEFT_PROCESS";

/// What the workload has at a time.
#[derive(Debug)]
pub struct Held {
    /// The certificate and what lies between it and the roots, as PEM.
    pub chain: Bytes,
    /// Its key, as PEM; wiped when nobody has it any more.
    pub key: Bytes,
    /// Whom to trust, as PEM.
    pub roots: Bytes,
    /// When it ends.
    pub not_after: SystemTime,
    /// Counts certificates.
    pub version: u64,
}

/// The identity, as others see it. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    config: Arc<WorkloadIdentity>,
    held: watch::Receiver<Option<Arc<Held>>>,
    reason: Arc<Mutex<String>>,
}

/// What keeps a certificate.
pub struct Keeper {
    config: Arc<WorkloadIdentity>,
    dialer: Dialer,
    held: watch::Sender<Option<Arc<Held>>>,
    reason: Arc<Mutex<String>>,
    process: String,
    stats: Stats,
}

/// `identity.*`
struct Stats {
    success: Counter,
    failure: Counter,
    /// When the certificate ends, in seconds since 1970.
    not_after: Gauge,
}

impl Identity {
    /// An identity that has nothing yet, and what will get it.
    pub fn new(config: WorkloadIdentity, dialer: Dialer, root: &Scope) -> (Identity, Keeper) {
        let (held, seen) = watch::channel(None);
        let (config, reason) =
            (Arc::new(config), Arc::new(Mutex::new("the authority has not answered yet".to_owned())));
        let scope = root.scope("identity");
        let stats = Stats {
            success: scope.counter("update_success"),
            failure: scope.counter("update_failure"),
            not_after: scope.gauge("certificate_expiration_unix_time_seconds"),
        };
        let process = format!("{:016x}", crate::worker::random());
        let keeper = Keeper { config: config.clone(), dialer, held, reason: reason.clone(), process, stats };
        (Identity { config, held: seen, reason }, keeper)
    }

    /// Whether secrets of this server are answered here.
    pub fn answers(&self, target: &GrpcTarget) -> bool {
        matches!(target, GrpcTarget::Envoy { cluster, .. } if *cluster == self.config.sds_cluster)
    }

    /// What the workload has.
    pub fn held(&self) -> Option<Arc<Held>> {
        self.held.borrow().clone()
    }

    /// Waits for another certificate than was seen last.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn changed(&mut self) {
        // What keeps it lives as long as the process.
        if self.held.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.held.mark_unchanged();
    }

    /// Why there is no certificate yet; `None`: there is one.
    pub fn waits(&self) -> Option<String> {
        self.held
            .borrow()
            .is_none()
            .then(|| format!("no certificate for {}: {}", self.config.spiffe_id, self.reason.lock()))
    }

    /// The file with the token to show to a server: it is shown where the authority is, and to nobody else.
    pub fn token_for(&self, target: &GrpcTarget) -> Option<PathBuf> {
        let GrpcTarget::Envoy { cluster, .. } = target else { return None };
        let same = matches!(&self.config.ca.target, GrpcTarget::Envoy { cluster: of_ca, .. } if of_ca == cluster);
        self.config.token_path.as_ref().filter(|_| same).map(PathBuf::from)
    }
}

/// The header that shows a token, read anew each time: tokens are replaced in their files.
///
/// # Errors
/// The file cannot be read, or holds what no header can.
pub fn authorization(path: &std::path::Path) -> Result<(String, String), String> {
    let failed = |reason: &str| format!("token {}: {reason}", path.display());
    let token = std::fs::read_to_string(path).map_err(|e| failed(&e.to_string()))?;
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(failed("holds no token"));
    }
    Ok(("authorization".to_owned(), format!("Bearer {token}")))
}

impl Keeper {
    /// Keeps a certificate, until dropped.
    pub async fn run(self) {
        let mut schedule = Schedule::new(self.config.ca.back_off_base, self.config.ca.back_off_max);
        loop {
            let outcome = tokio::time::timeout(PATIENCE, self.obtain()).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("the authority does not answer within {PATIENCE:?}")));
            let random = crate::worker::random();
            let now = Instant::now();
            let pause = match outcome {
                Ok(held) => {
                    let left = held.not_after.duration_since(SystemTime::now()).unwrap_or_default();
                    self.took(held);
                    schedule.succeeded(left, now, random)
                }
                Err(reason) => {
                    self.failed(&reason, &schedule, now);
                    schedule.failed(random)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn took(&self, held: Held) {
        let seconds = held.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.stats.success.inc();
        self.stats.not_after.set(seconds);
        let held = Arc::new(held);
        tracing::info!(identity = %self.config.spiffe_id, not_after = seconds, "certificate received");
        self.held.send_replace(Some(held));
    }

    fn failed(&self, reason: &str, schedule: &Schedule, now: Instant) {
        self.stats.failure.inc();
        reason.clone_into(&mut self.reason.lock());
        let identity = &*self.config.spiffe_id;
        match schedule.left(now) {
            None => tracing::warn!(identity, "not ready, there is no certificate: {reason}"),
            Some(left) if left.is_zero() => {
                tracing::error!(identity, "the certificate has ended and is not renewed, peers refuse it: {reason}");
            }
            Some(left) if schedule.is_urgent(now) => {
                tracing::warn!(identity, "the certificate ends in {} s and is not renewed: {reason}", left.as_secs());
            }
            Some(left) => {
                tracing::info!(identity, "renewal failed, {} s are left: {reason}", left.as_secs());
            }
        }
    }

    /// A key and a certificate for it.
    async fn obtain(&self) -> Result<Held, String> {
        let key = KeyPair::generate(self.config.key)?;
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let request = IstioCertificateRequest {
            csr: key.request(&self.config.spiffe_id)?,
            validity_duration: i64::try_from(self.config.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct { fields: [(PROCESS.to_owned(), text(&self.process))].into() }),
        };
        let answer = self.call(&request).await?;
        let version = self.held.borrow().as_ref().map_or(1, |held| held.version + 1);
        request::accept(&answer.cert_chain, key, &self.config.spiffe_id, version)
    }

    async fn call(&self, request: &IstioCertificateRequest) -> Result<IstioCertificateResponse, String> {
        let mut metadata = self.config.ca.metadata.clone();
        if let Some(path) = &self.config.token_path {
            metadata.push(authorization(path.as_ref())?);
        }
        let dialled = self.dialer.dial().await?;
        let target = grpc::Target {
            authority: &dialled.authority,
            path: CREATE_CERTIFICATE,
            metadata: &metadata,
            keepalive: None,
        };
        let (mut requests, mut responses) = grpc::call(dialled.stream, &target).await.map_err(|e| e.to_string())?;
        requests.send(&request.encode_to_vec()).await.map_err(|e| e.to_string())?;
        requests.finish().map_err(|e| e.to_string())?;
        let message = responses.next().await.map_err(|e| e.to_string())?.ok_or("the authority has said nothing")?;
        drop(dialled.open);
        IstioCertificateResponse::decode(message).map_err(|_| "the authority's answer cannot be read".to_owned())
    }
}
