//! The keys of those who make tokens of end users, as far as they have to be fetched.
//!
//! Owns where keys are, and what is known of them. Must not know: how they are fetched.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::kinds::request_authentication::JwtRule;

/// How long fetching a key set may take, if nobody says (Istio's default).
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// What verifies nothing: the public half of a key whose private half was never kept.
pub const UNKNOWN_KEYS: &str = "{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"jkkf2_W1gah1PCpP8Uefarun7a6bRR80YLiNOsvHemjKglBtHmxF2PFx_1nQB6zVfMQPUywucfZKoKC4Bx7KCea2JGi_YqDhDt1h_j_ABCLEoVhYRu1v04z2P_PfNt037fic5DYA6WvF0ieqtom1bFPZXyG7VKN00AcFKhafj6pKcUaZddztHtsRSfAMiSHpaYm9kS2dFjWVNBBeN0vOTjGj-j7AstEqJrME1-AdQj3Y1Grhl-Phlik-nQ7i1iIOfinunpyGl_GY5UvCZZjceD2s7IFRH11WyhxnrHugdqy3h8DilI4yjYNcfCfFg7TDKq5TV1eA_nhSpgdJQExNOw\"}]}";

/// Where the keys of a rule are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// At a URI (`jwksUri`).
    Uri(Arc<str>),
    /// Where an issuer says (OpenID Connect Discovery).
    Issuer(Arc<str>),
}

impl KeySource {
    /// That of a rule; `None`: it has its keys, or nobody can say where they are.
    #[must_use]
    pub fn of(rule: &JwtRule) -> Option<Self> {
        let set = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Arc::from);
        if rule.jwks.as_deref().is_some_and(|jwks| !jwks.is_empty()) {
            return None;
        }
        let issuer = || (!rule.issuer.is_empty()).then(|| Self::Issuer(rule.issuer.as_str().into()));
        set(&rule.jwks_uri).map(Self::Uri).or_else(issuer)
    }

    /// The URI that is asked first.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Uri(uri) => uri.to_string(),
            Self::Issuer(issuer) => format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

/// Whether a text is a key set from which a key can be used.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &[u8]) -> Result<(), String> {
    weft_proxy::jwt::Keys::read(text).map(|_| ())
}

/// What is known of a key set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    /// The last good one.
    pub keys: Option<Arc<str>>,
    /// Why the last attempt failed, if it did.
    pub error: Option<Arc<str>>,
}

/// All that are fetched. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySets(Arc<BTreeMap<KeySource, KeySet>>);

impl KeySets {
    /// These.
    #[must_use]
    pub fn of(sets: BTreeMap<KeySource, KeySet>) -> Self {
        Self(Arc::new(sets))
    }

    /// The keys at a place, if they are known.
    #[must_use]
    pub fn keys(&self, source: &KeySource) -> Option<&str> {
        self.0.get(source)?.keys.as_deref()
    }

    /// Whether each of these was tried.
    pub fn have_tried<'a>(&self, mut wanted: impl Iterator<Item = &'a KeySource>) -> bool {
        wanted.all(|source| self.0.contains_key(source))
    }

    /// What is wrong with the keys at a place.
    #[must_use]
    pub fn problem(&self, source: &KeySource) -> Option<String> {
        let set = self.0.get(source)?;
        let error = set.error.as_ref()?;
        Some(match set.keys {
            None => format!("{source}: {error}; until there are keys every token of this rule is refused"),
            Some(_) => format!("{source}: {error}; the keys from before are used on"),
        })
    }

    /// Whether proxies get the same by both.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        let known = |of: &Self| {
            let keys = of.0.iter().filter_map(|(source, set)| Some((source.clone(), set.keys.clone()?)));
            keys.collect::<Vec<_>>()
        };
        known(self) == known(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_verifies_nothing_is_a_key_set_that_proxies_take() {
        assert_eq!(check(UNKNOWN_KEYS.as_bytes()), Ok(()));
        assert!(check(b"<html>").is_err() && check(b"{\"keys\": []}").is_err());
    }

    #[test]
    fn a_rule_says_where_its_keys_are() {
        let rule = |issuer: &str, uri: Option<&str>, jwks: Option<&str>| JwtRule {
            issuer: issuer.to_owned(),
            jwks_uri: uri.map(str::to_owned),
            jwks: jwks.map(str::to_owned),
            ..JwtRule::default()
        };
        let of = |rule: JwtRule| KeySource::of(&rule).map(|source| source.uri());
        assert_eq!(of(rule("https://a/", None, None)).as_deref(), Some("https://a/.well-known/openid-configuration"));
        assert_eq!(of(rule("https://a", Some("http://b/k"), None)).as_deref(), Some("http://b/k"));
        assert_eq!(of(rule("https://a", Some("http://b/k"), Some("{}"))), None);
        assert_eq!(of(rule("", None, None)), None);
    }
}
