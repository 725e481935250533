use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::model::key_sets::UNKNOWN_KEYS as SOME_KEYS;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers each path with what a function says.
struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: impl Fn(usize, &str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<AtomicUsize> = Arc::default();
        let (count, answer) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (count, answer) = (count.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let said = answer(count.fetch_add(1, Relaxed), path);
                    stream.write_all(said.as_bytes()).await
                });
            }
        });
        Self { port, asked }
    }

    fn uri(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn source(&self, path: &str) -> KeySource {
        KeySource::Uri(self.uri(path).into())
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn fetched(source: &KeySource) -> Result<Arc<str>, String> {
    tokio::time::timeout(PATIENCE, fetch(&Client::default(), source)).await.unwrap()
}

#[tokio::test]
async fn keys_are_at_a_uri_or_where_the_issuer_says_or_where_a_redirect_leads() {
    let server = Server::start(|_, path| match path {
        "/issuer/.well-known/openid-configuration" => ok("{\"issuer\": \"x\", \"jwks_uri\": \"/nowhere\"}"),
        "/keys" => ok(SOME_KEYS),
        "/moved" => "HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "/circle" => "HTTP/1.1 302 Found\r\nlocation: /circle\r\ncontent-length: 0\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
    })
    .await;
    assert_eq!(fetched(&server.source("/keys")).await.as_deref(), Ok(SOME_KEYS));
    assert_eq!(fetched(&server.source("/moved")).await.as_deref(), Ok(SOME_KEYS));
    assert!(fetched(&server.source("/circle")).await.unwrap_err().contains("more than 5 times"));
    assert!(fetched(&server.source("/gone")).await.unwrap_err().contains("404"));
    let issuer = KeySource::Issuer(server.uri("/issuer/").into());
    assert!(fetched(&issuer).await.unwrap_err().contains("/nowhere"));

    let (port, keys) = (server.port, server.uri("/keys"));
    let discovery = Server::start(move |_, path| {
        assert_eq!(path, "/.well-known/openid-configuration");
        ok(&format!("{{\"jwks_uri\": \"{keys}\"}}"))
    })
    .await;
    assert_eq!(fetched(&KeySource::Issuer(discovery.uri("").into())).await.as_deref(), Ok(SOME_KEYS));
    assert!(port > 0 && discovery.asked.load(Relaxed) == 1);
}

#[tokio::test]
async fn what_is_no_key_set_or_too_large_is_not_taken() {
    let server = Server::start(|_, path| match path {
        "/page" => ok("<html>"),
        "/empty" => ok("{\"keys\": []}"),
        "/large" => ok(&" ".repeat(http::MAX_BYTES + 1)),
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
    })
    .await;
    for (path, why) in [("/page", "JSON"), ("/empty", "valid public key"), ("/large", "larger"), ("/cut", "broke off")]
    {
        let error = fetched(&server.source(path)).await.unwrap_err();
        assert!(error.contains(why), "{path}: {error}");
    }
    assert!(fetched(&KeySource::Uri("ftp://a/b".into())).await.unwrap_err().contains("neither http://"));
    assert!(fetched(&KeySource::Uri("http://169.254.169.254/".into())).await.unwrap_err().contains("link-local"));
}

#[tokio::test]
async fn a_fetcher_tries_again_until_it_has_what_is_wanted() {
    let server = Server::start(|count, _| match count {
        0 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
        _ => ok(SOME_KEYS),
    })
    .await;
    let (fetcher, mut keys) = Fetcher::new(None);
    let (status, stop) = (fetcher.status(), CancellationToken::new());
    let task = tokio::spawn(fetcher.run(stop.clone()));
    let source = server.source("/keys");
    keys.want([(source.clone(), PATIENCE)].into());
    let first = keys.tried(PATIENCE).await;
    assert!(first.problem(&source).unwrap().contains("503"), "{first:?}");
    let then = tokio::time::timeout(PATIENCE, keys.changed()).await.unwrap();
    assert_eq!((then.keys(&source), then.problem(&source)), (Some(SOME_KEYS), None));
    assert_eq!((status.count(), status.failed.value(), status.fetched.value()), ((1, 1), 1, 1));
    assert_eq!(status.sets()[0]["uri"], source.uri());
    keys.want(BTreeMap::new());
    let none = tokio::time::timeout(PATIENCE, keys.changed()).await.unwrap();
    assert_eq!(none.keys(&source), None);
    stop.cancel();
    task.await.unwrap();
}

/// Over HTTPS the server must prove who it is, to an authority that is told.
#[tokio::test]
async fn over_https_a_server_proves_who_it_is() {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, authority).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await?;
                stream.write_all(ok(SOME_KEYS).as_bytes()).await
            });
        }
    });

    let dir = tempfile::tempdir().unwrap();
    let trusted = dir.path().join("ca.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let knowing = Client { trusted: Some(trusted) };
    let get = async |client: &Client, host: &str| {
        let source = KeySource::Uri(format!("https://{host}:{port}/keys").into());
        tokio::time::timeout(PATIENCE, fetch(client, &source)).await.unwrap()
    };
    assert_eq!(get(&knowing, "localhost").await.as_deref(), Ok(SOME_KEYS));
    // It is somebody else, or of an authority that nobody knows (or there is none to know at all).
    assert!(get(&knowing, "127.0.0.1").await.unwrap_err().contains("TLS"));
    assert!(get(&Client::default(), "localhost").await.is_err());
}
