//! The two ends of a request or connection, as far as they are known.

use std::sync::Arc;

use super::Workload;
use crate::cluster::Cluster;
use crate::stream_info::{PeerCertificate, ResponseFlags, TlsInfo};

/// On whose side the proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller's.
    Source,
    /// That of who is called.
    Destination,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP but gRPC.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// How the connection is secured, as the side of who is called knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// It is the caller's proxy that reports.
    Unknown,
    /// Both sides have proven who they are.
    MutualTls,
    /// They have not.
    None,
}

/// The service that was called; what is not known is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Service<'a> {
    /// `reviews.default.svc.cluster.local`
    pub host: &'a str,
    /// `reviews`
    pub name: &'a str,
    /// `default`
    pub namespace: &'a str,
}

/// Who called whom.
#[derive(Debug, Clone, Copy)]
pub struct Edge<'a> {
    /// Who tells.
    pub reporter: Reporter,
    /// The other side.
    pub peer: Option<&'a Workload>,
    /// Its identity, empty if it has shown none.
    pub peer_principal: &'a str,
    /// Our own.
    pub own_principal: &'a str,
    /// What was called.
    pub service: Service<'a>,
    /// How it is secured.
    pub security: Security,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// What was spoken.
    pub protocol: Protocol,
    /// HTTP's status; 0: none was sent.
    pub code: u16,
    /// gRPC's status.
    pub grpc: Option<u32>,
    /// Flags.
    pub flags: ResponseFlags,
}

/// The identities of both sides of a connection: the peer's, ours.
pub fn principal(tls: Option<&TlsInfo>) -> (&str, &str) {
    let Some(tls) = tls else { return ("", "") };
    // A certificate that nobody has checked proves nothing.
    let peer = if tls.peer_validated { first_of(&tls.peer) } else { "" };
    (peer, first_of(&tls.local))
}

fn first_of(certificate: &Option<Arc<PeerCertificate>>) -> &str {
    certificate.as_ref().and_then(|certificate| certificate.uri_sans.first()).map_or("", String::as_str)
}

impl<'a> Service<'a> {
    /// What a request or connection was for. `route`: the name of its route. `host`: what the request itself says, if that counts.
    pub fn called(cluster: Option<&'a Cluster>, route: Option<&str>, host: Option<&'a str>) -> Self {
        let host = host.unwrap_or_default();
        let fallback = Service { host, name: host, namespace: "" };
        match route {
            // Istio's names of routes for what the mesh does not know.
            Some("block_all") => return Service { name: "BlackHoleCluster", ..fallback },
            Some("allow_any") => return Service { name: "PassthroughCluster", ..fallback },
            _ => {}
        }
        let Some(cluster) = cluster else { return fallback };
        if is_nobody(&cluster.name) {
            return Service { name: &cluster.name, ..fallback };
        }
        cluster.service.as_ref().map_or(fallback, |of| Service {
            host: &of.host,
            name: &of.name,
            namespace: &of.namespace,
        })
    }
}

/// Clusters that are no service.
fn is_nobody(name: &str) -> bool {
    matches!(
        name,
        "BlackHoleCluster"
            | "PassthroughCluster"
            | "InboundPassthroughCluster"
            | "InboundPassthroughClusterIpv4"
            | "InboundPassthroughClusterIpv6"
    )
}

impl<'a> Edge<'a> {
    /// The namespace of the other side: its identity's, else what it says.
    pub(super) fn peer_namespace(&self) -> &'a str {
        let told = || self.peer.map_or("", |peer| &*peer.namespace);
        let proven = self.peer_principal.split_once("/ns/").and_then(|(_, rest)| rest.split('/').next());
        proven.filter(|namespace| !namespace.is_empty()).unwrap_or_else(told)
    }
}

impl Security {
    /// As Istio has it: of the caller's side nothing is said.
    pub fn of(reporter: Reporter, peer_principal: &str, own_principal: &str) -> Self {
        match reporter {
            Reporter::Source => Security::Unknown,
            Reporter::Destination if peer_principal.is_empty() || own_principal.is_empty() => Security::None,
            Reporter::Destination => Security::MutualTls,
        }
    }
}
