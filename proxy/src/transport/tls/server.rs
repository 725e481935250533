//! The server side of TLS.
//!
//! Runs on: workers accept; the control thread builds and rotates.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor, ClientHello, NoServerSessionStorage, ServerSessionMemoryCache};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::server::StartHandshake;

use super::context::{self, ContextCertificates, Material, Missing};
use super::error::TlsError;
use super::facts::FactsCache;
use super::identity::Identity;
use super::inputs::{Inputs, Watch};
use super::key_log::{self, KeyLogFile};
use super::observed::{Observed, observe, within};
use super::resolver::Certificates;
use super::secrets::{Rotate, SecretProvider};
use super::stats::TlsStats;
use super::tickets::Ticketer;
use super::validator::Validator;
use super::verify::PeerVerifier;
use super::{names, reason, session};
use crate::config::{ConfigError, DownstreamTls, Source, TlsVersion};
use crate::stats::{Gauge, Scope};
use crate::stream_info::TlsInfo;
use crate::transport::Stream;
use crate::transport::stream::ServerTlsStream;

/// Sessions remembered for clients that know no tickets; a few hundred octets each.
const REMEMBERED_SESSIONS: usize = 1024;
/// Most ClientHellos fit; with a post-quantum key share they are about 1800 octets.
const HELLO_BUFFER: usize = 4096;

/// A downstream TLS context. Shared by all workers; replaced from within when its certificates are.
pub struct ServerTls {
    config: DownstreamTls,
    current: ArcSwapOption<State>,
    /// Where to look for what is missing, while there is no state.
    pending: parking_lot::Mutex<Vec<Watch>>,
    facts: Arc<FactsCache>,
    stats: TlsStats,
    key_log: Option<Arc<KeyLogFile>>,
}

/// One generation of a context.
struct State {
    /// Indexed by [`variant`].
    plain: [Arc<ServerConfig>; 4],
    /// The same, writing secrets to the key log.
    logged: Option<[Arc<ServerConfig>; 4]>,
    alpn: Vec<Vec<u8>>,
    verifier: Arc<PeerVerifier>,
    identities: Arc<[Identity]>,
    validator: Arc<Validator>,
    digest: [u8; 32],
    watches: Vec<Watch>,
    _gauges: Vec<Gauge>,
}

impl ServerTls {
    /// A context as configured. `scope` is the listener's. Where secrets are still to be delivered, connections are refused
    /// until they are.
    ///
    /// # Errors
    /// Configuration, or what it refers to, is wrong; the message names field and file.
    pub fn build(
        config: &DownstreamTls,
        secrets: &Arc<SecretProvider>,
        scope: &Scope,
    ) -> Result<Arc<ServerTls>, ConfigError> {
        let key_log = config.common.key_log.as_ref().map(KeyLogFile::open).transpose()?.map(Arc::new);
        let tls = Arc::new(ServerTls {
            config: config.clone(),
            current: ArcSwapOption::empty(),
            pending: parking_lot::Mutex::default(),
            facts: Arc::default(),
            stats: TlsStats::new(scope, "server_ssl_socket_factory"),
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
    /// The handshake failed; the peer was told so if it spoke TLS. The connection is closed.
    ///
    /// # Cancel safety
    /// None: a handshake cut short is lost with its connection.
    pub async fn accept(&self, stream: Stream) -> Result<(Stream, Arc<TlsInfo>), TlsError> {
        let result = self.handshake(stream).await;
        if let Err(error) = &result {
            self.stats.failed(error, false);
        }
        result
    }

    async fn handshake(&self, mut stream: Stream) -> Result<(Stream, Arc<TlsInfo>), TlsError> {
        let state = self.current.load_full().ok_or_else(TlsError::not_ready)?;
        let mut observed = Observed::default();
        let accepted = match client_hello(&mut stream).await {
            Ok(accepted) => accepted,
            Err((error, first)) => return Err(TlsError::new(&error, &mut observed, &first)),
        };
        let config = self.config_for(&state, &accepted.client_hello(), &stream);
        // The certificate is chosen in this very call, before the first poll.
        let accept = within(&mut observed, || StartHandshake::from_parts(accepted, stream).into_stream(config));
        let io = observe(accept, &mut observed).await.map_err(|e| TlsError::new(&e, &mut observed, &[]))?;
        let session = io.get_ref().1;
        if let Err(e) = session::check_resumed(&mut observed, session, &state.verifier) {
            return Err(TlsError::new(&io::Error::new(io::ErrorKind::InvalidData, e), &mut observed, &[]));
        }
        if observed.local.is_none() {
            observed.local = state.identities.first().map(|i| Arc::clone(&i.facts));
        }
        self.stats.succeeded(session, &observed);
        let info = session::info(session, session.server_name().unwrap_or_default(), &observed);
        Ok((Stream::Tls(Box::new(ServerTlsStream { io, info: Arc::clone(&info) })), info))
    }

    fn config_for(&self, state: &State, hello: &ClientHello<'_>, stream: &Stream) -> Arc<ServerConfig> {
        let i = variant(state, hello);
        if let (Some(logged), Some(config)) = (&state.logged, &self.config.common.key_log)
            && key_log::covers(config, stream.local_addr().as_ref(), stream.peer_addr().as_ref())
        {
            return Arc::clone(&logged[i]);
        }
        Arc::clone(&state.plain[i])
    }

    fn state(&self, material: Material) -> Result<State, ConfigError> {
        let config = &self.config;
        let verifier = Arc::new(PeerVerifier::of_clients(
            Arc::clone(&material.validator),
            Arc::clone(&self.facts),
            config.require_client_certificate,
            material.schemes.clone(),
        ));
        let base = self.server_config(&material, &verifier)?;
        let alpn: Vec<Vec<u8>> = config.common.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        let variants = |base: &ServerConfig| {
            [0, 1, 2, 3].map(|i| {
                let mut variant = base.clone();
                if i & WITH_ALPN != 0 {
                    variant.alpn_protocols.clone_from(&alpn);
                }
                // BoringSSL takes the client's order of TLS 1.3 suites, and ours of those before.
                variant.ignore_client_order = i & TLS13 == 0 && !config.prefer_client_ciphers;
                Arc::new(variant)
            })
        };
        let logged = self.key_log.as_ref().map(|log| {
            let mut base = base.clone();
            base.key_log = Arc::clone(log) as _;
            variants(&base)
        });
        Ok(State {
            plain: variants(&base),
            logged,
            alpn,
            verifier,
            identities: material.identities,
            validator: material.validator,
            digest: material.digest,
            watches: material.watches,
            _gauges: material.gauges,
        })
    }

    fn server_config(&self, material: &Material, verifier: &Arc<PeerVerifier>) -> Result<ServerConfig, ConfigError> {
        let config = &self.config;
        let params = &config.common.params;
        let versions = names::versions(params.min, params.max.unwrap_or(TlsVersion::V1_3))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&material.provider))
            .with_protocol_versions(versions)
            .map_err(|e| ConfigError::at("common_tls_context.tls_params", e.to_string()))?;
        let builder = if material.validator.wants_certificate() {
            builder.with_client_cert_verifier(Arc::clone(verifier) as _)
        } else {
            builder.with_no_client_auth()
        };
        let certificates = Certificates::new(Arc::clone(&material.identities), config.full_scan_certs_on_sni_mismatch);
        let mut out = builder.with_cert_resolver(Arc::new(certificates));
        out.session_storage = if config.disable_stateful_resumption {
            Arc::new(NoServerSessionStorage {})
        } else {
            ServerSessionMemoryCache::new(REMEMBERED_SESSIONS)
        };
        if config.disable_stateless_resumption {
            // Sessions of TLS 1.3 are resumed by tickets only, even if the state stays here.
            out.send_tls13_tickets = 0;
        } else {
            out.ticketer = Arc::new(self.ticketer(material)?);
        }
        Ok(out)
    }

    fn ticketer(&self, material: &Material) -> Result<Ticketer, ConfigError> {
        const FIELD: &str = "session_ticket_keys";
        let mut inputs = Inputs::new();
        let keys = self.config.session_ticket_keys.iter().map(|k| inputs.read(k, FIELD));
        let keys: Vec<Bytes> = keys.collect::<Result<_, _>>()?;
        Ticketer::new(&keys, self.config.session_timeout, self.ticket_context(material))
            .map_err(|e| ConfigError::at(FIELD, e))
    }

    /// What a ticket is bound to: the rules a client was let in by, and who it was told we are.
    fn ticket_context(&self, material: &Material) -> [u8; 32] {
        let mut context = Inputs::new();
        context.note(&format!("{:?} {}", material.trust_digest, self.config.require_client_certificate));
        for identity in &*material.identities {
            context.note(&identity.names.join(","));
            context.note(&identity.facts.uri_sans.join(","));
        }
        context.finish().0
    }
}

const WITH_ALPN: usize = 1;
const TLS13: usize = 2;

/// Which configuration a client gets: no common ALPN is no failure, as in Envoy, and suites have another order before
/// TLS 1.3.
fn variant(state: &State, hello: &ClientHello<'_>) -> usize {
    let overlap = hello.alpn().is_some_and(|mut offered| offered.any(|p| state.alpn.iter().any(|own| own == p)));
    let tls13 = hello.cipher_suites().iter().any(|s| u16::from(*s) & 0xff00 == 0x1300);
    (usize::from(overlap) * WITH_ALPN) | (usize::from(tls13) * TLS13)
}

/// Reads until the ClientHello is complete; what came after it is put back. An error comes with what the client began with.
async fn client_hello(stream: &mut Stream) -> Result<Accepted, (io::Error, Vec<u8>)> {
    let mut acceptor = Acceptor::default();
    let mut first = Vec::new();
    let mut buffer = Vec::with_capacity(HELLO_BUFFER);
    loop {
        buffer.clear();
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Err((io::ErrorKind::UnexpectedEof.into(), first)),
            Ok(_) => {}
            Err(e) => return Err((e, first)),
        }
        if first.len() < 8 {
            first.extend_from_slice(&buffer[..buffer.len().min(8)]);
        }
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let fed = acceptor.read_tls(&mut rest).map_err(|e| (e, first.clone()))?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    if !rest.is_empty() {
                        *stream = Stream::prefixed(Bytes::copy_from_slice(rest), stream.take());
                    }
                    return Ok(accepted);
                }
                Ok(None) if fed == 0 => return Err((io::ErrorKind::InvalidData.into(), first)),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut octets = Vec::new();
                    // Envoy says nothing to a client that speaks HTTP.
                    if reason::not_tls(&first).is_none() && alert.write_all(&mut octets).is_ok() {
                        let _ = stream.write_all(&octets).await;
                    }
                    return Err((io::Error::new(io::ErrorKind::InvalidData, error), first));
                }
            }
        }
    }
}

impl Rotate for ServerTls {
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
        if material.identities.is_empty() {
            return Err(ConfigError::at(
                "common_tls_context.tls_certificates",
                "No TLS certificates found for server context",
            ));
        }
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

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerTls({})", if self.is_ready() { "ready" } else { "not ready" })
    }
}
