//! Tokens of end users: RequestAuthentications, and AuthorizationPolicies that look at what tokens say.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use weft_tests::locate::Kind;
use weft_tests::wait::{PATIENCE, eventually};

use super::policy::{Callers, Case, ECHO, all_hold, call, holds, object, policy};
use super::scene::{Mesh, skipped};

/// Somebody who makes tokens.
pub(super) struct Issuer {
    pub(super) name: &'static str,
    key: EcdsaKeyPair,
}

impl Issuer {
    pub(super) fn new(name: &'static str) -> Result<Self> {
        Ok(Self { name, key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("a key")? })
    }

    pub(super) fn keys(&self) -> String {
        let point = &self.key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(32);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": self.name, "x": b64(x), "y": b64(y)});
        json!({"keys": [key]}).to_string()
    }

    /// A token that is good until 2100, with further claims.
    pub(super) fn token(&self, more: Value) -> Result<String> {
        let mut claims = json!({"iss": self.name, "sub": "someone", "exp": 4_102_444_800_u64});
        for (key, value) in more.as_object().into_iter().flatten() {
            claims[key] = value.clone();
        }
        let header = json!({"alg": "ES256", "kid": self.name, "typ": "JWT"});
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).context("sign")?;
        Ok(format!("{message}.{}", b64(signature)))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A RequestAuthentication for the workload: one rule with the issuer's keys, and further fields.
fn taken(issuer: &Issuer, fields: &str) -> String {
    rules(issuer.name, &[rule(issuer, fields)])
}

fn rule(issuer: &Issuer, fields: &str) -> String {
    let name = issuer.name;
    let keys = issuer.keys();
    format!("- {{issuer: {name}, jwks: '{keys}'{fields}}}\n")
}

fn rules(name: &str, rules: &[String]) -> String {
    let name = name.replace([':', '/', '.'], "-");
    object(
        "RequestAuthentication",
        &format!("name: {name}, namespace: shop"),
        ECHO,
        &format!("jwtRules:\n{}", rules.concat()),
    )
}

const ME: &str = "https://me.example";
const OTHER: &str = "other@example";

/// Everybody who makes tokens, and the tokens as words of calls.
struct Issuers {
    me: Issuer,
    other: Issuer,
}

impl Issuers {
    fn new() -> Result<Self> {
        Ok(Self { me: Issuer::new(ME)?, other: Issuer::new(OTHER)? })
    }

    fn words(&self, callers: &mut Callers) -> Result<()> {
        let good = self.me.token(json!({}))?;
        let mut forged = good.clone().into_bytes();
        let last = forged.len() - 5;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        for (name, token) in [
            ("$good", good),
            ("$forged", String::from_utf8(forged)?),
            ("$expired", self.me.token(json!({"exp": 1_000_000_000}))?),
            (
                "$admin",
                self.me.token(
                    json!({"sub": "admin", "groups": ["ops", "dev"], "realm": {"roles": ["root"], "name": "a"}}),
                )?,
            ),
            (
                "$scoped",
                self.me.token(json!({"scope": "read write", "flags": "left right", "azp": "web-app", "level": "7"}))?,
            ),
            ("$web", self.me.token(json!({"aud": ["web", "api"]}))?),
            ("$phone", self.me.token(json!({"aud": "phone"}))?),
            ("$other", self.other.token(json!({}))?),
        ] {
            callers.words.insert(name, token);
        }
        Ok(())
    }
}

/// What is taken, and from where.
fn authentication(by: &Issuers) -> Vec<Case> {
    const GOOD: &str = "plain GET / authorization: Bearer $good";
    const BAD: &[&str] = &[
        "plain GET / authorization: Bearer $forged",
        "plain GET / authorization: Bearer $expired",
        "plain GET / authorization: Bearer $other",
        "client GET / authorization: Bearer nonsense",
    ];
    let me = |fields: &str| taken(&by.me, fields);
    vec![
        Case::new("tokens", me(""), &["plain GET /", GOOD, "client GET /?access_token=$good", "plain tcp"], &[])
            .and(401, BAD),
        Case::new(
            "audiences",
            me(", audiences: [web]"),
            &["plain GET / authorization: Bearer $web"],
            &["plain GET / authorization: Bearer $phone", GOOD],
        ),
        Case::new(
            "from-header",
            me(", fromHeaders: [{name: x-jwt, prefix: \"Token \"}]"),
            &["plain GET / x-jwt: Token $good", "plain GET / authorization: Bearer $forged"],
            &[],
        )
        .and(401, &["plain GET / x-jwt: Token $forged"]),
        Case::new("from-param", me(", fromParams: [jwt]"), &["plain GET /?jwt=$good"], &[])
            .and(401, &["plain GET /?a=b&jwt=$expired"]),
        Case::new("from-cookie", me(", fromCookies: [jwt]"), &["plain GET / cookie: a=b; jwt=$good"], &[])
            .and(401, &["plain GET / cookie: jwt=$expired"]),
        Case::new(
            "two-issuers",
            rules("both", &[rule(&by.me, ""), rule(&by.other, "")]),
            &["plain GET /", GOOD, "plain GET / authorization: Bearer $other"],
            &[],
        )
        .and(401, &["plain GET / authorization: Bearer $forged"]),
        Case::new(
            "two-objects",
            taken(&by.me, "") + &taken(&by.other, ", fromHeaders: [{name: x-jwt}]"),
            &["plain GET /", GOOD, "plain GET / x-jwt: $other"],
            &[],
        )
        .and(401, &["plain GET / x-jwt: $good", "plain GET / authorization: Bearer $other"]),
        Case::new("must-be-there", me(", presence: REQUIRED"), &[GOOD], &[])
            .and(401, &["plain GET /", "plain GET / authorization: Bearer $forged"]),
        Case::new(
            "one-must-be-there",
            rules("both", &[rule(&by.me, ", presence: REQUIRED"), rule(&by.other, ", fromHeaders: [{name: x-jwt}]")]),
            &[GOOD, "plain GET / authorization: Bearer $good | x-jwt: $other"],
            &[],
        )
        .and(401, &["plain GET / x-jwt: $other", "plain GET / authorization: Bearer $good | x-jwt: $good"]),
        Case::new(
            "no-keys",
            rules("none", &[format!("- {{issuer: {ME}, jwks: '{{\"keys\": []}}'}}\n")]),
            &["plain GET /"],
            &[],
        )
        .and(401, &[GOOD]),
        Case::new(
            "for-others",
            me("").replace("app: echo", "app: nobody"),
            &[GOOD, "plain GET / authorization: Bearer $forged"],
            &[],
        ),
        Case::new(
            "of-a-gateway",
            me("").replace(ECHO, "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: echo}]"),
            &["plain GET / authorization: Bearer $forged"],
            &[],
        ),
        Case::new(
            "root-namespace",
            me("").replace("namespace: shop", "namespace: istio-system").replace(ECHO, ""),
            &[GOOD, "plain GET /"],
            &[],
        )
        .and(401, BAD),
        Case::new("preflight", me(", presence: REQUIRED"), &[GOOD], &[]).and(401, &["plain GET /"]),
    ]
}

/// Who may do what by what tokens say.
fn authorization(by: &Issuers) -> Vec<Case> {
    const GOOD: &str = "plain GET / authorization: Bearer $good";
    const ADMIN: &str = "plain GET / authorization: Bearer $admin";
    const SCOPED: &str = "plain GET / authorization: Bearer $scoped";
    const WEB: &str = "plain GET / authorization: Bearer $web";
    const PHONE: &str = "plain GET / authorization: Bearer $phone";
    const NONE: &str = "plain GET /";
    let with = |name: &'static str, fields: &str, yes: &'static [&'static str], no: &'static [&'static str]| {
        Case::new(name, taken(&by.me, "") + &policy(name, fields), yes, no)
            .and(401, &["plain GET / authorization: Bearer $forged"])
    };
    let from = |source: &str| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
    let when = |key: &str, values: &str| format!("rules: [{{when: [{{key: \"request.auth.{key}\", {values}}}]}}]");
    let deny = |rules: &str| format!("action: DENY\n{rules}");
    vec![
        with("any-token", &from("requestPrincipals: [\"*\"]"), &[GOOD, ADMIN], &[NONE, "client GET /", "plain tcp"]),
        with("principal", &from(&format!("requestPrincipals: [\"{ME}/admin\"]")), &[ADMIN], &[GOOD, NONE]),
        with("principal-of-issuer", &from(&format!("requestPrincipals: [\"{ME}/*\"]")), &[GOOD, ADMIN], &[NONE]),
        // What is in front of the last / is the issuer.
        with("principal-of-another-issuer", &from("requestPrincipals: [\"https://me*\"]"), &[], &[GOOD, NONE]),
        Case::new(
            "principal-prefix",
            rules("both", &[rule(&by.me, ""), rule(&by.other, "")])
                + &policy("prefix", &from("requestPrincipals: [\"other@*\"]")),
            &["plain GET / authorization: Bearer $other"],
            &[GOOD, NONE],
        ),
        with("principal-of-anybody", &from("requestPrincipals: [\"*/admin\"]"), &[ADMIN], &[GOOD, NONE]),
        with("principal-suffix", &from("requestPrincipals: [\"*min\"]"), &[ADMIN], &[GOOD, NONE]),
        with(
            "two-principals",
            &from(&format!("requestPrincipals: [\"{ME}/someone\", \"nobody/x\"]")),
            &[GOOD],
            &[ADMIN, NONE],
        ),
        with(
            "without-token",
            &deny(&from("notRequestPrincipals: [\"*\"]")),
            &[GOOD],
            &[NONE, "client GET /", "plain tcp"],
        ),
        with(
            "token-and-identity",
            &from("requestPrincipals: [\"*\"], principals: [\"*/sa/client\"]"),
            &["client GET / authorization: Bearer $good"],
            &[GOOD, "client GET /", "client tcp"],
        ),
        with("when-principal", &when("principal", &format!("values: [\"{ME}/admin\"]")), &[ADMIN], &[GOOD, NONE]),
        with(
            "when-not-principal",
            &when("principal", "notValues: [\"*/admin\"]"),
            &[GOOD, NONE],
            &[ADMIN, "plain tcp"],
        ),
        with("when-audiences", &when("audiences", "values: [api, tablet]"), &[WEB], &[PHONE, GOOD, NONE]),
        with("when-audience", &when("audiences", "values: [\"ph*\"]"), &[PHONE], &[WEB, NONE]),
        with("when-presenter", &when("presenter", "values: [web-app]"), &[SCOPED], &[GOOD, NONE]),
        with("when-claim", &when("claims[level]", "values: [\"7\"]"), &[SCOPED], &[GOOD, NONE]),
        with("when-claim-of-list", &when("claims[groups]", "values: [ops]"), &[ADMIN], &[GOOD, SCOPED]),
        with("when-claim-prefix", &when("claims[groups]", "values: [\"de*\", x]"), &[ADMIN], &[GOOD]),
        with("when-claim-inside", &when("claims[realm][roles]", "values: [root]"), &[ADMIN], &[GOOD, SCOPED]),
        with("when-claim-text-inside", &when("claims[realm][name]", "values: [a]"), &[ADMIN], &[GOOD]),
        with("when-claim-present", &when("claims[groups]", "values: [\"*\"]"), &[ADMIN], &[GOOD, NONE]),
        with(
            "when-not-claim",
            &deny(&when("claims[groups]", "notValues: [ops]")),
            &[ADMIN],
            &[GOOD, NONE, "plain tcp"],
        ),
        with("when-scope", &when("claims[scope]", "values: [write]"), &[SCOPED], &[GOOD, NONE]),
        with("deny-claim", &deny(&when("claims[groups]", "values: [ops]")), &[GOOD, NONE], &[ADMIN, "plain tcp"]),
        Case::new(
            "spaces-in-claims",
            taken(&by.me, ", spaceDelimitedClaims: [flags]")
                + &policy("flags", &when("claims[flags]", "values: [right]")),
            &[SCOPED],
            &[GOOD, NONE],
        ),
        Case::new(
            "of-either-issuer",
            rules("both", &[rule(&by.me, ""), rule(&by.other, "")])
                + &policy("either", &from(&format!("requestPrincipals: [\"{OTHER}/*\", \"{ME}/admin\"]"))),
            &[ADMIN, "plain GET / authorization: Bearer $other"],
            &[GOOD, NONE],
        ),
        Case::new(
            "by-path",
            taken(&by.me, "")
                + &policy("healthz", "rules: [{to: [{operation: {paths: [/healthz]}}]}]")
                + &policy("rest", &from("requestPrincipals: [\"*\"]")),
            &["plain GET /healthz", GOOD],
            &[NONE],
        ),
        // Nobody verifies tokens: nobody has one.
        Case::new("nobody-verifies", policy("any", &from("requestPrincipals: [\"*\"]")), &[], &[GOOD, NONE]),
    ]
}

async fn tokens(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let mesh = Mesh::start(kind, 3600, true, "").await?;
    let issuers = Issuers::new()?;
    let mut callers = Callers::of(&mesh)?;
    issuers.words(&mut callers)?;
    all_hold(kind, &mesh, &callers, &authentication(&issuers)).await?;
    all_hold(kind, &mesh, &callers, &authorization(&issuers)).await?;
    what_goes_on(&mesh, &callers, &issuers).await.with_context(|| kind.name())
}

/// What the workload gets of a token.
async fn what_goes_on(mesh: &Mesh, callers: &Callers, issuers: &Issuers) -> Result<()> {
    let fields = ", forwardOriginalToken: true, outputPayloadToHeader: x-payload, \
                  outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: x-name, claim: realm.name}, {header: x-none, claim: none}]";
    let admin = "plain GET / authorization: Bearer $admin | x-sub: forged | x-none: forged";
    for (fields, forwarded) in [(fields, true), ("", false)] {
        mesh.policy(&taken(&issuers.me, fields)).await?;
        let case =
            Case::new("what-goes-on", String::new(), &[], &[]).and(401, &["plain GET / authorization: Bearer $forged"]);
        holds(mesh, callers, &case).await?;
        let _ = mesh.journal.take();
        ensure!(call(mesh, callers, admin).await? == 200);
        let seen = mesh.journal.take().pop().context("nothing came through")?;
        let lower = seen.to_lowercase();
        ensure!(lower.contains("authorization: bearer") == forwarded, "{seen}");
        ensure!(lower.contains("x-sub: admin") == forwarded && lower.contains("x-name: a") == forwarded, "{seen}");
        ensure!(lower.contains("x-payload: ") == forwarded && lower.contains("forged") != forwarded, "{seen}");
    }
    Ok(())
}

/// A server of keys.
struct KeyServer {
    port: u16,
    /// What it answers, by path; `None`: 503.
    answers: Arc<Mutex<std::collections::BTreeMap<&'static str, String>>>,
    _task: JoinSet<()>,
}

impl KeyServer {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let answers: Arc<Mutex<std::collections::BTreeMap<&'static str, String>>> = Arc::default();
        let known = answers.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let body = known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
                let text = match body {
                    Some(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
                    None => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _gone = stream.write_all(text.as_bytes()).await;
            }
        });
        Ok(Self { port, answers, _task: task })
    }

    fn answer(&self, path: &'static str, body: &str) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path, body.to_owned());
    }

    fn uri(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Keys that the control plane fetches: as long as there are none every token is refused, then they are verified.
async fn fetched(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let mesh = Mesh::start(kind, 3600, true, "").await?;
    let server = KeyServer::start().await?;
    let mut callers = Callers::of(&mesh)?;
    let me = Issuer::new(ME)?;
    let discovered = Issuer { name: Box::leak(server.uri("/realm").into_boxed_str()), ..Issuer::new(ME)? };
    callers.words.insert("$good", me.token(json!({}))?);
    callers.words.insert("$discovered", discovered.token(json!({}))?);
    let by_uri = rules("uri", &[format!("- {{issuer: {ME}, jwksUri: \"{}\"}}\n", server.uri("/keys"))]);
    mesh.policy(&by_uri).await?;
    let refused = Case::new("not-fetched-yet", String::new(), &["plain GET /"], &[])
        .and(401, &["plain GET / authorization: Bearer $good"]);
    holds(&mesh, &callers, &refused).await.with_context(|| kind.name())?;

    // Everybody who looks learns why.
    let told = || async {
        let objects = mesh.plane.debug("/debug/configz").await.ok()?;
        let found = objects.as_array()?.iter().find(|of| of["object"] == "RequestAuthentication shop/uri")?.to_string();
        (found.contains(&server.uri("/keys")) && found.contains("503")).then_some(())
    };
    eventually("the object says why", PATIENCE, told).await?;
    ensure!(mesh.plane.log().contains(&format!("{}: the answer is 503", server.uri("/keys"))), "{}", mesh.plane.log());
    let page = mesh.plane.debug("/debug/jwksz").await?;
    ensure!(page[0]["available"] == false && page[0]["failures"].as_u64() > Some(0), "{page}");

    server.answer("/keys", &me.keys());
    let good = Case::new("fetched", String::new(), &["plain GET / authorization: Bearer $good", "plain GET /"], &[]);
    let look = || async { holds(&mesh, &callers, &good).await.ok() };
    eventually("the keys are there", PATIENCE * 2, look).await.with_context(|| mesh.plane.log())?;
    ensure!(mesh.plane.metric("weft_jwks_available").await? == 1.0);

    // By the issuer alone, and by a control plane that starts again: whose keys were good stay so.
    server.answer("/realm/.well-known/openid-configuration", &json!({"jwks_uri": server.uri("/found")}).to_string());
    server.answer("/found", &discovered.keys());
    let by_issuer = rules("issuer", &[format!("- {{issuer: \"{}\"}}\n", discovered.name)]);
    mesh.policy(&(by_uri + &by_issuer)).await?;
    let both = Case::new(
        "discovered",
        String::new(),
        &["plain GET / authorization: Bearer $discovered", "plain GET / authorization: Bearer $good"],
        &[],
    );
    holds(&mesh, &callers, &both).await.with_context(|| mesh.plane.log())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_takes_tokens() -> Result<()> {
    tokens(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_takes_tokens() -> Result<()> {
    tokens(Kind::Envoy).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_has_keys_that_are_fetched() -> Result<()> {
    fetched(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_has_keys_that_are_fetched() -> Result<()> {
    fetched(Kind::Envoy).await
}
