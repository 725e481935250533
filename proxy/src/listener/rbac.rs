//! `envoy.filters.network.rbac`: who may use a connection.
//!
//! As in Envoy the judgement waits for the first bytes: what a connection leads to is opened meanwhile, and what that says first
//! reaches the client. Runs on: workers.

use std::sync::Arc;
use std::time::Duration;

use crate::app::Parts;
use crate::config::NetworkRbac;
use crate::rbac::{self, Counts, Engine, Facts, Mode, Verdict};
use crate::stream_info::ConnInfo;
use crate::transport::{Admission, Stream};

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

/// The same stream, of which nothing gets through before `filters`, in their order, have let it.
pub(super) fn guard(stream: Stream, filters: &Arc<[Arc<Rbac>]>, conn: &Arc<ConnInfo>) -> Stream {
    if filters.is_empty() {
        return stream;
    }
    let (filters, conn, mut first) = (filters.clone(), conn.clone(), true);
    Stream::gated(stream, move || judge(&filters, &conn, std::mem::take(&mut first)))
}

fn judge(filters: &[Arc<Rbac>], conn: &ConnInfo, first: bool) -> Admission {
    let facts = Facts { conn, stream: None };
    let mut said = None;
    let mut refused = None;
    for filter in filters.iter().filter(|filter| first || filter.continuous) {
        if let Some(verdict) = filter.shadow.judge(&facts) {
            rbac::merge(&mut said, verdict.metadata);
        }
        if let Some(verdict) = filter.enforced.judge(&facts).filter(|verdict| !verdict.allowed) {
            refused = Some((verdict.details(), filter.delay));
            break;
        }
    }
    if let Some(said) = said {
        // What is judged does not change, so neither does what was said first.
        conn.rbac.get_or_init(|| said);
    }
    match refused {
        Some((details, delay)) => {
            *conn.termination_details.lock() = Some(details.into());
            *conn.local_close.lock() = Some(CLOSED.into());
            Admission::Refused(delay)
        }
        None if filters.iter().any(|filter| filter.continuous) => Admission::AskAgain,
        None => Admission::Open,
    }
}
