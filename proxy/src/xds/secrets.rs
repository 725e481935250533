//! Secrets by discovery: swapped inside the TLS contexts that use them.
//!
//! Runs on: the control thread.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::{self as tls, Secret};

use super::clusters::{failure, loaded};
use super::mux::Update;
use super::state::{Errors, Failure, Loaded, Need, State};
use super::stats::UpdateStats;
use crate::config::from_xds::{self, Environment};
use crate::config::{self, CertificateValidation, DataSource, SecretKind, Source, TlsCertificate};
use crate::identity::{CERTIFICATE, Held, Identity, ROOTS};
use crate::stats::Scope;

/// Secrets that were asked for.
#[derive(Default)]
pub(super) struct Secrets {
    /// By source and name.
    pub(super) all: BTreeMap<(Source, String), Entry>,
    /// `sds.<name>.*`
    stats: BTreeMap<String, UpdateStats>,
    /// The identity of the workload, which answers for one server.
    pub(super) identity: Option<Identity>,
    /// What is asked of it.
    own: BTreeSet<(Source, String)>,
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

    /// Whether secrets of this source are the workload's own.
    pub(super) fn is_own(&self, from: &Source) -> bool {
        let Source::Api(api) = from else { return false };
        self.identity.as_ref().is_some_and(|identity| identity.answers(&api.target))
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
    /// Somebody asks for a secret of the workload's own.
    pub(super) fn want_own_secret(&mut self, name: &str, from: &Source) {
        if name != CERTIFICATE && name != ROOTS {
            tracing::warn!(name, "a secret that the workload's identity has not: {CERTIFICATE} and {ROOTS} are there");
        }
        let held = self.secrets.identity.as_ref().and_then(Identity::held);
        if self.secrets.own.insert((from.clone(), name.to_owned()))
            && let Some(held) = held
        {
            self.deliver_own(&held, from, name);
        }
    }

    /// The workload has another certificate.
    pub(super) fn certificate_came(&mut self, now: Instant) {
        let Some(held) = self.secrets.identity.as_ref().and_then(Identity::held) else { return };
        for (from, name) in self.secrets.own.clone() {
            if self.deliver_own(&held, &from, &name) {
                let ready = self.warming.met(&Need::Secret(from, name));
                self.ready(ready, now);
            }
        }
        self.progress(now);
    }

    /// Gives a secret to those that use it; whether they could.
    fn deliver_own(&mut self, held: &Held, from: &Source, name: &str) -> bool {
        let began = Instant::now();
        let (kind, shown) = match name {
            CERTIFICATE => own_certificate(held),
            ROOTS => own_roots(held),
            _ => return false,
        };
        let version = held.version.to_string();
        let entry = self.secrets.all.entry((from.clone(), name.to_owned())).or_default();
        let delivered = self.parts.secrets.deliver(from, config::Secret { name: name.to_owned(), kind });
        let stats = self.secrets.stats.get(name);
        match delivered {
            Ok(()) => {
                let shown = Secret { name: name.to_owned(), r#type: Some(shown) };
                let bytes = shown.encode_to_vec().into();
                let loaded = Loaded {
                    bytes,
                    version: version.clone(),
                    at: SystemTime::now(),
                    ignored: Vec::new(),
                    cached: false,
                };
                *entry = Entry { active: Some(loaded), error: None };
                stats.into_iter().for_each(|stats| stats.accepted(&version, began.elapsed()));
                true
            }
            Err(error) => {
                tracing::warn!(name, %error, "the workload's own secret cannot be used");
                entry.error = Some(Failure { version, at: SystemTime::now(), reason: error.to_string() });
                stats.into_iter().for_each(UpdateStats::rejected);
                false
            }
        }
    }

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

/// The certificate with its key; and what is shown of it, without the key.
fn own_certificate(held: &Held) -> (SecretKind, tls::secret::Type) {
    let certificate = TlsCertificate {
        chain: DataSource::Inline(held.chain.clone()),
        private_key: DataSource::Inline(held.key.clone()),
        password: None,
        ocsp_staple: None,
        watched_directory: None,
    };
    let shown = tls::TlsCertificate {
        certificate_chain: Some(inline(&held.chain)),
        private_key: Some(inline(&Bytes::from_static(b"[redacted]"))),
        ..tls::TlsCertificate::default()
    };
    (SecretKind::Certificate(certificate), tls::secret::Type::TlsCertificate(shown))
}

fn own_roots(held: &Held) -> (SecretKind, tls::secret::Type) {
    let trusted_ca = Some(DataSource::Inline(held.roots.clone()));
    let validation = CertificateValidation { trusted_ca, ..CertificateValidation::default() };
    let shown = tls::CertificateValidationContext {
        trusted_ca: Some(inline(&held.roots)),
        ..tls::CertificateValidationContext::default()
    };
    (SecretKind::Validation(Box::new(validation)), tls::secret::Type::ValidationContext(shown))
}

fn inline(bytes: &Bytes) -> core::DataSource {
    let specifier = Some(core::data_source::Specifier::InlineBytes(bytes.to_vec()));
    core::DataSource { specifier, ..core::DataSource::default() }
}
