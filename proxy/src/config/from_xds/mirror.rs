//! Request mirroring.

use weft_proto::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;

use super::ctx::{Ctx, Out};
use super::{headers, value};
use crate::config::{ClusterSpecifier, Mirror, PerMillion, RuntimeFraction};

/// A mirror policy.
pub(super) fn mirror(c: &Ctx<'_>, m: &RequestMirrorPolicy) -> Out<Mirror> {
    let cluster = match (m.cluster.is_empty(), m.cluster_header.is_empty()) {
        (true, true) => {
            c.refuse("Exactly one of cluster or cluster_header in request mirror policy need to be specified")
        }
        (false, false) => c.refuse(format!(
            "Only one of cluster '{}' or cluster_header '{}' in request mirror policy can be specified",
            m.cluster, m.cluster_header
        )),
        (false, true) => c
            .field("cluster")
            .known_cluster("shadow cluster", &m.cluster)
            .map(|()| ClusterSpecifier::Name(m.cluster.clone())),
        (true, false) => headers::name(c, "cluster_header", &m.cluster_header).map(ClusterSpecifier::Header),
    };
    let fraction = c.opt("runtime_fraction", &m.runtime_fraction, value::runtime_fraction);
    let mutations = headers::mutations(c, "request_headers_mutations", &m.request_headers_mutations);
    headers::plain_value(&c.field("host_rewrite_literal"), &m.host_rewrite_literal)?;
    Ok(Mirror {
        cluster: cluster?,
        fraction: fraction?.unwrap_or_else(|| RuntimeFraction::fixed(PerMillion::ALL)),
        disable_host_suffix: m.disable_shadow_host_suffix_append,
        headers: mutations?,
        host_rewrite: Some(m.host_rewrite_literal.clone()).filter(|h| !h.is_empty()),
    })
}
