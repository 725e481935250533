//! xDS v3 over gRPC, and what people and machines ask over HTTP.
//!
//! Owns the sockets. Must not know: where the world comes from.
//!
//! | | |
//! |---|---|
//! | [`session`] | one stream as a state machine, without input or output |
//! | `secure`, `caller` | TLS, and who calls |
//! | `certificates` | certificates for workloads |
//! | `stream`, `codec`, `framing`, `encoded`, `grpc` | its way to a client |
//! | `health`, `reflection` | gRPC's own services |
//! | `fetch` | discovery with one answer |
//! | `csds` | who has what, over gRPC |
//! | [`connections`] | who is connected and what they have |
//! | `provenance` | which objects that was made of |
//! | [`serve_http`] | health, metrics and debug pages |

mod caller;
mod certificates;
mod codec;
pub mod connections;
mod csds;
mod debounce;
mod encoded;
mod fetch;
#[cfg(test)]
pub(crate) mod fixtures;
mod framing;
mod grpc;
mod health;
mod http;
mod provenance;
mod reflection;
mod secure;
pub mod session;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

pub use debounce::Debounce;
pub use http::serve_http;
pub use secure::Secure;

use crate::ca::Ca;
use crate::cache::Cache;
use crate::generate::{Changes, Generator};
use crate::jwks::KeyStatus;
use crate::metrics::Metrics;
use caller::Door;
use connections::Connections;
use encoded::Encoded;

/// What bounds a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest request that is taken.
    pub max_message_bytes: usize,
    /// Streams on one connection.
    pub max_streams: u32,
    /// How often an idle connection is asked whether it is alive.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A reconnecting client names all it holds: some 100 bytes for each resource.
            max_message_bytes: 16 << 20,
            // ADS needs one; a client without it one for each type, and Envoy one for each EDS cluster.
            max_streams: 1000,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// What all streams share.
pub struct Shared<G: Generator> {
    /// What each proxy gets.
    pub cache: Arc<Cache<G>>,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// What a world is made of, for `/debug/configz`.
    describe: fn(&G) -> serde_json::Value,
    encoded: Encoded,
    /// Something has changed that is not published yet.
    waiting: AtomicBool,
    limits: Limits,
    /// The name of this process in responses.
    identifier: Arc<str>,
    /// The authority, for its page and metrics.
    ca: OnceLock<Arc<Ca>>,
    /// How fetching keys of tokens goes, for its page and metrics.
    keys: OnceLock<Arc<KeyStatus>>,
    stop: CancellationToken,
}

impl<G: Generator> Shared<G> {
    /// A server of `world`; `describe` says what a world is made of, `stop` ends the streams.
    #[must_use]
    pub fn new(
        world: Arc<G>,
        describe: fn(&G) -> serde_json::Value,
        limits: Limits,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let cache = Cache::new(world, metrics.clone());
        let connections = Connections::new(metrics);
        let identifier = concat!("weft-", env!("CARGO_PKG_VERSION")).into();
        Arc::new(Self {
            cache,
            connections,
            describe,
            encoded: Encoded::default(),
            waiting: AtomicBool::new(false),
            limits,
            identifier,
            ca: OnceLock::new(),
            keys: OnceLock::new(),
            stop,
        })
    }

    /// Shows the state of this authority on its page and among the metrics. The first one counts.
    pub fn show(&self, ca: Arc<Ca>) {
        let _ = self.ca.set(ca);
    }

    /// Shows how fetching keys of tokens goes on its page and among the metrics. The first one counts.
    pub fn show_keys(&self, keys: Arc<KeyStatus>) {
        let _ = self.keys.set(keys);
    }

    /// Whether something has changed that is not published yet.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Relaxed);
    }

    fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// Serves another world from now on. `seen_at`: when the first of the changes was seen.
    pub fn publish(&self, world: Arc<G>, changes: Changes, seen_at: tokio::time::Instant) -> u64 {
        let sequence = self.cache.current().sequence + 1;
        self.connections.published(sequence, seen_at);
        self.connections.metrics().published.add(1);
        self.cache.publish(world, changes, seen_at)
    }
}

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("{flag} {address}: cannot listen: {source}; choose another address, or port 0 for any free one")]
    Bind {
        /// The flag that set it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A file of TLS cannot be used.
    #[error("{flag} {}: {reason}", path.display())]
    Tls {
        /// The flag that named it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be served.
    #[error("TLS: {reason}")]
    Secure {
        /// Why.
        reason: String,
    },
    /// The gRPC server ended.
    #[error("gRPC on {address}: {source}")]
    Grpc {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// An open socket.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Opens a socket; `flag` is what set the address. Within a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken or none of this machine.
    pub async fn open(flag: &'static str, address: SocketAddr) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind { flag, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Takes a socket that listens already: in another network namespace. Within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses to tell about it.
    pub fn of(listener: std::net::TcpListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: TcpListener::from_std(listener)?, address })
    }

    /// Where it listens; the port is the system's choice if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Certificates for the TLS port, as PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain of this server.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whom to trust; with it, clients must show a certificate.
    pub client_ca: Option<PathBuf>,
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|error| {
        let reason = format!("cannot be read: {error}; give a PEM file");
        ServerError::Tls { flag, path: path.to_owned(), reason }
    })
}

/// Serves xDS on a socket until `shared` is stopped; with `secure`, over TLS, to callers that prove who they are.
///
/// # Errors
/// When the certificates cannot be used, or the server fails.
pub async fn serve_grpc<G: Generator>(
    shared: Arc<Shared<G>>,
    socket: Bound,
    secure: Option<Secure>,
) -> Result<(), ServerError> {
    let Bound { listener, address } = socket;
    let failed = |source| ServerError::Grpc { address, source };
    let stop = shared.stop.clone();
    let limits = shared.limits;
    let door = match &secure {
        None => Door::Open,
        Some(secure) => Door::Guarded { ca: secure.ca.clone(), any_client: secure.any_client },
    };
    let mut routes = tonic::service::Routes::default();
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.fallback_service(grpc::Api { shared: shared.clone(), door });
    let mut server = tonic::transport::Server::builder()
        .max_concurrent_streams(limits.max_streams)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout));
    let server = server.add_routes(routes);
    let stopped = stop.clone().cancelled_owned();
    let Some(secure) = secure else {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        return server.serve_with_incoming_shutdown(incoming, stopped).await.map_err(failed);
    };
    let metrics = move || shared.connections.metrics().clone();
    let incoming = secure::accept(listener, secure, metrics, stop)?;
    server.serve_with_incoming_shutdown(incoming, stopped).await.map_err(failed)
}
