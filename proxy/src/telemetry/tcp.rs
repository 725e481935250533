//! `istio.stats` as a network filter: connections.

use std::sync::Arc;

use super::edge::{Edge, Outcome, Protocol, Reporter, Security, Service, principal};
use super::{Key, Kind, Plan, Series, Telemetry, of_endpoint};
use crate::cluster::Cluster;
use crate::config::{self, Attribute, TrafficDirection};
use crate::stream_info::StreamInfo;

/// Counts the connections of a filter chain.
pub struct TcpReport {
    telemetry: Arc<Telemetry>,
    plan: Arc<Plan>,
}

impl TcpReport {
    /// That of a configuration.
    pub fn new(config: &config::IstioStats, telemetry: &Arc<Telemetry>) -> Arc<Self> {
        Arc::new(TcpReport { plan: telemetry.plan(&config.overrides), telemetry: telemetry.clone() })
    }

    /// The series of a connection that has its upstream, or will have none.
    pub fn series(&self, facts: &StreamInfo, cluster: Option<&Cluster>) -> Arc<Series> {
        let conn = &facts.conn;
        let inbound = conn.listener.direction == TrafficDirection::Inbound;
        let endpoint = (!inbound).then(|| of_endpoint(facts.upstream.metadata.as_deref()?)).flatten();
        let (tls, reporter) =
            if inbound { (&conn.tls, Reporter::Destination) } else { (&facts.upstream.tls, Reporter::Source) };
        let (peer_principal, own_principal) = principal(tls.as_deref());
        let edge = Edge {
            reporter,
            peer: endpoint.as_deref(),
            peer_principal,
            own_principal,
            service: Service::called(cluster, None, None),
            security: Security::of(reporter, peer_principal, own_principal),
        };
        let outcome = Outcome { protocol: Protocol::Tcp, code: 0, grpc: None, flags: facts.flags };
        let values = self.plan.values(|attribute| match attribute {
            Attribute::Text(text) => Some(text.clone()),
            Attribute::Port => conn.local.port().map(|port| port.to_string()),
            _ => None,
        });
        let key = Key { kind: Kind::Connections, edge, outcome, values: &values };
        self.telemetry.series(&key, &self.plan)
    }
}
