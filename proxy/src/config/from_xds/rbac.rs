//! Policies of the RBAC filters. Whatever is not understood is refused: left out, it would let more in.

use std::collections::HashMap;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::rbac::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::http::rbac::v3 as http;
use weft_proto::pb::envoy::extensions::filters::network::rbac::v3 as network;
use weft_proto::pb::envoy::extensions::path::r#match::uri_template::v3 as template;
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
use weft_proto::pb::envoy::r#type::v3 as types;

use super::ctx::{Ctx, Out, type_name};
use super::{address, matcher, uri_template};
use crate::config::{Condition, HttpRbac, NetworkRbac, Policy, RbacAction, RbacMetadata, Rules};

/// The HTTP filter.
pub(super) fn http(c: &Ctx<'_>, f: &http::Rbac) -> Out<HttpRbac> {
    no_matchers(c, f.matcher.is_some(), f.shadow_matcher.is_some())?;
    let scope = Scope { is_http: true };
    let rules = c.opt("rules", &f.rules, |c, r| scope.rules(c, r));
    let shadow = c.opt("shadow_rules", &f.shadow_rules, |c, r| scope.rules(c, r));
    Ok(HttpRbac {
        rules: rules?,
        shadow: shadow?,
        rules_prefix: f.rules_stat_prefix.clone(),
        shadow_prefix: f.shadow_rules_stat_prefix.clone(),
        per_rule_stats: f.track_per_rule_stats,
    })
}

/// The HTTP filter for some routes; without rules it lets everything pass there.
pub(super) fn per_route(c: &Ctx<'_>, f: &http::RbacPerRoute) -> Out<HttpRbac> {
    Ok(c.opt("rbac", &f.rbac, http)?.unwrap_or_default())
}

/// The network filter.
pub(super) fn network(c: &Ctx<'_>, f: &network::Rbac) -> Out<NetworkRbac> {
    use network::rbac::EnforcementType as E;
    no_matchers(c, f.matcher.is_some(), f.shadow_matcher.is_some())?;
    let scope = Scope { is_http: false };
    let rules = c.opt("rules", &f.rules, |c, r| scope.rules(c, r));
    let shadow = c.opt("shadow_rules", &f.shadow_rules, |c, r| scope.rules(c, r));
    let stat_prefix = c.non_empty("stat_prefix", &f.stat_prefix);
    let continuous = match c.enumeration::<E>("enforcement_type", f.enforcement_type)? {
        E::OneTimeOnFirstByte => false,
        E::Continuous => true,
    };
    Ok(NetworkRbac {
        rules: rules?,
        shadow: shadow?,
        stat_prefix: stat_prefix?,
        shadow_prefix: f.shadow_rules_stat_prefix.clone(),
        continuous,
        delay_deny: c.timeout("delay_deny", &f.delay_deny, None)?,
    })
}

fn no_matchers(c: &Ctx<'_>, matcher: bool, shadow: bool) -> Out<()> {
    for (field, set) in [("matcher", matcher), ("shadow_matcher", shadow)] {
        if set {
            return c.field(field).unsupported("a matcher tree");
        }
    }
    Ok(())
}

/// For which filter policies are converted.
#[derive(Clone, Copy)]
struct Scope {
    is_http: bool,
}

impl Scope {
    fn rules(self, c: &Ctx<'_>, r: &pb::Rbac) -> Out<Rules> {
        let action = match c.enumeration::<pb::rbac::Action>("action", r.action)? {
            pb::rbac::Action::Allow => RbacAction::Allow,
            pb::rbac::Action::Deny => RbacAction::Deny,
            pb::rbac::Action::Log => RbacAction::Log,
        };
        if r.audit_logging_options.is_some() {
            return c.field("audit_logging_options").unsupported("audit logging");
        }
        Ok(Rules { action, policies: self.policies(c, &r.policies)? })
    }

    /// In the order of their names.
    fn policies(self, c: &Ctx<'_>, policies: &HashMap<String, pb::Policy>) -> Out<Vec<Policy>> {
        let policies = c.each_key("policies", policies, |c, name, p| self.policy(c, name, p))?;
        Ok(policies.into_iter().map(|(_, policy)| policy).collect())
    }

    fn policy(self, c: &Ctx<'_>, name: &str, p: &pb::Policy) -> Out<Policy> {
        let expressions = [
            ("condition", p.condition.is_some()),
            ("checked_condition", p.checked_condition.is_some()),
            ("cel_config", p.cel_config.is_some()),
        ];
        for (field, set) in expressions {
            if set {
                return c.field(field).unsupported("a condition in CEL");
            }
        }
        let permissions = some(c, "permissions", &p.permissions, |c, p| self.permission(c, p));
        let principals = some(c, "principals", &p.principals, |c, p| self.principal(c, p));
        Ok(Policy { name: name.to_owned(), permissions: permissions?, principals: principals? })
    }

    fn permission(self, c: &Ctx<'_>, p: &pb::Permission) -> Out<Condition> {
        use pb::permission::Rule as R;
        Ok(match &p.rule {
            None => return c.refuse("a rule is required"),
            Some(R::AndRules(set)) => Condition::All(self.permissions(&c.field("and_rules"), set)?),
            Some(R::OrRules(set)) => Condition::AnyOf(self.permissions(&c.field("or_rules"), set)?),
            Some(R::NotRule(rule)) => Condition::Not(Box::new(self.permission(&c.field("not_rule"), rule)?)),
            Some(R::Any(any)) => always(&c.field("any"), *any)?,
            Some(R::Header(h)) => self.header(&c.field("header"), h)?,
            Some(R::UrlPath(p)) => path(&c.field("url_path"), p)?,
            Some(R::DestinationIp(r)) => Condition::DestinationIp(address::cidr(&c.field("destination_ip"), r)?),
            Some(R::DestinationPort(port)) => {
                let port = u32::from(c.port("destination_port", *port)?);
                Condition::DestinationPort { start: port, end: port + 1 }
            }
            Some(R::DestinationPortRange(range)) => ports(&c.field("destination_port_range"), range)?,
            Some(R::Metadata(m)) => {
                let metadata = matcher::metadata(&c.field("metadata"), m)?;
                Condition::Metadata(Box::new(metadata), RbacMetadata::Dynamic)
            }
            Some(R::SourcedMetadata(m)) => sourced(&c.field("sourced_metadata"), m)?,
            Some(R::RequestedServerName(m)) => {
                Condition::ServerName(matcher::string(&c.field("requested_server_name"), m)?)
            }
            Some(R::Matcher(ext)) => return extension(&c.field("matcher"), ext),
            Some(R::UriTemplate(ext)) => uri(&c.field("uri_template"), ext)?,
        })
    }

    fn permissions(self, c: &Ctx<'_>, set: &pb::permission::Set) -> Out<Vec<Condition>> {
        some(c, "rules", &set.rules, |c, p| self.permission(c, p))
    }

    fn principal(self, c: &Ctx<'_>, p: &pb::Principal) -> Out<Condition> {
        use pb::principal::Identifier as I;
        Ok(match &p.identifier {
            None => return c.refuse("an identifier is required"),
            Some(I::AndIds(set)) => Condition::All(self.principals(&c.field("and_ids"), set)?),
            Some(I::OrIds(set)) => Condition::AnyOf(self.principals(&c.field("or_ids"), set)?),
            Some(I::NotId(id)) => Condition::Not(Box::new(self.principal(&c.field("not_id"), id)?)),
            Some(I::Any(any)) => always(&c.field("any"), *any)?,
            Some(I::Authenticated(a)) => {
                let c = c.field("authenticated");
                Condition::Authenticated(c.opt("principal_name", &a.principal_name, matcher::string)?)
            }
            Some(I::SourceIp(r)) => Condition::SourceIp(address::cidr(&c.field("source_ip"), r)?),
            Some(I::DirectRemoteIp(r)) => Condition::DirectRemoteIp(address::cidr(&c.field("direct_remote_ip"), r)?),
            Some(I::RemoteIp(r)) => Condition::RemoteIp(address::cidr(&c.field("remote_ip"), r)?),
            Some(I::Header(h)) => self.header(&c.field("header"), h)?,
            Some(I::UrlPath(p)) => path(&c.field("url_path"), p)?,
            Some(I::Metadata(m)) => {
                let metadata = matcher::metadata(&c.field("metadata"), m)?;
                Condition::Metadata(Box::new(metadata), RbacMetadata::Dynamic)
            }
            Some(I::SourcedMetadata(m)) => sourced(&c.field("sourced_metadata"), m)?,
            Some(I::FilterState(_)) => return c.field("filter_state").unsupported("a filter state matcher"),
            Some(I::Custom(ext)) => return extension(&c.field("custom"), ext),
        })
    }

    fn principals(self, c: &Ctx<'_>, set: &pb::principal::Set) -> Out<Vec<Condition>> {
        some(c, "ids", &set.ids, |c, p| self.principal(c, p))
    }

    fn header(self, c: &Ctx<'_>, h: &weft_proto::pb::envoy::config::route::v3::HeaderMatcher) -> Out<Condition> {
        c.ensure(self.is_http, || format!("Found header({}) rule,not supported by RBAC network filter", h.name))?;
        Ok(Condition::Header(Box::new(matcher::header(c, h)?)))
    }
}

/// A list that must not be empty.
fn some<P>(
    c: &Ctx<'_>,
    field: &'static str,
    items: &[P],
    convert: impl Fn(&Ctx<'_>, &P) -> Out<Condition>,
) -> Out<Vec<Condition>> {
    c.field(field).ensure(!items.is_empty(), || "value must contain at least 1 item(s)".into())?;
    c.each(field, items, convert)
}

fn always(c: &Ctx<'_>, any: bool) -> Out<Condition> {
    c.ensure(any, || "value must equal true".into())?;
    Ok(Condition::Any)
}

fn path(c: &Ctx<'_>, p: &matcher_pb::PathMatcher) -> Out<Condition> {
    match &p.rule {
        Some(matcher_pb::path_matcher::Rule::Path(m)) => Ok(Condition::Path(matcher::string(&c.field("path"), m)?)),
        None => c.refuse("a rule is required: path"),
    }
}

fn ports(c: &Ctx<'_>, range: &types::Int32Range) -> Out<Condition> {
    let bound = |name: &'static str, what: &str, n: i32| match u32::try_from(n) {
        Ok(n @ 0..=65_536) => Ok(n),
        _ => c.field(name).refuse(format!("range {what} {n} is out of bounds")),
    };
    let (start, end) = (bound("start", "start", range.start)?, bound("end", "end", range.end)?);
    c.ensure(start < end, || format!("range start {start} cannot be greater or equal than range end {end}"))?;
    Ok(Condition::DestinationPort { start, end })
}

fn sourced(c: &Ctx<'_>, m: &pb::SourcedMetadata) -> Out<Condition> {
    let source = match c.enumeration::<pb::MetadataSource>("metadata_source", m.metadata_source)? {
        pb::MetadataSource::Dynamic => RbacMetadata::Dynamic,
        pb::MetadataSource::Route => RbacMetadata::Route,
    };
    let metadata = c.required("metadata_matcher", &m.metadata_matcher, matcher::metadata)?;
    Ok(Condition::Metadata(Box::new(metadata), source))
}

fn uri(c: &Ctx<'_>, ext: &core::TypedExtensionConfig) -> Out<Condition> {
    match &ext.typed_config {
        Some(any) if type_name(any) == "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" => {
            let c = c.field("typed_config");
            let config: template::UriTemplateMatchConfig = c.unpack(any)?;
            let text = c.non_empty("path_template", &config.path_template)?;
            Ok(Condition::Template(uri_template::pattern(&c.field("path_template"), &text)?.0))
        }
        _ => extension(c, ext),
    }
}

fn extension<T>(c: &Ctx<'_>, ext: &core::TypedExtensionConfig) -> Out<T> {
    c.unknown_extension(&ext.name, ext.typed_config.as_ref())
}
