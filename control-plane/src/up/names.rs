//! Names of services for pods: a hosts file for each namespace.
//!
//! Owns the files. As in a cluster a name is short in its own namespace, and has the namespace in others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use crate::model::World;

/// The files.
pub struct Names {
    directory: PathBuf,
    written: BTreeMap<String, String>,
}

impl Names {
    /// Files below `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, written: BTreeMap::new() }
    }

    /// The file for a namespace.
    #[must_use]
    pub fn file(&self, namespace: &str) -> PathBuf {
        file(&self.directory, namespace)
    }

    /// Writes what has changed, for these namespaces.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, world: &World, namespaces: &BTreeSet<String>) -> io::Result<()> {
        for namespace in namespaces {
            let text = text(world, namespace);
            if self.written.get(namespace) != Some(&text) {
                // In place: pods have this very file mounted.
                super::state::write_for_all(&self.file(namespace), &text)?;
                self.written.insert(namespace.clone(), text);
            }
        }
        Ok(())
    }
}

/// The file for a namespace.
#[must_use]
pub fn file(directory: &std::path::Path, namespace: &str) -> PathBuf {
    directory.join(format!("hosts.{namespace}"))
}

/// What pods of a namespace see in the place of this machine's files.
#[must_use]
pub fn mounts(directory: &std::path::Path, namespace: &str) -> Vec<(PathBuf, String)> {
    vec![(file(directory, namespace), "/etc/hosts".to_owned())]
}

fn text(world: &World, namespace: &str) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for service in world.services() {
        let Some(address) = service.addresses.iter().find(|address| !address.contains('/')) else { continue };
        let host = &*service.key.host;
        if host.starts_with('*') {
            continue;
        }
        let mut names = vec![host.to_owned()];
        if let Some(name) = service.kubernetes_name() {
            let of = &service.key.namespace;
            names.extend([format!("{name}.{of}.svc"), format!("{name}.{of}")]);
            if **of == *namespace {
                names.push(name.to_owned());
            }
        }
        let _ = writeln!(text, "{address} {}", names.join(" "));
    }
    text
}
