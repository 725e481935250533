//! String, header, query, cookie and metadata matchers.

use weft_proto::pb::envoy::config::route::v3 as route;
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;

use super::ctx::{Ctx, Out};
use crate::config::{
    CookieMatcher, HeaderMatcher, HeaderValueMatcher, MetadataMatcher, Pattern, QueryMatcher, StringMatcher,
    StringPattern, ValueMatcher,
};

/// A regular expression that must match a whole text.
pub(super) fn regex(c: &Ctx<'_>, r: &matcher::RegexMatcher) -> Out<Pattern> {
    compile(c, r, Pattern::full)
}

/// A regular expression with its substitution, which matches anywhere.
pub(super) fn substitute(c: &Ctx<'_>, r: &matcher::RegexMatchAndSubstitute) -> Out<(Pattern, String)> {
    let pattern = c.required("pattern", &r.pattern, |c, p| compile(c, p, Pattern::search))?;
    check_substitution(&c.field("substitution"), &r.substitution, pattern.regex().captures_len() - 1)?;
    Ok((pattern, r.substitution.clone()))
}

fn compile(c: &Ctx<'_>, r: &matcher::RegexMatcher, with: fn(&str) -> Result<Pattern, String>) -> Out<Pattern> {
    let source = c.non_empty("regex", &r.regex)?;
    match with(&source) {
        Ok(pattern) => Ok(pattern),
        Err(e) => c.field("regex").refuse(invalid_regex(&source, &e)),
    }
}

/// The library's message spans several lines and draws a pointer: the last one says what is wrong.
pub(super) fn invalid_regex(source: &str, message: &str) -> String {
    let last = message.lines().last().unwrap_or(message).trim().trim_start_matches("error: ");
    format!("Invalid regex '{source}': {last}")
}

/// RE2's rule: `\0` to `\9` are groups that must exist, `\\` is a backslash, nothing else is escaped.
fn check_substitution(c: &Ctx<'_>, text: &str, groups: usize) -> Out<()> {
    let mut rest = text.chars();
    while let Some(ch) = rest.next() {
        if ch != '\\' {
            continue;
        }
        match rest.next() {
            Some('\\') => {}
            Some(d @ '0'..='9') => {
                let group = d as usize - '0' as usize;
                c.ensure(group <= groups, || {
                    format!("invalid substitution string: requests group {group}, but the regexp has only {groups} parenthesized subexpressions")
                })?;
            }
            _ => return c.refuse("invalid substitution string: '\\' must be followed by a digit or '\\'"),
        }
    }
    Ok(())
}

/// A string matcher.
pub(super) fn string(c: &Ctx<'_>, m: &matcher::StringMatcher) -> Out<StringMatcher> {
    use matcher::string_matcher::MatchPattern as M;
    let pattern = match &m.match_pattern {
        None => return c.refuse("a match pattern is required: exact, prefix, suffix, contains or safe_regex"),
        Some(M::Exact(s)) => StringPattern::Exact(s.clone()),
        Some(M::Prefix(s)) => StringPattern::Prefix(c.non_empty("prefix", s)?),
        Some(M::Suffix(s)) => StringPattern::Suffix(c.non_empty("suffix", s)?),
        Some(M::Contains(s)) => StringPattern::Contains(c.non_empty("contains", s)?),
        Some(M::SafeRegex(r)) => StringPattern::Regex(regex(&c.field("safe_regex"), r)?),
        Some(M::Custom(_)) => return c.field("custom").unsupported("a string matcher extension"),
    };
    let is_regex = matches!(pattern, StringPattern::Regex(_));
    if m.ignore_case && is_regex {
        return c.field("ignore_case").refuse("ignore_case has no effect for safe_regex.");
    }
    Ok(StringMatcher { pattern, ignore_case: m.ignore_case })
}

/// A header matcher, by its present and by its deprecated spellings.
pub(super) fn header(c: &Ctx<'_>, m: &route::HeaderMatcher) -> Out<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as M;
    let plain = |pattern| HeaderValueMatcher::String(StringMatcher { pattern, ignore_case: false });
    let name = super::headers::name(c, "name", &m.name)?;
    let value = match &m.header_match_specifier {
        None => HeaderValueMatcher::Present(true),
        Some(M::PresentMatch(present)) => HeaderValueMatcher::Present(*present),
        Some(M::StringMatch(s)) => HeaderValueMatcher::String(string(&c.field("string_match"), s)?),
        Some(M::ExactMatch(s)) => plain(StringPattern::Exact(s.clone())),
        Some(M::PrefixMatch(s)) => plain(StringPattern::Prefix(c.non_empty("prefix_match", s)?)),
        Some(M::SuffixMatch(s)) => plain(StringPattern::Suffix(c.non_empty("suffix_match", s)?)),
        Some(M::ContainsMatch(s)) => plain(StringPattern::Contains(c.non_empty("contains_match", s)?)),
        Some(M::SafeRegexMatch(r)) => plain(StringPattern::Regex(regex(&c.field("safe_regex_match"), r)?)),
        Some(M::RangeMatch(r)) => HeaderValueMatcher::Range { start: r.start, end: r.end },
    };
    Ok(HeaderMatcher { name, value, invert: m.invert_match, treat_missing_as_empty: m.treat_missing_header_as_empty })
}

/// A query parameter matcher.
pub(super) fn query(c: &Ctx<'_>, m: &route::QueryParameterMatcher) -> Out<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as M;
    let name = c.non_empty("name", &m.name)?;
    c.field("name").ensure(name.len() <= 1024, || "value length must be at most 1024 bytes".into())?;
    let (value, absent) = match &m.query_parameter_match_specifier {
        None => (None, false),
        Some(M::PresentMatch(present)) => (None, !present),
        Some(M::StringMatch(s)) => (Some(string(&c.field("string_match"), s)?), false),
    };
    Ok(QueryMatcher { name, value, absent })
}

/// A cookie matcher.
pub(super) fn cookie(c: &Ctx<'_>, m: &route::CookieMatcher) -> Out<CookieMatcher> {
    Ok(CookieMatcher {
        name: c.non_empty("name", &m.name)?,
        value: c.required("string_match", &m.string_match, string)?,
        invert: m.invert_match,
    })
}

/// A metadata matcher.
pub(super) fn metadata(c: &Ctx<'_>, m: &matcher::MetadataMatcher) -> Out<MetadataMatcher> {
    use matcher::metadata_matcher::path_segment::Segment;
    let filter = c.non_empty("filter", &m.filter)?;
    c.field("path").ensure(!m.path.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let path = c.each("path", &m.path, |c, s| match &s.segment {
        Some(Segment::Key(key)) => c.non_empty("key", key),
        None => c.field("key").refuse("value is required"),
    })?;
    Ok(MetadataMatcher { filter, path, value: c.required("value", &m.value, value)?, invert: m.invert })
}

/// A value matcher.
pub(super) fn value(c: &Ctx<'_>, m: &matcher::ValueMatcher) -> Out<ValueMatcher> {
    use matcher::double_matcher::MatchPattern as D;
    use matcher::list_matcher::MatchPattern as L;
    use matcher::value_matcher::MatchPattern as M;
    Ok(match &m.match_pattern {
        None => return c.refuse("a match pattern is required"),
        Some(M::NullMatch(_)) => ValueMatcher::Null,
        Some(M::BoolMatch(b)) => ValueMatcher::Bool(*b),
        Some(M::PresentMatch(b)) => ValueMatcher::Present(*b),
        Some(M::StringMatch(s)) => ValueMatcher::String(string(&c.field("string_match"), s)?),
        Some(M::DoubleMatch(d)) => match &d.match_pattern {
            Some(D::Exact(n)) => ValueMatcher::Double(*n, *n),
            Some(D::Range(r)) => ValueMatcher::Double(r.start, r.end),
            None => return c.field("double_match").refuse("a match pattern is required: range or exact"),
        },
        Some(M::ListMatch(l)) => match &l.match_pattern {
            Some(L::OneOf(one)) => {
                ValueMatcher::ListAnyOf(Box::new(value(&c.field("list_match").field("one_of"), one)?))
            }
            None => return c.field("list_match").refuse("a match pattern is required: one_of"),
        },
        Some(M::OrMatch(or)) => {
            let c = c.field("or_match");
            c.field("value_matchers")
                .ensure(or.value_matchers.len() >= 2, || "value must contain at least 2 item(s)".into())?;
            ValueMatcher::Or(c.each("value_matchers", &or.value_matchers, value)?)
        }
    })
}
