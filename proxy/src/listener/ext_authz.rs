//! `envoy.filters.network.ext_authz`: a service says who may use a connection. Runs on: workers.

use std::sync::Arc;

use serde_json::{Map, Value};
use weft_proto::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

use crate::access_log::LogContext;
use crate::app::Parts;
use crate::config::{ConfigError, NetworkExtAuthz};
use crate::ext_authz::{self, CHECK, Verdict, attributes};
use crate::http::grpc_client::GrpcClient;
use crate::http::route::metadata_matches;
use crate::rbac;
use crate::stats::{Counter, Gauge};
use crate::stream_info::{ConnInfo, ResponseFlags, StreamInfo};

/// Why a refused connection was closed, as access logs have it.
const CLOSED: &str = "ext_authz_close";

/// The filter.
pub(super) struct ExtAuthz {
    config: NetworkExtAuthz,
    service: GrpcClient,
    stats: Stats,
}

/// `ext_authz.<stat_prefix>.*`.
struct Stats {
    total: Counter,
    ok: Counter,
    denied: Counter,
    error: Counter,
    disabled: Counter,
    failure_mode_allowed: Counter,
    cx_closed: Counter,
    active: Gauge,
}

/// A question under way.
struct Active<'a>(&'a Gauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ExtAuthz {
    /// # Errors
    /// A service that cannot be compiled.
    pub(super) fn new(config: &NetworkExtAuthz, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
        let scope = parts.stats.root().tagged("ext_authz", "envoy.ext_authz_prefix", &config.stat_prefix);
        Ok(Arc::new(ExtAuthz {
            service: GrpcClient::new(&config.service, CHECK, &parts.clusters)?,
            stats: Stats {
                total: scope.counter("total"),
                ok: scope.counter("ok"),
                denied: scope.counter("denied"),
                error: scope.counter("error"),
                disabled: scope.counter("disabled"),
                failure_mode_allowed: scope.counter("failure_mode_allowed"),
                cx_closed: scope.counter("cx_closed"),
                active: scope.gauge("active"),
            },
            config: config.clone(),
        }))
    }

    /// Whether it has nothing to say of a connection, by the connection's metadata; counted each time it is asked. `said`: what RBAC in
    /// front of it has said just now, which the connection does not have yet.
    pub(super) fn is_disabled(&self, conn: &ConnInfo, said: Option<&Value>) -> bool {
        let enabled = self.config.enabled_metadata.as_ref();
        let of = |filter: &str| match said {
            Some(said) if filter == rbac::NETWORK_NAMESPACE => Some(said),
            _ => conn.dynamic_metadata(filter),
        };
        let disabled = enabled.is_some_and(|m| !metadata_matches(m, of(&m.filter)));
        if disabled {
            self.stats.disabled.inc();
        }
        disabled
    }

    /// Whether a connection may be used. One that may not knows why.
    ///
    /// # Cancel safety
    /// Dropped, it gives the question up.
    pub(super) async fn allows(&self, conn: &Arc<ConnInfo>) -> bool {
        self.stats.total.inc();
        self.stats.active.inc();
        let active = Active(&self.stats.active);
        let began = crate::clock::now();
        let mut answer = self.ask(conn).await;
        drop(active);
        if answer.verdict == Verdict::Ok {
            let took = crate::clock::now().saturating_duration_since(began).as_millis();
            answer.metadata.insert("ext_authz_duration".to_owned(), u64::try_from(took).unwrap_or(u64::MAX).into());
        }
        keep_metadata(conn, answer.metadata);
        let (counter, details) = match answer.verdict {
            Verdict::Ok => {
                self.stats.ok.inc();
                return true;
            }
            Verdict::Error if self.config.failure_mode_allow => {
                self.stats.error.inc();
                self.stats.failure_mode_allowed.inc();
                return true;
            }
            Verdict::Denied => (&self.stats.denied, "ext_authz_denied"),
            Verdict::Error => (&self.stats.error, "ext_authz_error"),
        };
        counter.inc();
        self.stats.cx_closed.inc();
        tracing::debug!(connection = conn.id, details, peer = %conn.direct_remote, "refused by external authorization");
        conn.refused.get_or_init(|| (ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE, details));
        *conn.local_close.lock() = Some(CLOSED.into());
        false
    }

    async fn ask(&self, conn: &Arc<ConnInfo>) -> ext_authz::Answer {
        let mut attributes = attributes::of_connection(conn, &self.config.peers, String::new(), conn.sni.to_string());
        let find = |name: &str| conn.dynamic_metadata(name);
        attributes.metadata_context = Some(attributes::metadata(&self.config.metadata_namespaces, find));
        let request = CheckRequest { attributes: Some(attributes) };
        let head = self.service.head(&LogContext::new(&StreamInfo::new(conn.clone(), 0, None)));
        match self.service.call::<CheckResponse>(head, &request, conn).await {
            Ok(response) => ext_authz::grpc::answer(response),
            Err(failure) => {
                tracing::debug!(?failure, "external authorization did not answer");
                ext_authz::Answer::default()
            }
        }
    }
}

fn keep_metadata(conn: &ConnInfo, metadata: Map<String, Value>) {
    if !metadata.is_empty() {
        // The first of several filters says it, as the first judgement counts elsewhere.
        conn.authz.get_or_init(|| Arc::new(Value::Object(metadata)));
    }
}
