//! The rate limit of productpage: an EnvoyFilter with a filter and a cluster.

use anyhow::{Result, ensure};
use weft_tests::bookinfo::{BookInfo, GatewayKind, SERVICES};
use weft_tests::wait::{PATIENCE, eventually};

use crate::on_both;

const GATEWAY: &str = "networking/bookinfo-gateway.yaml";

on_both! { rate_limit }

/// Names lead to our own name server: there is no rate limit service in BookInfo.
fn resolver(mesh: &BookInfo) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: resolver, namespace: istio-system}}\nspec:\n  \
         priority: 10\n  configPatches:\n  - applyTo: CLUSTER\n    match: {{cluster: {{name: rate_limit_cluster}}}}\n    \
         patch: {{operation: MERGE, value: {{{}}}}}\n",
        mesh.resolver()
    )
}

async fn rate_limit(mut mesh: BookInfo) -> Result<()> {
    mesh.gateway(GatewayKind::Ingress).await?;
    mesh.plane.write("resolver.yaml", &resolver(&mesh))?;
    mesh.only(&[SERVICES, GATEWAY]).await?;
    eventually_is(&mesh, 200).await?;
    mesh.only(&[SERVICES, GATEWAY, "policy/productpage_envoy_ratelimit.yaml"]).await?;

    // The control plane takes it as it is, and says that it fills in what today's Envoy insists on.
    let log = mesh.plane.log();
    ensure!(log.contains("transport_api_version is missing"), "{log}");
    let given = mesh.plane.weft(&["proxy-config", "all", "istio-ingressgateway-0", "-o", "json"]).await?;
    for wanted in ["envoy.ratelimit", "productpage-ratelimit", "rate_limit_cluster"] {
        ensure!(given.contains(wanted), "{wanted} is not in {given}");
    }
    // Nobody can say that the limit is not reached, so all are turned away, as `failure_mode_deny` asks.
    eventually_is(&mesh, 500).await
}

async fn eventually_is(mesh: &BookInfo, status: u16) -> Result<()> {
    let look = || async {
        let answer = mesh.through_gateway(8080, "/productpage").await.ok()?;
        (answer.status() == status).then_some(())
    };
    eventually(&format!("an answer of {status}"), PATIENCE, look).await
}
