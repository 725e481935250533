//! `envoy.filters.network.rbac`: who may use a connection. Runs on: workers.

use std::sync::Arc;
use std::time::Duration;

use crate::app::Parts;
use crate::config::NetworkRbac;
use crate::rbac::{self, Counts, Engine, Facts, Mode, Verdict};
use crate::stream_info::ConnInfo;

/// Why a refused connection was closed, as access logs have it.
const CLOSED: &str = "rbac_deny_close";

/// The filter.
pub(super) struct Rbac {
    enforced: Judge,
    shadow: Judge,
    continuous: bool,
    delay: Option<Duration>,
}

/// Rules, if there are any. Their counters are there in any case.
struct Judge {
    mode: &'static str,
    engine: Option<Engine>,
    counts: Counts,
}

impl Judge {
    fn judge(&self, facts: &Facts<'_>) -> Option<Verdict<'_>> {
        let verdict = self.engine.as_ref()?.judge(facts);
        self.counts.count(verdict.allowed);
        log(facts.conn, self.mode, &verdict);
        Some(verdict)
    }
}

impl Rbac {
    /// Compiles.
    pub(super) fn new(config: &NetworkRbac, parts: &Parts) -> Arc<Self> {
        let scope = parts.stats.root().scope(config.stat_prefix.trim_end_matches('.')).scope("rbac");
        let judge = |name, rules: &Option<_>, mode, prefix: &str| Judge {
            mode: name,
            engine: rules.as_ref().map(|rules| Engine::new(rules, mode, prefix, None)),
            counts: Counts::new(&scope, prefix, mode),
        };
        Arc::new(Rbac {
            enforced: judge("enforced", &config.rules, Mode::Enforced, ""),
            shadow: judge("shadow", &config.shadow, Mode::Shadow, &config.shadow_prefix),
            continuous: config.continuous,
            delay: config.delay_deny,
        })
    }

    /// Whether it judges all that is read, and not only the first of it.
    pub(super) fn is_continuous(&self) -> bool {
        self.continuous
    }

    /// Judges a connection; `Some`: it is refused, after so long. `first`: for the first time; `said`: what shadow rules say of it.
    pub(super) fn refuses(
        &self,
        conn: &ConnInfo,
        first: bool,
        said: &mut Option<Arc<serde_json::Value>>,
    ) -> Option<Option<Duration>> {
        if !first && !self.continuous {
            return None;
        }
        let facts = Facts { conn, stream: None };
        if let Some(verdict) = self.shadow.judge(&facts) {
            rbac::merge(said, verdict.metadata);
        }
        let refused = self.enforced.judge(&facts).filter(|verdict| !verdict.allowed)?;
        *conn.termination_details.lock() = Some(refused.details().into());
        *conn.local_close.lock() = Some(CLOSED.into());
        Some(self.delay)
    }
}

fn log(conn: &ConnInfo, mode: &str, verdict: &Verdict<'_>) {
    tracing::debug!(
        mode,
        connection = conn.id,
        allowed = verdict.allowed,
        policy = verdict.policy_or_none(),
        peer = %conn.direct_remote,
        principal = rbac::principal(conn),
        "RBAC"
    );
}
