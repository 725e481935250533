//! Probes of containers, as a kubelet makes them: through the pod's proxy where they come by the network, as Istio has it.
//!
//! Owns what is asked, how often, and what many answers mean together. Must not know: what becomes of the pod for it.

mod run;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Value as Json, json};

pub use self::run::{Asker, watch};
use crate::model::kinds::service::PortRef;
use crate::model::kinds::workload::{self, Container, PodSpec};

/// Why a container is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Has it started?
    Startup,
    /// Can it be used?
    Readiness,
    /// Has it to be started again?
    Liveness,
}

impl Purpose {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }

    fn page(self) -> &'static str {
        match self {
            Self::Startup => "startupz",
            Self::Readiness => "readyz",
            Self::Liveness => "livez",
        }
    }
}

/// A probe of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Which container.
    pub container: String,
    /// Why.
    pub purpose: Purpose,
    /// What is asked.
    pub question: Question,
    /// When it begins.
    pub initial_delay: Duration,
    /// How often.
    pub period: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many good ones in a row are good.
    pub successes: u32,
    /// So many bad ones in a row are bad.
    pub failures: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// By the proxy: an entry of `ISTIO_KUBE_APP_PROBERS`.
    Proxy(Json),
    /// A command in the pod.
    Exec(Vec<String>),
}

/// Where all probes of the pod's application are asked, and how: for its proxy.
#[must_use]
pub fn for_proxy(probes: &[Probe]) -> Json {
    let of = probes.iter().filter_map(|probe| match &probe.question {
        Question::Proxy(entry) => Some((probe.path(), entry.clone())),
        Question::Exec(_) => None,
    });
    Json::Object(of.collect())
}

impl Probe {
    /// The page of the proxy that asks it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/app-health/{}/{}", self.container, self.purpose.page())
    }
}

/// The probes of a pod.
///
/// # Errors
/// One that cannot be asked.
pub fn of(spec: &PodSpec) -> Result<Vec<Probe>, String> {
    let mut all = Vec::new();
    for container in &spec.containers {
        let of = [
            (Purpose::Startup, &container.startup_probe),
            (Purpose::Readiness, &container.readiness_probe),
            (Purpose::Liveness, &container.liveness_probe),
        ];
        for (purpose, probe) in of {
            if let Some(probe) = probe {
                let made = one(container, purpose, probe);
                let within = |e| format!("container {}: {}Probe: {e}", container.name, purpose.name());
                all.push(made.map_err(within)?);
            }
        }
    }
    Ok(all)
}

fn one(container: &Container, purpose: Purpose, of: &workload::Probe) -> Result<Probe, String> {
    let seconds = |value: Option<u32>, default: u32| Duration::from_secs(u64::from(value.unwrap_or(default).max(1)));
    let timeout = seconds(of.timeout_seconds, 1);
    let port = |port: &Option<PortRef>| port_of(container, port.as_ref());
    let entry = match (&of.http_get, &of.tcp_socket, &of.grpc, &of.exec) {
        (Some(get), None, None, None) => {
            let headers: Vec<_> =
                get.http_headers.iter().map(|of| json!({"name": of.name, "value": of.value})).collect();
            let scheme = get.scheme.as_deref().unwrap_or("HTTP");
            if !["HTTP", "HTTPS"].contains(&scheme) {
                return Err(format!("httpGet.scheme: {scheme:?} is neither HTTP nor HTTPS"));
            }
            json!({"httpGet": {
                "path": get.path.as_deref().unwrap_or("/"), "port": port(&get.port)?, "scheme": scheme, "httpHeaders": headers,
            }})
        }
        (None, Some(socket), None, None) => json!({"tcpSocket": {"port": port(&socket.port)?}}),
        (None, None, Some(grpc), None) => {
            json!({"grpc": {"port": port(&grpc.port)?, "service": grpc.service.as_deref().unwrap_or_default()}})
        }
        (None, None, None, Some(exec)) if !exec.command.is_empty() => Json::Null,
        _ => return Err("one of httpGet, tcpSocket, grpc and exec is needed".to_owned()),
    };
    let question = match (&of.exec, entry) {
        (Some(exec), _) => Question::Exec(exec.command.clone()),
        (None, mut entry) => {
            entry["timeoutSeconds"] = json!(timeout.as_secs());
            Question::Proxy(entry)
        }
    };
    Ok(Probe {
        container: container.name.clone(),
        purpose,
        question,
        initial_delay: Duration::from_secs(u64::from(of.initial_delay_seconds.unwrap_or_default())),
        period: seconds(of.period_seconds, 10),
        timeout,
        // As in Kubernetes only readiness may ask for several.
        successes: if purpose == Purpose::Readiness { of.success_threshold.unwrap_or(1).max(1) } else { 1 },
        failures: of.failure_threshold.unwrap_or(3).max(1),
    })
}

fn port_of(container: &Container, port: Option<&PortRef>) -> Result<u16, String> {
    match port {
        Some(PortRef::Number(number)) => Ok(*number),
        Some(PortRef::Name(name)) => {
            let named = container.ports.iter().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).ok_or_else(|| format!("the container has no port {name:?}"))
        }
        None => Err("it has no port".to_owned()),
    }
}

/// What answers mean together. No input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    in_a_row: (bool, u32),
    needed: (u32, u32),
    /// What is the case now.
    pub is_good: bool,
}

impl Verdict {
    /// Before the first answer: who has to be asked whether it is ready is not; what lives does until it is known that it does not.
    #[must_use]
    pub fn new(probe: &Probe) -> Self {
        let is_good = probe.purpose == Purpose::Liveness;
        Self { in_a_row: (is_good, 0), needed: (probe.successes, probe.failures), is_good }
    }

    /// One more answer. Whether it decides something: what was the case changes, or it is bad again.
    pub fn answer(&mut self, good: bool) -> bool {
        let (of, count) = self.in_a_row;
        let count = if of == good { count.saturating_add(1) } else { 1 };
        self.in_a_row = (good, count);
        let needed = if good { self.needed.0 } else { self.needed.1 };
        if count < needed {
            return false;
        }
        let decides = self.is_good != good || !good;
        self.is_good = good;
        decides
    }
}
