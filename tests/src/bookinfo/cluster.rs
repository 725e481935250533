//! What a Kubernetes cluster makes of BookInfo's files: pods of Deployments, and endpoints of Services.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use regex::Regex;

/// Where the files are.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bookinfo")
}

/// A file, unchanged.
///
/// # Errors
/// When there is none.
pub fn file(name: &str) -> Result<String> {
    std::fs::read_to_string(folder().join(name)).with_context(|| name.to_owned())
}

/// A Deployment with one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deployment {
    /// Its name.
    pub name: String,
    /// Label `app` of its pod.
    pub app: String,
    /// Label `version` of its pod.
    pub version: String,
}

/// A Service with one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The name of its port.
    pub port: String,
    app: String,
    version: Option<String>,
}

impl Service {
    /// Whether it selects a Deployment's pod.
    #[must_use]
    pub fn selects(&self, of: &Deployment) -> bool {
        self.app == of.app && self.version.as_ref().is_none_or(|version| *version == of.version)
    }
}

/// The Deployments and Services of a file, read as far as BookInfo's files go.
///
/// # Errors
/// When a pattern is broken.
pub fn read(text: &str) -> Result<(Vec<Deployment>, Vec<Service>)> {
    let name = Regex::new(r"(?m)^metadata:\n  name: (\S+)")?;
    let labels = Regex::new(r"matchLabels:\n +app: (\S+)\n +version: (\S+)")?;
    let port = Regex::new(r"- port: \d+\n +name: (\S+)")?;
    let selector = Regex::new(r"\n  selector:\n +app: (\S+)(?:\n +version: (\S+))?")?;
    let (mut deployments, mut services) = (Vec::new(), Vec::new());
    for document in text.split("\n---") {
        let Some(name) = name.captures(document).map(|found| found[1].to_owned()) else { continue };
        if document.contains("\nkind: Deployment\n") {
            let found = labels.captures(document).with_context(|| format!("labels of {name}"))?;
            deployments.push(Deployment { name, app: found[1].to_owned(), version: found[2].to_owned() });
        } else if document.contains("\nkind: Service\n") {
            let of = selector.captures(document).with_context(|| format!("selector of {name}"))?;
            let port = port.captures(document).with_context(|| format!("port of {name}"))?[1].to_owned();
            let version = of.get(2).map(|found| found.as_str().to_owned());
            services.push(Service { name, port, app: of[1].to_owned(), version });
        }
    }
    Ok((deployments, services))
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What it is of.
    pub of: Deployment,
    /// Where clients reach it.
    pub ip: IpAddr,
    /// Its one port.
    pub port: u16,
    /// Its service account, if it has a sidecar with an identity.
    pub identity: Option<&'static str>,
}

/// The pods and the endpoints of the services that select them.
#[must_use]
pub fn objects(pods: &[Pod], services: &[Service]) -> String {
    let mut text = String::new();
    for Pod { of, ip, identity, .. } in pods {
        let label = if identity.is_some() { ", security.istio.io/tlsMode: istio" } else { "" };
        let account = identity.unwrap_or("default");
        let _infallible = write!(
            text,
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}-0, namespace: default, labels: {{app: {}, version: {}{label}}}}}\n\
             spec: {{serviceAccountName: {account}}}\nstatus: {{podIP: \"{ip}\", phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n",
            of.name, of.app, of.version
        );
    }
    for service in services {
        for Pod { of, ip, port, .. } in pods.iter().filter(|pod| service.selects(&pod.of)) {
            text += &slice(&service.name, "default", &service.port, (&of.name, *ip, *port));
        }
    }
    text
}

/// An EndpointSlice of one pod: the service, its namespace, the name of its port; the Deployment, the pod's address and port.
#[must_use]
pub fn slice(service: &str, namespace: &str, port_name: &str, (of, ip, port): (&str, IpAddr, u16)) -> String {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-{of}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: {family}\nports: [{{name: {port_name}, port: {port}, protocol: TCP}}]\nendpoints:\n\
         - {{addresses: [\"{ip}\"], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {of}-0, namespace: {namespace}}}}}\n---\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookinfo_is_read() {
        let (deployments, services) = read(&file("platform/kube/bookinfo.yaml").unwrap()).unwrap();
        let names: Vec<&str> = deployments.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(names, ["details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3", "productpage-v1"]);
        assert_eq!(services.iter().filter(|service| service.selects(&deployments[3])).count(), 1);
        let (none, versions) = read(&file("platform/kube/bookinfo-versions.yaml").unwrap()).unwrap();
        assert_eq!((none.len(), versions.len()), (0, 6));
        assert!(
            versions
                .iter()
                .any(|of| of.name == "reviews-v2" && of.selects(&deployments[3]) && !of.selects(&deployments[2]))
        );
    }
}
