//! The fields of a message, in the order in which they came.
//!
//! Messages have a dozen fields, and most questions about them are answered "not there". So this is a plain list, with one word
//! beside it that tells for most names at once that they are absent: nothing is hashed into a table, and a map is one block of
//! memory. Order is kept across names, as Envoy keeps it.

use http::{HeaderName, HeaderValue};

/// Fields by name; a name may have several. Comparable with `http::HeaderMap`, whose methods it has under the same names.
#[derive(Clone, Default)]
pub struct HeaderMap {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// A bit for each [`bit`] of a name that is or was here.
    seen: u64,
    /// A name may be here more than once.
    repeated: bool,
}

/// Up to so many fields, a name that may be here already is looked for when it is added.
const LOOKED_THROUGH: usize = 64;

/// A name to look for.
pub trait Name {
    /// The name's text.
    fn text(&self) -> &str;
    /// Whether it is this one.
    fn is(&self, name: &HeaderName) -> bool;
}

impl Name for HeaderName {
    fn text(&self) -> &str {
        self.as_str()
    }

    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Name for str {
    fn text(&self) -> &str {
        self
    }

    fn is(&self, name: &HeaderName) -> bool {
        name.as_str().eq_ignore_ascii_case(self)
    }
}

impl Name for String {
    fn text(&self) -> &str {
        self
    }

    fn is(&self, name: &HeaderName) -> bool {
        self.as_str().is(name)
    }
}

impl<N: Name + ?Sized> Name for &N {
    fn text(&self) -> &str {
        (**self).text()
    }

    fn is(&self, name: &HeaderName) -> bool {
        (**self).is(name)
    }
}

/// A name to write.
pub trait IntoName {
    /// As a name.
    fn into_name(self) -> HeaderName;
}

impl IntoName for HeaderName {
    fn into_name(self) -> HeaderName {
        self
    }
}

impl IntoName for &HeaderName {
    fn into_name(self) -> HeaderName {
        self.clone()
    }
}

impl IntoName for &'static str {
    /// # Panics
    /// Where it is no name in lower case, which is a mistake in this program.
    fn into_name(self) -> HeaderName {
        HeaderName::from_static(self)
    }
}

/// Spreads names over the bits of a word by their length and three of their letters.
#[inline]
const fn bit(name: &str) -> u64 {
    let name = name.as_bytes();
    let n = name.len();
    if n == 0 {
        return 1;
    }
    // Without case: 0x20 is what letters differ by.
    let (first, middle, last) = (name[0] | 0x20, name[n / 2] | 0x20, name[n - 1] | 0x20);
    1 << ((n as u32 + first as u32 * 5 + middle as u32 * 11 + last as u32 * 23) & 63)
}

/// Names to ask for all at once: [`HeaderMap::may_have`].
#[derive(Debug, Clone, Copy)]
pub struct Names(u64);

impl Names {
    /// These, in lower case.
    #[must_use]
    pub const fn of(names: &[&str]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= bit(names[at]);
            at += 1;
        }
        Names(bits)
    }
}

impl HeaderMap {
    /// Without fields and without memory.
    #[must_use]
    pub const fn new() -> Self {
        HeaderMap { fields: Vec::new(), seen: 0, repeated: false }
    }

    /// With room for so many fields.
    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        HeaderMap { fields: Vec::with_capacity(fields), seen: 0, repeated: false }
    }

    /// How many fields there are, each of a repeated name counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether any of some names may be here; `false` is certain.
    #[inline]
    #[must_use]
    pub fn may_have(&self, names: Names) -> bool {
        self.seen & names.0 != 0
    }

    #[inline]
    fn position(&self, name: &(impl Name + ?Sized)) -> Option<usize> {
        if self.seen & bit(name.text()) == 0 {
            return None;
        }
        self.fields.iter().position(|(of, _)| name.is(of))
    }

    /// The first value of a name.
    #[inline]
    pub fn get(&self, name: impl Name) -> Option<&HeaderValue> {
        self.position(&name).map(|at| &self.fields[at].1)
    }

    /// Whether a name has a value.
    #[inline]
    pub fn contains_key(&self, name: impl Name) -> bool {
        self.position(&name).is_some()
    }

    /// All values of a name, in order.
    #[inline]
    pub fn get_all<N: Name>(&self, name: N) -> Values<'_, N> {
        let from = self.position(&name).unwrap_or(self.fields.len());
        Values { rest: self.fields[from..].iter(), name }
    }

    /// Sets a name's only value: where its first was, or else at the end. Returns that first one.
    pub fn insert(&mut self, name: impl IntoName, value: HeaderValue) -> Option<HeaderValue> {
        let name = name.into_name();
        let Some(at) = self.position(&name) else {
            self.seen |= bit(name.as_str());
            self.fields.push((name, value));
            return None;
        };
        let old = std::mem::replace(&mut self.fields[at].1, value);
        self.drop_from(at + 1, &name);
        Some(old)
    }

    /// Adds a value at the end.
    pub fn append(&mut self, name: impl IntoName, value: HeaderValue) {
        self.push(name.into_name(), value);
    }

    #[inline]
    fn push(&mut self, name: HeaderName, value: HeaderValue) {
        let bit = bit(name.as_str());
        if self.seen & bit != 0 && !self.repeated {
            let few = self.fields.len() <= LOOKED_THROUGH;
            self.repeated = !few || self.fields.iter().any(|(of, _)| *of == name);
        }
        self.seen |= bit;
        self.fields.push((name, value));
    }

    /// Whether a name may have several values; `false` is certain.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.repeated
    }

    /// Removes all values of a name. Returns the first.
    pub fn remove(&mut self, name: impl Name) -> Option<HeaderValue> {
        let at = self.position(&name)?;
        let (_, value) = self.fields.remove(at);
        self.drop_from(at, &name);
        Some(value)
    }

    /// Removes what remains of a name from a position on.
    fn drop_from(&mut self, from: usize, name: &impl Name) {
        if self.repeated && self.fields[from..].iter().any(|(of, _)| name.is(of)) {
            let mut at = 0;
            self.fields.retain(|(of, _)| {
                at += 1;
                at <= from || !name.is(of)
            });
        }
    }

    /// Keeps the fields of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.fields.retain(|(name, value)| keep(name, value));
    }

    /// All fields, in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.fields.iter())
    }

    /// The names of all fields, in order; a repeated one as often as it is there.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }

    /// All values, in order.
    pub fn values(&self) -> impl Iterator<Item = &HeaderValue> {
        self.fields.iter().map(|(_, value)| value)
    }

    /// Removes all fields.
    pub fn clear(&mut self) {
        self.fields.clear();
        (self.seen, self.repeated) = (0, false);
    }
}

/// All values of a name: [`HeaderMap::get_all`].
#[derive(Clone)]
pub struct Values<'a, N> {
    rest: std::slice::Iter<'a, (HeaderName, HeaderValue)>,
    name: N,
}

impl<'a, N: Name> Iterator for Values<'a, N> {
    type Item = &'a HeaderValue;

    #[inline]
    fn next(&mut self) -> Option<&'a HeaderValue> {
        let name = &self.name;
        self.rest.find(|(of, _)| name.is(of)).map(|(_, value)| value)
    }
}

impl<N: Name> DoubleEndedIterator for Values<'_, N> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let name = &self.name;
        self.rest.rfind(|(of, _)| name.is(of)).map(|(_, value)| value)
    }
}

/// All fields: [`HeaderMap::iter`].
#[derive(Clone)]
pub struct Iter<'a>(std::slice::Iter<'a, (HeaderName, HeaderValue)>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a HeaderName, &'a HeaderValue);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<'a> IntoIterator for &'a HeaderMap {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for HeaderMap {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<(HeaderName, HeaderValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

impl Extend<(HeaderName, HeaderValue)> for HeaderMap {
    fn extend<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, fields: I) {
        fields.into_iter().for_each(|(name, value)| self.push(name, value));
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for HeaderMap {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        let mut map = HeaderMap::new();
        map.extend(fields);
        map
    }
}

impl std::fmt::Debug for HeaderMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Equal where each name has the same values in the same order; the order of names says nothing.
impl PartialEq for HeaderMap {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.keys().all(|name| self.get_all(name).eq(other.get_all(name)))
    }
}

impl From<http::HeaderMap> for HeaderMap {
    fn from(map: http::HeaderMap) -> Self {
        // Later values of a name come without it.
        let mut last = None;
        let mut fields = HeaderMap::with_capacity(map.len());
        for (name, value) in map {
            if name.is_some() {
                last = name;
            }
            if let Some(name) = &last {
                fields.append(name, value);
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(usize, u8),
        Append(usize, u8),
        Remove(usize),
    }

    const NAMES: [&str; 6] = ["host", "content-length", "x-a", "x-b", "x-envoy-retry-on", "via"];

    fn step() -> impl Strategy<Value = Step> {
        let name = 0..NAMES.len();
        prop_oneof![
            (name.clone(), any::<u8>()).prop_map(|(n, v)| Step::Insert(n, v)),
            (name.clone(), any::<u8>()).prop_map(|(n, v)| Step::Append(n, v)),
            name.prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// What is asked by name is answered as `http::HeaderMap` answers it.
        #[test]
        fn answers_as_the_table_does(steps in prop::collection::vec(step(), 0..40)) {
            let (mut ours, mut theirs) = (HeaderMap::new(), http::HeaderMap::new());
            for step in steps {
                match step {
                    Step::Insert(n, v) => {
                        let v = HeaderValue::from(u16::from(v));
                        prop_assert_eq!(ours.insert(NAMES[n], v.clone()), theirs.insert(NAMES[n], v));
                    }
                    Step::Append(n, v) => {
                        let v = HeaderValue::from(u16::from(v));
                        ours.append(NAMES[n], v.clone());
                        theirs.append(NAMES[n], v);
                    }
                    Step::Remove(n) => prop_assert_eq!(ours.remove(NAMES[n]), theirs.remove(NAMES[n])),
                }
                prop_assert_eq!(ours.len(), theirs.len());
                prop_assert!(ours.may_repeat() || theirs.len() == theirs.keys_len());
                for name in NAMES {
                    prop_assert_eq!(ours.get(name), theirs.get(name));
                    prop_assert_eq!(ours.contains_key(name), theirs.contains_key(name));
                    prop_assert!(ours.get_all(name).eq(theirs.get_all(name).iter()));
                    let backwards: Vec<_> = theirs.get_all(name).iter().rev().collect();
                    prop_assert!(ours.get_all(name).rev().eq(backwards));
                }
                prop_assert_eq!(&HeaderMap::from(theirs.clone()), &ours);
            }
        }
    }

    #[test]
    fn several_names_at_once() {
        const ASKED: Names = Names::of(&["connection", "te"]);
        let mut map = HeaderMap::new();
        assert!(!map.may_have(ASKED));
        map.append("host", HeaderValue::from_static("a"));
        assert!(!map.may_have(ASKED), "these do not share a bit");
        map.append("te", HeaderValue::from_static("trailers"));
        assert!(map.may_have(ASKED));
    }

    #[test]
    fn order_is_kept_across_names() {
        let mut map = HeaderMap::new();
        for (name, value) in [("x-b", "1"), ("host", "2"), ("x-b", "3"), ("via", "4")] {
            map.append(name, HeaderValue::from_static(value));
        }
        map.insert("host", HeaderValue::from_static("5"));
        map.remove("via");
        let all: Vec<_> = map.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(all, ["x-b=1", "host=5", "x-b=3"]);
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        let mut map = HeaderMap::new();
        map.insert("x-request-id", HeaderValue::from_static("1"));
        assert!(map.contains_key("X-Request-ID") && map.contains_key(String::from("x-Request-id")));
    }
}
