//! The client side of TLS.
//!
//! Runs on: workers connect; the control thread builds and rotates.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{DnsName, ServerName};
use tokio_rustls::TlsConnector;

use super::context::{self, ContextCertificates, Material, Missing};
use super::error::TlsError;
use super::facts::FactsCache;
use super::identity::Identity;
use super::inputs::Watch;
use super::key_log::{self, KeyLogFile};
use super::observed::{Observed, observe};
use super::resolver::ClientCertificate;
use super::secrets::{Rotate, SecretProvider};
use super::stats::TlsStats;
use super::validator::{NameRules, Validator};
use super::verify::PeerVerifier;
use super::{names, session};
use crate::config::{ConfigError, Source, TlsVersion, UpstreamTls};
use crate::stats::{Gauge, Scope};
use crate::stream_info::{PeerAddr, TlsInfo};
use crate::transport::Stream;
use crate::transport::stream::ClientTlsStream;

/// Servers whose sessions are remembered at least, where resumption is on: tickets are kept by server.
const REMEMBERED_SERVERS: usize = 64;

/// An upstream TLS context. Shared by all workers; replaced from within when its certificates are.
pub struct ClientTls {
    config: UpstreamTls,
    current: ArcSwapOption<State>,
    pending: parking_lot::Mutex<Vec<Watch>>,
    facts: Arc<FactsCache>,
    stats: TlsStats,
    key_log: Option<Arc<KeyLogFile>>,
}

/// What differs between the connections of a context.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectOptions<'a> {
    /// SNI in place of the configured one (`auto_sni`).
    pub server_name: Option<&'a str>,
    /// The endpoint's host name, for `auto_host_sni`.
    pub host_name: Option<&'a str>,
    /// One of these must be among the certificate's names, in place of the configured matchers (`auto_san_validation`).
    /// Counts only where the context validates at all, as in Envoy.
    pub san_override: &'a [String],
    /// ALPN in place of the configured one.
    pub alpn_override: Option<&'a [Vec<u8>]>,
    /// ALPN where none is configured: what the codec above speaks.
    pub alpn_fallback: &'a [Vec<u8>],
}

struct State {
    plain: Arc<ClientConfig>,
    logged: Option<Arc<ClientConfig>>,
    verifier: Arc<PeerVerifier>,
    identities: Arc<[Identity]>,
    validator: Arc<Validator>,
    digest: [u8; 32],
    watches: Vec<Watch>,
    _gauges: Vec<Gauge>,
}

impl ClientTls {
    /// A context as configured. `scope` is the cluster's. Where secrets are still to be delivered, connections fail until
    /// they are.
    ///
    /// # Errors
    /// Configuration, or what it refers to, is wrong; the message names field and file.
    pub fn build(
        config: &UpstreamTls,
        secrets: &Arc<SecretProvider>,
        scope: &Scope,
    ) -> Result<Arc<ClientTls>, ConfigError> {
        if config.allow_renegotiation {
            return Err(ConfigError::at("allow_renegotiation", "TLS renegotiation is not supported"));
        }
        let key_log = config.common.key_log.as_ref().map(KeyLogFile::open).transpose()?.map(Arc::new);
        let tls = Arc::new(ClientTls {
            config: config.clone(),
            current: ArcSwapOption::empty(),
            pending: parking_lot::Mutex::default(),
            facts: Arc::default(),
            stats: TlsStats::new(scope, "client_ssl_socket_factory"),
            key_log,
        });
        context::first_build(&config.common, tls.rotate(secrets))?;
        let context: std::sync::Weak<dyn Rotate> = Arc::downgrade(&tls) as _;
        secrets.register(context, &tls.watches());
        Ok(tls)
    }

    /// Whether all secrets are there.
    pub fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }

    /// Does the handshake. The caller sets the time limit.
    ///
    /// # Errors
    /// The handshake failed. The connection is closed.
    ///
    /// # Cancel safety
    /// None: a handshake cut short is lost with its connection.
    pub async fn connect(
        &self,
        stream: Stream,
        options: ConnectOptions<'_>,
    ) -> Result<(Stream, Arc<TlsInfo>), TlsError> {
        let result = self.handshake(stream, options).await;
        if let Err(error) = &result {
            self.stats.failed(error, true);
        }
        result
    }

    async fn handshake(&self, stream: Stream, options: ConnectOptions<'_>) -> Result<(Stream, Arc<TlsInfo>), TlsError> {
        let state = self.current.load_full().ok_or_else(TlsError::not_ready)?;
        let sni = self.sni(&options);
        let mut observed = Observed {
            names: NameRules {
                any_of: options.san_override.to_vec(),
                dns: sni.as_ref().filter(|_| self.config.auto_sni_san_validation).map(|n| n.as_ref().to_owned()),
            },
            ..Observed::default()
        };
        let connector = TlsConnector::from(self.config_for(&state, &stream));
        let alpn = match (options.alpn_override, &connector.config().alpn_protocols) {
            (Some(alpn), _) => alpn.to_vec(),
            (None, configured) if configured.is_empty() => options.alpn_fallback.to_vec(),
            (None, configured) => configured.clone(),
        };
        let sent = sni.as_ref().map(|n| n.as_ref().to_owned()).unwrap_or_default();
        let name = sni.map_or_else(|| unnamed(&stream), ServerName::DnsName);
        let connect = connector.with_alpn(alpn).connect(name, stream);
        let io = observe(connect, &mut observed).await.map_err(|e| TlsError::new(&e, &mut observed, &[]))?;
        let session = io.get_ref().1;
        if let Err(e) = session::check_resumed(&mut observed, session, &state.verifier) {
            return Err(TlsError::new(&io::Error::new(io::ErrorKind::InvalidData, e), &mut observed, &[]));
        }
        self.stats.succeeded(session, &observed);
        let info = session::info(session, &sent, &observed);
        Ok((Stream::TlsClient(Box::new(ClientTlsStream { io, info: Arc::clone(&info) })), info))
    }

    /// The name to send. Addresses and what is no name at all are not sent.
    fn sni(&self, options: &ConnectOptions<'_>) -> Option<DnsName<'static>> {
        let host = options.host_name.filter(|h| self.config.auto_host_sni && !h.is_empty());
        let name = options.server_name.or(host).unwrap_or(&self.config.sni);
        DnsName::try_from(name).ok().filter(|_| name.parse::<IpAddr>().is_err()).map(|n| n.to_owned())
    }

    fn config_for(&self, state: &State, stream: &Stream) -> Arc<ClientConfig> {
        if let (Some(logged), Some(config)) = (&state.logged, &self.config.common.key_log)
            && key_log::covers(config, stream.local_addr().as_ref(), stream.peer_addr().as_ref())
        {
            return Arc::clone(logged);
        }
        Arc::clone(&state.plain)
    }

    fn state(&self, material: Material) -> Result<State, ConfigError> {
        let config = &self.config;
        if config.auto_sni_san_validation && !material.validator.has_authorities() {
            return Err(ConfigError::at(
                "auto_sni_san_validation",
                "'auto_sni_san_validation' was configured without configuring a trusted CA",
            ));
        }
        let verifier = Arc::new(PeerVerifier::of_servers(
            Arc::clone(&material.validator),
            Arc::clone(&self.facts),
            material.schemes.clone(),
        ));
        let params = &config.common.params;
        let versions = names::versions(params.min, params.max.unwrap_or(TlsVersion::V1_2))?;
        let certificate = ClientCertificate(Some(Arc::clone(&material.identities)));
        let mut plain = ClientConfig::builder_with_provider(Arc::clone(&material.provider))
            .with_protocol_versions(versions)
            .map_err(|e| ConfigError::at("common_tls_context.tls_params", e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::new(certificate));
        plain.alpn_protocols = config.common.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        plain.resumption = match config.max_session_keys {
            0 => Resumption::disabled(),
            n => Resumption::in_memory_sessions((n as usize).max(REMEMBERED_SERVERS)),
        };
        let logged = self.key_log.as_ref().map(|log| {
            let mut logged = plain.clone();
            logged.key_log = Arc::clone(log) as _;
            Arc::new(logged)
        });
        Ok(State {
            plain: Arc::new(plain),
            logged,
            verifier,
            identities: material.identities,
            validator: material.validator,
            digest: material.digest,
            watches: material.watches,
            _gauges: material.gauges,
        })
    }
}

/// A name that is not sent, and by which the library remembers sessions: the server's address.
fn unnamed(stream: &Stream) -> ServerName<'static> {
    let ip = stream.peer_addr().as_ref().and_then(PeerAddr::ip).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    ServerName::IpAddress(ip.into())
}

impl Rotate for ClientTls {
    fn rotate(&self, secrets: &SecretProvider) -> Result<bool, ConfigError> {
        let material = match context::read(&self.config.common, secrets, &self.stats) {
            Ok(material) => material,
            Err(Missing::Secret(watches)) => {
                *self.pending.lock() = watches;
                return Ok(false);
            }
            Err(Missing::Wrong(error, watches)) => {
                *self.pending.lock() = watches;
                return Err(error);
            }
        };
        let before = self.current.load();
        if before.as_ref().is_some_and(|s| s.digest == material.digest) {
            return Ok(false);
        }
        let first = before.is_none();
        self.current.store(Some(Arc::new(self.state(material)?)));
        if !first {
            self.stats.context_update_by_sds.inc();
        }
        Ok(true)
    }

    fn watches(&self) -> Vec<Watch> {
        let pending = self.pending.lock().clone();
        self.current.load().as_ref().map_or(pending, |s| s.watches.clone())
    }

    fn uses(&self, from: &Source, name: &str) -> bool {
        self.config.common.secrets().any(|secret| secret.is(from, name))
    }

    fn certificates(&self, now: SystemTime) -> ContextCertificates {
        let state = self.current.load();
        state.as_ref().map(|s| context::certificates(&s.identities, &s.validator, now)).unwrap_or_default()
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientTls({})", if self.is_ready() { "ready" } else { "not ready" })
    }
}
