//! Which host a domain leads to, in a map whose next version shares with it what did not change.
//!
//! Discovered virtual hosts come one by one, to tables of many thousands: a copy with another host costs a path of a trie, not the
//! table. Names are hashed with a secret, though only configuration puts them in. Runs on: workers look up; the control thread
//! changes.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Bits of a hash for each level of the trie.
const BITS: u32 = 4;
const WIDTH: usize = 1 << BITS;

/// Values by name. A clone is cheap, and what is changed in it leaves the original as it is.
pub(super) struct Names<V> {
    root: Slot<V>,
    hasher: RandomState,
}

type Slot<V> = Option<Arc<Node<V>>>;

enum Node<V> {
    Branch([Slot<V>; WIDTH]),
    /// Names of one hash: hardly ever more than one.
    Leaf(u64, Vec<(Box<str>, V)>),
}

impl<V: Clone> Clone for Node<V> {
    fn clone(&self) -> Self {
        match self {
            Node::Branch(children) => Node::Branch(children.clone()),
            Node::Leaf(hash, entries) => Node::Leaf(*hash, entries.clone()),
        }
    }
}

impl<V> Clone for Names<V> {
    fn clone(&self) -> Self {
        Names { root: self.root.clone(), hasher: self.hasher.clone() }
    }
}

impl<V> Default for Names<V> {
    fn default() -> Self {
        Names { root: None, hasher: RandomState::new() }
    }
}

fn place(hash: u64, level: u32) -> usize {
    (hash >> (level * BITS)) as usize % WIDTH
}

impl<V: Clone> Names<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(name);
        let (mut node, mut level) = (self.root.as_deref()?, 0);
        loop {
            match node {
                Node::Branch(children) => node = children[place(hash, level)].as_deref()?,
                Node::Leaf(of, entries) if *of == hash => {
                    return entries.iter().find(|(own, _)| **own == *name).map(|(_, value)| value);
                }
                Node::Leaf(..) => return None,
            }
            level += 1;
        }
    }

    #[cfg(test)]
    fn each(&self, mut look: impl FnMut(&str, &V)) {
        let mut open: Vec<_> = self.root.iter().collect();
        while let Some(node) = open.pop() {
            match &**node {
                Node::Branch(children) => open.extend(children.iter().flatten()),
                Node::Leaf(_, entries) => entries.iter().for_each(|(name, value)| look(name, value)),
            }
        }
    }

    /// Puts a value in place of what was there.
    pub(super) fn insert(&mut self, name: &str, value: V) {
        insert(&mut self.root, 0, self.hasher.hash_one(name), name, value);
    }

    pub(super) fn remove(&mut self, name: &str) {
        remove(&mut self.root, 0, self.hasher.hash_one(name), name);
    }
}

/// Two hashes differ at some level, so this ends there.
fn insert<V: Clone>(slot: &mut Slot<V>, level: u32, hash: u64, name: &str, value: V) {
    let Some(node) = slot else {
        *slot = Some(Arc::new(Node::Leaf(hash, vec![(name.into(), value)])));
        return;
    };
    if let Node::Leaf(of, _) = &**node
        && *of != hash
    {
        let other = place(*of, level);
        let mut children: [Slot<V>; WIDTH] = Default::default();
        children[other] = slot.take();
        insert(&mut children[place(hash, level)], level + 1, hash, name, value);
        *slot = Some(Arc::new(Node::Branch(children)));
        return;
    }
    match Arc::make_mut(node) {
        Node::Branch(children) => insert(&mut children[place(hash, level)], level + 1, hash, name, value),
        Node::Leaf(_, entries) => match entries.iter_mut().find(|(own, _)| **own == *name) {
            Some((_, held)) => *held = value,
            None => entries.push((name.into(), value)),
        },
    }
}

fn remove<V: Clone>(slot: &mut Slot<V>, level: u32, hash: u64, name: &str) {
    let Some(node) = slot else { return };
    let empty = match Arc::make_mut(node) {
        Node::Branch(children) => {
            remove(&mut children[place(hash, level)], level + 1, hash, name);
            children.iter().all(Option::is_none)
        }
        Node::Leaf(_, entries) => {
            entries.retain(|(own, _)| **own != *name);
            entries.is_empty()
        }
    };
    if empty {
        *slot = None;
    }
}

/// Values by the fixed end of a wildcard; the longest one that fits is found.
#[derive(Clone)]
struct Ends<V> {
    names: Names<V>,
    /// Lengths that there are, longest first, and how many ends have each.
    lengths: Vec<(usize, usize)>,
}

impl<V> Default for Ends<V> {
    fn default() -> Self {
        Ends { names: Names::default(), lengths: Vec::new() }
    }
}

impl<V: Clone> Ends<V> {
    /// `end` takes so many bytes of a name, where that can be cut there.
    fn find<'n>(&self, name: &'n str, end: impl Fn(usize) -> Option<&'n str>) -> Option<&V> {
        let fits = self.lengths.iter().filter(|(length, _)| name.len() > *length);
        fits.filter_map(|(length, _)| end(*length)).find_map(|end| self.names.get(end))
    }

    fn insert(&mut self, end: &str, value: V) {
        if self.names.get(end).is_none() {
            match self.lengths.iter().position(|(length, _)| *length <= end.len()) {
                Some(at) if self.lengths[at].0 == end.len() => self.lengths[at].1 += 1,
                Some(at) => self.lengths.insert(at, (end.len(), 1)),
                None => self.lengths.push((end.len(), 1)),
            }
        }
        self.names.insert(end, value);
    }

    fn remove(&mut self, end: &str) {
        if self.names.get(end).is_none() {
            return;
        }
        self.names.remove(end);
        for (length, count) in &mut self.lengths {
            *count -= usize::from(*length == end.len());
        }
        self.lengths.retain(|(_, count)| *count > 0);
    }
}

/// Values by domain: exact ones first, then `*.example.com`, then `www.*`, longest first, then `*`.
#[derive(Clone)]
pub(super) struct Domains<V> {
    exact: Names<V>,
    /// `*.example.com` as `.example.com`.
    suffixes: Ends<V>,
    /// `www.*` as `www.`.
    prefixes: Ends<V>,
    any: Option<V>,
}

impl<V> Default for Domains<V> {
    fn default() -> Self {
        Domains { exact: Names::default(), suffixes: Ends::default(), prefixes: Ends::default(), any: None }
    }
}

impl<V: Clone> Domains<V> {
    /// Whether all names lead to the same, if anywhere.
    pub(super) fn is_any(&self) -> bool {
        self.exact.is_empty() && self.suffixes.names.is_empty() && self.prefixes.names.is_empty()
    }

    /// The value of `*`.
    pub(super) fn any(&self) -> Option<&V> {
        self.any.as_ref()
    }

    /// Where a name leads, which is in lower case.
    pub(super) fn find(&self, name: &str) -> Option<&V> {
        self.exact
            .get(name)
            .or_else(|| self.suffixes.find(name, |length| name.get(name.len() - length..)))
            .or_else(|| self.prefixes.find(name, |length| name.get(..length)))
            .or(self.any.as_ref())
    }

    /// Exact domains, in no order.
    #[cfg(test)]
    pub(super) fn each(&self, look: impl FnMut(&str, &V)) {
        self.exact.each(look);
    }

    /// What stands at a domain.
    pub(super) fn at(&self, domain: &str) -> Option<&V> {
        let domain = domain.to_ascii_lowercase();
        match Form::of(&domain) {
            Form::Any => self.any.as_ref(),
            Form::Suffix(end) => self.suffixes.names.get(end),
            Form::Prefix(end) => self.prefixes.names.get(end),
            Form::Exact => self.exact.get(&domain),
        }
    }

    /// A domain leads here from now on.
    pub(super) fn insert(&mut self, domain: &str, value: V) {
        let domain = domain.to_ascii_lowercase();
        match Form::of(&domain) {
            Form::Any => self.any = Some(value),
            Form::Suffix(end) => self.suffixes.insert(end, value),
            Form::Prefix(end) => self.prefixes.insert(end, value),
            Form::Exact => self.exact.insert(&domain, value),
        }
    }

    /// A domain leads nowhere any more.
    pub(super) fn remove(&mut self, domain: &str) {
        let domain = domain.to_ascii_lowercase();
        match Form::of(&domain) {
            Form::Any => self.any = None,
            Form::Suffix(end) => self.suffixes.remove(end),
            Form::Prefix(end) => self.prefixes.remove(end),
            Form::Exact => self.exact.remove(&domain),
        }
    }
}

enum Form<'a> {
    Any,
    Suffix(&'a str),
    Prefix(&'a str),
    Exact,
}

impl Form<'_> {
    fn of(domain: &str) -> Form<'_> {
        match (domain, domain.strip_prefix('*'), domain.strip_suffix('*')) {
            ("*", ..) => Form::Any,
            (_, Some(end), _) => Form::Suffix(end),
            (_, _, Some(end)) => Form::Prefix(end),
            _ => Form::Exact,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn names_are_a_map_and_its_copies_stay_as_they_are() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut names, mut model) = (Names::default(), BTreeMap::new());
        let mut copies = Vec::new();
        for step in 0..4_000 {
            let name = format!("n{}", random.random_range(0..700));
            if random.random_bool(0.6) {
                names.insert(&name, step);
                model.insert(name, step);
            } else {
                names.remove(&name);
                model.remove(&name);
            }
            if step % 800 == 0 {
                copies.push((names.clone(), model.clone()));
            }
        }
        copies.push((names.clone(), model.clone()));
        for (names, model) in &copies {
            for n in 0..700 {
                let name = format!("n{n}");
                assert_eq!(names.get(&name), model.get(&name), "{name}");
            }
        }
        model.keys().for_each(|name| names.remove(name));
        assert!(names.is_empty());
    }

    #[test]
    fn the_most_particular_domain_is_found() {
        let mut domains = Domains::default();
        for domain in ["*", "*.com", "*.Example.com", "www.*", "www.example.*", "a.example.com"] {
            domains.insert(domain, domain);
        }
        let found = |domains: &Domains<_>, name: &str| domains.find(name).copied();
        assert_eq!(found(&domains, "a.example.com"), Some("a.example.com"));
        assert_eq!(found(&domains, "b.example.com"), Some("*.Example.com"));
        assert_eq!(found(&domains, ".example.com"), Some("*.com"), "a wildcard stands for something");
        assert_eq!(found(&domains, "www.example.org"), Some("www.example.*"));
        assert_eq!(found(&domains, "www.org"), Some("www.*"));
        assert_eq!(found(&domains, "é"), Some("*"));
        let before = domains.clone();
        for domain in ["*.example.com", "www.example.*", "*", "a.example.com"] {
            domains.remove(domain);
        }
        assert_eq!(found(&domains, "b.example.com"), Some("*.com"));
        assert_eq!(found(&domains, "www.example.org"), Some("www.*"));
        assert_eq!((found(&domains, "é"), domains.at("*.com").copied()), (None, Some("*.com")));
        assert_eq!(found(&before, "b.example.com"), Some("*.Example.com"));
    }
}
