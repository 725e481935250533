//! Does a condition hold?

use crate::config::{Cidr, Condition, MetadataMatcher, Policy, RbacMetadata, StringMatcher};
use crate::http::route;
use crate::rbac::Facts;
use crate::stream_info::PeerAddr;

impl Facts<'_> {
    /// Whether a policy matches.
    pub(super) fn fit(&self, policy: &Policy) -> bool {
        policy.permissions.iter().any(|c| self.hold(c)) && policy.principals.iter().any(|c| self.hold(c))
    }

    fn hold(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Any => true,
            Condition::All(all) => all.iter().all(|c| self.hold(c)),
            Condition::AnyOf(any) => any.iter().any(|c| self.hold(c)),
            Condition::Not(other) => !self.hold(other),
            // Conditions on a request do not hold for a connection.
            Condition::Header(m) => self.stream.is_some_and(|ctx| route::header_matches(m, ctx)),
            Condition::Path(m) => self.path().is_some_and(|path| m.matches(path)),
            Condition::Template(m) => self.path().is_some_and(|path| m.is_match(path)),
            Condition::DestinationIp(range) => within(range, &self.conn.local),
            Condition::DestinationPort { start, end } => {
                self.conn.local.port().is_some_and(|port| (*start..*end).contains(&u32::from(port)))
            }
            Condition::Metadata(m, source) => self.metadata(m, *source),
            Condition::ServerName(m) => m.matches(&self.conn.sni),
            Condition::Authenticated(name) => self.authenticated(name.as_ref()),
            Condition::SourceIp(range) => within(range, &self.conn.remote),
            Condition::DirectRemoteIp(range) => within(range, &self.conn.direct_remote),
            Condition::RemoteIp(range) => within(range, self.stream.map_or(&self.conn.remote, |ctx| &ctx.info.remote)),
        }
    }

    /// A CONNECT has none.
    fn path(&self) -> Option<&str> {
        Some(self.stream?.request.path_only()).filter(|path| !path.is_empty())
    }

    fn metadata(&self, m: &MetadataMatcher, source: RbacMetadata) -> bool {
        let all = match (source, self.stream) {
            (RbacMetadata::Dynamic, Some(ctx)) => ctx.info.dynamic_metadata(&m.filter),
            (RbacMetadata::Dynamic, None) => self.conn.dynamic_metadata(&m.filter),
            (RbacMetadata::Route, Some(ctx)) => ctx.route.as_ref().and_then(|r| r.entry.metadata.get(&m.filter)),
            (RbacMetadata::Route, None) => None,
        };
        route::metadata_matches(m, all)
    }

    /// URI names, DNS names, then the subject: as in Envoy each of them may match.
    fn authenticated(&self, name: Option<&StringMatcher>) -> bool {
        let Some(tls) = &self.conn.tls else { return false };
        let Some(name) = name else { return true };
        let Some(peer) = &tls.peer else { return name.matches("") };
        peer.uri_sans.iter().chain(&peer.dns_sans).any(|san| name.matches(san)) || name.matches(&peer.subject)
    }
}

fn within(range: &Cidr, address: &PeerAddr) -> bool {
    address.ip().is_some_and(|ip| range.contains(ip))
}
