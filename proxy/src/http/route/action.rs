//! What routes do: forward (to which cluster, with which path and host), redirect.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::table::{Level, value};
use crate::app::Parts;
use crate::cluster::{Cluster, ClusterHandle, lb};
use crate::config::{self, ClusterSpecifier, ConfigError, HostRewrite, PathMatch, PathRewrite, RedirectPath};
use crate::http::filter::{Chain, Overrides, Policy};
use crate::http::head::Scheme;
use crate::http::headers::Format;
use crate::http::limit_rules::LimitRules;
use crate::http::mirror::Mirror;
use crate::http::stream::StreamCtx;
use crate::runtime::Integer;

/// A cluster to forward to.
pub enum Target {
    /// By name, resolved when the table was built.
    Handle(Arc<ClusterHandle>),
    /// By request header.
    Header(String),
}

impl Target {
    /// The target of a specifier.
    pub(in crate::http) fn new(s: &ClusterSpecifier, parts: &Parts) -> Self {
        match s {
            ClusterSpecifier::Name(n) => Target::Handle(parts.clusters.handle(n)),
            ClusterSpecifier::Header(h) => Target::Header(h.clone()),
            // Weights do not nest; the loader refuses it.
            ClusterSpecifier::Weighted(_) => Target::Header(String::new()),
        }
    }

    /// The name of the cluster, whether there is such a cluster or not.
    pub fn name<'a>(&'a self, ctx: &'a StreamCtx) -> Option<&'a str> {
        match self {
            Target::Handle(h) => Some(&h.name),
            Target::Header(name) => std::str::from_utf8(ctx.request.get(name)?).ok(),
        }
    }

    /// The cluster of this moment.
    pub fn resolve(&self, ctx: &StreamCtx, parts: &crate::cluster::Clusters) -> Option<Arc<Cluster>> {
        match self {
            Target::Handle(h) => h.get(),
            Target::Header(_) => parts.find(self.name(ctx)?),
        }
    }
}

struct Choice {
    target: Target,
    weight: Weight,
    level: Level,
    overrides: Overrides,
    host_rewrite: Option<HeaderValue>,
}

/// The weight of a cluster: as configured, or as a runtime key has it (`runtime_key_prefix`).
enum Weight {
    Fixed(u64),
    Runtime(Integer),
}

impl Weight {
    fn get(&self) -> u64 {
        match self {
            Weight::Fixed(n) => *n,
            Weight::Runtime(n) => n.get().min(u64::from(u32::MAX)),
        }
    }
}

/// Forwarding, compiled.
pub struct Forward {
    /// Validated settings.
    pub config: config::RouteAction,
    /// Retry policy in force: the route's, else the virtual host's.
    pub retry: Option<Arc<config::RetryPolicy>>,
    /// Clusters by name, for targets named by headers.
    pub clusters: Arc<crate::cluster::Clusters>,
    /// Mirrors in force, unless the cluster has its own.
    pub mirrors: Vec<Mirror>,
    /// What requests are counted under.
    pub limits: LimitRules,
    /// The deprecated `cors` field, compiled.
    pub cors: Option<Arc<Policy>>,
    target: Option<Target>,
    choices: Vec<Choice>,
    /// Sum of the weights, where none of them can change.
    total: Option<u64>,
    path_format: Option<Format>,
    literal_host: Option<HeaderValue>,
}

impl Forward {
    /// Compiles.
    ///
    /// # Errors
    /// A bad name, value or format.
    pub fn new(
        action: &config::RouteAction,
        vhost: &config::VirtualHost,
        root: &config::RouteConfig,
        chain: &Chain,
        parts: &Parts,
    ) -> Result<Self, ConfigError> {
        let mut choices = Vec::new();
        let mut target = None;
        if let ClusterSpecifier::Weighted(w) = &action.cluster {
            for c in &w.clusters {
                choices.push(Choice {
                    target: Target::new(&c.cluster, parts),
                    weight: match (&*c.cluster, w.runtime_key_prefix.as_str()) {
                        (ClusterSpecifier::Name(name), prefix) if !prefix.is_empty() => {
                            Weight::Runtime(parts.runtime.integer(&format!("{prefix}.{name}"), u64::from(c.weight)))
                        }
                        _ => Weight::Fixed(u64::from(c.weight)),
                    },
                    level: Level::new(&c.headers)?,
                    overrides: chain.overrides(&[&c.per_filter])?,
                    host_rewrite: c.host_rewrite.as_deref().map(|h| value(h, "host_rewrite_literal")).transpose()?,
                });
            }
        } else {
            target = Some(Target::new(&action.cluster, parts));
        }
        let path_format = match &action.path_rewrite {
            PathRewrite::Format(f) => Some(Format::new(f).map_err(|e| ConfigError::at("route.path_rewrite", e))?),
            _ => None,
        };
        let literal_host = match &action.host_rewrite {
            HostRewrite::Literal(h) => Some(value(h, "route.host_rewrite_literal")?),
            _ => None,
        };
        let mirrors = [&action.mirrors, &vhost.mirrors, &root.mirrors].into_iter().find(|m| !m.is_empty());
        Ok(Forward {
            retry: action.retry_policy.clone().or_else(|| vhost.retry_policy.clone()).map(Arc::new),
            clusters: parts.clusters.clone(),
            limits: LimitRules::new(&action.rate_limits, &parts.runtime)?,
            mirrors: Mirror::compile(mirrors.map_or(&[][..], |list| list), parts)?,
            total: choices
                .iter()
                .map(|c: &Choice| if let Weight::Fixed(n) = c.weight { Some(n) } else { None })
                .sum::<Option<u64>>(),
            cors: action.cors.as_ref().map(|c| Arc::new(Policy::new(c, &parts.runtime))),
            config: action.clone(),
            target,
            choices,
            path_format,
            literal_host,
        })
    }

    /// Chooses among weighted clusters.
    pub(super) fn choose(&self, ctx: &StreamCtx) -> Option<usize> {
        let total = self.total.unwrap_or_else(|| self.choices.iter().map(|c| c.weight.get()).sum());
        if total == 0 {
            return None;
        }
        let given = match &self.config.cluster {
            ClusterSpecifier::Weighted(w) if !w.header_name.is_empty() => {
                ctx.request.get(&w.header_name).and_then(|v| std::str::from_utf8(v).ok()?.parse::<u64>().ok())
            }
            _ => None,
        };
        let mut at = given.unwrap_or_else(|| lb::mix(ctx.random ^ 0x77)) % total;
        self.choices.iter().position(|c| {
            let weight = c.weight.get();
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    /// Header mutations of a weighted cluster.
    pub(super) fn level(&self, choice: usize) -> Option<&Level> {
        self.choices.get(choice).map(|c| &c.level)
    }

    /// Filter overrides of a weighted cluster.
    pub fn overrides(&self, choice: usize) -> Option<&Overrides> {
        self.choices.get(choice).map(|c| &c.overrides)
    }

    /// Where to.
    pub fn target(&self, choice: Option<usize>) -> Option<&Target> {
        match choice {
            Some(i) => self.choices.get(i).map(|c| &c.target),
            None => self.target.as_ref(),
        }
    }

    /// Whether this route takes a CONNECT apart: what the client sends goes on as it is, over TCP.
    pub fn terminates(&self, request: &crate::http::RequestHead) -> bool {
        request.upgrade.is_none()
            && self.config.upgrades.iter().any(|u| {
                let taken = match request.method {
                    http::Method::CONNECT => true,
                    // A proxy in front had to make a POST of it.
                    http::Method::POST => u.allow_post,
                    _ => false,
                };
                taken && u.terminate_connect && u.enabled && u.upgrade_type == "connect"
            })
    }

    /// Rewrites path and host of a request that this route forwards.
    pub fn rewrite(&self, ctx: &mut StreamCtx, matched: &PathMatch, case_sensitive: bool, choice: Option<usize>) {
        if let Some(path) = self.new_path(ctx, matched, case_sensitive)
            && path != ctx.request.path
        {
            set(ctx, "x-envoy-original-path", HeaderValue::from_str(&ctx.request.path).ok());
            ctx.request.path = path;
        }
        if let Some(host) = choice.and_then(|i| self.choices.get(i)?.host_rewrite.clone()) {
            // Envoy leaves no trace of this one.
            ctx.request.authority = Some(host);
            return;
        }
        let host = match &self.config.host_rewrite {
            HostRewrite::Literal(_) => self.literal_host.clone(),
            HostRewrite::Header(name) => ctx.request.get(name).and_then(|v| HeaderValue::from_bytes(v).ok()),
            HostRewrite::PathRegex(p, with) => {
                let new = p.regex().replace_all(ctx.request.path_only(), dollar(with)).into_owned();
                HeaderValue::from_str(&new).ok()
            }
            HostRewrite::Keep | HostRewrite::Auto => None,
        };
        if let Some(host) = host.filter(|h| !h.is_empty()) {
            self.set_host(ctx, host);
        }
    }

    /// Replaces the host, remembering the old one as configured.
    pub fn set_host(&self, ctx: &mut StreamCtx, host: HeaderValue) {
        let old = ctx.request.authority.replace(host);
        if let Some(old) = old {
            if self.config.append_x_forwarded_host {
                let joined = match ctx.request.headers.get("x-forwarded-host") {
                    Some(have) => HeaderValue::from_bytes(&[have.as_bytes(), b",", old.as_bytes()].concat()).ok(),
                    None => Some(old.clone()),
                };
                set(ctx, "x-forwarded-host", joined);
            }
            set(ctx, "x-envoy-original-host", Some(old));
        }
    }

    fn new_path(&self, ctx: &StreamCtx, matched: &PathMatch, case_sensitive: bool) -> Option<String> {
        let full = &ctx.request.path;
        let path = ctx.request.path_only();
        let query = &full[path.len()..];
        match &self.config.path_rewrite {
            PathRewrite::Keep => None,
            PathRewrite::Prefix(new) => Some(replace_prefix(full, path, matched, case_sensitive, new)),
            PathRewrite::Regex(p, with) => Some(format!("{}{query}", p.regex().replace_all(path, dollar(with)))),
            PathRewrite::Format(_) => {
                let new = self.path_format.as_ref()?.text(ctx);
                Some(if new.contains('?') { new } else { format!("{new}{query}") })
            }
            PathRewrite::Template(template) => {
                let PathMatch::Template { pattern, .. } = matched else { return None };
                let captures = pattern.regex().captures(path)?;
                Some(format!("{}{query}", fill(template, &captures)))
            }
        }
    }
}

fn set(ctx: &mut StreamCtx, name: &'static str, value: Option<HeaderValue>) {
    if let Some(v) = value {
        ctx.request.headers.insert(HeaderName::from_static(name), v);
    }
}

/// Replaces the matched part of a path. `full` is the path with its query.
fn replace_prefix(full: &str, path: &str, matched: &PathMatch, _case: bool, new: &str) -> String {
    let len = match matched {
        PathMatch::Prefix(p) | PathMatch::SeparatedPrefix(p) => p.len(),
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Template { .. } => path.len(),
        PathMatch::Connect => return full.to_owned(),
    };
    format!("{new}{}", full.get(len..).unwrap_or_default())
}

/// RE2's `\1` as this library's `${1}`.
fn dollar(with: &str) -> String {
    let mut out = String::with_capacity(with.len() + 4);
    let mut chars = with.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(d) if d.is_ascii_digit() => out.push_str(&format!("${{{d}}}")),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

/// Fills `{name}` from captures.
fn fill(template: &str, captures: &regex::Captures<'_>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, tail)) = after.split_once('}') else { break };
        out.push_str(captures.name(name).map_or("", |m| m.as_str()));
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// A redirect, compiled.
pub struct Redirect {
    config: config::RedirectAction,
}

impl Redirect {
    /// Compiles.
    pub fn new(config: &config::RedirectAction) -> Self {
        Redirect { config: config.clone() }
    }

    /// Status and `location` of the answer.
    pub fn location(
        &self,
        ctx: &StreamCtx,
        matched: &PathMatch,
        case_sensitive: bool,
    ) -> (StatusCode, Option<HeaderValue>) {
        let c = &self.config;
        let status = StatusCode::from_u16(c.status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
        let old = ctx.request.scheme;
        let scheme = if c.https {
            "https"
        } else if c.scheme.is_empty() {
            old.as_str()
        } else {
            &c.scheme
        };
        let authority = ctx.request.authority.as_ref().and_then(|a| a.to_str().ok()).unwrap_or_default();
        let (name, port) = crate::http::manager::split_port(authority);
        let host = if c.host.is_empty() { name } else { &c.host };
        let port = if c.port != 0 {
            Some(c.port.to_string())
        } else if c.host.is_empty() {
            // A default port of the old scheme makes no sense under the new one.
            let drop = (c.https || !c.scheme.is_empty())
                && matches!((old, port), (Scheme::Http, Some("80")) | (Scheme::Https, Some("443")));
            port.filter(|_| !drop).map(str::to_owned)
        } else {
            None
        };
        let default = matches!((scheme, port.as_deref()), ("http", Some("80")) | ("https", Some("443"))) && c.port != 0;
        let port = port.filter(|_| !default).map_or_else(String::new, |p| format!(":{p}"));
        let path = self.path(ctx, matched, case_sensitive);
        (status, HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}")).ok())
    }

    fn path(&self, ctx: &StreamCtx, matched: &PathMatch, case_sensitive: bool) -> String {
        let full = &ctx.request.path;
        let path = ctx.request.path_only();
        let query = &full[path.len()..];
        let new = match &self.config.path {
            RedirectPath::Keep => full.clone(),
            RedirectPath::Replace(p) if p.contains('?') => return p.clone(),
            RedirectPath::Replace(p) => format!("{p}{query}"),
            RedirectPath::Prefix(new) => replace_prefix(full, path, matched, case_sensitive, new),
            RedirectPath::Regex(p, with) => format!("{}{query}", p.regex().replace_all(path, dollar(with))),
        };
        if self.config.strip_query { new.split('?').next().unwrap_or_default().to_owned() } else { new }
    }
}
