//! Connections over TLS: whose certificate is shown, whose are asked for, and handshakes.
//!
//! Certificates come from files or from the authority, which renews them; each connection has what is current when it begins.
//! Must not know: what callers may do.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::Stream;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{ServerError, TlsFiles};
use crate::ca::Ca;
use crate::metrics::Metrics;

/// Handshakes at once; further connections wait.
const MAX_HANDSHAKES: usize = 256;
/// How long one may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// When an attempt to renew fails, the next one comes after this.
const RETRY: Duration = Duration::from_secs(5);
/// The longest time that is waited at once.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// How the TLS port works.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Certificates from files; else the authority makes one.
    pub files: Option<TlsFiles>,
    /// The authority, whose certificates and tokens prove who somebody is.
    pub ca: Option<Arc<Ca>>,
    /// Callers that prove nothing get what anybody gets.
    pub any_client: bool,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The certificate that was verified.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

impl Secure {
    /// What new connections have, and when it is to be made anew.
    fn config(&self) -> Result<(Arc<ServerConfig>, Option<Duration>), ServerError> {
        let failed = |reason: String| ServerError::Secure { reason };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (chain, key, renew) = self.certificate()?;
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| failed(error.to_string()))?;
        let trusted = self.trusted()?;
        let builder = if trusted.is_empty() {
            builder.with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider);
            // Who comes without one may have a token.
            let optional = self.ca.is_some() || self.any_client;
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(error.to_string()))?)
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| failed(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that goes on would not be asked for a certificate again.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok((Arc::new(config), renew))
    }

    /// The chain, its key, and when they are to be replaced.
    fn certificate(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Option<Duration>), ServerError> {
        match (&self.files, &self.ca) {
            (Some(files), _) => {
                let chain = certificates("--tls-cert", &files.cert)?;
                let pem = super::read("--tls-key", &files.key)?;
                let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| ServerError::Tls {
                    flag: "--tls-key",
                    path: files.key.clone(),
                    reason: "holds no private key; give a PEM file".to_owned(),
                })?;
                Ok((chain, key, None))
            }
            (None, Some(ca)) => {
                let made = ca.server_certificate();
                let (chain, key, renew) = made.map_err(|error| ServerError::Secure { reason: error.to_string() })?;
                Ok((chain, key, Some(renew)))
            }
            (None, None) => Err(ServerError::Secure { reason: "there is no certificate: give --tls-cert".to_owned() }),
        }
    }

    fn trusted(&self) -> Result<RootCertStore, ServerError> {
        let mut store = RootCertStore::empty();
        let mut all = Vec::new();
        if let Some(path) = self.files.as_ref().and_then(|files| files.client_ca.as_ref()) {
            all.extend(certificates("--tls-client-ca", path)?);
        }
        if let Some(ca) = &self.ca {
            let bundle = ca.bundle().borrow().clone();
            all.extend(CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok));
        }
        for root in all {
            store.add(root).map_err(|error| ServerError::Secure { reason: error.to_string() })?;
        }
        Ok(store)
    }

    /// Keeps `current` as it is to be, until `stop`.
    async fn keep(self, current: Arc<ArcSwap<ServerConfig>>, mut renew: Option<Duration>, stop: CancellationToken) {
        let Some(ca) = self.ca.clone() else { return };
        let mut bundle = ca.bundle();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = bundle.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(renew.unwrap_or(LONG)) => {}
            }
            match self.config() {
                Ok((config, next)) => {
                    current.store(config);
                    renew = next;
                }
                Err(error) => {
                    tracing::error!("the server's certificate cannot be renewed, the one before is shown: {error}");
                    renew = Some(RETRY);
                }
            }
        }
    }
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let pem = super::read(flag, path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if all.is_empty() {
        let reason = "holds no certificate; give a PEM file".to_owned();
        return Err(ServerError::Tls { flag, path: path.to_owned(), reason });
    }
    Ok(all)
}

/// A connection whose handshake is over.
#[derive(Debug)]
pub(super) struct SecureStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for SecureStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for SecureStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SecureStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts connections until `stop`. Handshakes go on beside each other, so that a slow one holds up nobody.
///
/// # Errors
/// When there is no certificate.
pub(super) fn accept(
    listener: TcpListener,
    secure: Secure,
    metrics: impl Fn() -> Arc<Metrics> + Send + 'static,
    stop: CancellationToken,
) -> Result<impl Stream<Item = std::io::Result<SecureStream>>, ServerError> {
    let (config, renew) = secure.config()?;
    let current = Arc::new(ArcSwap::new(config));
    tokio::spawn(secure.keep(current.clone(), renew, stop.clone()));
    let (tx, rx) = mpsc::channel(MAX_HANDSHAKES);
    let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accept: {error}; trying again");
                    // Out of descriptors, mostly: give others the time to let go of some.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (tx, acceptor, metrics) = (tx.clone(), TlsAcceptor::from(current.load_full()), metrics());
            tokio::spawn(async move {
                let _permit = permit;
                match tokio::time::timeout(HANDSHAKE, handshake(acceptor, stream, address)).await {
                    // The server is gone when it stops.
                    Ok(Ok(stream)) => drop(tx.send(Ok(stream)).await),
                    Ok(Err(error)) => {
                        metrics.refused_handshakes.add(1);
                        tracing::warn!(peer = %address, "TLS handshake failed: {error}");
                    }
                    Err(_) => {
                        metrics.refused_handshakes.add(1);
                        tracing::warn!(peer = %address, "TLS handshake not complete after {HANDSHAKE:?}");
                    }
                }
            });
        }
    });
    Ok(futures_util::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) }))
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> std::io::Result<SecureStream> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
    Ok(SecureStream { stream, peer: Peer { address, certificate } })
}
