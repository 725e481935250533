//! Tokens that prove which service account somebody has: those of Kubernetes, and our own of the same form.
//!
//! A token says who signed it, for whom it is, until when, and the service account. What signs them with is never in a message.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::CaError;

/// The issuer in our own tokens.
pub(super) const OWN_ISSUER: &str = "weft-ca";
/// The longest token that is looked at. Kubernetes' have some 1,000 bytes.
const MAX_BYTES: usize = 16 << 10;
/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(10);
/// The file of keys is looked at again after this long.
const REREAD: Duration = Duration::from_secs(5);

/// Whose tokens are taken besides our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIssuer {
    /// A file with the keys that sign them, as JWKS; read again when it changes.
    pub jwks: PathBuf,
    /// What they name as their issuer.
    pub issuer: String,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The claims of a token, as Kubernetes makes them.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    aud: Audience,
    #[serde(default)]
    exp: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    name: String,
}

/// Makes and checks tokens.
pub(super) struct Tokens {
    audience: String,
    own: Own,
    others: Option<Others>,
}

/// Our own key.
struct Own {
    id: String,
    sign: EncodingKey,
    verify: DecodingKey,
}

/// Somebody else's keys.
struct Others {
    from: TokenIssuer,
    keys: Mutex<Keys>,
}

struct Keys {
    set: JwkSet,
    changed_at: Option<SystemTime>,
    looked_at: Instant,
}

impl Tokens {
    /// Tokens for `audience`, signed by our own `key` (PEM, ECDSA on P-256) or by another issuer.
    ///
    /// # Errors
    /// A key or a file that cannot be used.
    pub(super) fn new(key: &str, audience: String, others: Option<TokenIssuer>) -> Result<Self, CaError> {
        let bad = |reason: &str| CaError::Material { file: "token-key.pem", reason: reason.to_owned() };
        let pair = KeyPair::from_pem(key).map_err(|_| bad("holds no private key that can be used"))?;
        if pair.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(bad("is no key on the curve P-256"));
        }
        let own = Own {
            id: super::authority::fingerprint(pair.public_key_raw()),
            sign: EncodingKey::from_ec_der(pair.serialized_der()),
            verify: DecodingKey::from_ec_der(pair.der_bytes()),
        };
        let others = others.map(Others::read).transpose()?;
        Ok(Self { audience, own, others })
    }

    /// A token of ours for a service account, good for `ttl`.
    ///
    /// # Errors
    /// When signing fails.
    pub(super) fn mint(&self, account: &Account, ttl: Duration, now: SystemTime) -> Result<String, CaError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: OWN_ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{}:{}", account.namespace, account.name),
            aud: Audience::Many(vec![self.audience.clone()]),
            exp: now.saturating_add(ttl.as_secs()),
            iat: now,
            nbf: now,
            kubernetes: Some(Kubernetes {
                namespace: account.namespace.clone(),
                serviceaccount: Named { name: account.name.clone() },
            }),
        };
        let header = Header { kid: Some(self.own.id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.own.sign).map_err(|error| CaError::Signing(error.to_string()))
    }

    /// The service account that a token proves.
    ///
    /// # Errors
    /// Why it proves none. Nothing of the token is in it.
    pub(super) fn verify(&self, token: &str) -> Result<Account, String> {
        if token.len() > MAX_BYTES {
            return Err(format!("the token has more than {MAX_BYTES} bytes"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| "the token is no JWT".to_owned())?;
        if header.kid.as_deref() == Some(&*self.own.id) {
            return self.decode(token, &self.own.verify, Algorithm::ES256, OWN_ISSUER);
        }
        let Some(others) = &self.others else {
            return Err("the token was not made here, and no other issuer is trusted (--token-jwks)".to_owned());
        };
        let mut why = "no key of --token-jwks has signed the token".to_owned();
        for jwk in others.keys_for(header.kid.as_deref()) {
            // What the key is decides how it is used, not what the token says of itself.
            let Some(algorithm) = algorithm(&jwk, header.alg) else { continue };
            let Ok(key) = DecodingKey::from_jwk(&jwk) else { continue };
            match self.decode(token, &key, algorithm, &others.from.issuer) {
                Ok(account) => return Ok(account),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    fn decode(&self, token: &str, key: &DecodingKey, algorithm: Algorithm, issuer: &str) -> Result<Account, String> {
        use jsonwebtoken::errors::ErrorKind;
        let mut rules = Validation::new(algorithm);
        rules.set_audience(&[&self.audience]);
        rules.set_issuer(&[issuer]);
        rules.required_spec_claims = ["exp", "aud", "iss"].into_iter().map(str::to_owned).collect::<HashSet<_>>();
        rules.validate_nbf = true;
        rules.leeway = LEEWAY.as_secs();
        let token = jsonwebtoken::decode::<Claims>(token, key, &rules).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
            ErrorKind::ImmatureSignature => "the token is not good yet".to_owned(),
            ErrorKind::InvalidIssuer => format!("the token is not of issuer {issuer:?}"),
            ErrorKind::InvalidAudience => format!("the token is not for {:?}", self.audience),
            ErrorKind::InvalidSignature => "the token's signature is wrong".to_owned(),
            ErrorKind::MissingRequiredClaim(claim) => format!("the token does not say {claim:?}"),
            _ => "the token cannot be read".to_owned(),
        })?;
        account(&token.claims)
    }
}

/// The service account of claims; what they say twice must agree.
fn account(claims: &Claims) -> Result<Account, String> {
    let subject = claims.sub.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let subject = subject.map(|(namespace, name)| Account { namespace: namespace.into(), name: name.into() });
    let kubernetes = claims
        .kubernetes
        .as_ref()
        .map(|of| Account { namespace: of.namespace.clone(), name: of.serviceaccount.name.clone() });
    match (subject, kubernetes) {
        (Some(subject), Some(kubernetes)) if subject != kubernetes => {
            Err("the token names two service accounts".to_owned())
        }
        (Some(account), _) | (None, Some(account)) => Ok(account),
        (None, None) => Err("the token names no service account".to_owned()),
    }
}

/// How a key is used; `None`: not for what the token claims.
fn algorithm(jwk: &Jwk, claimed: Algorithm) -> Option<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let fits = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => matches!(claimed, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
        AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters { curve: EllipticCurve::P256, .. }) => {
            claimed == ES256
        }
        AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters { curve: EllipticCurve::P384, .. }) => {
            claimed == ES384
        }
        AlgorithmParameters::OctetKeyPair(_) => claimed == EdDSA,
        // A secret that both sides share proves nothing here.
        _ => false,
    };
    fits.then_some(claimed)
}

impl Others {
    fn read(from: TokenIssuer) -> Result<Self, CaError> {
        let failed = |reason: String| CaError::Directory { path: from.jwks.clone(), reason };
        let set = read_keys(&from.jwks).map_err(failed)?;
        let changed_at = modified(&from.jwks);
        let keys = Mutex::new(Keys { set, changed_at, looked_at: Instant::now() });
        Ok(Self { from, keys })
    }

    /// The keys with this id, or all if the token names none.
    fn keys_for(&self, id: Option<&str>) -> Vec<Jwk> {
        let mut keys = self.keys.lock();
        if keys.looked_at.elapsed() >= REREAD {
            keys.looked_at = Instant::now();
            let changed_at = modified(&self.from.jwks);
            if changed_at != keys.changed_at {
                match read_keys(&self.from.jwks) {
                    Ok(set) => (keys.set, keys.changed_at) = (set, changed_at),
                    Err(reason) => {
                        tracing::warn!(file = %self.from.jwks.display(), reason, "the keys before are used on");
                    }
                }
            }
        }
        let has_id = |jwk: &&Jwk| id.is_none() || jwk.common.key_id.as_deref() == id;
        keys.set.keys.iter().filter(has_id).cloned().collect()
    }
}

fn read_keys(path: &Path) -> Result<JwkSet, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let set: JwkSet = serde_json::from_slice(&text).map_err(|error| format!("is no JWKS: {error}"))?;
    if set.keys.is_empty() { Err("holds no key".to_owned()) } else { Ok(set) }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|found| found.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(others: Option<TokenIssuer>) -> Tokens {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        Tokens::new(&key, "istio-ca".to_owned(), others).unwrap()
    }

    fn web() -> Account {
        Account { namespace: "default".into(), name: "web".into() }
    }

    #[tokio::test]
    async fn what_was_minted_is_taken() {
        let tokens = tokens(None);
        let now = SystemTime::now();
        let token = tokens.mint(&web(), Duration::from_secs(60), now).unwrap();
        assert_eq!(tokens.verify(&token).unwrap(), web());
        let old = tokens.mint(&web(), Duration::from_secs(60), now - Duration::from_secs(600)).unwrap();
        assert_eq!(tokens.verify(&old).unwrap_err(), "the token has expired");
        assert!(tokens.verify("abc").unwrap_err().contains("no JWT"));
        let stranger = super::tests::tokens(None).mint(&web(), Duration::from_secs(60), now).unwrap();
        assert!(tokens.verify(&stranger).unwrap_err().contains("not made here"));
        let (head, signature) = token.rsplit_once('.').unwrap();
        let mut turned: Vec<char> = signature.chars().collect();
        turned.swap(3, 4);
        turned[5] = if turned[5] == 'A' { 'B' } else { 'A' };
        let forged = format!("{head}.{}", turned.into_iter().collect::<String>());
        assert!(tokens.verify(&forged).is_err());
    }

    #[tokio::test]
    async fn tokens_of_kubernetes() {
        let dir = tempfile::tempdir().unwrap();
        let jwks = dir.path().join("jwks.json");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let sign = EncodingKey::from_ec_der(key.serialized_der());
        let point = key.public_key_raw();
        let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
        let jwk = serde_json::json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "alg": "ES256",
            "x": encode(&point[1..33]), "y": encode(&point[33..])}]});
        std::fs::write(&jwks, jwk.to_string()).unwrap();
        let issuer = "https://kubernetes.default.svc.cluster.local";
        let tokens = tokens(Some(TokenIssuer { jwks, issuer: issuer.to_owned() }));
        let made = |change: &dyn Fn(&mut serde_json::Value)| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let mut claims = serde_json::json!({"aud": ["istio-ca"], "exp": now + 60, "iat": now, "nbf": now, "iss": issuer,
                "kubernetes.io": {"namespace": "default", "pod": {"name": "web-1", "uid": "u"},
                    "serviceaccount": {"name": "web", "uid": "v"}},
                "sub": "system:serviceaccount:default:web"});
            change(&mut claims);
            let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
            jsonwebtoken::encode(&header, &claims, &sign).unwrap()
        };
        assert_eq!(tokens.verify(&made(&|_| {})).unwrap(), web());
        assert_eq!(tokens.verify(&made(&|claims| claims["aud"] = "istio-ca".into())).unwrap(), web());
        type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
        let refused: [(Change<'_>, &str); 6] = [
            (&|claims| claims["aud"] = serde_json::json!(["other"]), "not for \"istio-ca\""),
            (&|claims| claims["iss"] = "weft-ca".into(), "not of issuer"),
            (&|claims| claims["sub"] = "system:serviceaccount:default:admin".into(), "two service accounts"),
            (&|claims| claims["exp"] = 1.into(), "expired"),
            (&|claims| drop(claims.as_object_mut().unwrap().remove("exp")), "\"exp\""),
            (&|claims| claims["nbf"] = 99_999_999_999_u64.into(), "not good yet"),
        ];
        for (change, reason) in refused {
            let error = tokens.verify(&made(change)).unwrap_err();
            assert!(error.contains(reason), "{error}, expected {reason}");
        }
    }
}
