//! A gateway: tokens, policies attached to it, and routes by what tokens say.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::client::fetch;
use weft_tests::control_plane::{ControlPlane, bootstrap};
use weft_tests::locate::Kind;
use weft_tests::ports::Reserved;
use weft_tests::upstream::{Flavour, Journal, Upstream};
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

use super::scene::skipped;
use super::tokens::Issuer;

/// The gateway, and two services behind it.
fn objects(open: u16, a: &Upstream, b: &Upstream) -> String {
    let service = |name: &str, port: u16| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: edge}}\n\
             spec: {{hosts: [{name}.example], location: MESH_EXTERNAL, resolution: STATIC, \
             ports: [{{name: http, number: 80, targetPort: {port}, protocol: HTTP}}], endpoints: [{{address: 127.0.0.1}}]}}\n---\n"
        )
    };
    service("a", a.port())
        + &service("b", b.port())
        + &format!(
            r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: web, namespace: edge}}
spec: {{selector: {{istio: web}}, servers: [{{port: {{number: {open}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: edge}}
spec:
  hosts: [shop.example]
  gateways: [web]
  http:
  - match:
    - headers: {{"@request.auth.claims.groups": {{exact: beta}}}}
      withoutHeaders: {{"@request.auth.claims[realm][blocked]": {{exact: "yes"}}}}
    route: [{{destination: {{host: b.example}}}}]
  - route: [{{destination: {{host: a.example}}}}]
---
"#
        )
}

fn policies(issuer: &Issuer) -> String {
    let target =
        |name: &str| format!("targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}]");
    let (web, other) = (target("web"), target("other"));
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: edge}}\n\
         spec:\n  {web}\n  jwtRules: [{{issuer: \"{}\", jwks: '{}'}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: admin, namespace: edge}}\n\
         spec:\n  {web}\n  action: DENY\n  rules: [{{to: [{{operation: {{paths: [/admin]}}}}], from: [{{source: {{notRequestPrincipals: [\"*\"]}}}}]}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: others, namespace: edge}}\n\
         spec:\n  {other}\n  action: DENY\n  rules: [{{}}]\n---\n",
        issuer.name,
        issuer.keys()
    )
}

async fn at_the_edge(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let journal = Journal::default();
    let a = Upstream::start("a", Flavour::Http, journal.clone()).await?;
    let b = Upstream::start("b", Flavour::Http, journal.clone()).await?;
    let (open, issuer) = (Reserved::new()?, Issuer::new("https://me.example")?);
    let text = objects(open.port(), &a, &b) + &policies(&issuer);
    let plane = ControlPlane::start(&[("mesh.yaml", &text)]).await?;
    let labels = "istio: web, gateway.networking.k8s.io/gateway-name: web";
    let node = "router~127.0.0.1~web-0.edge~edge.svc.cluster.local";
    let proxy = World::start(kind, &bootstrap(node, labels, "DELTA_GRPC", plane.grpc())).await?;
    plane.quiet(1).await?;

    let token = |more| issuer.token(more).map(|token| format!("authorization: Bearer {token}\r\n"));
    let beta = token(json!({"groups": ["beta", "x"]}))?;
    let blocked = token(json!({"groups": "beta", "realm": {"blocked": "yes"}}))?;
    let other = token(json!({"groups": ["alpha"]}))?;
    let bad = beta.replace("Bearer e", "Bearer f");
    for (path, token, status, by) in [
        ("/", "", 200, "a"),
        ("/", &other, 200, "a"),
        ("/", &beta, 200, "b"),
        ("/", &blocked, 200, "a"),
        ("/", &bad, 401, ""),
        ("/admin", "", 403, ""),
        ("/admin", &beta, 200, "b"),
        ("/admin", &other, 200, "a"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n{token}connection: close\r\n\r\n");
        let last = std::cell::RefCell::new(String::new());
        let look = || async {
            let _ = journal.take();
            let answered = fetch(open.port(), request.as_bytes()).await.map(|answer| answer.status());
            let seen = journal.take();
            let through = seen.first().map_or("", |entry| if entry.starts_with("[a]") { "a" } else { "b" });
            *last.borrow_mut() = format!("{path}: {answered:?} by {through:?}, not {status} by {by:?}");
            (answered.ok()? == status && through == by).then_some(())
        };
        let outcome = eventually("the answer", PATIENCE, look).await;
        let log = || std::fs::read_to_string(proxy.dir().join("bootstrap.log")).unwrap_or_default();
        outcome.with_context(|| format!("{}: {}\n{}", kind.name(), last.borrow(), log()))?;
    }
    let status = plane.debug("/debug/push_status").await?;
    ensure!(status["byState"]["nacked"] == 0, "{status}\n{}", plane.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_judges_at_the_edge() -> Result<()> {
    at_the_edge(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_judges_at_the_edge() -> Result<()> {
    at_the_edge(Kind::Envoy).await
}
