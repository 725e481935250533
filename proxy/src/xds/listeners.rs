//! Listeners by discovery: added, updated in place, removed with a drain.
//!
//! A new version is compiled and, where it needs other sockets, bound at once, so that what is wrong is answered; it is opened
//! when its routes and secrets are there. Runs on: the control thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use tokio::time::Instant;
use weft_proto::pb::envoy::config::listener::v3::Listener as PbListener;

use super::clusters::{failure, loaded};
use super::kind::Kind;
use super::mux::{Answered, Resource, Update};
use super::needs;
use super::state::{Errors, Failure, Item, Loaded, Need, Phase, State};
use crate::config::from_xds::{self, Environment};
use crate::config::{self, pending};
use crate::listener::{Listener, ListenerManager, Origin, Sockets};
use crate::stats::Gauge;

/// Discovered listeners, and those of the bootstrap until they are opened.
pub(super) struct Listeners {
    pub(super) manager: Arc<ListenerManager>,
    statics: Vec<(Arc<Listener>, Sockets)>,
    static_names: BTreeSet<String>,
    pub(super) all: BTreeMap<String, Entry>,
    /// Names in the order they came, ready before the start was over.
    ready: Vec<String>,
    /// Removed or replaced, while connections of them are open.
    pub(super) draining: Vec<(Weak<Listener>, Loaded)>,
    warming: Gauge,
}

/// A discovered listener, in each state it is in.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) active: Option<Loaded>,
    pub(super) warming: Option<Warm>,
    pub(super) error: Option<Failure>,
}

/// A version that waits.
pub(super) struct Warm {
    pub(super) loaded: Loaded,
    listener: Arc<Listener>,
    /// Absent: it takes over those of the version in use.
    sockets: Option<Sockets>,
}

impl Entry {
    /// The version that was accepted last.
    pub(super) fn newest(&self) -> Option<&Loaded> {
        self.warming.as_ref().map(|w| &w.loaded).or(self.active.as_ref())
    }
}

impl Listeners {
    pub(super) fn new(manager: Arc<ListenerManager>, statics: Vec<(Arc<Listener>, Sockets)>, warming: Gauge) -> Self {
        warming.set(0);
        Listeners {
            manager,
            static_names: statics.iter().map(|(l, _)| l.config.name.clone()).collect(),
            statics,
            all: BTreeMap::new(),
            ready: Vec::new(),
            draining: Vec::new(),
            warming,
        }
    }

    fn count(&self) {
        self.warming.set(self.all.values().filter(|e| e.warming.is_some()).count() as u64);
    }
}

impl State {
    /// Listeners of the bootstrap ask for what they need.
    pub(super) fn static_listeners(&mut self, now: Instant) {
        let all: Vec<_> = self.listeners.statics.iter().map(|(l, _)| l.clone()).collect();
        for listener in all {
            let needs = self.listener_needs(&listener.config, now);
            self.warming.begin(&Item::Listener(listener.config.name.clone()), needs);
        }
    }

    /// The start is over: everything that is ready opens, in order.
    pub(super) fn open_listeners(&mut self) {
        for (listener, sockets) in std::mem::take(&mut self.listeners.statics) {
            let name = listener.config.name.clone();
            if let Err(e) = self.listeners.manager.open(listener, sockets, Origin::Static) {
                tracing::error!(listener = %name, error = %e, "cannot open a listener");
            }
        }
        for name in std::mem::take(&mut self.listeners.ready) {
            self.activate_listener(&name);
        }
    }

    pub(super) fn update_listeners(
        &mut self,
        update: Update,
        answered: &mut Answered,
        errors: &mut Errors,
        now: Instant,
    ) {
        let mut gone: BTreeSet<String> = update.removed.into_iter().collect();
        if update.complete {
            let named: BTreeSet<_> = update.resources.iter().map(|r| r.name.as_str()).collect();
            gone.extend(self.listeners.all.keys().filter(|known| !named.contains(known.as_str())).cloned());
            answered.removed.extend(gone.iter().cloned());
        }
        // First those that go: their addresses may be wanted.
        gone.iter().for_each(|name| self.remove_listener(name));
        if !update.resources.is_empty() {
            self.add_listeners(&update.resources, errors, now);
        }
        self.listeners_answered(now);
    }

    fn add_listeners(&mut self, resources: &[Resource], errors: &mut Errors, now: Instant) {
        let environment = self.listener_environment();
        for resource in resources {
            if let Err(reason) = self.update_listener(resource, &environment, now) {
                errors.push((resource.name.clone(), reason));
            }
        }
    }

    /// Routes within a listener must name clusters that exist.
    fn listener_environment(&self) -> Environment {
        let mut environment = self.environment.clone();
        if let Some(clusters) = &mut environment.clusters {
            clusters.extend(self.clusters.all.keys().cloned());
        }
        environment
    }

    /// # Errors
    /// Why it is refused; what was there stays.
    fn update_listener(&mut self, resource: &Resource, environment: &Environment, now: Instant) -> Result<(), String> {
        let name = &resource.name;
        if self.listeners.static_names.contains(name) {
            tracing::warn!(listener = %name, "a listener of the bootstrap is not replaced");
            return Ok(());
        }
        if let Some(entry) = self.listeners.all.get_mut(name)
            && entry.newest().is_some_and(|l| l.bytes == resource.body.value)
        {
            entry.error = None;
            return Ok(());
        }
        let result = self.build_listener(resource, environment, now);
        let entry = self.listeners.all.entry(name.clone()).or_default();
        entry.error = result.as_ref().err().map(|reason| failure(resource, reason));
        self.listeners.count();
        result
    }

    fn build_listener(&mut self, resource: &Resource, environment: &Environment, now: Instant) -> Result<(), String> {
        let checked =
            self.strictness.check(resource, |l: &PbListener| from_xds::listener(l, environment), pending::listener)?;
        needs::check_listener(&checked.value).map_err(|e| format!("{}: {}", e.field_path, e.reason))?;
        for source in needs::listener_demands(&checked.value) {
            self.check_demand(source)?;
        }
        let (config, loaded) = (checked.value, loaded(resource, checked.ignored));
        let name = config.name.clone();
        let current = self.listeners.manager.find(&name).map(|(l, _)| l);
        let entry = self.listeners.all.entry(name.clone()).or_default();
        if let (None, Some(active), Some(current)) = (&entry.warming, &mut entry.active, &current)
            && current.config == config
        {
            // Written differently, and the same.
            *active = loaded;
            return Ok(());
        }
        let kept = current.filter(|c| Listener::keeps_sockets_of(&config, &c.config));
        let needs = self.listener_needs(&config, now);
        let (listener, sockets) = match &kept {
            Some(current) => (Listener::next(current, config, &self.parts), None),
            None => {
                let sockets = self.listeners.manager.bind(&config).map_err(|e| e.reason)?;
                (Listener::new(config, &self.parts), Some(sockets))
            }
        };
        let listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                self.forget_filters();
                return Err(format!("{}: {}", e.field_path, e.reason));
            }
        };
        let entry = self.listeners.all.entry(name.clone()).or_default();
        entry.warming = Some(Warm { loaded, listener, sockets });
        if self.warming.begin(&Item::Listener(name.clone()), needs) {
            self.activate_listener(&name);
        }
        Ok(())
    }

    /// What a listener waits for; all of it is asked for.
    fn listener_needs(&mut self, config: &config::Listener, now: Instant) -> Vec<(Need, Option<Instant>)> {
        let mut needs = Vec::new();
        for rds in needs::listener_routes(config) {
            self.sources.watch(&rds.source.from, Kind::Routes, &rds.name);
            if !self.parts.routes.is_known(&rds.source.from, &rds.name) {
                let deadline = Self::deadline(&rds.source, now);
                needs.push((Need::Routes(rds.source.from.clone(), rds.name.clone()), deadline));
            }
        }
        for wanted in needs::listener_filters(config) {
            let from = &wanted.source.from;
            if self.want_filter(wanted.layer, wanted.name, from) && wanted.warm {
                let need = Need::Filter(from.clone(), wanted.name.to_owned());
                needs.push((need, Self::deadline(wanted.source, now)));
            }
        }
        for (name, source) in needs::listener_secrets(config) {
            if self.want_secret(name, source) {
                needs.push((Need::Secret(source.from.clone(), name.to_owned()), Self::deadline(source, now)));
            }
        }
        needs
    }

    /// A listener has what it needs, or has waited for long enough.
    pub(super) fn activate_listener(&mut self, name: &str) {
        if self.phase < Phase::Live {
            if self.listeners.all.contains_key(name) && !self.listeners.ready.iter().any(|r| r == name) {
                self.listeners.ready.push(name.to_owned());
            }
            return;
        }
        let Some(entry) = self.listeners.all.get_mut(name) else { return };
        let Some(Warm { loaded, listener, sockets }) = entry.warming.take() else { return };
        let before = self.listeners.manager.find(name).map(|(l, _)| l);
        if let (Some(before), Some(was)) = (&before, &entry.active) {
            self.listeners.draining.push((Arc::downgrade(before), was.clone()));
        }
        match sockets {
            None => self.listeners.manager.replace(listener),
            Some(sockets) => {
                if let Err(e) = self.listeners.manager.open(listener, sockets, Origin::Dynamic) {
                    tracing::error!(listener = %name, error = %e, "cannot open a listener");
                    self.listeners.count();
                    return;
                }
            }
        }
        entry.active = Some(loaded);
        self.listeners.count();
    }

    pub(super) fn remove_listener(&mut self, name: &str) {
        let Some(entry) = self.listeners.all.remove(name) else { return };
        self.warming.cancel(&Item::Listener(name.to_owned()));
        self.listeners.ready.retain(|r| r != name);
        if let Some(active) = entry.active {
            if let Some((listener, _)) = self.listeners.manager.find(name) {
                self.listeners.draining.push((Arc::downgrade(&listener), active));
            }
            self.listeners.manager.remove(name);
        }
        self.listeners.count();
        drop(entry.warming);
        self.listeners_let_go();
    }

    /// Listeners have finished: what only they needed is no longer asked for.
    pub(super) fn listeners_let_go(&mut self) {
        self.listeners.draining.retain(|(listener, _)| listener.strong_count() > 0);
        for (from, name) in self.parts.routes.take_unused() {
            let gone = self.routes.all.remove(&(from.clone(), name.clone()));
            self.sources.unwatch(&from, Kind::Routes, &name);
            if let Some(vhds) = gone.and_then(|entry| entry.vhds) {
                self.unfollow_hosts(&(from, name), &vhds);
            }
        }
        self.forget_filters();
    }
}
