//! Tokens of end users: whose are taken, where they are, and what a request needs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{DataSource, RouteMatch, StringMatcher};

/// **Source**: `envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JwtAuthn {
    /// Whose tokens are taken, in the order of their names.
    pub providers: Vec<JwtProvider>,
    /// The first that matches says what a request needs; without a match it needs nothing.
    pub rules: Vec<JwtRule>,
    /// `requirement_map`: what routes name.
    pub named: BTreeMap<String, JwtRequirement>,
    /// A CORS preflight needs nothing.
    pub bypass_cors_preflight: bool,
    /// Refusals have neither body nor `WWW-Authenticate`.
    pub strip_failure_response: bool,
    /// Stats are `http.<prefix>.jwt_authn.<stat_prefix>*`.
    pub stat_prefix: String,
}

/// **Source**: `envoy.extensions.filters.http.jwt_authn.v3.JwtProvider`.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtProvider {
    /// Its key in the map of providers.
    pub name: String,
    /// `iss` must be this; empty: anything.
    pub issuer: String,
    /// `aud` must have one of these; none: anything.
    pub audiences: Vec<String>,
    /// `sub` must match.
    pub subjects: Option<StringMatcher>,
    /// `exp` must be there.
    pub require_expiration: bool,
    /// `exp` must not be further away.
    pub max_lifetime: Option<Duration>,
    /// `local_jwks`.
    pub keys: DataSource,
    /// The token goes on to the upstream.
    pub forward: bool,
    /// Where tokens are, in order.
    pub places: Vec<JwtPlace>,
    /// Gets the payload, in base64url.
    pub forward_payload_header: Option<String>,
    /// With padding.
    pub pad_forward_payload_header: bool,
    /// Key of the payload in the dynamic metadata `envoy.filters.http.jwt_authn`.
    pub payload_in_metadata: Option<String>,
    /// The same for the header of the token.
    pub header_in_metadata: Option<String>,
    /// Claims of that payload that are lists there, and texts with spaces between the items in the token.
    pub space_delimited_claims: Vec<String>,
    /// The route is looked for again when a token was taken that says something: it may match by that.
    pub clear_route_cache: bool,
    /// How wrong clocks may be.
    pub clock_skew: Duration,
    /// Headers that get claims, by path.
    pub claims: Vec<(String, Vec<String>)>,
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtPlace {
    /// A header, behind a prefix.
    Header {
        /// Lower case.
        name: String,
        /// Anywhere in the value; empty: the value is the token.
        prefix: String,
    },
    /// A query parameter.
    Param(String),
    /// A cookie.
    Cookie(String),
}

/// **Source**: `envoy.extensions.filters.http.jwt_authn.v3.RequirementRule`.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtRule {
    /// Which requests.
    pub matches: RouteMatch,
    /// What they need; absent: nothing.
    pub requires: Option<JwtRequirement>,
}

/// **Source**: `envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement`.
#[derive(Debug, Clone, PartialEq)]
pub enum JwtRequirement {
    /// A token of a provider, by its place, and these audiences instead of its own.
    Provider(usize, Option<Vec<String>>),
    /// Any of these.
    Any(Vec<JwtRequirement>),
    /// All of these.
    All(Vec<JwtRequirement>),
    /// Good tokens of any provider, or none.
    AllowMissing,
    /// Anything; good tokens are taken.
    AllowMissingOrFailed,
}

/// **Source**: `envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig`.
#[derive(Debug, Clone, PartialEq)]
pub enum JwtPerRoute {
    /// Nothing is needed.
    Disabled,
    /// A requirement of `requirement_map`.
    Named(String),
}
