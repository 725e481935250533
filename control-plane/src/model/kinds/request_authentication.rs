//! Istio's RequestAuthentication.
//!
//! A field that is not listed makes the whole object invalid: tokens would be taken that are not meant.

use std::time::Duration;

use super::destination_rule::WorkloadSelector;
use super::policy_target::PolicyTarget;
use crate::model::read::{choice, record};

record! {
    /// A RequestAuthentication. **Source**: `security.istio.io/v1.RequestAuthentication`.
    pub struct RequestAuthentication (ignoring "status") {
        /// Whose tokens are taken.
        spec: RequestAuthenticationSpec,
    }
}

record! {
    /// Whose tokens are taken. **Source**: `security.istio.io/v1.RequestAuthentication`.
    pub struct RequestAuthenticationSpec {
        /// Which workloads. None: all of the namespace; in the root namespace: all.
        selector: Option<WorkloadSelector>,
        /// Which gateways, instead of a selector.
        target_refs: Vec<PolicyTarget>,
        /// The older spelling for one.
        target_ref: Option<PolicyTarget>,
        /// A rule for each issuer.
        jwt_rules: Vec<JwtRule>,
    }
}

impl RequestAuthenticationSpec {
    /// The gateways it names.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTarget> {
        PolicyTarget::named(&self.target_refs, self.target_ref.as_ref())
    }
}

record! {
    /// Tokens of one issuer: a request without one is let through, one with one that is not good is refused.
    /// **Source**: `security.istio.io/v1.JWTRule`.
    pub struct JwtRule {
        /// `iss` must be this; empty: anything.
        issuer: String,
        /// `aud` must have one of these; none: anything.
        audiences: Vec<String>,
        /// Where its keys are fetched. Neither this nor `jwks`: found by the issuer (OpenID Connect Discovery).
        jwks_uri: Option<String>,
        /// Its keys: a JSON Web Key Set.
        jwks: Option<String>,
        /// Headers that may have the token. No place at all: `Authorization: Bearer` and the parameter `access_token`.
        from_headers: Vec<JwtHeader>,
        /// Query parameters that may.
        from_params: Vec<String>,
        /// Cookies that may.
        from_cookies: Vec<String>,
        /// A header that gets the payload, in base64url.
        output_payload_to_header: Option<String>,
        /// Headers that get claims.
        output_claim_to_headers: Vec<ClaimToHeader>,
        /// The token goes on to the workload. Default: it does not.
        forward_original_token: bool,
        /// How long fetching keys may take. Default: 5 s.
        timeout: Option<Duration>,
        /// Claims that are lists with spaces between their items, besides `scope` and `permission`.
        space_delimited_claims: Vec<String>,
        /// Whether the token must be there.
        presence: Presence,
    }
}

choice! {
    /// Whether a token must be there. **Source**: `security.istio.io/v1.JWTRule.Presence`.
    pub enum Presence {
        /// It need not.
        #[default]
        Optional = "OPTIONAL",
        /// A request without is refused.
        Required = "REQUIRED",
    }
}

record! {
    /// A header that may have a token. **Source**: `security.istio.io/v1.JWTHeader`.
    pub struct JwtHeader {
        /// Its name.
        name: String,
        /// What is in front of the token.
        prefix: String,
    }
}

record! {
    /// A claim that a header gets. **Source**: `security.istio.io/v1.ClaimToHeader`.
    pub struct ClaimToHeader {
        /// The header.
        header: String,
        /// The claim; dots are levels.
        claim: String,
    }
}
