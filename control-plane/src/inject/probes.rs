//! Probes through the proxy: the node asks the proxy, which takes mutual TLS for nobody's probe, and the proxy asks the container.

use serde_json::{Map, Value, json};

use super::yaml::Yaml;

/// The proxy's port for those who look after the pod.
const AGENT: u16 = 15020;
/// Kinds of probes, and what they are called in paths.
const KINDS: [(&str, &str); 3] =
    [("startupProbe", "startupz"), ("livenessProbe", "livez"), ("readinessProbe", "readyz")];

/// Leads the probes of a container through the proxy, and adds what they ask to `probers` (`ISTIO_KUBE_APP_PROBERS`).
///
/// # Errors
/// A probe at a named port that the container does not have.
pub(super) fn rewrite(container: &mut Yaml, probers: &mut Map<String, Value>) -> Result<(), String> {
    let name = container.text("name").unwrap_or_default().to_owned();
    let ports = ports(container);
    for (field, called) in KINDS {
        if container.get(field).is_none() {
            continue;
        }
        let probe = container.entry(field);
        let Some(how) = ["httpGet", "tcpSocket", "grpc"].into_iter().find(|how| probe.get(how).is_some()) else {
            // A command runs in the container itself.
            continue;
        };
        let Some(Value::Object(mut action)) = probe.get(how).map(Yaml::json) else { continue };
        if let Some(Value::String(named)) = action.get("port").cloned() {
            let number = ports.iter().find(|(name, _)| *name == named).map(|(_, number)| *number);
            let number = number.or_else(|| named.parse().ok());
            let number = number.ok_or_else(|| {
                format!("{field} of container {name}: there is no port {named:?}: name one of the container's ports")
            })?;
            action.insert("port".to_owned(), json!(number));
        }
        let path = format!("/app-health/{name}/{called}");
        let mut asked = Map::from_iter([(how.to_owned(), Value::Object(action))]);
        if let Some(timeout) = probe.get("timeoutSeconds") {
            asked.insert("timeoutSeconds".to_owned(), timeout.json());
        }
        probers.insert(path.clone(), Value::Object(asked));
        if let Yaml::Map(fields) = probe {
            fields.retain(|(key, _)| key != how);
            let at = vec![("path".to_owned(), Yaml::Text(path)), ("port".to_owned(), Yaml::Number(AGENT.to_string()))];
            fields.insert(0, ("httpGet".to_owned(), Yaml::Map(at)));
        }
    }
    Ok(())
}

fn ports(container: &Yaml) -> Vec<(String, u16)> {
    let ports = container.get("ports").map_or(&[][..], Yaml::items);
    let of = |port: &Yaml| Some((port.text("name")?.to_owned(), port.text("containerPort")?.parse().ok()?));
    ports.iter().filter_map(of).collect()
}
