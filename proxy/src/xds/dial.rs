//! Reaching a management server: through one of this proxy's clusters (`envoy_grpc`), or by address (`google_grpc`).
//!
//! Runs on: the control thread.

use std::sync::Arc;
use std::time::Duration;

use super::client::Open;
use crate::cluster::{Clusters, lb};
use crate::config::{
    Address, ApiConfigSource, CertificateSource, CertificateValidation, CommonTls, ConfigError, DataSource, GrpcTarget,
    SanKind, SanMatcher, StringMatcher, TlsCertificate, TlsVersion, UpstreamTls, ValidationSource,
};
use crate::stats::Scope;
use crate::transport::Stream;
use crate::transport::tls::{ClientTls, ConnectOptions, SecretProvider};
use crate::upstream::{PoolError, connector};

/// Bounds the way to a server that is called by address; clusters have a limit of their own.
const CONNECT: Duration = Duration::from_secs(20);

/// Who is called.
pub enum Dialer {
    /// A host of a cluster.
    Cluster {
        /// All clusters.
        clusters: Arc<Clusters>,
        /// Its name.
        name: String,
        /// `:authority`.
        authority: String,
    },
    /// An address.
    Address {
        /// Host name or address, and port; a path for Unix sockets.
        host: Host,
        /// TLS.
        tls: Option<Arc<ClientTls>>,
        /// `:authority`.
        authority: String,
    },
}

/// What a target URI names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// To be resolved.
    Name(String, u16),
    /// A Unix socket.
    Path(String),
}

/// A connection.
pub struct Dialled {
    /// Bytes.
    pub stream: Stream,
    /// `:authority`.
    pub authority: String,
    /// Time between pings and for their answers.
    pub keepalive: Option<(Duration, Duration)>,
    /// Its place in a cluster's books.
    pub open: Option<Open>,
}

impl Dialer {
    /// The way to a source's server.
    ///
    /// # Errors
    /// A bad URI or unusable credentials.
    pub fn new(
        config: &ApiConfigSource,
        clusters: &Arc<Clusters>,
        secrets: &Arc<SecretProvider>,
        root: &Scope,
    ) -> Result<Dialer, ConfigError> {
        match &config.target {
            GrpcTarget::Envoy { cluster, authority } => Ok(Dialer::Cluster {
                clusters: clusters.clone(),
                name: cluster.clone(),
                authority: authority.clone().unwrap_or_else(|| cluster.clone()),
            }),
            GrpcTarget::Google { uri, ssl, stat_prefix } => {
                let (host, authority) = parse(uri)
                    .ok_or_else(|| ConfigError::at("target_uri", format!("'{uri}' is no host with a port")))?;
                let name = match &host {
                    Host::Name(name, _) => name.as_str(),
                    Host::Path(_) => "localhost",
                };
                let tls = match ssl {
                    None => None,
                    Some(ssl) => {
                        let scope = root.scope("grpc").scope(stat_prefix);
                        Some(ClientTls::build(&tls(ssl, name), secrets, &scope)?)
                    }
                };
                Ok(Dialer::Address { host, tls, authority })
            }
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Why not.
    pub async fn dial(&self) -> Result<Dialled, String> {
        match self {
            Dialer::Cluster { clusters, name, authority } => through(clusters, name, authority).await,
            Dialer::Address { host, tls, authority } => {
                let connect = async {
                    let stream = socket(host).await.map_err(|e| e.to_string())?;
                    let Some(tls) = tls else { return Ok(stream) };
                    let alpn = [b"h2".to_vec()];
                    let options = ConnectOptions { alpn_fallback: &alpn, ..ConnectOptions::default() };
                    tls.connect(stream, options).await.map(|(s, _)| s).map_err(|e| e.reason.into_owned())
                };
                let stream =
                    tokio::time::timeout(CONNECT, connect).await.map_err(|_| "connect timeout".to_owned())??;
                Ok(Dialled { stream, authority: authority.clone(), keepalive: None, open: None })
            }
        }
    }
}

async fn through(clusters: &Clusters, name: &str, authority: &str) -> Result<Dialled, String> {
    let cluster = clusters.find(name).ok_or_else(|| format!("there is no cluster '{name}'"))?;
    let request = lb::Request { random: crate::worker::random(), ..lb::Request::default() };
    let host = cluster.pick(0, &request).ok_or_else(|| "no healthy upstream".to_owned())?;
    let options = connector::Options { h2: Some(true), ..connector::Options::default() };
    let stream = connector::connect(&cluster, &host, &options).await.map_err(|e| match e {
        PoolError::Connect { reason, .. } if reason.is_empty() => "connection timeout".to_owned(),
        PoolError::Connect { reason, .. } => reason.into_owned(),
        other => format!("{other:?}"),
    })?;
    let keepalive = cluster.config.http2.keepalive.as_ref().and_then(|k| Some((k.interval?, k.timeout)));
    Ok(Dialled { stream, authority: authority.to_owned(), keepalive, open: Some(Open::new(cluster)) })
}

async fn socket(host: &Host) -> std::io::Result<Stream> {
    match host {
        Host::Path(path) => tokio::net::UnixStream::connect(path).await.map(Stream::Unix),
        Host::Name(name, port) => {
            let stream = tokio::net::TcpStream::connect((name.trim_matches(['[', ']']), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
    }
}

/// `host:port`, with or without one of gRPC's schemes; and the authority it stands for.
fn parse(uri: &str) -> Option<(Host, String)> {
    if let Some(path) = uri.strip_prefix("unix:") {
        return Some((Host::Path(path.trim_start_matches("//").to_owned()), "localhost".to_owned()));
    }
    let rest = ["dns:///", "ipv4:", "ipv6:", "dns:"].iter().find_map(|s| uri.strip_prefix(s)).unwrap_or(uri);
    let (host, port) = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'))?;
    Some((Host::Name(host.to_owned(), port.parse().ok()?), rest.to_owned()))
}

/// The credentials as one of our TLS contexts. As gRPC does, the name that was called must be in the certificate.
fn tls(ssl: &crate::config::SslCredentials, name: &str) -> UpstreamTls {
    let address: Option<std::net::IpAddr> = name.trim_matches(['[', ']']).parse().ok();
    let kind = if address.is_some() { SanKind::Ip } else { SanKind::Dns };
    let certificate = ssl.cert_chain.clone().zip(ssl.private_key.clone()).map(|(chain, private_key)| {
        CertificateSource::Inline(TlsCertificate {
            chain,
            private_key,
            password: None,
            ocsp_staple: None,
            watched_directory: None,
        })
    });
    let roots = ssl.root_certs.clone().unwrap_or_else(|| DataSource::File {
        path: "/etc/ssl/certs/ca-certificates.crt".to_owned(),
        watched_directory: None,
    });
    let validation = CertificateValidation {
        trusted_ca: Some(roots),
        subject_alt_names: vec![SanMatcher { kind, matcher: StringMatcher::exact(name.trim_matches(['[', ']'])) }],
        ..CertificateValidation::default()
    };
    let mut common = CommonTls {
        certificates: certificate.into_iter().collect(),
        validation: Some(ValidationSource::Inline(Box::new(validation))),
        ..CommonTls::default()
    };
    common.params.max = Some(TlsVersion::V1_3);
    UpstreamTls {
        common,
        sni: if address.is_some() { String::new() } else { name.to_owned() },
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 0,
        allow_renegotiation: false,
    }
}

/// Whether a cluster may carry discovery: it must be there before discovery is.
///
/// # Errors
/// Envoy's words.
pub fn check(config: &ApiConfigSource, clusters: &Clusters) -> Result<(), ConfigError> {
    let GrpcTarget::Envoy { cluster, .. } = &config.target else { return Ok(()) };
    let fits = clusters.find(cluster).is_some_and(|c| {
        !matches!(c.config.discovery, crate::config::Discovery::Eds { .. })
            && !matches!(c.config.assignment.localities.first(), Some(l) if matches!(l.endpoints.first(), Some(e) if matches!(e.address, Address::Host { .. }) && c.config.discovery == crate::config::Discovery::Static))
    });
    if fits {
        return Ok(());
    }
    Err(ConfigError::at(
        "envoy_grpc.cluster_name",
        format!(
            "envoy::config::core::v3::ApiConfigSource must have a statically defined non-EDS cluster: '{cluster}' does not exist, was added via api, or is an EDS cluster"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_uris() {
        let name = |n: &str, p| Some((Host::Name(n.into(), p), format!("{n}:{p}")));
        assert_eq!(parse("server:18000"), name("server", 18000));
        assert_eq!(parse("dns:///server:1"), name("server", 1));
        assert_eq!(parse("ipv4:127.0.0.1:1"), name("127.0.0.1", 1));
        assert_eq!(parse("[::1]:1"), name("[::1]", 1));
        assert_eq!(parse("unix:/run/s"), Some((Host::Path("/run/s".into()), "localhost".into())));
        assert_eq!(parse("server"), None);
        assert_eq!(parse("server:port"), None);
    }
}
