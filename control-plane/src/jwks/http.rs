//! One document over HTTP or HTTPS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest document.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// How often one may be somewhere else.
const MAX_REDIRECTS: usize = 5;
/// Where systems keep the authorities they trust.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom to trust.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    /// Authorities besides the system's, as PEM.
    pub(super) trusted: Option<PathBuf>,
}

impl Client {
    /// Gets a document. The caller limits the time.
    pub(super) async fn get(&self, uri: &str) -> Result<Bytes, String> {
        let mut uri: Uri = uri.parse().map_err(|error| format!("it is no URI: {error}"))?;
        for _ in 0..=MAX_REDIRECTS {
            match self.send(&uri).await? {
                Answer::Document(document) => return Ok(document),
                Answer::Elsewhere(next) => uri = next,
            }
        }
        Err(format!("it is redirected more than {MAX_REDIRECTS} times"))
    }

    async fn send(&self, uri: &Uri) -> Result<Answer, String> {
        let host = uri.host().ok_or("the URI has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("the URI is neither http:// nor https://".to_owned()),
        };
        let stream = connect(host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 })).await?;
        if !secure {
            return exchange(stream, uri).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host:?}: {error}"))?;
        let connector = TlsConnector::from(self.tls()?);
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        exchange(stream, uri).await
    }

    /// Read each time: authorities are replaced.
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let system = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let system = system.or_else(|| SYSTEM.iter().map(PathBuf::from).find(|path| path.exists()));
        let mut roots = RootCertStore::empty();
        for path in system.iter().chain(&self.trusted) {
            let unreadable = |error| format!("{}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                // A bundle may have what is no authority for anybody any more.
                let _ = roots.add(certificate.map_err(unreadable)?);
            }
        }
        if roots.is_empty() {
            return Err("there are no authorities to trust: install the system's, or set SSL_CERT_FILE".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| format!("TLS: {error}"))?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// What is at a URI.
enum Answer {
    Document(Bytes),
    /// It is there instead.
    Elsewhere(Uri),
}

/// Connects to the first address that answers. What is link-local is not asked: a cloud's own data is there.
async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    let mut last = format!("{host} has no address");
    for address in found {
        if is_link_local(address.ip()) {
            last = format!("{address} is link-local, where nothing is fetched");
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

async fn exchange<S>(stream: S, uri: &Uri) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
        match redirect(uri, &response)? {
            Some(next) => Ok(Answer::Elsewhere(next)),
            None => read(response).await.map(Answer::Document),
        }
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It may end before its answer is looked at.
        _ended = connection => answer.await,
    }
}

/// Where a document is instead.
fn redirect(from: &Uri, response: &Response<Incoming>) -> Result<Option<Uri>, String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or("it is redirected to nowhere")?;
    let to: Uri = location.parse().map_err(|_| format!("it is redirected to {location:?}"))?;
    let mut parts = to.into_parts();
    if parts.scheme.is_none() && location.starts_with('/') {
        parts.scheme = from.scheme().cloned();
        parts.authority = parts.authority.or_else(|| from.authority().cloned());
    }
    let to = Uri::from_parts(parts).map_err(|_| format!("it is redirected to {location:?}"))?;
    if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
        return Err(format!("it is redirected to {location:?}, where nobody would prove anything"));
    }
    Ok(Some(to))
}

async fn read(response: Response<Incoming>) -> Result<Bytes, String> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(format!("the answer is {status}"));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|error| format!("the answer broke off, or is larger than {MAX_BYTES} bytes: {error}"))?;
    Ok(body.to_bytes())
}
