//! Matchers of nodes, as the client status discovery service has them.

use regex::Regex;
use serde_json::{Map, Value as Json};

use crate::pb::envoy::r#type::matcher::v3::{
    DoubleMatcher, NodeMatcher, StringMatcher, StructMatcher, ValueMatcher, double_matcher, list_matcher,
    string_matcher, struct_matcher, value_matcher,
};

/// How deeply matchers of values may be nested.
const MAX_DEPTH: usize = 16;

/// Takes a node if one of them does; none take all. **Source**: `envoy.type.matcher.v3.NodeMatcher`.
pub struct NodeMatchers(Vec<OfNode>);

/// Takes a node if all of it holds.
struct OfNode {
    id: Option<Text>,
    metadata: Vec<(Vec<String>, OfValue)>,
}

/// A matcher of a text.
enum Text {
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Regex(Regex),
}

/// A matcher of a value; what is not there is no value.
enum OfValue {
    Null,
    Number(f64),
    Range(f64, f64),
    Text(Text),
    Bool(bool),
    Present(bool),
    OneOfList(Box<Self>),
    Any(Vec<Self>),
}

impl NodeMatchers {
    /// Reads them.
    ///
    /// # Errors
    /// A matcher that says nothing, or that is not known, by its path.
    pub fn new(matchers: &[NodeMatcher]) -> Result<Self, String> {
        let numbered = matchers.iter().enumerate();
        let read = numbered.map(|(index, of)| OfNode::new(of).map_err(|why| format!("node_matchers[{index}].{why}")));
        read.collect::<Result<_, _>>().map(Self)
    }

    /// Whether they take a node.
    pub fn take(&self, id: &str, metadata: &Map<String, Json>) -> bool {
        self.0.is_empty() || self.0.iter().any(|of| of.takes(id, metadata))
    }
}

impl OfNode {
    fn new(of: &NodeMatcher) -> Result<Self, String> {
        let id = of.node_id.as_ref().map(Text::new).transpose().map_err(|why| format!("node_id: {why}"))?;
        let metadata = of.node_metadatas.iter().enumerate().map(|(index, of)| {
            let value = of.value.as_ref().ok_or("value: missing".to_owned()).and_then(|of| OfValue::new(of, 0));
            let value = path(of).and_then(|path| Ok((path, value?)));
            value.map_err(|why| format!("node_metadatas[{index}].{why}"))
        });
        Ok(Self { id, metadata: metadata.collect::<Result<_, _>>()? })
    }

    fn takes(&self, id: &str, metadata: &Map<String, Json>) -> bool {
        self.id.as_ref().is_none_or(|wanted| wanted.takes(id))
            && self.metadata.iter().all(|(path, value)| value.takes(at(metadata, path)))
    }
}

fn path(of: &StructMatcher) -> Result<Vec<String>, String> {
    let key = |segment: &struct_matcher::PathSegment| match &segment.segment {
        Some(struct_matcher::path_segment::Segment::Key(key)) => Ok(key.clone()),
        None => Err("path: a segment without a key".to_owned()),
    };
    match of.path.as_slice() {
        [] => Err("path: missing".to_owned()),
        path => path.iter().map(key).collect(),
    }
}

fn at<'m>(metadata: &'m Map<String, Json>, path: &[String]) -> Option<&'m Json> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(metadata.get(first)?, |value, key| value.as_object()?.get(key))
}

impl Text {
    fn new(of: &StringMatcher) -> Result<Self, String> {
        use string_matcher::MatchPattern as Pattern;
        let folded = |text: &str| if of.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        Ok(match &of.match_pattern {
            Some(Pattern::Exact(text)) => Self::Exact(folded(text), of.ignore_case),
            Some(Pattern::Prefix(text)) => Self::Prefix(folded(text), of.ignore_case),
            Some(Pattern::Suffix(text)) => Self::Suffix(folded(text), of.ignore_case),
            Some(Pattern::Contains(text)) => Self::Contains(folded(text), of.ignore_case),
            Some(Pattern::SafeRegex(regex)) => {
                // All of a text must match.
                let whole = Regex::new(&format!("^(?:{})$", regex.regex));
                Self::Regex(whole.map_err(|error| format!("safe_regex: {error}"))?)
            }
            Some(Pattern::Custom(_)) => return Err("custom: not supported".to_owned()),
            None => return Err("match_pattern: missing".to_owned()),
        })
    }

    fn takes(&self, text: &str) -> bool {
        let by = |ignore_case: &bool, holds: &dyn Fn(&str) -> bool| {
            if *ignore_case { holds(&text.to_ascii_lowercase()) } else { holds(text) }
        };
        match self {
            Self::Exact(wanted, fold) => by(fold, &|text| text == wanted),
            Self::Prefix(wanted, fold) => by(fold, &|text| text.starts_with(wanted.as_str())),
            Self::Suffix(wanted, fold) => by(fold, &|text| text.ends_with(wanted.as_str())),
            Self::Contains(wanted, fold) => by(fold, &|text| text.contains(wanted.as_str())),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl OfValue {
    fn new(of: &ValueMatcher, depth: usize) -> Result<Self, String> {
        use value_matcher::MatchPattern as Pattern;
        if depth > MAX_DEPTH {
            return Err(format!("value: nested more than {MAX_DEPTH} deep"));
        }
        Ok(match &of.match_pattern {
            Some(Pattern::NullMatch(_)) => Self::Null,
            Some(Pattern::DoubleMatch(of)) => Self::number(of)?,
            Some(Pattern::StringMatch(of)) => Self::Text(Text::new(of).map_err(|why| format!("value.{why}"))?),
            Some(Pattern::BoolMatch(value)) => Self::Bool(*value),
            Some(Pattern::PresentMatch(value)) => Self::Present(*value),
            Some(Pattern::ListMatch(of)) => match &of.match_pattern {
                Some(list_matcher::MatchPattern::OneOf(of)) => Self::OneOfList(Box::new(Self::new(of, depth + 1)?)),
                None => return Err("value.list_match: missing".to_owned()),
            },
            Some(Pattern::OrMatch(of)) => {
                Self::Any(of.value_matchers.iter().map(|of| Self::new(of, depth + 1)).collect::<Result<_, _>>()?)
            }
            None => return Err("value.match_pattern: missing".to_owned()),
        })
    }

    fn number(of: &DoubleMatcher) -> Result<Self, String> {
        match &of.match_pattern {
            Some(double_matcher::MatchPattern::Exact(value)) => Ok(Self::Number(*value)),
            Some(double_matcher::MatchPattern::Range(range)) => Ok(Self::Range(range.start, range.end)),
            None => Err("value.double_match: missing".to_owned()),
        }
    }

    fn takes(&self, value: Option<&Json>) -> bool {
        match self {
            Self::Null => value.is_some_and(Json::is_null),
            #[expect(clippy::float_cmp, reason = "exactly this is asked for")]
            Self::Number(wanted) => value.and_then(Json::as_f64).is_some_and(|number| number == *wanted),
            // The end is not in it.
            Self::Range(from, to) => value.and_then(Json::as_f64).is_some_and(|number| (*from..*to).contains(&number)),
            Self::Text(of) => value.and_then(Json::as_str).is_some_and(|text| of.takes(text)),
            Self::Bool(wanted) => value.and_then(Json::as_bool) == Some(*wanted),
            Self::Present(wanted) => value.is_some() == *wanted,
            Self::OneOfList(of) => {
                value.and_then(Json::as_array).is_some_and(|items| items.iter().any(|item| of.takes(Some(item))))
            }
            Self::Any(several) => several.iter().any(|of| of.takes(value)),
        }
    }
}
