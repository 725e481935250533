//! Where a conversion is in the configuration, and what it found wrong there.
//!
//! A [`Ctx`] is a linked list of path segments on the stack: going down costs no allocation, and the text of a path is made only
//! when something is refused. Problems are collected beside it, so that one run names all of them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use prost::{Message, Name};
use weft_proto::any;
use weft_proto::pb::google::protobuf::Any;
use weft_proto::schema::type_url_name;

use super::Environment;
use crate::config::ConfigError;

/// Proof that a problem was recorded. Only [`Ctx::refuse`] makes one.
#[derive(Debug)]
pub(super) struct Refused(());

/// A converted value, or nothing and a recorded problem.
pub(super) type Out<T> = Result<T, Refused>;

/// What all places of one conversion share.
pub(super) struct Shared<'e> {
    pub(super) env: &'e Environment,
    found: RefCell<Findings>,
}

/// What a conversion found.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<ConfigError>,
    /// Places that were left out on purpose.
    pub(super) skipped: Vec<String>,
}

impl<'e> Shared<'e> {
    pub(super) fn new(env: &'e Environment) -> Self {
        Shared { env, found: RefCell::default() }
    }

    /// What was found.
    pub(super) fn into_findings(self) -> Findings {
        self.found.into_inner()
    }
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Root,
    Field(&'static str),
    Index(&'static str, usize),
    Key(&'static str, &'a str),
}

/// A place in the configuration.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    parent: Option<&'a Ctx<'a>>,
    segment: Segment<'a>,
    shared: &'a Shared<'a>,
    check_clusters: bool,
}

impl<'a> Ctx<'a> {
    pub(super) fn root(shared: &'a Shared<'a>) -> Self {
        Ctx { parent: None, segment: Segment::Root, shared, check_clusters: false }
    }

    /// A field of the message here.
    pub(super) fn field<'b>(&'b self, name: &'static str) -> Ctx<'b> {
        Ctx { parent: Some(self), segment: Segment::Field(name), ..*self }
    }

    /// An element of a repeated field of the message here.
    pub(super) fn index<'b>(&'b self, name: &'static str, index: usize) -> Ctx<'b> {
        Ctx { parent: Some(self), segment: Segment::Index(name, index), ..*self }
    }

    /// An entry of a map field of the message here.
    pub(super) fn key<'b>(&'b self, name: &'static str, key: &'b str) -> Ctx<'b> {
        Ctx { parent: Some(self), segment: Segment::Key(name, key), ..*self }
    }

    /// The same place, from which on routes must name clusters that exist (or need not).
    pub(super) fn checking_clusters(self, check: bool) -> Self {
        Ctx { check_clusters: check, ..self }
    }

    /// Refuses a cluster that does not exist, if that matters here and is known.
    pub(super) fn known_cluster(&self, kind: &str, name: &str) -> Out<()> {
        let known = self.env().clusters.as_ref().is_none_or(|known| known.contains(name));
        self.ensure(known || !self.check_clusters, || format!("route: unknown {kind} '{name}'"))
    }

    /// What the conversion knows of its surroundings.
    pub(super) fn env(&self) -> &'a Environment {
        self.shared.env
    }

    /// Records that what is here is refused.
    pub(super) fn refuse<T>(&self, reason: impl Into<String>) -> Out<T> {
        self.shared.found.borrow_mut().errors.push(ConfigError::at(self.to_string(), reason));
        Err(Refused(()))
    }

    /// Records something here that is accepted, but likely not what was meant.
    pub(super) fn warn(&self, reason: impl Into<String>) {
        self.shared.found.borrow_mut().warnings.push(ConfigError::at(self.to_string(), reason));
    }

    /// Records that what is here is left out, as it may be.
    pub(super) fn skip(&self, reason: impl Into<String>) {
        self.warn(reason);
        self.shared.found.borrow_mut().skipped.push(self.to_string());
    }

    /// Refuses what is here unless `ok`.
    pub(super) fn ensure(&self, ok: bool, reason: impl FnOnce() -> String) -> Out<()> {
        if ok { Ok(()) } else { self.refuse(reason()) }
    }

    /// Converts each element of a repeated field, all of them even if some are refused.
    pub(super) fn each<P, T>(
        &self,
        name: &'static str,
        items: &[P],
        convert: impl Fn(&Ctx<'_>, &P) -> Out<T>,
    ) -> Out<Vec<T>> {
        let mut all = Ok(Vec::with_capacity(items.len()));
        for (i, item) in items.iter().enumerate() {
            match (convert(&self.index(name, i), item), &mut all) {
                (Ok(value), Ok(values)) => values.push(value),
                (Ok(_), Err(_)) => {}
                (Err(refused), _) => all = Err(refused),
            }
        }
        all
    }

    /// Converts each entry of a map field in the order of its keys.
    pub(super) fn each_key<P, T>(
        &self,
        name: &'static str,
        items: &HashMap<String, P>,
        convert: impl Fn(&Ctx<'_>, &str, &P) -> Out<T>,
    ) -> Out<Vec<(String, T)>> {
        let mut keys: Vec<_> = items.iter().collect();
        keys.sort_by(|a, b| a.0.cmp(b.0));
        let mut all = Ok(Vec::with_capacity(keys.len()));
        for (key, item) in keys {
            match (convert(&self.key(name, key), key, item), &mut all) {
                (Ok(value), Ok(values)) => values.push((key.clone(), value)),
                (Ok(_), Err(_)) => {}
                (Err(refused), _) => all = Err(refused),
            }
        }
        all
    }

    /// Converts an optional message.
    pub(super) fn opt<P, T>(
        &self,
        name: &'static str,
        item: &Option<P>,
        convert: impl FnOnce(&Ctx<'_>, &P) -> Out<T>,
    ) -> Out<Option<T>> {
        item.as_ref().map(|p| convert(&self.field(name), p)).transpose()
    }

    /// Converts a message that must be there.
    pub(super) fn required<P, T>(
        &self,
        name: &'static str,
        item: &Option<P>,
        convert: impl FnOnce(&Ctx<'_>, &P) -> Out<T>,
    ) -> Out<T> {
        let here = self.field(name);
        match item {
            Some(p) => convert(&here, p),
            None => here.refuse("value is required"),
        }
    }

    /// A string that must not be empty.
    pub(super) fn non_empty(&self, name: &'static str, text: &str) -> Out<String> {
        if text.is_empty() {
            return self.field(name).refuse("value length must be at least 1 characters");
        }
        Ok(text.to_owned())
    }

    /// A feature that exists in Envoy and not here.
    pub(super) fn unsupported<T>(&self, what: &str) -> Out<T> {
        self.refuse(format!("{what} is not supported"))
    }

    /// Takes an `M` out of an `Any`, which may also hold a `TypedStruct` that stands for one.
    pub(super) fn unpack<M: Message + Name + Default>(&self, any: &Any) -> Out<M> {
        any::unpack(any).or_else(|e| self.refuse(e.to_string()))
    }

    /// Refuses an extension nobody here implements, in Envoy's words.
    pub(super) fn unknown_extension<T>(&self, name: &str, any: Option<&Any>) -> Out<T> {
        let found = any.map(type_name).unwrap_or_default();
        self.refuse(format!("Didn't find a registered implementation for '{name}' with type URL: '{found}'"))
    }
}

/// The full name of the message in an `Any`, or of the one that a `TypedStruct` in it stands for.
pub(super) fn type_name(any: &Any) -> Cow<'_, str> {
    let name = type_url_name(&any.type_url);
    if name.ends_with(".TypedStruct") { any::type_name(any).into() } else { name.into() }
}

impl fmt::Display for Ctx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !matches!(parent.segment, Segment::Root) {
                f.write_str(".")?;
            }
        }
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) => f.write_str(name),
            Segment::Index(name, i) => write!(f, "{name}[{i}]"),
            Segment::Key(name, key) => write!(f, "{name}[{key:?}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_the_document() {
        let env = Environment::default();
        let shared = Shared::new(&env);
        let root = Ctx::root(&shared);
        assert_eq!(root.to_string(), "");
        let a = root.field("static_resources");
        let b = a.index("listeners", 3);
        let c = b.key("typed_per_filter_config", "envoy.filters.http.cors");
        assert_eq!(
            c.to_string(),
            r#"static_resources.listeners[3].typed_per_filter_config["envoy.filters.http.cors"]"#
        );
    }

    #[test]
    fn all_problems_are_collected() {
        let env = Environment::default();
        let shared = Shared::new(&env);
        let out = Ctx::root(&shared).each("x", &[1, 2, 3], |c, n| if n % 2 == 1 { c.refuse("odd") } else { Ok(*n) });
        assert!(out.is_err());
        let paths: Vec<_> = shared.into_findings().errors.into_iter().map(|e| e.field_path).collect();
        assert_eq!(paths, ["x[0]", "x[2]"]);
    }
}
