//! Where in its documents each field of a message was written.
//!
//! Owns the map from field paths to lines, also of a message that was merged from several documents.
//! Must not know: values, or how documents are read. It lives as long as a configuration is being checked, no longer.

use std::sync::Arc;

use crate::problem::{Position, Problem};

/// The fields of a message and their places.
#[derive(Debug, Clone, Default)]
pub struct SpanTree {
    sources: Vec<Arc<str>>,
    root: Span,
}

/// A place: the document and the position in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The document.
    pub source: Arc<str>,
    /// Where in it; line 0 where only the document is known.
    pub at: Position,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Span {
    pub(crate) at: Position,
    /// Index into the sources.
    pub(crate) source: u16,
    /// Set for what merging replaces as a whole: the content of an `Any`.
    pub(crate) whole: bool,
    /// Where a segment occurs more than once, the last one counts.
    children: Vec<(Segment, Span)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Field(&'static str),
    Index(usize),
    Key(Box<str>),
}

impl SpanTree {
    pub(crate) fn new(source: Arc<str>, root: Span) -> Self {
        Self { sources: vec![source], root }
    }

    /// The place of a field, or of the nearest field around it that was written.
    pub fn location(&self, path: &str) -> Option<Location> {
        let mut span = &self.root;
        let mut rest = path;
        while let Some((child, after)) = span.children.iter().rev().find_map(|(s, child)| Some((child, s.strip(rest)?)))
        {
            (span, rest) = (child, after);
        }
        let source = self.sources.get(usize::from(span.source))?;
        Some(Location { source: Arc::clone(source), at: span.at })
    }

    /// Line and column of a field, or of the nearest field around it that was written. Both count from 1.
    pub fn locate(&self, path: &str) -> Option<(u32, u32)> {
        self.location(path).filter(|found| found.at.line > 0).map(|found| (found.at.line, found.at.column))
    }

    /// Fills in where a problem is, if that is not known yet.
    pub fn place(&self, problem: &mut Problem) {
        if problem.at.line == 0
            && let Some(found) = self.location(&problem.path)
        {
            problem.source = Some(found.source);
            problem.at = found.at;
        }
    }

    /// Adds the places of a message that is merged over this one: lists grow, the rest is overlaid.
    pub fn merge(&mut self, mut over: Self) {
        let shift = u16::try_from(self.sources.len()).unwrap_or(u16::MAX);
        over.root.shift(shift);
        self.sources.append(&mut over.sources);
        self.root.merge(over.root);
    }
}

impl Segment {
    /// What follows this segment in a path that starts with it.
    fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = match self {
            Self::Field(name) => path.strip_prefix('.').unwrap_or(path).strip_prefix(name)?,
            Self::Index(index) => path.strip_prefix(&format!("[{index}]"))?,
            Self::Key(key) => path.strip_prefix(&format!("[{key:?}]"))?,
        };
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
    }
}

impl Span {
    pub(crate) fn new(at: Position) -> Self {
        Self { at, ..Self::default() }
    }

    /// A new child. One that was there for the same segment is no longer found.
    pub(crate) fn child(&mut self, segment: Segment, at: Position) -> &mut Self {
        self.children.push((segment, Self::new(at)));
        let last = self.children.len() - 1;
        &mut self.children[last].1
    }

    fn shift(&mut self, by: u16) {
        self.source = self.source.saturating_add(by);
        self.children.iter_mut().for_each(|(_, child)| child.shift(by));
    }

    fn merge(&mut self, over: Self) {
        if over.whole || self.whole {
            *self = over;
            return;
        }
        let items = self.children.iter().filter(|(segment, _)| matches!(segment, Segment::Index(_))).count();
        for (segment, child) in over.children {
            if let Segment::Index(index) = segment {
                self.children.push((Segment::Index(index + items), child));
                continue;
            }
            let mine = self.children.iter_mut().rev().find(|(other, _)| *other == segment);
            match mine.filter(|(segment, _)| matches!(segment, Segment::Field(_))) {
                Some((_, mine)) => mine.merge(child),
                // New, or the value of a key, which is replaced and not merged.
                None => self.children.push((segment, child)),
            }
        }
        if self.children.is_empty() {
            (self.at, self.source) = (over.at, over.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32) -> Position {
        Position { line, column: 1 }
    }

    fn tree(source: &str, lines: [u32; 4]) -> SpanTree {
        let mut root = Span::new(at(1));
        let list = root.child(Segment::Field("list"), at(lines[0]));
        list.child(Segment::Index(0), at(lines[1])).child(Segment::Field("name"), at(lines[2]));
        root.child(Segment::Field("map"), at(2)).child(Segment::Key("a.b\"".into()), at(lines[3]));
        SpanTree::new(source.into(), root)
    }

    #[test]
    fn the_nearest_written_field_is_found() {
        let tree = tree("a", [3, 4, 5, 6]);
        assert_eq!(tree.locate("list[0].name"), Some((5, 1)));
        assert_eq!(tree.locate("list[0].name.deeper[3]"), Some((5, 1)));
        assert_eq!(tree.locate("list[0].names"), Some((4, 1)));
        assert_eq!(tree.locate("list[1]"), Some((3, 1)));
        assert_eq!(tree.locate(r#"map["a.b\""].x"#), Some((6, 1)));
        assert_eq!(tree.locate("other"), Some((1, 1)));
    }

    #[test]
    fn merged_lists_grow_and_keys_are_replaced() {
        let mut merged = tree("a", [3, 4, 5, 6]);
        merged.merge(tree("b", [13, 14, 15, 16]));
        let found = |path: &str| merged.location(path).map(|l| (l.source.to_string(), l.at.line)).unwrap();
        assert_eq!(found("list[0].name"), ("a".into(), 5));
        assert_eq!(found("list[1].name"), ("b".into(), 15));
        assert_eq!(found(r#"map["a.b\""]"#), ("b".into(), 16));
    }
}
