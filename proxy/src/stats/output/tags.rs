//! What Prometheus needs and text does not: a metric's name without the variable parts, and those parts as tags.
//!
//! A scope made with [`Scope::tagged`](crate::stats::Scope::tagged) knows its tags, whatever characters their values hold.
//! Beside that, Envoy's own rules find tags in names, and `stats_tags` adds rules of the user's.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::config::{StatTagValue, StatsConfig};
use crate::stats::registry::Meta;

/// Finds tags in metric names, as configured.
pub(in crate::stats) struct Extractor {
    default_tags: bool,
    fixed: Vec<(String, String)>,
    custom: Vec<(String, Regex)>,
}

/// A metric's name without tag values, and its tags in Envoy's order.
pub(super) struct Extracted {
    pub(super) name: String,
    pub(super) tags: Vec<(Cow<'static, str>, String)>,
}

impl Extractor {
    pub(in crate::stats) fn new(config: &StatsConfig) -> Self {
        let mut extractor =
            Extractor { default_tags: config.use_default_tags.unwrap_or(true), fixed: Vec::new(), custom: Vec::new() };
        for tag in &config.tags {
            match &tag.value {
                StatTagValue::Fixed(value) => extractor.fixed.push((tag.name.clone(), value.clone())),
                StatTagValue::Regex(pattern) => extractor.custom.push((tag.name.clone(), pattern.regex().clone())),
            }
        }
        extractor
    }

    pub(super) fn extract(&self, meta: &Meta) -> Extracted {
        let fixed = self.fixed.iter().map(|(tag, value)| (Cow::Owned(tag.clone()), value.clone()));
        let mut found = Found { tags: fixed.collect(), cut: Vec::new() };
        if let Some(tagged) = meta.tagged.as_ref().filter(|tagged| tagged.labels) {
            found.tags.extend(tagged.tags.iter().map(|(tag, value)| (tag.clone(), value.to_string())));
            return Extracted { name: meta.scope.prefix.trim_end_matches('.').to_owned(), tags: found.tags };
        }
        let text = match meta.tagged.as_ref().filter(|_| self.default_tags) {
            Some(tagged) => {
                let own = tagged.tags.iter().map(|(tag, value)| (tag.clone(), value.to_string()));
                found.tags.extend(own);
                [&*meta.scope.prefix, &*tagged.metric].concat()
            }
            None => meta.full_name(),
        };
        if self.default_tags {
            for (tag, value) in meta.scope.tags.iter().rev() {
                // The dot after it, too.
                found.add(&text, Cow::Borrowed(tag), value.clone(), value.start..value.end + 1);
            }
            RULES.iter().for_each(|rule| rule.apply(&text, &mut found));
        }
        for (tag, regex) in &self.custom {
            capture(&text, regex, |value, cut| found.add(&text, Cow::Owned(tag.clone()), value, cut));
        }
        found.finish(&text)
    }
}

/// The value and what is to be cut where a rule's expression matches: its second and its first group, or one for both.
fn capture(text: &str, regex: &Regex, found: impl FnOnce(Range<usize>, Range<usize>)) {
    let Some(groups) = regex.captures(text) else { return };
    let Some(cut) = groups.get(1) else { return };
    found(groups.get(2).unwrap_or(cut).range(), cut.range());
}

struct Found {
    tags: Vec<(Cow<'static, str>, String)>,
    cut: Vec<Range<usize>>,
}

impl Found {
    fn add(&mut self, text: &str, tag: Cow<'static, str>, value: Range<usize>, cut: Range<usize>) {
        if let Some(value) = text.get(value) {
            self.tags.push((tag, value.to_owned()));
            self.cut.push(cut);
        }
    }

    fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|(known, _)| known == tag)
    }

    fn finish(mut self, text: &str) -> Extracted {
        self.cut.sort_by_key(|range| range.start);
        let (mut name, mut at) = (String::with_capacity(text.len()), 0);
        for range in self.cut {
            if range.start > at {
                name.push_str(text.get(at..range.start).unwrap_or_default());
            }
            at = at.max(range.end);
        }
        name.push_str(text.get(at..).unwrap_or_default());
        Extracted { name: name.trim_end_matches('.').to_owned(), tags: self.tags }
    }
}

/// One of Envoy's default rules.
struct Rule {
    tag: &'static str,
    /// Must be in the name; spares most names the expression.
    hint: &'static str,
    /// A value that is none.
    not: Option<&'static str>,
    form: Form,
}

enum Form {
    Expression(Regex),
    /// Parts between dots: a literal, `*` for any one, `$` for the value, `**` for the rest.
    Parts(&'static str),
}

impl Rule {
    fn apply(&self, text: &str, found: &mut Found) {
        if !text.contains(self.hint) || found.has(self.tag) {
            return;
        }
        match &self.form {
            Form::Expression(regex) => capture(text, regex, |value, cut| {
                if text.get(value.clone()) != self.not {
                    found.add(text, Cow::Borrowed(self.tag), value, cut);
                }
            }),
            Form::Parts(pattern) => {
                if let Some(value) = find_part(text, pattern) {
                    let cut = value.start..value.end + 1;
                    found.add(text, Cow::Borrowed(self.tag), value, cut);
                }
            }
        }
    }
}

/// Where in `text` the `$` of `pattern` is, if the pattern fits.
fn find_part(text: &str, pattern: &str) -> Option<Range<usize>> {
    let mut found = None;
    let mut at = 0;
    for part in pattern.split('.') {
        let rest = text.get(at..)?;
        if part == "**" {
            return found.filter(|_| !rest.is_empty());
        }
        let end = at + rest.find('.').unwrap_or(rest.len());
        match part {
            "*" => {}
            "$" => found = Some(at..end),
            literal if text.get(at..end) == Some(literal) => {}
            _ => return None,
        }
        at = end + 1;
    }
    None
}

/// Envoy 1.40's default rules for what a mesh proxy has, in its order: expressions first. `<A>` is an address with a port,
/// `<V>` a part without a dot.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let expressions = [
        ("envoy.response_code", "_rq_", r"_rq(_(\d{3}))$"),
        ("envoy.response_code_class", "_rq_", r"_rq_((\d))xx$"),
        ("envoy.ssl_cipher", ".ssl.ciphers.", r"^listener\..*?\.ssl\.ciphers(\.([\w-]+))$"),
        ("envoy.ssl_curve", ".ssl.curves.", r"^(?:listener|cluster)\..*?\.ssl\.curves(\.([\w-]+))$"),
        ("envoy.ssl_sigalg", ".ssl.sigalgs.", r"^(?:listener|cluster)\..*?\.ssl\.sigalgs(\.([\w-]+))$"),
        ("envoy.ssl_version", ".ssl.versions.", r"^(?:listener|cluster)\..*?\.ssl\.versions(\.(TLSv\d\.\d))$"),
        ("cipher_suite", ".ssl.ciphers.", r"^cluster\.<V>\.ssl\.ciphers(\.([\w-]+))$"),
        ("envoy.tls_certificate", ".ssl.certificate.", r"^(?:listener|cluster)\..*?\.ssl\.certificate\.((<V>)\.).*$"),
        ("envoy.http_conn_manager_prefix", ".http.", r"^listener\..*?\.http\.((<V>)\.)"),
        (
            "envoy.worker_id",
            ".worker_",
            r"^(?:listener\.(?:<A>|<V>)|server|listener_manager|thread_local_cluster_manager)\.worker_((\d+)\.)",
        ),
        ("envoy.listener_address", "listener.", r"^listener\.((<A>|<V>)\.)"),
        ("envoy.rds_route_config", ".rds.", r"^http\.<V>\.rds\.(([\w\-.]+)\.)\w+?$"),
        ("envoy.scoped_rds_config", ".scoped_rds.", r"^http\.<V>\.scoped_rds\.(([\w\-.]+)\.)\w+?$"),
        (
            "envoy.rbac_policy_name",
            ".policy.",
            r"^http\.<V>\.rbac\.(?:<V>\.)?policy\.((<V>)\.)(?:shadow_)?(?:allowed|denied)$",
        ),
        ("envoy.rbac_http_prefix", ".rbac.", r"^http\.<V>\.rbac\.((<V>)\.).*?"),
        ("envoy.proxy_protocol_version", "proxy_proto.", r"^proxy_proto\.((?:<V>\.)?versions\.v(\d)\.)\w+$"),
        ("envoy.xds_resource_name", "sds.", r"^sds\.((<V>)\.).+"),
        ("envoy.health_check_name", ".health_check.", r"^cluster\.<V>\.health_check(\.name\.(<V>))\..+"),
    ];
    let parts = [
        ("envoy.grpc_bridge_method", ".grpc.", "cluster.*.grpc.*.$.**"),
        ("envoy.http_user_agent", ".user_agent.", "http.*.user_agent.$.**"),
        ("envoy.virtual_cluster", ".vcluster.", "vhost.*.vcluster.$.**"),
        ("envoy.fault_downstream_cluster", ".fault.", "http.*.fault.$.**"),
        ("envoy.grpc_bridge_service", ".grpc.", "cluster.*.grpc.$.**"),
        ("envoy.tcp_prefix", "tcp.", "tcp.$.**"),
        ("envoy.udp_prefix", "udp.", "udp.$.**"),
        ("envoy.clientssl_prefix", "auth.", "auth.clientssl.$.**"),
        ("envoy.ratelimit_prefix", "ratelimit.", "ratelimit.$.**"),
        ("envoy.cluster_name", "cluster.", "cluster.$.**"),
        ("envoy.ext_authz_prefix", ".ext_authz.", "cluster.*.ext_authz.$.**"),
        ("envoy.ext_authz_prefix", ".ext_authz.", "http.*.ext_authz.$.**"),
        ("envoy.http_conn_manager_prefix", "http.", "http.$.**"),
        ("envoy.virtual_host", "vhost.", "vhost.$.**"),
        ("envoy.route", ".route.", "vhost.*.route.$.**"),
        ("envoy.rbac_prefix", ".rbac.", "$.rbac.**"),
        ("envoy.local_http_ratelimit_prefix", ".http_local_rate_limit.", "$.http_local_rate_limit.**"),
        ("envoy.local_network_ratelimit_prefix", "local_rate_limit.", "local_rate_limit.$.**"),
        ("envoy.local_listener_ratelimit_prefix", "listener_local_ratelimit.", "listener_local_ratelimit.$.**"),
        ("envoy.connection_limit_prefix", "connection_limit.", "connection_limit.$.**"),
    ];
    let expressions = expressions.into_iter().filter_map(|(tag, hint, source)| {
        let address = r"(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[[a-fA-F_\d]+\])_\d+";
        let regex = Regex::new(&source.replace("<A>", address).replace("<V>", r"[^\.]+"));
        let not = match tag {
            "envoy.listener_address" => Some("admin"),
            "envoy.rbac_http_prefix" => Some("policy"),
            _ => None,
        };
        // They are constants, and a test looks at each.
        regex.ok().map(|regex| Rule { tag, hint, not, form: Form::Expression(regex) })
    });
    let parts = parts.into_iter().map(|(tag, hint, parts)| Rule { tag, hint, not: None, form: Form::Parts(parts) });
    expressions.chain(parts).collect()
});

/// How many rules of each form there are, for the test that all are sound.
#[cfg(test)]
pub(super) fn rule_count() -> (usize, usize) {
    let expressions = RULES.iter().filter(|rule| matches!(rule.form, Form::Expression(_))).count();
    (expressions, RULES.len() - expressions)
}
