//! Which stats exist, and how they are tagged.

use weft_proto::pb::envoy::config::metrics::v3 as pb;

use super::ctx::{Ctx, Out};
use super::{matcher, value};
use crate::config::{Pattern, StatTag, StatTagValue, StatsConfig, StatsMatcher};

/// Longest regular expression of a tag.
const MAX_REGEX: usize = 1024;

/// `stats_config`.
pub(super) fn stats_config(c: &Ctx<'_>, s: &pb::StatsConfig) -> Out<StatsConfig> {
    let tags = c.each("stats_tags", &s.stats_tags, |c, t| tag(c, t, value::bool_or(&s.use_all_default_tags, true)));
    let matcher = c.opt("stats_matcher", &s.stats_matcher, stats_matcher);
    let buckets = c.each("histogram_bucket_settings", &s.histogram_bucket_settings, |c, b| {
        let matcher = c.required("match", &b.r#match, matcher::string);
        if b.bins.is_some() {
            return c.field("bins").unsupported("a number of bins");
        }
        let mut edges = c.each("buckets", &b.buckets, |c, edge| {
            c.ensure(edge.is_finite() && *edge > 0.0, || "value must be greater than 0".into())?;
            Ok(*edge)
        })?;
        edges.sort_by(f64::total_cmp);
        let unique = edges.windows(2).all(|w| w.first() != w.last());
        c.field("buckets").ensure(unique, || "repeated value must contain unique items".into())?;
        Ok((matcher?, edges))
    });
    Ok(StatsConfig {
        tags: tags?.into_iter().flatten().collect(),
        use_default_tags: s.use_all_default_tags.as_ref().map(|b| b.value),
        matcher: matcher?.unwrap_or_default(),
        buckets: buckets?,
    })
}

/// A tag; `None`: one that is there anyway or never matches.
fn tag(c: &Ctx<'_>, t: &pb::TagSpecifier, defaults: bool) -> Out<Option<StatTag>> {
    use pb::tag_specifier::TagValue as V;
    let value = match &t.tag_value {
        Some(V::FixedValue(value)) => StatTagValue::Fixed(value.clone()),
        Some(V::Regex(regex)) if !regex.is_empty() => {
            let c = c.field("regex");
            c.ensure(regex.len() <= MAX_REGEX, || format!("value length must be at most {MAX_REGEX} bytes"))?;
            match Pattern::search(regex) {
                Ok(p) if p.regex().captures_len() > 1 => StatTagValue::Regex(p),
                Ok(_) => {
                    c.warn(format!("tag '{}' never has a value: its regex has no capture group", t.tag_name));
                    return Ok(None);
                }
                Err(e) => return c.refuse(matcher::invalid_regex(regex, &e)),
            }
        }
        // The name of one of Envoy's own tags, which are all there unless they are turned off.
        Some(V::Regex(_)) | None if defaults && t.tag_name.starts_with("envoy.") => return Ok(None),
        Some(V::Regex(_)) | None => {
            return c.field("regex").refuse(format!(
                "No regex specified for tag specifier and no default regex for name: '{}'",
                t.tag_name
            ));
        }
    };
    Ok(Some(StatTag { name: t.tag_name.clone(), value }))
}

fn stats_matcher(c: &Ctx<'_>, m: &pb::StatsMatcher) -> Out<StatsMatcher> {
    use pb::stats_matcher::StatsMatcher as M;
    match &m.stats_matcher {
        None => c.refuse("a matcher is required: reject_all, exclusion_list or inclusion_list"),
        Some(M::RejectAll(true)) => Ok(StatsMatcher::None),
        Some(M::RejectAll(false)) => Ok(StatsMatcher::All),
        Some(M::ExclusionList(l)) => {
            c.field("exclusion_list").each("patterns", &l.patterns, matcher::string).map(StatsMatcher::Exclusion)
        }
        Some(M::InclusionList(l)) => {
            c.field("inclusion_list").each("patterns", &l.patterns, matcher::string).map(StatsMatcher::Inclusion)
        }
    }
}
