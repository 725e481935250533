//! What carries the bytes to a host: plain, TLS, a PROXY protocol header first.

use std::sync::Arc;

use serde_json::Value;

use crate::app::Parts;
use crate::config::{self, ConfigError, UpstreamTransport};
use crate::stats::{Counter, Scope};
use crate::transport::tls::ClientTls;

/// A transport, compiled.
pub enum Transport {
    /// Plain bytes.
    Plain,
    /// TLS.
    Tls(Arc<ClientTls>),
    /// A PROXY protocol header, and then another transport.
    Proxied(Box<Proxied>),
}

/// What a connection begins with before its transport proper. **Source**: `ProxyProtocolUpstreamTransport`.
pub struct Proxied {
    /// 1 or 2.
    pub version: u8,
    /// TLV types taken over from the downstream connection; `None`: none, empty: all.
    pub pass_through: Option<Vec<u8>>,
    /// TLVs always sent.
    pub added: Vec<(u8, Vec<u8>)>,
    /// What follows.
    pub inner: Transport,
    /// `upstream_proxy_protocol.v2_tlvs_exceed_max_length`
    pub tlvs_too_long: Counter,
}

impl Transport {
    fn new(config: &UpstreamTransport, parts: &Parts, scope: &Scope) -> Result<Self, ConfigError> {
        match config {
            UpstreamTransport::Plaintext => Ok(Transport::Plain),
            UpstreamTransport::Tls(tls) => {
                let built = ClientTls::build(tls, &parts.secrets, scope);
                built.map(Transport::Tls).map_err(|e| ConfigError {
                    field_path: format!("transport_socket.typed_config.{}", e.field_path),
                    ..e
                })
            }
            UpstreamTransport::ProxyProtocol { version, pass_through_tlvs, added_tlvs, inner } => {
                Ok(Transport::Proxied(Box::new(Proxied {
                    version: *version,
                    pass_through: pass_through_tlvs.clone(),
                    added: added_tlvs.clone(),
                    inner: Transport::new(inner, parts, scope)?,
                    tlvs_too_long: scope.scope("upstream_proxy_protocol").counter("v2_tlvs_exceed_max_length"),
                })))
            }
        }
    }
}

/// The transports of a cluster. Hosts that use one are counted as `<name>.total_match_count`.
pub struct Transports {
    default: (Transport, Counter),
    matches: Vec<(config::TransportMatch, Transport, Counter)>,
    proxied: bool,
}

impl Transports {
    /// Compiles.
    ///
    /// # Errors
    /// A TLS context that cannot be built.
    pub fn new(c: &config::Cluster, parts: &Parts, scope: &Scope) -> Result<Self, ConfigError> {
        let count = |name: &str| scope.scope(name).counter("total_match_count");
        let mut matches = Vec::new();
        for m in &c.transport_matches {
            matches.push((m.clone(), Transport::new(&m.transport, parts, scope)?, count(&m.name)));
        }
        let default = Transport::new(&c.transport, parts, scope)?;
        let proxied = matches.iter().map(|(_, t, _)| t).chain([&default]).any(|t| matches!(t, Transport::Proxied(_)));
        Ok(Transports { default: (default, count("default")), matches, proxied })
    }

    /// Whether any of them tells the host of the client a connection is for.
    pub fn tell_downstream(&self) -> bool {
        self.proxied
    }

    /// The transport of a host: the first whose labels its `envoy.transport_socket_match` metadata holds.
    pub fn of(&self, metadata: &config::Metadata) -> &Transport {
        self.find(metadata).0
    }

    /// Counts a new host with its transport.
    pub fn count(&self, metadata: &config::Metadata) {
        self.find(metadata).1.inc();
    }

    fn find(&self, metadata: &config::Metadata) -> (&Transport, &Counter) {
        let have = metadata.get("envoy.transport_socket_match");
        let holds = |key: &String, want: &Value| have.and_then(|m| m.get(key)) == Some(want);
        let found = self.matches.iter().find(|(m, _, _)| m.labels.iter().all(|(k, v)| holds(k, v)));
        found.map_or((&self.default.0, &self.default.1), |(_, transport, count)| (transport, count))
    }
}
