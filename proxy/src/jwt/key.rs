//! Key sets, and signatures by their keys.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::token::{Status, Token};

/// A set of keys. **Source**: RFC 7517, section 5.
pub struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The curve, and the point as SEC 1 has it, uncompressed.
    Ec(Curve, Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Keys {
    /// Reads a set. A key of a kind that is not known is left out, as RFC 7517 asks; a set without any other is refused.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(text).map_err(|e| format!("Jwks is an invalid JSON: {e}"))?;
        let list = set.get("keys").and_then(Value::as_array).ok_or("Jwks does not have [keys] field")?;
        let keys: Vec<Key> = list.iter().filter_map(Key::read).collect();
        if keys.is_empty() { Err("Jwks doesn't have any valid public key".to_owned()) } else { Ok(Keys(keys)) }
    }

    /// Whether one of the keys made a token's signature.
    ///
    /// # Errors
    /// None did, or none could have.
    pub fn verify(&self, token: &Token<'_>) -> Result<(), Status> {
        let id = token.key_id();
        let mut fitting = self.0.iter().filter(|key| {
            let id_fits = id.is_empty() || key.id.as_deref().is_none_or(|own| own.is_empty() || own == id);
            id_fits && key.algorithm.as_deref().is_none_or(|own| own == token.algorithm())
        });
        let Some(first) = fitting.next() else { return Err(Status::NoKey) };
        let good = std::iter::once(first).chain(fitting).any(|key| key.material.signed(token));
        if good { Ok(()) } else { Err(Status::VerificationFailed) }
    }
}

fn bytes(key: &Value, name: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(key.get(name)?.as_str()?.trim_end_matches('=')).ok().filter(|b| !b.is_empty())
}

impl Key {
    fn read(key: &Value) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let material = match text("kty")? {
            "RSA" => Material::Rsa { n: bytes(key, "n")?, e: bytes(key, "e")? },
            "EC" => {
                let (curve, size) = match text("crv")? {
                    "P-256" => (Curve::P256, 32),
                    "P-384" => (Curve::P384, 48),
                    "P-521" => (Curve::P521, 66),
                    _ => return None,
                };
                let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                Material::Ec(curve, [&[4], &*x, &*y].concat())
            }
            "OKP" if text("crv") == Some("Ed25519") => Material::Ed25519(bytes(key, "x").filter(|x| x.len() == 32)?),
            "oct" => Material::Secret(bytes(key, "k")?),
            _ => return None,
        };
        Some(Key { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
    }
}

impl Material {
    /// The algorithm must be one for this kind of key: what a token says is not enough to choose how it is checked.
    fn signed(&self, token: &Token<'_>) -> bool {
        let (message, signature) = (token.signed().as_bytes(), token.signature());
        let by = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match (self, token.algorithm()) {
            (Material::Rsa { n, e }, algorithm) => rsa(algorithm)
                .is_some_and(|with| RsaPublicKeyComponents { n, e }.verify(with, message, signature).is_ok()),
            (Material::Ec(Curve::P256, key), "ES256") => by(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Material::Ec(Curve::P384, key), "ES384") => by(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Material::Ec(Curve::P521, key), "ES512") => by(&signature::ECDSA_P521_SHA512_FIXED, key),
            (Material::Ed25519(key), "EdDSA") => by(&signature::ED25519, key),
            (Material::Secret(key), algorithm) => {
                hash(algorithm).is_some_and(|with| hmac::verify(&hmac::Key::new(with, key), message, signature).is_ok())
            }
            _ => false,
        }
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn hash(algorithm: &str) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => return None,
    })
}
