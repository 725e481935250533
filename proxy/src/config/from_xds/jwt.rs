//! `envoy.filters.http.jwt_authn`. Whatever is not understood is refused: left out, it would let more in.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use super::ctx::{Ctx, Out};
use super::{headers, matcher, route_match, value};
use crate::config::{DataSource, JwtAuthn, JwtPerRoute, JwtPlace, JwtProvider, JwtRequirement, JwtRule};
use crate::jwt::Keys;

/// Envoy's default for clocks that differ.
const CLOCK_SKEW: u32 = 60;

/// The filter.
pub(super) fn filter(c: &Ctx<'_>, f: &pb::JwtAuthentication) -> Out<JwtAuthn> {
    if f.filter_state_rules.is_some() {
        return c.field("filter_state_rules").unsupported("a requirement by filter state");
    }
    let providers: Vec<_> =
        c.each_key("providers", &f.providers, provider)?.into_iter().map(|(_, provider)| provider).collect();
    let named = c.each_key("requirement_map", &f.requirement_map, |c, _, r| requirement(c, r, &providers))?;
    let named: BTreeMap<_, _> = named.into_iter().collect();
    let rules = c.each("rules", &f.rules, |c, r| rule(c, r, &providers, &named));
    Ok(JwtAuthn {
        rules: rules?,
        providers,
        named,
        bypass_cors_preflight: f.bypass_cors_preflight,
        strip_failure_response: f.strip_failure_response,
        stat_prefix: f.stat_prefix.clone(),
    })
}

/// The filter for some routes.
pub(super) fn per_route(c: &Ctx<'_>, f: &pb::PerRouteConfig) -> Out<JwtPerRoute> {
    use pb::per_route_config::RequirementSpecifier as R;
    match &f.requirement_specifier {
        None => c.refuse("a requirement is required: disabled or requirement_name"),
        Some(R::Disabled(true)) => Ok(JwtPerRoute::Disabled),
        Some(R::Disabled(false)) => c.field("disabled").refuse("value must equal true"),
        Some(R::RequirementName(name)) => Ok(JwtPerRoute::Named(c.non_empty("requirement_name", name)?)),
    }
}

fn provider(c: &Ctx<'_>, name: &str, p: &pb::JwtProvider) -> Out<JwtProvider> {
    let keys = match &p.jwks_source_specifier {
        None => return c.refuse("keys are required: remote_jwks or local_jwks"),
        Some(pb::jwt_provider::JwksSourceSpecifier::RemoteJwks(_)) => {
            return c.field("remote_jwks").unsupported("a key set that is fetched");
        }
        Some(pb::jwt_provider::JwksSourceSpecifier::LocalJwks(source)) => keys(&c.field("local_jwks"), source)?,
    };
    if !p.failed_status_in_metadata.is_empty() {
        return c.field("failed_status_in_metadata").unsupported("this setting of a provider");
    }
    let subjects = c.opt("subjects", &p.subjects, matcher::string);
    let claims = c.each("claim_to_headers", &p.claim_to_headers, claim);
    let header = |field, text: &str| match text {
        "" => Ok(None),
        text => headers::name(c, field, text).map(Some),
    };
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(JwtProvider {
        name: name.to_owned(),
        issuer: p.issuer.clone(),
        audiences: p.audiences.clone(),
        subjects: subjects?,
        require_expiration: p.require_expiration,
        max_lifetime: c.duration("max_lifetime", &p.max_lifetime)?,
        keys,
        forward: p.forward,
        places: places(c, p)?,
        forward_payload_header: header("forward_payload_header", &p.forward_payload_header)?,
        pad_forward_payload_header: p.pad_forward_payload_header,
        payload_in_metadata: some(&p.payload_in_metadata),
        header_in_metadata: some(&p.header_in_metadata),
        space_delimited_claims: p
            .normalize_payload_in_metadata
            .as_ref()
            .map(|of| of.space_delimited_claims.clone())
            .unwrap_or_default(),
        // Without anything that is said a route has nothing else to match by.
        clear_route_cache: p.clear_route_cache && !(p.claim_to_headers.is_empty() && p.payload_in_metadata.is_empty()),
        clock_skew: Duration::from_secs(u64::from(if p.clock_skew_seconds == 0 {
            CLOCK_SKEW
        } else {
            p.clock_skew_seconds
        })),
        claims: claims?,
    })
}

/// Read now, and checked: what no key can be read from would refuse every token.
fn keys(c: &Ctx<'_>, source: &weft_proto::pb::envoy::config::core::v3::DataSource) -> Out<DataSource> {
    if source.watched_directory.is_some() {
        return c.field("watched_directory").unsupported("a watched key set");
    }
    let text = value::text_source(c, source)?;
    match Keys::read(text.as_bytes()) {
        Ok(_) => Ok(DataSource::Inline(text.into())),
        Err(why) => c.refuse(why),
    }
}

/// Headers, then parameters, then cookies; without any, where RFC 6750 has them.
fn places(c: &Ctx<'_>, p: &pb::JwtProvider) -> Out<Vec<JwtPlace>> {
    let mut places = c.each("from_headers", &p.from_headers, |c, h| {
        Ok(JwtPlace::Header { name: headers::name(c, "name", &h.name)?, prefix: h.value_prefix.clone() })
    })?;
    places.extend(p.from_params.iter().cloned().map(JwtPlace::Param));
    places.extend(p.from_cookies.iter().cloned().map(JwtPlace::Cookie));
    if places.is_empty() {
        places.push(JwtPlace::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() });
        places.push(JwtPlace::Param("access_token".to_owned()));
    }
    Ok(places)
}

fn claim(c: &Ctx<'_>, of: &pb::JwtClaimToHeader) -> Out<(String, Vec<String>)> {
    let header = headers::name(c, "header_name", &of.header_name)?;
    if !of.claim_path.is_empty() {
        return Ok((header, c.each("claim_path", &of.claim_path, |c, s| c.non_empty("key", &s.key))?));
    }
    // Dots are levels.
    let path = c.non_empty("claim_name", &of.claim_name)?;
    Ok((header, path.split('.').map(str::to_owned).collect()))
}

fn rule(
    c: &Ctx<'_>,
    r: &pb::RequirementRule,
    providers: &[JwtProvider],
    named: &BTreeMap<String, JwtRequirement>,
) -> Out<JwtRule> {
    use pb::requirement_rule::RequirementType as R;
    let matches = c.required("match", &r.r#match, |c, m| Ok(route_match::route_match(c, m)?.route_match));
    let requires = match &r.requirement_type {
        None => None,
        Some(R::Requires(r)) => Some(requirement(&c.field("requires"), r, providers)?),
        Some(R::RequirementName(name)) => match named.get(name) {
            Some(found) => Some(found.clone()),
            None => {
                return c
                    .field("requirement_name")
                    .refuse(format!("Wrong requirement_name: {name}. It should be one of [{}]", list(named)));
            }
        },
    };
    Ok(JwtRule { matches: matches?, requires })
}

fn list(named: &BTreeMap<String, JwtRequirement>) -> String {
    named.keys().map(String::as_str).collect::<Vec<_>>().join(",")
}

fn requirement(c: &Ctx<'_>, r: &pb::JwtRequirement, providers: &[JwtProvider]) -> Out<JwtRequirement> {
    use pb::jwt_requirement::RequiresType as R;
    let place = |c: &Ctx<'_>, name: &str| match providers.iter().position(|p| p.name == name) {
        Some(place) => Ok(place),
        None => c.refuse(format!("Required provider ['{name}'] is not configured.")),
    };
    let several = |c: &Ctx<'_>, of: &[pb::JwtRequirement]| {
        c.field("requirements").ensure(of.len() >= 2, || "value must contain at least 2 item(s)".into())?;
        c.each("requirements", of, |c, r| requirement(c, r, providers))
    };
    Ok(match &r.requires_type {
        // Nothing is needed, and nothing is looked at.
        None => JwtRequirement::All(Vec::new()),
        Some(R::ProviderName(name)) => JwtRequirement::Provider(place(&c.field("provider_name"), name)?, None),
        Some(R::ProviderAndAudiences(p)) => {
            let c = c.field("provider_and_audiences");
            let place = place(&c.field("provider_name"), &p.provider_name)?;
            JwtRequirement::Provider(place, Some(p.audiences.clone()))
        }
        Some(R::RequiresAny(any)) => JwtRequirement::Any(several(&c.field("requires_any"), &any.requirements)?),
        Some(R::RequiresAll(all)) => JwtRequirement::All(several(&c.field("requires_all"), &all.requirements)?),
        Some(R::AllowMissing(_)) => JwtRequirement::AllowMissing,
        Some(R::AllowMissingOrFailed(_)) => JwtRequirement::AllowMissingOrFailed,
        Some(R::ExtractOnlyWithoutValidation(_)) => {
            return c.field("extract_only_without_validation").unsupported("a token that nobody verifies");
        }
    })
}
