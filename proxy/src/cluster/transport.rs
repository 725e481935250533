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
            UpstreamTransport::ProxyProtocol { .. } => {
                Err(ConfigError::at("transport_socket", "an upstream PROXY protocol header is not supported yet"))
            }
        }
    }
}

/// The transports of a cluster.
pub struct Transports {
    default: Transport,
    matches: Vec<(config::TransportMatch, Transport, Counter)>,
}

impl Transports {
    /// Compiles.
    ///
    /// # Errors
    /// A TLS context that cannot be built.
    pub fn new(c: &config::Cluster, parts: &Parts, scope: &Scope) -> Result<Self, ConfigError> {
        let mut matches = Vec::new();
        for m in &c.transport_matches {
            let count = scope.scope("transport_socket_match").scope(&m.name).counter("total_match_count");
            matches.push((m.clone(), Transport::new(&m.transport, parts, scope)?, count));
        }
        Ok(Transports { default: Transport::new(&c.transport, parts, scope)?, matches })
    }

    /// The transport of a host: the first whose labels its `envoy.transport_socket_match` metadata holds.
    pub fn of(&self, metadata: &config::Metadata) -> &Transport {
        let have = metadata.get("envoy.transport_socket_match");
        let holds = |key: &String, want: &Value| have.and_then(|m| m.get(key)) == Some(want);
        match self.matches.iter().find(|(m, _, _)| m.labels.iter().all(|(k, v)| holds(k, v))) {
            Some((_, transport, count)) => {
                count.inc();
                transport
            }
            None => &self.default,
        }
    }
}
