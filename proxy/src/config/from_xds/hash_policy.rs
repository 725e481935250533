//! Hash policies of routes and clusters.

use weft_proto::pb::envoy::config::route::v3::route_action as pb;

use super::ctx::{Ctx, Out};
use super::{headers, matcher, value};
use crate::config::{HashPolicy, HashPolicyKind};

/// A list of hash policies; one that says nothing is left out.
pub(super) fn hash_policies(c: &Ctx<'_>, field: &'static str, list: &[pb::HashPolicy]) -> Out<Vec<HashPolicy>> {
    let policies = c.each(field, list, |c, h| Ok((kind(c, h)?, h.terminal)))?;
    Ok(policies.into_iter().filter_map(|(kind, terminal)| Some(HashPolicy { kind: kind?, terminal })).collect())
}

fn kind(c: &Ctx<'_>, h: &pb::HashPolicy) -> Out<Option<HashPolicyKind>> {
    use pb::hash_policy::PolicySpecifier as P;
    Ok(Some(match &h.policy_specifier {
        None => {
            return c.refuse(
                "a policy is required: header, cookie, connection_properties, query_parameter or filter_state",
            );
        }
        Some(P::Header(h)) => {
            let c = c.field("header");
            HashPolicyKind::Header {
                name: headers::name(&c, "header_name", &h.header_name)?,
                rewrite: c.opt("regex_rewrite", &h.regex_rewrite, matcher::substitute)?,
            }
        }
        Some(P::Cookie(k)) => {
            let c = c.field("cookie");
            let attributes = c.each("attributes", &k.attributes, |c, a| {
                let name = headers::name(c, "name", &a.name)?;
                headers::plain_value(&c.field("value"), &a.value)?;
                // The spelling is kept: it is written as it stands.
                Ok((if name.is_empty() { name } else { a.name.clone() }, a.value.clone()))
            })?;
            HashPolicyKind::Cookie {
                name: c.non_empty("name", &k.name)?,
                ttl: c.opt("ttl", &k.ttl, value::duration)?,
                path: k.path.clone(),
                attributes,
            }
        }
        Some(P::ConnectionProperties(p)) if p.source_ip => HashPolicyKind::SourceIp,
        Some(P::ConnectionProperties(_)) => return Ok(None),
        Some(P::QueryParameter(q)) => HashPolicyKind::Query(c.field("query_parameter").non_empty("name", &q.name)?),
        Some(P::FilterState(f)) => HashPolicyKind::FilterState(c.field("filter_state").non_empty("key", &f.key)?),
    }))
}
