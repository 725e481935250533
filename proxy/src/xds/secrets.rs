//! Secrets by discovery: swapped inside the TLS contexts that use them.
//!
//! Runs on: the control thread.

use std::collections::BTreeMap;

use tokio::time::Instant;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::clusters::{failure, loaded};
use super::mux::Update;
use super::state::{Errors, Failure, Loaded, Need, State};
use super::stats::UpdateStats;
use crate::config::Source;
use crate::config::from_xds::{self, Environment};
use crate::stats::Scope;

/// Secrets that were asked for.
#[derive(Default)]
pub(super) struct Secrets {
    /// By source and name.
    pub(super) all: BTreeMap<(Source, String), Entry>,
    /// `sds.<name>.*`
    stats: BTreeMap<String, UpdateStats>,
}

/// A discovered secret.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) active: Option<Loaded>,
    pub(super) error: Option<Failure>,
}

impl Secrets {
    /// Somebody asks for a secret.
    pub(super) fn wanted(&mut self, name: &str, root: &Scope) {
        let new = || UpdateStats::new(&root.scope("sds").scope(name));
        self.stats.entry(name.to_owned()).or_insert_with(new).asked();
    }

    /// The stream was lost.
    pub(super) fn failed(&self) {
        self.stats.values().for_each(UpdateStats::failed);
    }

    /// No answer came in time.
    pub(super) fn timed_out(&self, name: &str) {
        if let Some(stats) = self.stats.get(name) {
            stats.timed_out();
        }
    }
}

impl State {
    pub(super) fn update_secrets(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        for resource in &update.resources {
            let began = Instant::now();
            let Some(stats) = self.secrets.stats.get(&resource.name) else {
                tracing::debug!(name = %resource.name, "a secret nobody asked for");
                continue;
            };
            let entry = self.secrets.all.entry((from.clone(), resource.name.clone())).or_default();
            if entry.active.as_ref().is_none_or(|l| l.bytes != resource.body.value) {
                let convert = |s: &Secret| from_xds::secret(s, &Environment::default());
                let checked = self.strictness.check(resource, convert, |_| Vec::new());
                let used = checked.and_then(|c| {
                    self.parts.secrets.deliver(from, c.value).map_err(|e| e.to_string())?;
                    Ok(c.ignored)
                });
                match used {
                    Ok(ignored) => *entry = Entry { active: Some(loaded(resource, ignored)), error: None },
                    Err(reason) => {
                        entry.error = Some(failure(resource, &reason));
                        stats.rejected();
                        errors.push((resource.name.clone(), reason));
                        continue;
                    }
                }
            }
            stats.accepted(&update.version, began.elapsed());
            let ready = self.warming.met(&Need::Secret(from.clone(), resource.name.clone()));
            self.ready(ready, now);
        }
    }
}
