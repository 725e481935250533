//! Whom somebody else is asked about: CUSTOM policies.

use anyhow::{Context, Result, ensure};
use weft_tests::locate::Kind;
use weft_tests::ports::Reserved;

use super::authorizer::Authorizer;
use super::policy::{Callers, Case, all_hold, call, object, policy};
use super::scene::{Mesh, skipped};

/// The authorization server as a service that only its own namespace sees, and the providers that policies name.
fn providers(authorizer: &Authorizer, ports: &[Reserved; 3]) -> String {
    let [http, grpc, nobody] = ports.each_ref().map(Reserved::port);
    let (to_http, to_grpc) = (authorizer.http, authorizer.grpc);
    format!(
        r#"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: authorizer, namespace: shop}}
spec:
  hosts: [authorizer.example]
  exportTo: ["."]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports:
  - {{name: http, number: {http}, targetPort: {to_http}, protocol: HTTP}}
  - {{name: grpc, number: {grpc}, targetPort: {to_grpc}, protocol: GRPC}}
  - {{name: http-nobody, number: {nobody}, targetPort: {nobody}, protocol: HTTP}}
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: http
      envoyExtAuthzHttp:
        service: authorizer.example
        port: {http}
        timeout: 5s
        pathPrefix: /check
        includeRequestHeadersInCheck: [x-ext-authz, "x-shown-*"]
        includeAdditionalHeadersInCheck: {{x-mesh: weft}}
        includeRequestBodyInCheck: {{maxRequestBytes: 64, allowPartialMessage: true}}
        headersToUpstreamOnAllow: [x-judged]
        headersToDownstreamOnDeny: [x-why]
        headersToDownstreamOnAllow: [x-told]
    - name: grpc
      envoyExtAuthzGrpc: {{service: shop/authorizer.example, port: {grpc}, timeout: 5s, includeRequestBodyInCheck: {{maxRequestBytes: 64}}}}
    - name: gone
      envoyExtAuthzHttp: {{service: authorizer.example, port: {nobody}, statusOnError: "429", includeRequestHeadersInCheck: [x-ext-authz]}}
    - name: gone-open
      envoyExtAuthzHttp: {{service: authorizer.example, port: {nobody}, failOpen: true}}
    - name: nowhere
      envoyExtAuthzHttp: {{service: nowhere.example, port: 80}}
---
"#
    )
}

fn custom(provider: &str, rules: &str) -> String {
    policy("custom", &format!("action: CUSTOM\nprovider: {{name: {provider}}}\n{rules}"))
}

fn cases() -> Vec<Case> {
    const GOOD: &str = "plain GET / x-ext-authz: allow";
    let all = "rules: [{}]";
    let admin = "rules: [{to: [{operation: {paths: [\"/admin*\"]}}]}]";
    let mut cases = Vec::new();
    for provider in ["http", "grpc"] {
        let (name, by_path): (&'static str, &'static str) =
            if provider == "http" { ("http", "http-by-path") } else { ("grpc", "grpc-by-path") };
        cases.push(Case::new(name, custom(provider, all), &[GOOD], &[]).and(401, &["plain GET /", "client GET /x"]));
        cases.push(
            Case::new(by_path, custom(provider, admin), &["plain GET /", "plain GET /admin x-ext-authz: allow"], &[])
                .and(401, &["plain GET /admin", "client GET /admin/x"]),
        );
    }
    cases.extend([
        // What a server is asked about comes before what is denied, and is no allowance.
        Case::new(
            "before-deny",
            custom("http", all) + &policy("deny", "action: DENY\nrules: [{to: [{operation: {methods: [PUT]}}]}]"),
            &[GOOD],
            &["plain PUT / x-ext-authz: allow"],
        )
        .and(401, &["plain PUT /"]),
        Case::new(
            "before-allow",
            custom("http", all) + &policy("allow", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
            &[GOOD],
            &["plain POST / x-ext-authz: allow"],
        )
        .and(401, &["plain POST /"]),
        Case::new(
            "by-identity",
            custom("http", "rules: [{from: [{source: {principals: [\"*/sa/other\"]}}]}]"),
            &["plain GET /", "client GET /", "other GET / x-ext-authz: allow"],
            &[],
        )
        .and(401, &["other GET /"]),
        // Where nobody can be asked, what would be asked about is denied.
        Case::new(
            "unknown-provider",
            custom("nobody", admin),
            &["plain GET /"],
            &["plain GET /admin x-ext-authz: allow"],
        ),
        Case::new("unknown-service", custom("nowhere", admin), &["plain GET /"], &["plain GET /admin"]),
        Case::new(
            "two-providers",
            custom("http", admin)
                + &policy(
                    "other",
                    "action: CUSTOM\nprovider: {name: grpc}\nrules: [{to: [{operation: {paths: [/other]}}]}]",
                ),
            &["plain GET /"],
            &["plain GET /admin x-ext-authz: allow", "plain GET /other x-ext-authz: allow"],
        ),
        Case::new("no-answer", custom("gone", admin), &["plain GET /"], &[]).and(429, &["plain GET /admin"]),
        Case::new("no-answer-open", custom("gone-open", all), &["plain GET /", "plain POST /admin"], &[]),
        // A server that speaks HTTP is not asked about connections, one that speaks gRPC is.
        Case::new("http-of-connections", custom("http", all), &["plain tcp"], &[]),
        Case::new("grpc-of-connections", custom("grpc", all), &["client tcp"], &["plain tcp", "other tcp"]),
        Case::new(
            "dry-run",
            object(
                "AuthorizationPolicy",
                "name: custom, namespace: shop, annotations: {istio.io/dry-run: \"true\"}",
                super::policy::ECHO,
                "action: CUSTOM\nprovider: {name: http}\nrules: [{}]",
            ),
            &["plain GET /", "plain tcp"],
            &[],
        ),
    ]);
    cases
}

async fn asked(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let authorizer = Authorizer::start().await?;
    let ports = [Reserved::new()?, Reserved::new()?, Reserved::new()?];
    let mesh = Mesh::start(kind, 3600, true, &providers(&authorizer, &ports)).await?;
    let callers = Callers::of(&mesh)?;
    all_hold(kind, &mesh, &callers, &cases()).await?;
    what_is_said(&mesh, &callers, &authorizer).await.with_context(|| kind.name())
}

/// What the server gets, and what the workload gets of its answer.
async fn what_is_said(mesh: &Mesh, callers: &Callers, authorizer: &Authorizer) -> Result<()> {
    let good = "plain POST /p?q x-ext-authz: allow | x-shown-a: b | x-hidden: c | content-length: 0";
    for provider in ["http", "grpc"] {
        mesh.policy(&custom(provider, "rules: [{}]")).await?;
        ensure!(call(mesh, callers, "plain GET /").await? == 401, "{provider}: refused");
        let (_, _) = (authorizer.asked.take(), mesh.journal.take());
        ensure!(call(mesh, callers, good).await? == 200, "{provider}: let through");
        let question = authorizer.asked.take().pop().context("nothing was asked")?;
        let request = mesh.journal.take().pop().context("nothing came through")?;
        ensure!(request.contains("x-judged: yes") && !request.contains("x-seen"), "{provider}: {request}");
        if provider == "http" {
            ensure!(question.starts_with("post /check/p?q http/1.1"), "{question}");
            for line in ["x-ext-authz: allow", "x-shown-a: b", "x-mesh: weft"] {
                ensure!(question.contains(line), "{line} is not in {question}");
            }
            ensure!(!question.contains("x-hidden"), "{question}");
        } else {
            ensure!(question.contains("/p?q") && question.contains("x-hidden"), "{question}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_asks_who_may_come() -> Result<()> {
    asked(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_asks_who_may_come() -> Result<()> {
    asked(Kind::Envoy).await
}
