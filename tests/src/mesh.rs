//! Workloads with sidecars and identities, as processes on the loopback: no connection is redirected.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::control_plane::ControlPlane;
use crate::tls::{self, Identity};

/// A root whose key the test has: certificates of any sort can be made under it.
pub struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Root {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Writes it as an operator's authority.
    ///
    /// # Errors
    /// When writing fails.
    pub fn plug(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("ca-key.pem"), self.issuer.key().serialize_pem())?;
        std::fs::write(dir.join("root-cert.pem"), self.issuer.pem())?;
        std::fs::write(dir.join("ca-cert.pem"), self.issuer.pem()).context("ca-cert.pem")
    }

    /// A certificate for a URI; one that is over if `expired`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn identity(&self, uri: &str, expired: bool) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A client that shows an identity, as a sidecar would.
///
/// # Errors
/// When the identity cannot be used.
pub fn showing(identity: &Identity, alpn: &[&str]) -> Result<Arc<ClientConfig>> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    tls::client_with(chain, key, alpn)
}

/// A workload that has a sidecar.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its service account.
    pub name: &'static str,
    /// Its pod.
    pub pod: String,
    /// Its labels besides the one that says it has a sidecar, as the inside of a YAML flow map.
    pub labels: String,
    /// Its namespace.
    pub namespace: &'static str,
    /// Its own address: of this machine, and of nobody else in the test run.
    pub ip: IpAddr,
    /// For how long its certificates are asked for, in seconds.
    pub ttl: u32,
    /// What its proxy is: `sidecar` or `router`.
    pub role: &'static str,
}

impl Workload {
    /// A workload with an address of its own; `port` is one that the test holds.
    #[must_use]
    pub fn new(name: &'static str, namespace: &'static str, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(127, 77, high, low));
        Self {
            name,
            pod: format!("{name}-0"),
            labels: format!("app: {name}"),
            namespace,
            ip,
            ttl: 3600,
            role: "sidecar",
        }
    }

    /// Its pod, as Kubernetes has it.
    #[must_use]
    pub fn pod(&self) -> String {
        let Self { name, namespace, ip, pod, labels, .. } = self;
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: {namespace}, \
             labels: {{{labels}, pod-template-hash: 5d8f, security.istio.io/tlsMode: istio}}, \
             ownerReferences: [{{kind: ReplicaSet, name: {name}-v1-5d8f, controller: true}}]}}\n\
             spec: {{serviceAccountName: {name}}}\n\
             status: {{podIP: \"{ip}\", phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n"
        )
    }

    fn head(&self) -> String {
        let Self { name, namespace, ip, pod, labels, role, .. } = self;
        format!(
            r#"
node:
  id: "{role}~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"
  cluster: {name}.{namespace}
  metadata: {{LABELS: {{{labels}, security.istio.io/tlsMode: istio}}, NAMESPACE: {namespace}, SERVICE_ACCOUNT: {name},
    NAME: {pod}, WORKLOAD_NAME: {name}-v1, CLUSTER_ID: Kubernetes, INTERCEPTION_MODE: NONE}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{admin}}}}}}}}}}
dynamic_resources:
  ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
"#
        )
    }

    /// The bootstrap of a weft-proxy that gets its certificate itself, everything over TLS and proven by a token.
    ///
    /// # Errors
    /// When no token is made.
    pub async fn weft(&self, plane: &ControlPlane) -> Result<String> {
        self.bootstrap(plane, false).await
    }

    /// The same, where the token gets the certificate, and that proves who asks for configuration.
    ///
    /// # Errors
    /// When no token is made.
    pub async fn weft_by_certificate(&self, plane: &ControlPlane) -> Result<String> {
        self.bootstrap(plane, true).await
    }

    async fn bootstrap(&self, plane: &ControlPlane, by_certificate: bool) -> Result<String> {
        let Self { name, namespace, ttl, .. } = self;
        let token = plane.token(namespace, name).await?;
        let authority = if by_certificate { "authority" } else { "xds" };
        let xds = secure_cluster("xds", plane, if by_certificate { OWN_CERTIFICATE } else { "" });
        let other = if by_certificate { secure_cluster(authority, plane, "") } else { String::new() };
        Ok(self.head()
            + &format!(
                r#"
bootstrap_extensions:
- name: weft.identity
  typed_config:
    "@type": type.googleapis.com/weft.identity.v1.WorkloadIdentity
    ca: {{envoy_grpc: {{cluster_name: {authority}, retry_policy: {{retry_back_off: {{base_interval: 0.1s, max_interval: 1s}}}}}}}}
    token_path: {token}
    namespace: {namespace}
    service_account: {name}
    ttl: {ttl}s
static_resources:
  clusters:
{xds}{other}"#,
                token = token.display(),
            ))
    }

    /// The bootstrap of an Envoy beside which something serves its certificate.
    #[must_use]
    pub fn envoy(&self, plane: &ControlPlane, sds: u16) -> String {
        let clusters = [grpc_cluster("xds", plane.grpc()), grpc_cluster("sds-grpc", sds)].concat();
        self.head() + "static_resources:\n  clusters:\n" + &clusters
    }
}

/// The certificate of the workload itself.
const OWN_CERTIFICATE: &str = "
          tls_certificate_sds_secret_configs:
          - name: default
            sds_config: {resource_api_version: V3, initial_fetch_timeout: 0s, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}}";

/// The control plane over TLS; `certificate` is what is shown.
fn secure_cluster(name: &str, plane: &ControlPlane, certificate: &str) -> String {
    let roots = plane.ca_dir().join("root-cert.pem");
    grpc_cluster(name, plane.secure_grpc())
        + &format!(
            r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:{certificate}
          tls_params: {{tls_maximum_protocol_version: TLSv1_3}}
          validation_context:
            trusted_ca: {{filename: "{roots}", watched_directory: {{path: "{dir}"}}}}
            match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: localhost}}}}]
"#,
            roots = roots.display(),
            dir = plane.ca_dir().display(),
        )
}

fn grpc_cluster(name: &str, port: u16) -> String {
    format!(
        r#"  - name: {name}
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#
    )
}

/// A server that speaks first: it greets, and echoes nothing.
#[derive(Debug)]
pub struct Greeter {
    port: u16,
    task: JoinHandle<()>,
}

/// What it says.
pub const GREETING: &[u8] = b"220 hello\r\n";

impl Greeter {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _gone = stream.write_all(GREETING).await;
                    let _gone = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
        });
        Ok(Self { port, task })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
