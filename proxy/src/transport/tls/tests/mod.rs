//! Handshakes between our two sides, and with openssl.

mod peers;
mod rotation;
mod server;
mod trust;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{
    CertificateSource, CertificateValidation, CommonTls, DataSource, DownstreamTls, StatsConfig, TlsCertificate,
    TlsParams, TlsVersion, UpstreamTls, ValidationSource,
};
use crate::stats::{Scope, Store};
use crate::stream_info::TlsInfo;

/// An authority.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
struct Leaf {
    chain: String,
    key: String,
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { issuer: Issuer::new(params, key), pem }
}

/// What a leaf for these names looks like; `spiffe://` ones are URIs.
fn leaf_params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = names
        .iter()
        .map(|n| match n.starts_with("spiffe://") {
            true => SanType::URI((*n).try_into().unwrap()),
            false => SanType::DnsName((*n).try_into().unwrap()),
        })
        .collect();
    params
}

impl Ca {
    fn leaf(&self, names: &[&str]) -> Leaf {
        self.sign(&leaf_params(names), &KeyPair::generate().unwrap())
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Leaf {
        Leaf { chain: params.signed_by(key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn trust(&self) -> CertificateValidation {
        CertificateValidation { trusted_ca: Some(inline(&self.pem)), ..CertificateValidation::default() }
    }
}

fn inline(text: &str) -> DataSource {
    DataSource::Inline(Bytes::copy_from_slice(text.as_bytes()))
}

fn file(path: &Path) -> DataSource {
    DataSource::File { path: path.to_str().unwrap().to_owned(), watched_directory: None }
}

fn certificate(chain: DataSource, private_key: DataSource) -> TlsCertificate {
    TlsCertificate { chain, private_key, password: None, ocsp_staple: None, watched_directory: None }
}

impl Leaf {
    fn source(&self) -> CertificateSource {
        CertificateSource::Inline(certificate(inline(&self.chain), inline(&self.key)))
    }
}

fn downstream(leaves: &[&Leaf], validation: Option<CertificateValidation>) -> DownstreamTls {
    DownstreamTls {
        common: CommonTls {
            certificates: leaves.iter().map(|l| l.source()).collect(),
            validation: validation.map(|v| ValidationSource::Inline(Box::new(v))),
            ..CommonTls::default()
        },
        require_client_certificate: false,
        disable_stateless_resumption: false,
        disable_stateful_resumption: false,
        session_timeout: None,
        session_ticket_keys: Vec::new(),
        full_scan_certs_on_sni_mismatch: false,
        prefer_client_ciphers: false,
    }
}

fn upstream(leaf: Option<&Leaf>, validation: Option<CertificateValidation>) -> UpstreamTls {
    UpstreamTls {
        common: CommonTls {
            params: TlsParams { max: Some(TlsVersion::V1_3), ..TlsParams::default() },
            certificates: leaf.iter().map(|l| l.source()).collect(),
            validation: validation.map(|v| ValidationSource::Inline(Box::new(v))),
            ..CommonTls::default()
        },
        sni: String::new(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
        allow_renegotiation: false,
    }
}

fn scope() -> Scope {
    Store::new(1, &StatsConfig::default()).root()
}

fn no_secrets() -> Arc<SecretProvider> {
    SecretProvider::new(Vec::new(), Box::new(|_| Ok(Vec::new())), scope())
}

fn server(config: &DownstreamTls) -> Arc<ServerTls> {
    ServerTls::build(config, &no_secrets(), &scope()).unwrap()
}

fn client(config: &UpstreamTls) -> Arc<ClientTls> {
    ClientTls::build(config, &no_secrets(), &scope()).unwrap()
}

type Side = Result<Arc<TlsInfo>, TlsError>;

/// One handshake and one byte each way. In TLS 1.3 a client learns of its refusal only when it reads.
async fn handshake(server: &ServerTls, client: &ClientTls, options: ConnectOptions<'_>) -> (Side, Side) {
    let (a, b) = tokio::io::duplex(1 << 16);
    let serve = async {
        let (mut stream, info) = server.accept(a.into()).await?;
        let byte = stream.read_u8().await.unwrap_or(0);
        let _ = stream.write_all(&[byte]).await;
        let _ = stream.shutdown().await;
        Ok(info)
    };
    let connect = async {
        let (mut stream, info) = client.connect(b.into(), options).await?;
        let _ = stream.write_all(b"x").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Ok((info, answer))
    };
    let (served, connected): (Side, Result<_, TlsError>) = tokio::join!(serve, connect);
    if served.is_ok()
        && let Ok((_, answer)) = &connected
    {
        assert_eq!(answer, b"x");
    }
    (served, connected.map(|(info, _)| info))
}

async fn with_options(
    server: &DownstreamTls,
    client_config: &UpstreamTls,
    options: ConnectOptions<'_>,
) -> (Side, Side) {
    handshake(&self::server(server), &client(client_config), options).await
}

async fn between(server: &DownstreamTls, client: &UpstreamTls) -> (Side, Side) {
    with_options(server, client, ConnectOptions::default()).await
}

fn kind(side: &Side) -> Option<TlsErrorKind> {
    side.as_ref().err().map(|e| e.kind)
}
