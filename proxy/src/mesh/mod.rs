//! The proxy as a part of a mesh: beside a workload, or as a gateway.
//!
//! Owns the bootstrap that such a proxy runs with, made from what its pod says of itself, as Istio's agent makes Envoy's. Must
//! not know: what a bootstrap means; it is loaded like anybody's.

pub mod agent;
mod bootstrap;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What the proxy is in the mesh; its bootstrap follows from that.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Run beside a workload, for its traffic in and out, with what the control plane sends
    Sidecar(Workload),
    /// Run as a gateway with what the control plane sends
    Router(Workload),
}

/// What a pod says of itself; the environment variables are those that Istio's injector sets.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  weft-proxy sidecar --name reviews-v1-0 --namespace default --ip 10.0.0.7 --label app=reviews --discovery-address 10.0.0.1:15010
  weft-proxy router --name gw-0 --namespace istio-system --ip 10.0.0.9 --label istio=ingressgateway --discovery-ca root-cert.pem")]
pub struct Workload {
    /// Name of the pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub name: String,
    /// Its namespace
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Its addresses, the first one first
    #[arg(long = "ip", env = "INSTANCE_IPS", value_name = "IP", value_delimiter = ',', required = true)]
    pub ips: Vec<IpAddr>,
    /// Its service account
    #[arg(long, env = "SERVICE_ACCOUNT", value_name = "NAME", default_value = "default")]
    pub service_account: String,
    /// What made it: the Deployment's name
    #[arg(long, env = "ISTIO_META_WORKLOAD_NAME", value_name = "NAME")]
    pub workload_name: Option<String>,
    /// A label of it, as often as it has labels
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// Further labels: lines of key="value", as the downward API writes them
    #[arg(long, value_name = "FILE")]
    pub labels_file: Option<PathBuf>,
    /// Further metadata of the node
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// The control plane
    #[arg(long, env = "DISCOVERY_ADDRESS", value_name = "HOST:PORT", default_value = "istiod.istio-system.svc:15012")]
    pub discovery_address: String,
    /// Whom to trust as the control plane, as PEM; without it the connection is plaintext
    #[arg(long, env = "XDS_ROOT_CA", value_name = "FILE")]
    pub discovery_ca: Option<PathBuf>,
    /// The name the control plane's certificate must have [default: the host of --discovery-address]
    #[arg(long, value_name = "NAME")]
    pub discovery_name: Option<String>,
    /// A token that proves who the workload is: with it the proxy gets a certificate from the control plane, and shows it there
    #[arg(long, value_name = "FILE", requires = "discovery_ca")]
    pub token: Option<PathBuf>,
    /// Trust domain of the mesh
    #[arg(long, env = "TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// For how long a certificate is asked for, in seconds [default: 24 hours]
    #[arg(long, value_name = "SECONDS", requires = "token", value_parser = clap::value_parser!(u64).range(1..))]
    pub certificate_ttl: Option<u64>,
    /// Domain of the cluster
    #[arg(long, env = "DOMAIN_SUFFIX", value_name = "DOMAIN", default_value = "cluster.local")]
    pub domain: String,
    /// Name of the cluster
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// How connections of the workload reach the proxy
    #[arg(long, env = "ISTIO_META_INTERCEPTION_MODE", value_enum, default_value_t)]
    pub interception: Interception,
    /// Port of the admin interface, on the loopback
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    pub admin_port: u16,
    /// Port of /healthz/ready
    #[arg(long, value_name = "PORT", default_value_t = 15021)]
    pub status_port: u16,
    /// Port of /stats/prometheus
    #[arg(long, value_name = "PORT", default_value_t = 15090)]
    pub metrics_port: u16,
    /// Port for those who look after the pod: metrics of proxy and application, readiness, the application's probes; 0: none
    #[arg(long, value_name = "PORT", default_value_t = 15020)]
    pub agent_port: u16,
    /// Where the application has metrics: the pod's annotations prometheus.io/scrape, port and path, as JSON
    #[arg(long, env = "ISTIO_PROMETHEUS_ANNOTATIONS", value_name = "JSON")]
    pub prometheus_annotations: Option<String>,
    /// The application's probes by the path they are asked at, as JSON
    #[arg(long, env = "ISTIO_KUBE_APP_PROBERS", value_name = "JSON")]
    pub app_probers: Option<String>,
}

/// How connections of the workload reach the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Interception {
    /// The kernel redirects them
    #[default]
    Redirect,
    /// The kernel hands them over with both addresses as they were
    Tproxy,
    /// The workload connects to the proxy itself
    None,
}

impl Role {
    /// The bootstrap, as JSON.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn bootstrap(&self) -> Result<String, String> {
        let (kind, of) = match self {
            Self::Sidecar(of) => ("sidecar", of),
            Self::Router(of) => ("router", of),
        };
        Ok(bootstrap::of(kind, of, &of.all_labels()?).to_string())
    }
}

impl Role {
    /// What it does for those who look after its pod; `None`: nothing.
    ///
    /// # Errors
    /// An option that cannot be read.
    pub fn beside(&self) -> Result<Option<agent::Beside>, String> {
        let (Self::Sidecar(of) | Self::Router(of)) = self;
        agent::Beside::of(of)
    }
}

impl Workload {
    fn all_labels(&self) -> Result<Vec<(String, String)>, String> {
        let mut labels = Vec::new();
        if let Some(path) = &self.labels_file {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|e| format!("--labels-file: {}: cannot be read: {e}", path.display()))?;
            labels.extend(text.lines().filter_map(downward_label));
        }
        labels.extend(self.labels.iter().cloned());
        Ok(labels)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A line of the downward API: `app="reviews"`, with the escapes of a Go string.
fn downward_label(line: &str) -> Option<(String, String)> {
    let (key, value) = line.trim().split_once('=')?;
    let value = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.trim_matches('"').to_owned());
    Some((key.to_owned(), value))
}
