//! What the files of a directory hold together.
//!
//! Owns the last good version of each object and which one counts if there are two. Must not know: how a file is read or
//! watched. The same files in any order give the same objects, unless two of them have the same object and nothing tells
//! their age: then the one that was there first stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_proto::document::Format;
use weft_proto::problem::{Problem, Severity};

use super::documents;
use crate::model::kinds::{Object, ObjectKey, Outcome};
use crate::source::{Batch, Change};

/// The files of a directory.
#[derive(Debug, Default)]
pub struct Directory {
    files: BTreeMap<PathBuf, File>,
    /// What is said to be there.
    current: BTreeMap<ObjectKey, Arc<Object>>,
    /// Who has an object of this key.
    holders: BTreeMap<ObjectKey, BTreeSet<PathBuf>>,
    touched: BTreeSet<ObjectKey>,
    generation: u64,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectKey, Held>,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
struct Held {
    object: Arc<Object>,
    /// When it was first seen in this file.
    since: u64,
}

impl Directory {
    /// A file has this text now.
    pub fn put(&mut self, path: &Path, text: &str) {
        let source: Arc<str> = path.to_string_lossy().into();
        match Format::of_path(path) {
            Ok(format) => self.replace(path, documents::read(&source, text, format)),
            Err(problem) => self.replace(path, vec![Outcome::Rejected { key: None, problems: vec![problem] }]),
        }
    }

    /// A file cannot be read: what it held stays.
    pub fn unreadable(&mut self, path: &Path, reason: &str) {
        let problem =
            Problem::new(Severity::Invalid, "", format!("cannot be read ({reason}); what it held before stays"));
        let problem = Problem { source: Some(path.to_string_lossy().into()), ..problem };
        self.replace(path, vec![Outcome::Rejected { key: None, problems: vec![problem] }]);
    }

    /// A file is gone.
    pub fn remove(&mut self, path: &Path) {
        if let Some(file) = self.files.remove(path) {
            file.objects.into_keys().for_each(|key| self.release(path, key));
        }
    }

    /// What has changed since the last call.
    pub fn take_batch(&mut self) -> Batch {
        self.generation += 1;
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            match self.winner(&key) {
                Some((_, held)) => {
                    let object = held.object.clone();
                    let before = self.current.insert(key, object.clone());
                    if before.is_none_or(|before| !is_same(&before, &object)) {
                        changes.push(Change::Applied(object));
                    }
                }
                None => {
                    if self.current.remove(&key).is_some() {
                        changes.push(Change::Deleted(key));
                    }
                }
            }
        }
        Batch { changes, problems: self.problems().into() }
    }

    fn replace(&mut self, path: &Path, outcomes: Vec<Outcome>) {
        let mut old = self.files.remove(path).unwrap_or_default().objects;
        let mut file = File::default();
        let mut kept = BTreeSet::new();
        let mut any_kept = false;
        for outcome in outcomes {
            match outcome {
                Outcome::Object(object) => self.hold(&mut file, &old, object),
                Outcome::Foreign(problem) => file.problems.push(problem),
                Outcome::Rejected { key, problems } => {
                    file.problems.extend(problems);
                    any_kept |= key.is_none();
                    kept.extend(key);
                }
            }
        }
        for (key, held) in std::mem::take(&mut old) {
            if file.objects.contains_key(&key) {
                continue;
            }
            // The document that is broken now may be this one: its last good version stays.
            if any_kept || kept.contains(&key) {
                file.objects.insert(key, held);
            } else {
                self.release(path, key);
            }
        }
        for key in file.objects.keys() {
            self.holders.entry(key.clone()).or_default().insert(path.to_owned());
            self.touched.insert(key.clone());
        }
        self.files.insert(path.to_owned(), file);
    }

    fn hold(&self, file: &mut File, old: &BTreeMap<ObjectKey, Held>, object: Box<Object>) {
        if let Some(first) = file.objects.get(&object.key) {
            file.problems.push(twice(&object, &first.object));
            return;
        }
        let since = old.get(&object.key).map_or(self.generation, |held| held.since);
        file.objects.insert(object.key.clone(), Held { object: Arc::from(object), since });
    }

    fn release(&mut self, path: &Path, key: ObjectKey) {
        if let Some(holders) = self.holders.get_mut(&key) {
            holders.remove(path);
            if holders.is_empty() {
                self.holders.remove(&key);
            }
        }
        self.touched.insert(key);
    }

    /// Everyone who has this object.
    fn held(&self, key: &ObjectKey) -> impl Iterator<Item = (&Path, &Held)> {
        let holders = self.holders.get(key).into_iter().flatten();
        holders.filter_map(|path| Some((path.as_path(), self.files.get(path)?.objects.get(key)?)))
    }

    /// The one that counts: the oldest by what it says, else who was there first, else by the file's name.
    fn winner(&self, key: &ObjectKey) -> Option<(&Path, &Held)> {
        self.held(key).min_by_key(|(path, held)| (held.object.age(), held.since, *path))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        for (key, _) in self.holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let Some((winner, first)) = self.winner(key) else { continue };
            let others = self.held(key).filter(|(path, _)| *path != winner);
            problems.extend(others.map(|(_, held)| twice(&held.object, &first.object)));
        }
        problems
    }
}

/// Whether two objects are the same also in what is said about them.
fn is_same(a: &Object, b: &Object) -> bool {
    a == b && a.source == b.source && a.at == b.at && a.problems == b.problems
}

fn twice(object: &Object, first: &Object) -> Problem {
    let reason = format!(
        "{} is also in {}:{}, which is older and counts; remove one of the two",
        object.key, first.source, first.at.line
    );
    object.problem(Severity::Invalid, object.at, "", reason)
}
