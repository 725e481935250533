//! Lists of known differences, kept honest: what is listed must differ, what differs must be listed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// A list: one case name on a line, then its reason. `group/*` stands for any number of cases of a group.
#[derive(Debug, Default)]
pub struct Gaps {
    listed: BTreeMap<String, String>,
}

/// What a run says about a list.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Cases that differ and are not listed.
    pub unexpected: Vec<String>,
    /// Entries that no case justifies.
    pub stale: Vec<String>,
    /// Cases that differ and are listed.
    pub known: usize,
}

impl Gaps {
    /// Reads a list; `#` starts a comment.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs = lines.map(|line| line.split_once(char::is_whitespace).unwrap_or((line, "")));
        Ok(Self { listed: pairs.map(|(name, why)| (name.to_owned(), why.trim().to_owned())).collect() })
    }

    /// Writes a list anew for the cases that ran: what differs, each with the reason it had or else `why`. Entries of
    /// other cases stay.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn rewrite(path: &Path, ran: &[String], differing: &[(String, String)]) -> Result<()> {
        // Tests of one process share the file.
        static WRITING: Mutex<()> = Mutex::new(());
        let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Self::read(path)?;
        let text = std::fs::read_to_string(path)?;
        let mut lines: Vec<String> = text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect();
        let touched = |name: &str| {
            let group = name.strip_suffix('*');
            ran.iter().any(|case| case == name || group.is_some_and(|group| case.starts_with(group)))
        };
        let mut listed: BTreeMap<String, String> = before
            .listed
            .iter()
            .filter(|(name, _)| !touched(name))
            .map(|(name, why)| (name.clone(), why.clone()))
            .collect();
        for (name, why) in differing {
            listed.insert(name.clone(), before.listed.get(name).unwrap_or(why).clone());
        }
        lines.extend(listed.into_iter().map(|(name, why)| format!("{name} {why}")));
        std::fs::write(path, lines.join("\n") + "\n").with_context(|| format!("write {}", path.display()))
    }

    fn entry(&self, case: &str) -> Option<&str> {
        if let Some((name, _)) = self.listed.get_key_value(case) {
            return Some(name);
        }
        let group = case.split_once('/').map_or(case, |(group, _)| group);
        let (name, _) = self.listed.get_key_value(&format!("{group}/*"))?;
        Some(name)
    }

    /// Judges the cases that ran: their names, and whether each differed.
    #[must_use]
    pub fn judge<'a>(&self, cases: impl IntoIterator<Item = (&'a str, bool)>) -> Verdict {
        let mut verdict = Verdict::default();
        let mut justified: BTreeMap<&str, bool> = BTreeMap::new();
        for (case, differs) in cases {
            match self.entry(case) {
                Some(entry) => {
                    *justified.entry(entry).or_default() |= differs;
                    verdict.known += usize::from(differs);
                }
                None if differs => verdict.unexpected.push(case.to_owned()),
                None => {}
            }
        }
        // Entries of cases that did not run (another test has them) are not judged.
        verdict.stale = justified.into_iter().filter(|(_, used)| !used).map(|(entry, _)| entry.to_owned()).collect();
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Gaps {
        Gaps { listed: names.iter().map(|name| ((*name).to_owned(), String::new())).collect() }
    }

    #[test]
    fn what_differs_must_be_listed_and_what_is_listed_must_differ() {
        let verdict = list(&["a/one", "a/two", "b/*"]).judge([
            ("a/one", true),
            ("a/two", false),
            ("a/three", true),
            ("b/x", false),
            ("b/y", true),
        ]);
        assert_eq!(verdict.unexpected, ["a/three"]);
        assert_eq!(verdict.stale, ["a/two"]);
        assert_eq!(verdict.known, 2);
    }

    #[test]
    fn entries_of_cases_that_did_not_run_are_left_alone() {
        assert!(list(&["elsewhere/case"]).judge([("a/one", false)]).stale.is_empty());
    }
}
