//! What should run: the pods of Deployments, StatefulSets and Pods, and the gateways.
//!
//! Owns the step from objects to pods, and what each container's command is. Pure: no processes, no namespaces.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::commands::Commands;
use super::probes::{self, Probe};
use crate::model::kinds::meta::{Labels, Meta};
use crate::model::kinds::workload::{Container, Deployment, Pod, PodSpec};
use crate::model::kinds::{Kind, Object, StatefulSet};

/// The label by which others know that a workload speaks mutual TLS (Istio's).
pub const TLS_MODE: (&str, &str) = ("security.istio.io/tlsMode", "istio");

/// A pod that should run.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPlan {
    /// Its name: unique in its namespace, another one when its template changes.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What made it; a pod of its own has its name here.
    pub workload: String,
    /// Its labels.
    pub labels: Labels,
    /// What it runs, as it was written.
    pub spec: PodSpec,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What is started for its containers.
    pub commands: Vec<Command>,
    /// What is asked of them.
    pub probes: Vec<Probe>,
    /// It is a gateway: no application, its proxy takes traffic from outside.
    pub is_gateway: bool,
    /// Why it cannot run.
    pub unrunnable: Option<String>,
}

/// What is started for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The container's name.
    pub container: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment of its own.
    pub env: BTreeMap<String, String>,
    /// Ports it is waited for before it counts as ready.
    pub ports: Vec<u16>,
}

impl PodPlan {
    /// `name.namespace`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// Its service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.spec.service_account_name.as_deref().unwrap_or("default")
    }
}

/// The pods that an object asks for.
#[must_use]
pub fn pods(of: &Object, commands: &Commands) -> Vec<PodPlan> {
    let namespace = of.key.namespace.to_string();
    let plan = |name: String, meta: &Meta, spec: &PodSpec| {
        let made = started(spec, &name, &namespace, commands).and_then(|commands| Ok((commands, probes::of(spec)?)));
        let ((commands, probes), unrunnable) = match made {
            Ok(made) => (made, None),
            Err(reason) => (Default::default(), Some(reason)),
        };
        let mut labels = meta.labels.clone();
        labels.entry(TLS_MODE.0.to_owned()).or_insert_with(|| TLS_MODE.1.to_owned());
        PodPlan {
            name,
            namespace: namespace.clone(),
            workload: of.key.name.to_string(),
            labels,
            spec: spec.clone(),
            annotations: meta.annotations.clone(),
            commands,
            probes,
            is_gateway: false,
            unrunnable,
        }
    };
    if let Some(pod) = of.of::<Pod>() {
        // One with an address runs somewhere already.
        let runs = !pod.addresses().is_empty() || pod.is_over();
        return if runs { Vec::new() } else { vec![plan(of.key.name.to_string(), &of.meta, &pod.spec)] };
    }
    let Some(deployment) = of.of::<Deployment>().or_else(|| of.of::<StatefulSet>().map(|set| &set.0)) else {
        return Vec::new();
    };
    let template = &deployment.spec.template;
    let is_set = of.key.kind == Kind::StatefulSet;
    let hash = fingerprint(template);
    let name = |index| {
        if is_set { format!("{}-{index}", of.key.name) } else { format!("{}-{hash}-{index}", of.key.name) }
    };
    (0..deployment.spec.replicas.unwrap_or(1))
        .map(|index| plan(name(index), &template.metadata, &template.spec))
        .collect()
}

/// A gateway with these labels.
#[must_use]
pub fn gateway(name: &str, namespace: &str, mut labels: Labels, service_account: &str) -> PodPlan {
    labels.insert(TLS_MODE.0.to_owned(), TLS_MODE.1.to_owned());
    PodPlan {
        name: format!("{name}-0"),
        namespace: namespace.to_owned(),
        workload: name.to_owned(),
        labels,
        spec: PodSpec { service_account_name: Some(service_account.to_owned()), ..PodSpec::default() },
        annotations: BTreeMap::new(),
        commands: Vec::new(),
        probes: Vec::new(),
        is_gateway: true,
        unrunnable: None,
    }
}

fn started(spec: &PodSpec, pod: &str, namespace: &str, commands: &Commands) -> Result<Vec<Command>, String> {
    spec.containers.iter().map(|container| of_container(container, pod, namespace, spec, commands)).collect()
}

fn of_container(
    container: &Container,
    pod: &str,
    namespace: &str,
    spec: &PodSpec,
    commands: &Commands,
) -> Result<Command, String> {
    let image = container.image.as_deref().unwrap_or_default();
    let mut env = BTreeMap::new();
    let argv = match commands.of(image) {
        Some(told) => {
            env.extend(told.env.clone());
            [told.command.clone(), container.args.clone()].concat()
        }
        // What runs in an image is looked for on this machine.
        None if !container.command.is_empty() => [container.command.clone(), container.args.clone()].concat(),
        None => {
            return Err(format!(
                "container {}: nothing is known to run for image {image:?}; say it in weft.yaml: images: [{{match: {:?}, command: [PROGRAM, ARGUMENT]}}]",
                container.name,
                super::commands::base(image)
            ));
        }
    };
    for variable in &container.env {
        let value = match (&variable.value, variable.field()) {
            (Some(value), _) => value.clone(),
            (None, Some("metadata.name")) => pod.to_owned(),
            (None, Some("metadata.namespace")) => namespace.to_owned(),
            (None, Some("spec.serviceAccountName")) => {
                spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned())
            }
            // Secrets and ConfigMaps are not mounted here.
            _ => {
                tracing::warn!(
                    pod,
                    container = container.name,
                    "{} is left out: its source is not supported",
                    variable.name
                );
                continue;
            }
        };
        env.insert(variable.name.clone(), value);
    }
    let tcp =
        |port: &&crate::model::kinds::workload::ContainerPort| port.protocol.as_deref().is_none_or(|p| p == "TCP");
    let ports = container.ports.iter().filter(tcp).map(|port| port.container_port).collect();
    Ok(Command { container: container.name.clone(), argv, env, ports })
}

/// Tells templates apart, in four digits.
fn fingerprint(template: &crate::model::kinds::workload::PodTemplate) -> String {
    let mut hasher = DefaultHasher::new();
    format!("{template:?}").hash(&mut hasher);
    format!("{:04x}", hasher.finish() & 0xffff)
}

/// Everything that should run, by full name.
pub type Desired = BTreeMap<String, Arc<PodPlan>>;
