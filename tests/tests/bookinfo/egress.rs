//! Out of the mesh: a ServiceEntry, and TLS that the proxy begins.

use anyhow::{Result, ensure};
use weft_tests::bookinfo::{BookInfo, SERVICES, apps};
use weft_tests::locate::skipped;
use weft_tests::wait::{PATIENCE, eventually};

use crate::on_both;

const GOOGLE: &str = "networking/egress-rule-google-apis.yaml";

on_both! { plaintext_becomes_tls }

/// Names lead to our own name server, and trust is in the authority of the tests.
fn patches(mesh: &BookInfo) -> String {
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let ca = mesh.plane.dir().join("ca.pem");
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: outside, namespace: default}}\nspec:\n  \
         configPatches:\n  - applyTo: CLUSTER\n    match: {{cluster: {{service: www.googleapis.com}}}}\n    \
         patch: {{operation: MERGE, value: {{{}}}}}\n  \
         - applyTo: CLUSTER\n    match: {{cluster: {{service: www.googleapis.com, portNumber: 443}}}}\n    \
         patch: {{operation: MERGE, value: {{transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{\"@type\": {tls}, \
         common_tls_context: {{validation_context: {{trusted_ca: {{filename: {}}}}}}}}}}}}}}}\n",
        mesh.resolver(),
        ca.display()
    )
}

async fn plaintext_becomes_tls(mut mesh: BookInfo) -> Result<()> {
    mesh.plane.write("outside.yaml", &patches(&mesh))?;
    mesh.only(&[SERVICES, GOOGLE]).await?;
    if !mesh.has_outside() {
        skipped("BookInfo's egress", "port 443 is not for us to take here");
        return Ok(());
    }
    // A plain request for the host at port 80 arrives over TLS at its port 443, which was asked for by its name.
    let to = mesh.from_productpage(80);
    let last = std::cell::RefCell::new(String::new());
    let look = || async {
        let answer = match apps::get(to, "www.googleapis.com", "/books/v1/volumes", "").await {
            Ok(answer) => format!("{} {}", answer.status(), String::from_utf8_lossy(&answer.body)),
            Err(error) => format!("{error:#}"),
        };
        let fits = answer == "200 googleapis sni=www.googleapis.com";
        *last.borrow_mut() = answer;
        fits.then_some(())
    };
    let seen = eventually("an answer from outside", PATIENCE, look).await;
    ensure!(seen.is_ok(), "{}", last.borrow());
    // Inside nothing is different.
    mesh.page_is(None, |page| page.contains(" details=details-v1 ")).await
}
