//! JWT authentication: tokens of every algorithm, good and bad; where they are; what requests need; what goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use weft_tests::config::{Config, LOG_FORMAT, access_log, dedent, indent};
use weft_tests::parity::{Group, get, request, run, stats};

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Keys of every kind, made for one run.
struct Signer {
    ec: EcdsaKeyPair,
    ec384: EcdsaKeyPair,
    ec521: EcdsaKeyPair,
    rsa: RsaKey,
    ed: Ed25519KeyPair,
    secret: Vec<u8>,
}

impl Signer {
    fn new() -> Result<Self> {
        Ok(Self {
            ec: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).context("P-256")?,
            ec384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).context("P-384")?,
            ec521: EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).context("P-521")?,
            rsa: RsaKey::generate(KeySize::Rsa2048).context("RSA")?,
            ed: Ed25519KeyPair::generate().context("Ed25519")?,
            secret: b"a secret of at least thirty-two bytes".to_vec(),
        })
    }

    /// The set of their public parts.
    fn keys(&self) -> String {
        let ec = |curve: &str, id: &str, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "kid": id, "x": b64(x), "y": b64(y)})
        };
        let rsa: PublicKeyComponents<Vec<u8>> = self.rsa.public_key().into();
        json!({"keys": [
            ec("P-256", "ES256", &self.ec),
            ec("P-384", "ES384", &self.ec384),
            ec("P-521", "ES512", &self.ec521),
            {"kty": "RSA", "kid": "rsa", "n": b64(rsa.n), "e": b64(rsa.e)},
            {"kty": "OKP", "crv": "Ed25519", "kid": "EdDSA", "x": b64(self.ed.public_key())},
            {"kty": "oct", "kid": "HS256", "alg": "HS256", "k": b64(&self.secret)},
        ]})
        .to_string()
    }

    /// A token of these parts; `kid` is the algorithm's, or that of the RSA key.
    fn token(&self, algorithm: &str, claims: &Value) -> Result<String> {
        let kid = if algorithm.starts_with(['R', 'P']) { "rsa" } else { algorithm };
        self.with(&json!({"alg": algorithm, "kid": kid, "typ": "JWT"}), claims)
    }

    fn with(&self, header: &Value, claims: &Value) -> Result<String> {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let (random, bytes) = (SystemRandom::new(), message.as_bytes());
        let rsa = |with: &'static dyn signature::RsaEncoding| -> Result<Vec<u8>> {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(with, &random, bytes, &mut out).context("sign")?;
            Ok(out)
        };
        let signature = match header["alg"].as_str().unwrap_or_default() {
            "ES256" => self.ec.sign(&random, bytes).context("sign")?.as_ref().to_vec(),
            "ES384" => self.ec384.sign(&random, bytes).context("sign")?.as_ref().to_vec(),
            "ES512" => self.ec521.sign(&random, bytes).context("sign")?.as_ref().to_vec(),
            "EdDSA" => self.ed.sign(bytes).as_ref().to_vec(),
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256)?,
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384)?,
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512)?,
            "PS256" => rsa(&signature::RSA_PSS_SHA256)?,
            "PS384" => rsa(&signature::RSA_PSS_SHA384)?,
            "PS512" => rsa(&signature::RSA_PSS_SHA512)?,
            _ => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret), bytes).as_ref().to_vec(),
        };
        Ok(format!("{message}.{}", b64(signature)))
    }
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// Claims of the issuer everybody trusts, with `more`.
fn claims(more: Value) -> Value {
    let mut all = json!({"iss": "me", "sub": "someone", "aud": ["web", "api"], "exp": 4_102_444_800_u64, "n": 7, "ok": true, "o": {"in": "x"}});
    for (key, value) in more.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    all
}

/// A listener: the fields of the filter, and those of the route.
fn listener(fields: &str, routes: &str) -> String {
    let said = "metadata=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn)%";
    let routes = if routes.is_empty() { "- {match: {prefix: \"/\"}, route: {cluster: a}}" } else { routes };
    format!(
        "access_log:\n{}http_filters:\n- name: envoy.filters.http.jwt_authn\n  typed_config:\n    {TYPE}.JwtAuthentication\n{}route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        access_log(&format!("{LOG_FORMAT} {said}")),
        indent(&dedent(fields), 4),
        indent(&dedent(routes), 4),
    )
}

/// A provider with these keys and fields.
fn provider(name: &str, keys: &str, fields: &str) -> String {
    let quoted = Value::from(keys);
    format!("{name}: {{local_jwks: {{inline_string: {quoted}}}{fields}}}")
}

fn rules(requires: &str) -> String {
    format!("rules: [{{match: {{prefix: /}}, requires: {{{requires}}}}}]")
}

#[test]
fn tokens() -> Result<()> {
    let signer = Signer::new()?;
    let keys = signer.keys();
    let one = |fields: &str| format!("providers: {{{}}}\n{}", provider("p", &keys, fields), rules("provider_name: p"));
    let config = Config::new()
        .http("jwt", &listener(&one(", issuer: me"), ""))
        .http("anyone", &listener(&one(""), ""))
        .http("audience", &listener(&one(", issuer: me, audiences: [\"https://api/\", other]"), ""))
        .http("subject", &listener(&one(", issuer: me, subjects: {prefix: some}"), ""))
        .http("strip", &listener(&(one(", issuer: me") + "\nstrip_failure_response: true\nstat_prefix: own"), ""))
        .http("expires", &listener(&one(", issuer: me, require_expiration: true, clock_skew_seconds: 5"), ""))
        .http("lifetime", &listener(&one(", issuer: me, max_lifetime: 3600s"), ""))
        .cluster("a", "");
    let mut group = Group::new("jwt-tokens", config);
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    for algorithm in ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA", "HS256"]
    {
        let token = signer.token(algorithm, &claims(json!({})))?;
        let mut forged = token.clone().into_bytes();
        let at = forged.len() - 10;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        group = group
            .step(&format!("{algorithm}-good"), get("jwt", "/", &[&bearer(&token)]))
            .step(&format!("{algorithm}-forged"), get("jwt", "/", &[&bearer(&String::from_utf8(forged)?)]));
    }
    let good = claims(json!({}));
    let es = |claims: &Value| signer.token("ES256", claims);
    let now = now()?;
    let parts = es(&good)?;
    let split: Vec<&str> = parts.split('.').collect();
    let without = |name: &str| {
        let mut claims = good.clone();
        if let Some(all) = claims.as_object_mut() {
            all.remove(name);
        }
        claims
    };
    for (name, token) in [
        ("missing", String::new()),
        ("two-parts", format!("{}.{}", split[0], split[1])),
        ("four-parts", format!("{parts}.x")),
        ("empty-part", format!("{}..{}", split[0], split[2])),
        ("header-base64", format!("a.{}.{}", split[1], split[2])),
        ("header-json", format!("{}.{}.{}", b64("{"), split[1], split[2])),
        ("payload-base64", format!("{}.a.{}", split[0], split[2])),
        ("payload-json", format!("{}.{}.{}", split[0], b64("no"), split[2])),
        ("signature-base64", format!("{}.{}.a", split[0], split[1])),
        ("no-algorithm", signer.with(&json!({"kid": "ES256"}), &good)?),
        ("algorithm-none", signer.with(&json!({"alg": "none"}), &good)?),
        ("algorithm-of-another-key", signer.with(&json!({"alg": "HS256", "kid": "rsa"}), &good)?),
        ("key-id-number", signer.with(&json!({"alg": "ES256", "kid": 1}), &good)?),
        ("key-id-unknown", signer.with(&json!({"alg": "ES256", "kid": "x"}), &good)?),
        ("key-id-none", signer.with(&json!({"alg": "ES256"}), &good)?),
        ("issuer", es(&claims(json!({"iss": "you"})))?),
        ("issuer-none", es(&without("iss"))?),
        ("issuer-number", es(&claims(json!({"iss": 1})))?),
        ("expired", es(&claims(json!({"exp": now - 3600})))?),
        ("just-expired", es(&claims(json!({"exp": now - 20})))?),
        ("expires-never", es(&without("exp"))?),
        ("expires-text", es(&claims(json!({"exp": "x"})))?),
        ("expires-fraction", es(&claims(json!({"exp": 4_102_444_800.5_f64})))?),
        ("not-yet", es(&claims(json!({"nbf": now + 3600})))?),
        ("just-not-yet", es(&claims(json!({"nbf": now + 20})))?),
        ("audience-text", es(&claims(json!({"aud": "api"})))?),
        ("audience-other", es(&claims(json!({"aud": "nobody"})))?),
        ("audience-none", es(&without("aud"))?),
        ("audience-number", es(&claims(json!({"aud": 1})))?),
        ("subject", es(&claims(json!({"sub": "nobody"})))?),
        ("subject-none", es(&without("sub"))?),
        ("short", es(&claims(json!({"exp": now + 600, "iat": now})))?),
        ("long", es(&claims(json!({"exp": now + 7200, "iat": now})))?),
    ] {
        for to in ["jwt", "anyone", "audience", "subject", "strip", "expires", "lifetime"] {
            let field = bearer(&token);
            let fields: &[&str] = if token.is_empty() { &[] } else { &[&field] };
            group = group.step(&format!("{to}-{name}"), get(to, "/p?q", fields));
        }
    }
    let names = ["http.jwt.jwt_authn.allowed", "http.jwt.jwt_authn.denied", "http.strip.jwt_authn.own.denied"];
    run(&group.step("counters", stats(&names)))
}

#[test]
fn requirements() -> Result<()> {
    let signer = Signer::new()?;
    let keys = signer.keys();
    let two = |requires: &str| {
        format!(
            "providers: {{{}, {}}}\n{}",
            provider("me", &keys, ", issuer: me"),
            provider("you", &keys, ", issuer: you, from_headers: [{name: x-you}]"),
            rules(requires)
        )
    };
    let routes = format!(
        "
        - {{match: {{prefix: /off}}, route: {{cluster: a}}, typed_per_filter_config: {{envoy.filters.http.jwt_authn: {{{TYPE}.PerRouteConfig, disabled: true}}}}}}
        - {{match: {{prefix: /named}}, route: {{cluster: a}}, typed_per_filter_config: {{envoy.filters.http.jwt_authn: {{{TYPE}.PerRouteConfig, requirement_name: \"y\"}}}}}}
        - {{match: {{prefix: /wrong}}, route: {{cluster: a}}, typed_per_filter_config: {{envoy.filters.http.jwt_authn: {{{TYPE}.PerRouteConfig, requirement_name: z}}}}}}
        - {{match: {{prefix: /}}, route: {{cluster: a}}}}"
    );
    let by_path = format!(
        "providers: {{{}}}\nrequirement_map: {{\"y\": {{provider_name: me}}}}\nbypass_cors_preflight: true\nrules: [{{match: {{prefix: /open}}}}, {{match: {{prefix: /map}}, requirement_name: \"y\"}}, {{match: {{path: /exact}}, requires: {{provider_name: me}}}}]",
        provider("me", &keys, ", issuer: me")
    );
    let kinds = [
        ("one", "provider_name: me"),
        ("audiences", "provider_and_audiences: {provider_name: me, audiences: [other]}"),
        ("any", "requires_any: {requirements: [{provider_name: me}, {provider_name: you}]}"),
        ("all", "requires_all: {requirements: [{provider_name: me}, {provider_name: you}]}"),
        ("or-none", "requires_any: {requirements: [{provider_name: me}, {allow_missing: {}}]}"),
        ("or-bad", "requires_any: {requirements: [{provider_name: me}, {allow_missing_or_failed: {}}]}"),
        ("missing", "allow_missing: {}"),
        ("failed", "allow_missing_or_failed: {}"),
    ];
    let mut config = Config::new().cluster("a", "").http("paths", &listener(&by_path, &routes));
    for (name, requires) in kinds {
        config = config.http(name, &listener(&two(requires), ""));
    }
    let mut group = Group::new("jwt-requirements", config);
    let me = format!("authorization: Bearer {}", signer.token("ES256", &claims(json!({})))?);
    let old = format!("authorization: Bearer {}", signer.token("ES256", &claims(json!({"exp": 1})))?);
    let you = format!("x-you: {}", signer.token("ES256", &claims(json!({"iss": "you"})))?);
    let stranger = format!("x-you: {}", signer.token("ES256", &claims(json!({"iss": "them"})))?);
    for (name, _) in kinds {
        for (who, fields) in [
            ("nobody", vec![]),
            ("me", vec![&*me]),
            ("you", vec![&*you]),
            ("both", vec![&*me, &*you]),
            ("old", vec![&*old]),
            ("old-and-you", vec![&*old, &*you]),
            ("stranger", vec![&*stranger]),
        ] {
            group = group.step(&format!("{name}-{who}"), get(name, "/", &fields));
        }
    }
    for path in ["/off", "/named", "/wrong", "/open", "/map", "/exact", "/exact/x"] {
        group = group
            .step(&format!("paths{path}"), get("paths", path, &[]))
            .step(&format!("paths{path}-me"), get("paths", path, &[&me]));
    }
    let preflight = ["origin: http://x", "access-control-request-method: GET"];
    group = group
        .step("preflight", request("paths", "OPTIONS", "/map", &preflight, ""))
        .step("no-preflight", request("paths", "OPTIONS", "/map", &preflight[..1], ""));
    let names = ["allowed", "denied", "cors_preflight_bypassed"].map(|name| format!("http.paths.jwt_authn.{name}"));
    run(&group.step("counters", stats(&names.each_ref().map(String::as_str))))
}

#[test]
fn places() -> Result<()> {
    let signer = Signer::new()?;
    let keys = signer.keys();
    let one = |fields: &str| {
        format!(
            "providers: {{{}}}\n{}",
            provider("p", &keys, &format!(", issuer: me{fields}")),
            rules("provider_name: p")
        )
    };
    let claims_to = ", claim_to_headers: [{header_name: x-sub, claim_name: sub}, {header_name: x-n, claim_name: \"n\"}, {header_name: x-ok, claim_name: ok}, {header_name: x-in, claim_name: o.in}, {header_name: x-o, claim_name: o}, {header_name: x-none, claim_name: none}]";
    let config = Config::new()
        .http("default", &listener(&one(""), ""))
        .http("forward", &listener(&one(", forward: true"), ""))
        .http(
            "header",
            &listener(&one(", from_headers: [{name: x-jwt}, {name: x-other, value_prefix: \"Token=\"}]"), ""),
        )
        .http("param", &listener(&one(", from_params: [jwt]"), ""))
        .http("cookie", &listener(&one(", from_cookies: [jwt]"), ""))
        .http("payload", &listener(&one(", forward_payload_header: x-payload"), ""))
        .http("padded", &listener(&one(", forward_payload_header: x-payload, pad_forward_payload_header: true"), ""))
        .http("metadata", &listener(&one(", payload_in_metadata: me, header_in_metadata: head"), ""))
        .http("claims", &listener(&one(claims_to), ""))
        .cluster("a", "");
    let token = signer.with(&json!({"alg": "HS256", "kid": "HS256"}), &claims(json!({})))?;
    let bearer = format!("authorization: Bearer {token}");
    let mut group = Group::new("jwt-places", config);
    for to in ["default", "forward", "header", "param", "cookie", "payload", "padded", "metadata", "claims"] {
        group = group
            .step(&format!("{to}-bearer"), get(to, "/", &[&bearer, "x-payload: forged", "x-sub: forged"]))
            .step(&format!("{to}-param"), get(to, &format!("/?a=b&access_token={token}&c=d"), &[]))
            .step(&format!("{to}-own-param"), get(to, &format!("/p?jwt={token}"), &[]))
            .step(&format!("{to}-header"), get(to, "/", &[&format!("x-jwt: {token}")]))
            .step(&format!("{to}-prefixed"), get(to, "/", &[&format!("x-other: a Token={token}, b")]))
            .step(&format!("{to}-cookie"), get(to, "/", &[&format!("cookie: a=b; jwt={token}; c=d")]))
            .step(&format!("{to}-lower"), get(to, "/", &[&format!("authorization: bearer {token}")]))
            .step(&format!("{to}-twice"), get(to, "/", &[&bearer, "authorization: Bearer x.y.z"]));
    }
    run(&group)
}
