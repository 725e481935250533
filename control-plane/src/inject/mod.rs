//! Injection: a proxy beside the workloads of Kubernetes YAML.
//!
//! Owns what is added to a pod's template: a native sidecar (an init container that stays, so it is there before the workload and
//! outlives it), its identity's volumes, the rules that capture connections, and the workload's probes, led through the proxy. Texts
//! in, texts out. Must not know: files, the command line.

mod pod;
mod probes;
#[cfg(test)]
mod tests;
mod yaml;

pub use yaml::Yaml;

use crate::capture::Mode;

/// What to inject.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image with `weft-proxy`.
    pub image: String,
    /// The image with `weft capture` and nftables.
    pub init_image: String,
    /// The control plane.
    pub discovery_address: String,
    /// The ConfigMap with its roots, in each namespace, at the key `root-cert.pem`.
    pub root_config_map: String,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Name of the cluster.
    pub cluster_id: String,
    /// How connections are captured.
    pub mode: Mode,
    /// Whether something on the node captures connections, so that the pod needs no privileges.
    pub cni: bool,
}

/// What became of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Kind and name.
    pub workload: String,
    /// What was done or not, and why.
    pub what: String,
    /// Whether it is worth a warning.
    pub warning: bool,
}

/// Adds the proxy to every workload of a text of YAML documents. Documents without a workload stay as they are written.
///
/// # Errors
/// A document that is no YAML, or a workload without containers; with file and line.
pub fn inject(source: &str, text: &str, settings: &Settings) -> Result<(String, Vec<Note>), String> {
    let (mut out, mut notes) = (String::new(), Vec::new());
    for (number, part) in documents(text).into_iter().enumerate() {
        if number > 0 {
            out.push_str("---\n");
        }
        // Lines count from the start of the text.
        let padded = "\n".repeat(part.line) + part.text;
        let mut document = Yaml::parse(source, &padded)?;
        let before = notes.len();
        let changed = object(&mut document, settings, &mut notes).map_err(|reason| format!("{source}: {reason}"))?;
        debug_assert!(!changed || notes.len() > before);
        if changed {
            out.push_str(&document.print());
        } else {
            out.push_str(part.text);
            if !part.text.is_empty() && !part.text.ends_with('\n') {
                out.push('\n');
            }
        }
    }
    Ok((out, notes))
}

struct Part<'t> {
    text: &'t str,
    /// Lines before it.
    line: usize,
}

/// Documents stand between lines of three dashes.
fn documents(text: &str) -> Vec<Part<'_>> {
    let (mut parts, mut start, mut line_of_start, mut at) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_end = line.trim_end() == "---" || line.starts_with("--- ");
        if is_end {
            // Before the first one there is often nothing.
            if !(parts.is_empty() && text[..at].trim().is_empty()) {
                parts.push(Part { text: &text[start..at], line: line_of_start });
            }
            start = at + line.len();
            line_of_start = number + 1;
        }
        at += line.len();
    }
    parts.push(Part { text: &text[start..], line: line_of_start });
    parts
}

/// Whether something was added to an object, or to one of a list of them.
fn object(object: &mut Yaml, settings: &Settings, notes: &mut Vec<Note>) -> Result<bool, String> {
    let kind = object.text("kind").unwrap_or_default().to_owned();
    if kind == "List" {
        let mut changed = false;
        for item in object.entry("items").items_mut() {
            changed |= self::object(item, settings, notes)?;
        }
        return Ok(changed);
    }
    let path: &[&str] = match kind.as_str() {
        "Pod" => &[],
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            &["spec", "template"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        _ => return Ok(false),
    };
    let name = object.at(&["metadata"]).and_then(|meta| meta.text("name")).unwrap_or("(generated)").to_owned();
    let workload = format!("{kind} {name}");
    let template = path.iter().fold(object, |of, key| of.entry(key));
    let mut note = |what: String, warning| notes.push(Note { workload: workload.clone(), what, warning });
    if let Some(why) = pod::left_alone(template) {
        note(format!("left as it is: {why}"), false);
        return Ok(false);
    }
    let told = pod::inject(template, &name, settings).map_err(|reason| format!("{workload}: {reason}"))?;
    note("has a proxy now".to_owned(), false);
    told.into_iter().for_each(|what| note(what, true));
    Ok(true)
}
