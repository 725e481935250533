//! What the injector says of the application, in its own JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::Deserialize;

use crate::mesh::{Interception, Workload};

/// How long a probe may take if nobody says (Kubernetes' default).
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest a probe may take.
const MAX_TIMEOUT: u64 = 100;

/// The port, and the application that the proxy is beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// The port that is opened.
    pub port: u16,
    /// Where the application has metrics, if it has any.
    pub metrics: Option<AppMetrics>,
    /// Its probes, by path.
    pub probes: BTreeMap<String, Probe>,
    /// Where it is.
    pub address: IpAddr,
    /// From where it is asked: the address that redirection leaves alone.
    pub from: Option<IpAddr>,
}

/// Where the application has metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppMetrics {
    /// `prometheus.io/port`
    pub port: u16,
    /// `prometheus.io/path`
    pub path: String,
}

/// A probe of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub kind: ProbeKind,
    /// Its port.
    pub port: u16,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// A GET.
    Http {
        /// Over TLS, whose certificate nobody looks at.
        tls: bool,
        /// Path and query.
        path: String,
        /// Headers; `host` is its own.
        headers: Vec<(String, String)>,
    },
    /// A connection is taken.
    Tcp,
    /// gRPC's health service, asked for this service.
    Grpc(String),
}

/// `ISTIO_PROMETHEUS_ANNOTATIONS`: the pod's annotations `prometheus.io/*`.
#[derive(Deserialize)]
struct Annotations {
    #[serde(default)]
    scrape: Loose,
    #[serde(default)]
    port: Loose,
    #[serde(default)]
    path: Loose,
}

/// A text, or what YAML has made another thing of.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Loose {
    #[default]
    None,
    Text(String),
    Number(u64),
    Bool(bool),
}

impl Loose {
    fn text(&self) -> String {
        match self {
            Loose::None => String::new(),
            Loose::Text(text) => text.clone(),
            Loose::Number(number) => number.to_string(),
            Loose::Bool(bool) => bool.to_string(),
        }
    }
}

/// An entry of `ISTIO_KUBE_APP_PROBERS`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prober {
    http_get: Option<HttpGet>,
    tcp_socket: Option<Port>,
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: Loose,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Port {
    port: Loose,
}

#[derive(Deserialize)]
struct Grpc {
    port: Loose,
    service: Option<String>,
}

impl Beside {
    /// What the pod says; `None`: no port is wanted.
    ///
    /// # Errors
    /// What cannot be read, with the option it came by.
    pub fn of(workload: &Workload) -> Result<Option<Self>, String> {
        if workload.agent_port == 0 {
            return Ok(None);
        }
        let metrics = match workload.prometheus_annotations.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                annotations(text, workload.agent_port).map_err(|e| format!("--prometheus-annotations: {e}"))?
            }
        };
        let probes = match workload.app_probers.as_deref().filter(|text| !text.is_empty()) {
            None => BTreeMap::new(),
            Some(text) => probers(text).map_err(|e| format!("--app-probers: {e}"))?,
        };
        let (address, from) = place(workload);
        Ok(Some(Beside { port: workload.agent_port, metrics, probes, address, from }))
    }
}

/// Where the application is asked: at its own address, as clients do, from the one that redirection leaves alone.
fn place(workload: &Workload) -> (IpAddr, Option<IpAddr>) {
    let own = workload.ips.iter().find(|ip| ip.is_ipv4()).or(workload.ips.first()).copied();
    match (workload.interception, own) {
        (Interception::None, _) | (_, None) => (Ipv4Addr::LOCALHOST.into(), None),
        (_, Some(own)) if own.is_ipv4() => (own, Some(Ipv4Addr::new(127, 0, 0, 6).into())),
        (_, Some(own)) => (own, Some(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into())),
    }
}

pub(super) fn annotations(text: &str, own_port: u16) -> Result<Option<AppMetrics>, String> {
    let of: Annotations = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if of.scrape.text() != "true" {
        return Ok(None);
    }
    let port = match of.port.text() {
        // Kubernetes' usual port of metrics, as Istio has it.
        text if text.is_empty() => 80,
        text => number(&text)?,
    };
    if port == own_port {
        return Err(format!("port {port} is the proxy's own, which would ask itself"));
    }
    let path = Some(of.path.text()).filter(|path| !path.is_empty()).unwrap_or_else(|| "/metrics".to_owned());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    path.parse::<http::uri::PathAndQuery>().map_err(|e| format!("path {path:?}: {e}"))?;
    Ok(Some(AppMetrics { port, path }))
}

pub(super) fn probers(text: &str) -> Result<BTreeMap<String, Probe>, String> {
    let all: BTreeMap<String, Prober> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    all.into_iter()
        .map(|(path, of)| {
            let probe = is_probe(&path).then_some(()).ok_or_else(|| "is no path of a probe".to_owned());
            let probe = probe.and_then(|()| probe_of(of)).map_err(|e| format!("{path}: {e}"))?;
            Ok((path, probe))
        })
        .collect()
}

/// `/app-health/CONTAINER/readyz` and its like.
fn is_probe(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    matches!(parts[..], ["", "app-health", name, "livez" | "readyz" | "startupz"] if !name.is_empty())
}

fn probe_of(of: Prober) -> Result<Probe, String> {
    let timeout = match of.timeout_seconds {
        0 => TIMEOUT,
        seconds => Duration::from_secs(seconds.min(MAX_TIMEOUT)),
    };
    let (kind, port) = match (of.http_get, of.tcp_socket, of.grpc) {
        (Some(of), None, None) => {
            let tls = match of.scheme.to_ascii_uppercase().as_str() {
                "" | "HTTP" => false,
                "HTTPS" => true,
                other => return Err(format!("httpGet.scheme: {other:?} is neither HTTP nor HTTPS")),
            };
            let path = if of.path.starts_with('/') { of.path } else { format!("/{}", of.path) };
            path.parse::<http::uri::PathAndQuery>().map_err(|e| format!("httpGet.path: {e}"))?;
            for header in &of.http_headers {
                let good = http::HeaderName::from_bytes(header.name.as_bytes()).is_ok()
                    && http::HeaderValue::from_str(&header.value).is_ok();
                if !good {
                    return Err(format!("httpGet.httpHeaders: {:?} is no header", header.name));
                }
            }
            let headers = of.http_headers.into_iter().map(|of| (of.name, of.value)).collect();
            (ProbeKind::Http { tls, path, headers }, of.port)
        }
        (None, Some(of), None) => (ProbeKind::Tcp, of.port),
        (None, None, Some(of)) => (ProbeKind::Grpc(of.service.unwrap_or_default()), of.port),
        _ => return Err("one of httpGet, tcpSocket and grpc is needed".to_owned()),
    };
    Ok(Probe { kind, port: number(&port.text())?, timeout })
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("port {text:?} is no number of a port"))
}
