//! When which key set is fetched, and what is known of it. Without input or output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::key_sets::{KeySet, KeySets, KeySource};

/// How often a key set is fetched that is there (Istio's default).
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// How soon one is tried again that is not there: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The same for one that is there from before.
const RETRY_KNOWN: [Duration; 2] = [Duration::from_secs(60), REFRESH];
/// For how long keys are used that cannot be fetched again (Istio's).
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many are fetched: each may be of a mebibyte.
pub(super) const MAX_SETS: usize = 256;

/// All that are wanted.
#[derive(Debug, Default)]
pub(super) struct Plan {
    entries: BTreeMap<KeySource, Entry>,
    /// What there are too many of.
    refused: BTreeMap<KeySource, KeySet>,
}

/// One that is wanted.
#[derive(Debug)]
pub(super) struct Entry {
    /// How long fetching may take.
    timeout: Duration,
    pub(super) known: KeySet,
    /// When it is fetched next; `None`: now.
    pub(super) due: Option<Instant>,
    /// When it was fetched last.
    pub(super) fetched: Option<Instant>,
    /// Attempts that failed since.
    pub(super) failures: u32,
}

impl Plan {
    /// What is wanted from now on; what is known of it stays.
    pub(super) fn want(&mut self, wanted: &BTreeMap<KeySource, Duration>, now: Instant) {
        let mut before = std::mem::take(&mut self.entries);
        self.refused.clear();
        for (source, timeout) in wanted {
            if self.entries.len() == MAX_SETS {
                let error = Some(format!("it is not fetched: there are more than {MAX_SETS} key sets").into());
                self.refused.insert(source.clone(), KeySet { keys: None, error });
                continue;
            }
            let mut entry = before.remove(source).unwrap_or_else(|| Entry::new(now));
            entry.timeout = *timeout;
            self.entries.insert(source.clone(), entry);
        }
    }

    /// One that is due, and how long fetching it may take; it is not due again before [`done`](Self::done).
    pub(super) fn start(&mut self, now: Instant) -> Option<(KeySource, Duration)> {
        let mut due = self.entries.iter_mut().filter(|(_, entry)| entry.due.is_some_and(|due| due <= now));
        let (source, entry) = due.next()?;
        entry.due = None;
        Some((source.clone(), entry.timeout))
    }

    /// What came of an attempt.
    pub(super) fn done(&mut self, source: &KeySource, outcome: Result<Arc<str>, String>, now: Instant) {
        // It may not be wanted any more.
        let Some(entry) = self.entries.get_mut(source) else { return };
        match outcome {
            Ok(keys) => {
                entry.known = KeySet { keys: Some(keys), error: None };
                entry.failures = 0;
                entry.fetched = Some(now);
                entry.due = Some(now + REFRESH);
            }
            Err(why) => {
                entry.known.error = Some(why.into());
                if entry.fetched.is_some_and(|at| now - at >= KEPT) {
                    entry.known.keys = None;
                }
                let [first, most] = if entry.known.keys.is_some() { RETRY_KNOWN } else { RETRY };
                entry.due = Some(now + first.saturating_mul(1 << entry.failures.min(16)).min(most));
                entry.failures = entry.failures.saturating_add(1);
            }
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// What is known of those that were tried.
    pub(super) fn known(&self) -> KeySets {
        let tried = self.entries.iter().map(|(source, entry)| (source, &entry.known));
        let all = tried.chain(&self.refused).filter(|(_, known)| known.keys.is_some() || known.error.is_some());
        KeySets::of(all.map(|(source, known)| (source.clone(), known.clone())).collect())
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&KeySource, &Entry)> {
        self.entries.iter()
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { timeout: Duration::ZERO, known: KeySet::default(), due: Some(now), fetched: None, failures: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> KeySource {
        KeySource::Uri(format!("http://{name}").into())
    }

    fn plan(names: &[&str], now: Instant) -> Plan {
        let mut plan = Plan::default();
        plan.want(&names.iter().map(|name| (source(name), Duration::from_secs(5))).collect(), now);
        plan
    }

    fn keys(plan: &Plan, name: &str) -> Option<String> {
        plan.known().keys(&source(name)).map(str::to_owned)
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_later_and_later_and_the_last_good_keys_stay() {
        let start = Instant::now();
        let mut plan = plan(&["a"], start);
        let mut now = start;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(plan.start(now), Some((source("a"), Duration::from_secs(5))));
            assert_eq!((plan.start(now), plan.next()), (None, None));
            plan.done(&source("a"), Err("no".to_owned()), now);
            assert_eq!(plan.next(), Some(now + Duration::from_secs(wait)));
            assert!(plan.known().problem(&source("a")).unwrap().contains("every token of this rule is refused"));
            now += Duration::from_secs(wait);
        }
        plan.start(now);
        plan.done(&source("a"), Ok("keys".into()), now);
        assert_eq!((keys(&plan, "a").as_deref(), plan.next()), (Some("keys"), Some(now + REFRESH)));
        assert_eq!(plan.known().problem(&source("a")), None);
        let good = now;
        now += REFRESH;
        for wait in [60, 120, 240, 480, 960, 1200, 1200] {
            assert!(plan.start(now).is_some());
            plan.done(&source("a"), Err("no".to_owned()), now);
            assert_eq!(plan.next(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        assert_eq!(keys(&plan, "a").as_deref(), Some("keys"));
        assert!(plan.known().problem(&source("a")).unwrap().contains("from before"));
        // Not for ever: who signed with them may be out of trust since.
        plan.done(&source("a"), Err("no".to_owned()), good + KEPT);
        assert_eq!(keys(&plan, "a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_no_more_is_forgotten_and_there_is_a_limit() {
        let now = Instant::now();
        let mut plan = plan(&["a", "b"], now);
        plan.done(&source("a"), Ok("keys".into()), now);
        plan.want(&[(source("b"), Duration::from_secs(1))].into(), now);
        assert_eq!(keys(&plan, "a"), None);
        plan.done(&source("a"), Ok("late".into()), now);
        assert_eq!(keys(&plan, "a"), None);
        let names: Vec<String> = (0..MAX_SETS + 1).map(|n| format!("{n:04}")).collect();
        plan.want(&names.iter().map(|name| (source(name), Duration::ZERO)).collect(), now);
        assert_eq!(plan.entries().count(), MAX_SETS);
        assert!(plan.known().problem(&source(&names[MAX_SETS])).unwrap().contains("more than 256"));
    }
}
