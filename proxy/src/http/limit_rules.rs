//! Rules of rate limits: the descriptors that a request is counted under. Compiled with its routes; runs on workers.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use serde_json::Value;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use weft_proto::pb::envoy::r#type::v3::RateLimitUnit;
use weft_proto::pb::google::protobuf::UInt64Value;

use super::headers::Format;
use super::route::{Kind, header_matches, query_matches, query_value};
use super::stream::StreamCtx;
use crate::config::{
    Cidr, ConfigError, HitsNumber, LimitAction, LimitMetadata, LimitOverride, LimitRule, MetadataPath, PerMillion,
    RuntimeFraction,
};
use crate::runtime::{Fraction, Runtime};

/// More hits than this are none, as in Envoy.
const MAX_HITS: u64 = 1_000_000_000;

/// Rules, compiled.
#[derive(Default)]
pub struct LimitRules(Vec<Rule>);

struct Rule {
    config: LimitRule,
    /// `disable_key`.
    enabled: Option<Fraction>,
    hits: Option<Format>,
    /// Values with operators, by the place of their action.
    values: Vec<Option<Format>>,
}

impl LimitRules {
    /// # Errors
    /// A format that is none.
    pub fn new(rules: &[LimitRule], runtime: &Runtime) -> Result<Self, ConfigError> {
        rules.iter().enumerate().map(|(i, r)| Rule::new(r, i, runtime)).collect::<Result<_, _>>().map(LimitRules)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the descriptors of a request; `stage`: only of these rules; `cluster`: the one this proxy belongs to.
    pub(super) fn describe(
        &self,
        ctx: &StreamCtx,
        stage: Option<u32>,
        cluster: &str,
        out: &mut Vec<RateLimitDescriptor>,
    ) {
        for rule in self.0.iter().filter(|r| stage.is_none_or(|stage| r.config.stage == stage)) {
            if rule.enabled.as_ref().is_none_or(|f| f.admits(ctx.random)) {
                out.extend(rule.descriptor(ctx, cluster));
            }
        }
    }
}

impl Rule {
    fn new(config: &LimitRule, at: usize, runtime: &Runtime) -> Result<Self, ConfigError> {
        let format = |text: &str, field: &str| {
            Format::new(text).map_err(|e| ConfigError::at(format!("rate_limits[{at}].{field}"), e))
        };
        let key = &config.disable_key;
        let enabled = (!key.is_empty()).then(|| {
            runtime.fraction(&RuntimeFraction {
                default: PerMillion::ALL,
                key: format!("ratelimit.{key}.http_filter_enabled"),
                denominator: 100,
            })
        });
        let hits = match config.hits.as_ref().map(|h| &h.number) {
            Some(HitsNumber::Format(text)) => Some(format(text, "hits_addend.format")?),
            _ => None,
        };
        let value = |action: &LimitAction| match action {
            LimitAction::AddressMatch { value, .. } => {
                format(value, "actions.remote_address_match.descriptor_value").map(Some)
            }
            _ => Ok(None),
        };
        Ok(Rule {
            enabled,
            hits,
            values: config.actions.iter().map(value).collect::<Result<_, _>>()?,
            config: config.clone(),
        })
    }

    fn descriptor(&self, ctx: &StreamCtx, cluster: &str) -> Option<RateLimitDescriptor> {
        let mut descriptor = RateLimitDescriptor::default();
        for (action, format) in self.config.actions.iter().zip(&self.values) {
            descriptor.entries.extend(entry(action, format.as_ref(), ctx, cluster)?);
        }
        descriptor.limit = self.config.limit.as_ref().and_then(|limit| over(limit, ctx));
        if let Some(hits) = &self.config.hits {
            let number = match (&hits.number, &self.hits) {
                (HitsNumber::Fixed(n), _) => *n,
                // What is no number takes the whole descriptor with it.
                (HitsNumber::Format(_), Some(f)) => f.text(ctx).parse::<u64>().ok().filter(|n| *n <= MAX_HITS)?,
                (HitsNumber::Format(_), None) => return None,
            };
            descriptor.hits_addend = Some(UInt64Value { value: number });
            descriptor.is_negative_hits = hits.negative;
        }
        Some(descriptor)
    }
}

/// An action's entry: `None` where there is nothing to count under, `Some(None)` where it has none to add.
fn entry(action: &LimitAction, format: Option<&Format>, ctx: &StreamCtx, cluster: &str) -> Option<Option<Entry>> {
    let made = |key: &str, value: String| Some(Some(Entry { key: key.to_owned(), value }));
    let or_skip = |key: &str, value: Option<String>, skip: bool| match value {
        Some(value) => made(key, value),
        None => skip.then_some(None),
    };
    match action {
        LimitAction::SourceCluster => made("source_cluster", cluster.to_owned()),
        LimitAction::DestinationCluster => made("destination_cluster", destination(ctx)?.to_owned()),
        LimitAction::Generic(key, value) => made(key, value.clone()),
        LimitAction::RequestHeader { name, key, skip } => {
            or_skip(key, ctx.request.get(name).map(|v| String::from_utf8_lossy(v).into_owned()), *skip)
        }
        LimitAction::QueryParameter { name, key, skip } => {
            let value = ctx.request.query().and_then(|query| query_value(query, name));
            let text = value.map(|v| percent_decode_str(v).decode_utf8_lossy().into_owned());
            or_skip(key, text.filter(|text| !text.is_empty()), *skip)
        }
        LimitAction::RemoteAddress => made("remote_address", ctx.info.remote.ip()?.to_string()),
        LimitAction::MaskedRemoteAddress(v4, v6) => {
            let ip = ctx.info.remote.ip()?;
            let bits = if ip.is_ipv4() { *v4 } else { *v6 };
            let range = Cidr::new(ip, bits)?;
            made("masked_remote_address", format!("{}/{}", range.address, range.prefix))
        }
        LimitAction::HeaderMatch { key, value, headers, expect } => {
            let matches = headers.iter().all(|h| header_matches(h, ctx));
            (matches == *expect).then(|| Some(Entry { key: key.clone(), value: value.clone() }))
        }
        LimitAction::QueryMatch { key, value, params, expect } => {
            let matches = params.iter().all(|p| query_matches(p, ctx));
            (matches == *expect).then(|| Some(Entry { key: key.clone(), value: value.clone() }))
        }
        LimitAction::AddressMatch { key, default, ranges, invert, .. } => {
            let ip: IpAddr = ctx.info.remote.ip()?;
            if ranges.iter().any(|r| r.contains(ip)) == *invert {
                return None;
            }
            let value = format?.text(ctx);
            let value = if value.is_empty() { default.clone() } else { value };
            if value.is_empty() { None } else { made(key, value) }
        }
        LimitAction::Metadata { key, source, path, default, skip } => {
            let found = match source {
                LimitMetadata::Dynamic => find(path, ctx.info.dynamic_metadata(&path.namespace)),
                LimitMetadata::Route => {
                    find(path, ctx.route.as_ref().and_then(|m| m.entry.metadata.get(&path.namespace)))
                }
            };
            let text = found.and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(default);
            or_skip(key, Some(text.to_owned()).filter(|text| !text.is_empty()), *skip)
        }
    }
}

fn destination(ctx: &StreamCtx) -> Option<&str> {
    let route = ctx.route.as_ref()?;
    let Kind::Forward(forward) = &route.entry.kind else { return None };
    forward.target(route.choice)?.name(ctx)
}

fn find<'a>(path: &MetadataPath, of: Option<&'a Value>) -> Option<&'a Value> {
    path.keys.iter().try_fold(of?, |value, key| value.get(key))
}

/// The limit that a rule asks for, if it can be told.
fn over(limit: &LimitOverride, ctx: &StreamCtx) -> Option<RateLimitOverride> {
    match limit {
        LimitOverride::Fixed(requests, unit) => Some(RateLimitOverride { requests_per_unit: *requests, unit: *unit }),
        LimitOverride::Dynamic(path) => {
            let found = find(path, ctx.info.dynamic_metadata(&path.namespace))?;
            let unit = RateLimitUnit::from_str_name(found.get("unit")?.as_str()?)?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as is meant")]
            let requests = found.get("requests_per_unit")?.as_f64()? as u32;
            Some(RateLimitOverride { requests_per_unit: requests, unit: unit as i32 })
        }
    }
}
