//! `envoy.filters.http.rbac`: who may make which requests.

use bytes::Bytes;
use http::StatusCode;

use super::{Flow, rbac_settings};
use crate::config::HttpRbac;
use crate::http::body::Body;
use crate::http::local_reply;
use crate::http::stream::StreamCtx;
use crate::rbac::{self, Counts, Engine, Facts, Mode, Verdict};
use crate::stats::Scope;

/// What a denied request is answered with.
const DENIED: &[u8] = b"RBAC: access denied";

/// The filter.
pub(super) struct Rbac {
    own: Settings,
    prefixes: Prefixes,
    enforced: Counts,
    shadow: Counts,
}

/// Rules of a chain or of some routes, compiled.
pub(super) struct Settings {
    enforced: Option<Engine>,
    shadow: Option<Engine>,
}

/// What follows `rbac.` in names of stats, and stands in front of keys of metadata.
#[derive(Clone, Default)]
struct Prefixes {
    rules: String,
    shadow: String,
}

impl Rbac {
    /// `scope`: the connection manager's.
    pub(super) fn new(config: &HttpRbac, scope: &Scope) -> Self {
        let prefixes = Prefixes { rules: config.rules_prefix.clone(), shadow: config.shadow_prefix.clone() };
        let counts = scope.scope("rbac");
        Rbac {
            own: Settings::compile(config, scope, &prefixes, &prefixes),
            enforced: Counts::new(&counts, &prefixes.rules, Mode::Enforced),
            shadow: Counts::new(&counts, &prefixes.shadow, Mode::Shadow),
            prefixes,
        }
    }

    /// Judges a request; `i`: the filter's place in the chain.
    pub(super) fn request(&self, mut ctx: Box<StreamCtx>, body: Body, i: usize) -> Flow {
        match self.judge(&mut ctx, i) {
            None => Flow::Continue(ctx, body),
            Some(details) => Flow::Answer(local_reply::with_headers(
                ctx,
                StatusCode::FORBIDDEN,
                Bytes::from_static(DENIED),
                details,
                |_| {},
            )),
        }
    }

    /// The details of the answer, if the request is denied.
    fn judge(&self, ctx: &mut StreamCtx, i: usize) -> Option<String> {
        let settings = rbac_settings(ctx, i).unwrap_or(&self.own);
        let facts = Facts { conn: &ctx.conn.info, stream: Some(ctx) };
        let shadow = settings.shadow.as_ref().map(|engine| engine.judge(&facts));
        let enforced = settings.enforced.as_ref().map(|engine| engine.judge(&facts));
        for (mode, counts, verdict) in [("shadow", &self.shadow, &shadow), ("enforced", &self.enforced, &enforced)] {
            if let Some(verdict) = verdict {
                counts.count(verdict.allowed);
                log(ctx, mode, verdict);
            }
        }
        let details = enforced.as_ref().filter(|verdict| !verdict.allowed).map(Verdict::details);
        let said = [shadow.as_ref().map(|v| v.metadata.clone()), enforced.as_ref().map(|v| v.metadata.clone())];
        let hint = enforced.and_then(|verdict| verdict.log_hint);
        for metadata in said.iter().flatten() {
            rbac::merge(&mut ctx.info.rbac, metadata);
        }
        if let Some(matched) = hint {
            let all = ctx.info.metadata.get_or_insert_default();
            let common = all.entry("envoy.common".to_owned()).or_insert_with(|| serde_json::json!({}));
            if let Some(common) = common.as_object_mut() {
                common.insert("access_log_hint".to_owned(), matched.into());
            }
        }
        details
    }
}

fn log(ctx: &StreamCtx, mode: &str, verdict: &Verdict<'_>) {
    tracing::debug!(
        mode,
        allowed = verdict.allowed,
        policy = verdict.policy_or_none(),
        peer = %ctx.conn.info.direct_remote,
        client = %ctx.info.remote,
        principal = rbac::principal(&ctx.conn.info),
        "RBAC"
    );
}

impl Settings {
    fn compile(config: &HttpRbac, scope: &Scope, stats: &Prefixes, metadata: &Prefixes) -> Self {
        let scope = scope.scope("rbac");
        let engine = |rules: &Option<_>, mode, stats: &str, metadata: &str| {
            let scope = config.per_rule_stats.then(|| scope.scope(stats.trim_end_matches('.')));
            rules.as_ref().map(|rules| Engine::new(rules, mode, metadata, scope.as_ref()))
        };
        Settings {
            enforced: engine(&config.rules, Mode::Enforced, &stats.rules, &metadata.rules),
            shadow: engine(&config.shadow, Mode::Shadow, &stats.shadow, &metadata.shadow),
        }
    }

    /// Rules for some routes of a chain in which the filter stands; it counts as configured there.
    pub(super) fn of_route(config: &HttpRbac, scope: &Scope, filter: Option<&Rbac>) -> Self {
        let chain = filter.map(|f| f.prefixes.clone()).unwrap_or_default();
        let own = |own: &String, chains: &String| if own.is_empty() { chains.clone() } else { own.clone() };
        let metadata = Prefixes {
            rules: own(&config.rules_prefix, &chain.rules),
            shadow: own(&config.shadow_prefix, &chain.shadow),
        };
        Self::compile(config, scope, &chain, &metadata)
    }
}
