//! What is added to a pod's template.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::Settings;
use super::probes;
use super::yaml::Yaml;
use crate::capture::Mode;

/// The proxy's container.
const PROXY: &str = "weft-proxy";
/// The container that programs the rules.
const INIT: &str = "weft-init";
/// Annotations of Istio's injector that have an effect here.
const KNOWN: [&str; 14] = [
    "sidecar.istio.io/inject",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeOutboundPorts",
];
/// What the rules' container is told, by annotation.
const CAPTURE: [(&str, &str); 6] = [
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", "--include-outbound-ranges"),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "--exclude-outbound-ranges"),
    ("traffic.sidecar.istio.io/includeOutboundPorts", "--include-outbound-ports"),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", "--exclude-outbound-ports"),
    ("traffic.sidecar.istio.io/includeInboundPorts", "--include-inbound-ports"),
    ("traffic.sidecar.istio.io/excludeInboundPorts", "--exclude-inbound-ports"),
];

fn meta<'t>(template: &'t Yaml, map: &str, key: &str) -> Option<&'t str> {
    template.at(&["metadata", map])?.text(key).filter(|value| !value.is_empty())
}

fn annotation<'t>(template: &'t Yaml, key: &str) -> Option<&'t str> {
    meta(template, "annotations", key)
}

/// Why a pod gets no proxy.
pub(super) fn left_alone(template: &Yaml) -> Option<&'static str> {
    let spec = template.get("spec");
    if spec.and_then(|spec| spec.text("hostNetwork")) == Some("true") {
        return Some("it has no network of its own (hostNetwork)");
    }
    let told = meta(template, "labels", "sidecar.istio.io/inject").or(annotation(template, "sidecar.istio.io/inject"));
    if told == Some("false") {
        return Some("sidecar.istio.io/inject is false");
    }
    let has = |list: &str| {
        let containers = spec.and_then(|spec| spec.get(list)).map_or(&[][..], Yaml::items);
        containers.iter().any(|container| matches!(container.text("name"), Some(PROXY | "istio-proxy")))
    };
    (has("containers") || has("initContainers")).then_some("it has a proxy already")
}

/// Adds everything; what it tells is what is there and has no effect.
///
/// # Errors
/// A template that is none.
pub(super) fn inject(template: &mut Yaml, owner: &str, settings: &Settings) -> Result<Vec<String>, String> {
    let containers = template.at(&["spec", "containers"]).map_or(&[][..], Yaml::items);
    if containers.is_empty() {
        return Err("it has no containers".to_owned());
    }
    let mode = match annotation(template, "sidecar.istio.io/interceptionMode") {
        None => settings.mode,
        Some("REDIRECT") => Mode::Redirect,
        Some("TPROXY") => Mode::Tproxy,
        Some(other) => {
            return Err(format!("sidecar.istio.io/interceptionMode is {other:?}: write REDIRECT or TPROXY"));
        }
    };
    if mode == Mode::Tproxy && settings.cni {
        return Err(
            "TPROXY needs privileges in the proxy, which a pod without an init container has not: use REDIRECT"
                .to_owned(),
        );
    }
    let told = no_effect(template);
    let mut probers = Map::new();
    if annotation(template, "sidecar.istio.io/rewriteAppHTTPProbers") != Some("false") {
        for container in template.entry("spec").entry("containers").items_mut() {
            probes::rewrite(container, &mut probers)?;
        }
    }
    let scrape = scrape(template);
    let mut added = Vec::new();
    if !settings.cni {
        added.push(init(template, settings, mode)?);
    }
    added.push(proxy(template, owner, settings, mode, &probers, scrape.as_ref())?);
    describe(template, settings, scrape.is_some());
    let spec = template.entry("spec");
    volumes(spec, settings)?;
    // In front of those of the workload: those may need the network, too.
    spec.entry("initContainers").items_mut().splice(0..0, added);
    Ok(told)
}

/// Annotations for an injector that do nothing here.
fn no_effect(template: &Yaml) -> Vec<String> {
    let Some(Yaml::Map(annotations)) = template.at(&["metadata", "annotations"]) else { return Vec::new() };
    let ours = |key: &str| {
        ["sidecar.istio.io/", "traffic.sidecar.istio.io/", "proxy.istio.io/", "inject.istio.io/"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
    };
    let unknown = annotations.iter().filter(|(key, _)| ours(key) && !KNOWN.contains(&key.as_str()));
    unknown.map(|(key, _)| format!("annotation {key} has no effect")).collect()
}

/// Where the application has metrics, by its annotations.
fn scrape(template: &Yaml) -> Option<Value> {
    let told = |key: &str| annotation(template, key);
    (told("prometheus.io/scrape") == Some("true")).then(|| {
        json!({
            "scrape": "true",
            "path": told("prometheus.io/path").unwrap_or_default(),
            "port": told("prometheus.io/port").unwrap_or("80"),
        })
    })
}

/// Labels and annotations that say what was done.
fn describe(template: &mut Yaml, settings: &Settings, scraped: bool) {
    let label =
        |template: &Yaml, keys: &[&str]| keys.iter().find_map(|key| meta(template, "labels", key)).map(str::to_owned);
    let name = label(template, &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = label(template, &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let meta = template.entry("metadata");
    let labels = meta.entry("labels");
    labels.set("security.istio.io/tlsMode", Yaml::Text("istio".to_owned()));
    if let Some(name) = name {
        labels.set("service.istio.io/canonical-name", Yaml::Text(name));
    }
    labels.set("service.istio.io/canonical-revision", Yaml::Text(revision.unwrap_or_else(|| "latest".to_owned())));
    let annotations = meta.entry("annotations");
    let first: &[&str] = if settings.cni { &[PROXY] } else { &[INIT, PROXY] };
    let volumes = ["weft-labels", "weft-roots", "weft-token"];
    let status = json!({ "initContainers": first, "containers": null, "volumes": volumes, "revision": "default" });
    annotations.set("sidecar.istio.io/status", Yaml::Text(status.to_string()));
    if scraped {
        for (key, value) in [("scrape", "true"), ("port", "15020"), ("path", "/stats/prometheus")] {
            annotations.set(&format!("prometheus.io/{key}"), Yaml::Text(value.to_owned()));
        }
    }
}

/// Text as YAML has it in quotes.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn init(template: &Yaml, settings: &Settings, mode: Mode) -> Result<Yaml, String> {
    let mut args = vec!["capture".to_owned()];
    if mode == Mode::Tproxy {
        args.extend(["--mode".to_owned(), "TPROXY".to_owned()]);
    }
    for (key, flag) in CAPTURE {
        if let Some(value) = annotation(template, key) {
            args.push(format!("{flag}={value}"));
        }
    }
    let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
    Yaml::parse(
        INIT,
        &format!(
            "name: {INIT}
image: {image}
args: [{args}]
resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {{add: [NET_ADMIN, NET_RAW], drop: [ALL]}}
  privileged: false
  readOnlyRootFilesystem: true
  runAsGroup: 0
  runAsNonRoot: false
  runAsUser: 0
",
            image = quoted(&settings.init_image),
            args = args.join(", "),
        ),
    )
}

fn proxy(
    template: &Yaml,
    owner: &str,
    settings: &Settings,
    mode: Mode,
    probers: &Map<String, Value>,
    scrape: Option<&Value>,
) -> Result<Yaml, String> {
    let told = |key: &str| annotation(template, key);
    let image = told("sidecar.istio.io/proxyImage").unwrap_or(&settings.image);
    let cpu = told("sidecar.istio.io/proxyCPU").unwrap_or("10m");
    let memory = told("sidecar.istio.io/proxyMemory").unwrap_or("32Mi");
    let limits =
        [("cpu", told("sidecar.istio.io/proxyCPULimit")), ("memory", told("sidecar.istio.io/proxyMemoryLimit"))];
    let limits: Vec<String> =
        limits.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", quoted(value?)))).collect();
    let limits = if limits.is_empty() { String::new() } else { format!(", limits: {{{}}}", limits.join(", ")) };
    let mut more = String::new();
    let mut env = |name: &str, value: &str| {
        let _ = writeln!(more, "- {{name: {name}, value: {}}}", quoted(value));
    };
    env("ISTIO_META_WORKLOAD_NAME", owner);
    env("ISTIO_META_CLUSTER_ID", &settings.cluster_id);
    env("ISTIO_META_INTERCEPTION_MODE", if mode == Mode::Tproxy { "TPROXY" } else { "REDIRECT" });
    env("TRUST_DOMAIN", &settings.trust_domain);
    env("DISCOVERY_ADDRESS", &settings.discovery_address);
    if !probers.is_empty() {
        env("ISTIO_KUBE_APP_PROBERS", &Value::Object(probers.clone()).to_string());
    }
    if let Some(scrape) = scrape {
        env("ISTIO_PROMETHEUS_ANNOTATIONS", &scrape.to_string());
    }
    // With TPROXY the proxy sends with its callers' addresses, which takes a privilege.
    let (user, privileges) = match mode {
        Mode::Redirect => ("runAsUser: 1337\n  runAsNonRoot: true", "{drop: [ALL]}"),
        Mode::Tproxy => ("runAsUser: 0\n  runAsNonRoot: false", "{add: [NET_ADMIN], drop: [ALL]}"),
    };
    Yaml::parse(
        PROXY,
        &format!(
            "name: {PROXY}
image: {image}
restartPolicy: Always
args:
- sidecar
- --labels-file=/etc/weft/pod/labels
- --discovery-ca=/var/run/secrets/weft/roots/root-cert.pem
- --token=/var/run/secrets/weft/token/token
env:
- {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
- {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
- {{name: INSTANCE_IPS, valueFrom: {{fieldRef: {{fieldPath: status.podIPs}}}}}}
- {{name: SERVICE_ACCOUNT, valueFrom: {{fieldRef: {{fieldPath: spec.serviceAccountName}}}}}}
{more}ports:
- {{name: http-envoy-prom, containerPort: 15090, protocol: TCP}}
startupProbe:
  httpGet: {{path: /healthz/ready, port: 15021}}
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: 600
readinessProbe:
  httpGet: {{path: /healthz/ready, port: 15021}}
  periodSeconds: 15
  timeoutSeconds: 3
  failureThreshold: 4
resources: {{requests: {{cpu: {cpu}, memory: {memory}}}{limits}}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {privileges}
  privileged: false
  readOnlyRootFilesystem: true
  runAsGroup: 1337
  {user}
  seccompProfile: {{type: RuntimeDefault}}
volumeMounts:
- {{name: weft-roots, mountPath: /var/run/secrets/weft/roots, readOnly: true}}
- {{name: weft-token, mountPath: /var/run/secrets/weft/token, readOnly: true}}
- {{name: weft-labels, mountPath: /etc/weft/pod, readOnly: true}}
",
            image = quoted(image),
            cpu = quoted(cpu),
            memory = quoted(memory),
        ),
    )
}

fn volumes(spec: &mut Yaml, settings: &Settings) -> Result<(), String> {
    let made = Yaml::parse(
        "volumes",
        &format!(
            "- name: weft-token
  projected:
    sources:
    - serviceAccountToken: {{audience: istio-ca, expirationSeconds: 43200, path: token}}
- name: weft-roots
  configMap: {{name: {}}}
- name: weft-labels
  downwardAPI:
    items:
    - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
",
            quoted(&settings.root_config_map)
        ),
    )?;
    spec.entry("volumes").items_mut().extend(made.items().iter().cloned());
    // The proxy's user reads the token.
    let context = spec.entry("securityContext");
    if context.get("fsGroup").is_none() {
        context.set("fsGroup", Yaml::Number("1337".to_owned()));
    }
    Ok(())
}
