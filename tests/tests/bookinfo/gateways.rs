//! In at the door: Istio's Gateway, the Gateway API's, an Ingress, and certificates.

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use weft_tests::bookinfo::{BookInfo, GatewayKind, SERVICES, apps, cluster};
use weft_tests::tls;
use weft_tests::wait::{PATIENCE, eventually};

use crate::on_both;

const GATEWAY: &str = "networking/bookinfo-gateway.yaml";

on_both! { istio gateway_api ingress certificates cert_manager }

/// BookInfo's paths lead to productpage, others nowhere.
async fn serves(mesh: &BookInfo, port: u16, beneath_static: u16) -> Result<()> {
    let status =
        |path: &'static str| async move { mesh.through_gateway(port, path).await.map(|answer| answer.status()) };
    let open = || async { status("/productpage").await.ok().filter(|status| *status == 200).map(drop) };
    eventually("the gateway is open", PATIENCE, open).await?;
    let page = mesh.through_gateway(port, "/productpage").await?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    ensure!(page.starts_with("productpage-v1 details=details-v1 reviews=reviews-v"), "{page}");
    for (path, wanted) in [
        ("/static/a.css", 200),
        ("/login", 200),
        ("/logout", 200),
        ("/api/v1/products/0/reviews", 200),
        ("/productpage/x", 404),
        ("/login/", 404),
        ("/", 404),
        ("/staticx", beneath_static),
    ] {
        let got = status(path).await?;
        ensure!(got == wanted, "{path}: {got}, not {wanted}");
    }
    Ok(())
}

async fn istio(mut mesh: BookInfo) -> Result<()> {
    mesh.gateway(GatewayKind::Ingress).await?;
    mesh.only(&[SERVICES, GATEWAY]).await?;
    // Istio's prefix is one of letters.
    serves(&mesh, 8080, 200).await?;
    // A route within the mesh is none of the gateway's, but the subset of the page's reviews follows it.
    mesh.only(&[
        SERVICES,
        GATEWAY,
        "networking/destination-rule-all.yaml",
        "networking/virtual-service-reviews-v3.yaml",
    ])
    .await?;
    mesh.page_is(None, |page| page.ends_with("reviews=reviews-v3 ratings=ratings-v1")).await?;
    serves(&mesh, 8080, 200).await
}

async fn gateway_api(mut mesh: BookInfo) -> Result<()> {
    mesh.gateway(GatewayKind::Api).await?;
    mesh.only(&[SERVICES, "gateway-api/bookinfo-gateway.yaml"]).await?;
    // A prefix of the Gateway API ends at a slash.
    serves(&mesh, 80, 404).await
}

async fn ingress(mut mesh: BookInfo) -> Result<()> {
    mesh.gateway(GatewayKind::Ingress).await?;
    mesh.only(&[SERVICES, "platform/kube/bookinfo-ingress.yaml"]).await?;
    serves(&mesh, 80, 404).await
}

/// A request over TLS: the certificate that is shown, and the status.
async fn over_tls(port: u16) -> Result<(&'static str, u16)> {
    let connector = tokio_rustls::TlsConnector::from(tls::client(None, &["http/1.1"])?);
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = connector.connect("bookinfo.example".try_into()?, tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(tls::common_name);
    let answer = apps::get_over(stream, "bookinfo.example", "/productpage", "").await?;
    Ok((shown.context("no certificate")?, answer.status()))
}

/// A Secret with one of the tests' certificates.
fn secret(identity: &str) -> Result<String> {
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let found = tls::material()?.pem(identity)?;
    Ok(format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: bookinfo-cert, namespace: istio-system}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&found.certificate),
        indent(&found.key)
    ))
}

/// BookInfo's routes behind a door of TLS as well: the certificate comes from a Secret, and follows it.
async fn certificates(mut mesh: BookInfo) -> Result<()> {
    mesh.gateway(GatewayKind::Ingress).await?;
    let door = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: bookinfo-gateway-tls, namespace: default}\n\
        spec:\n  selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 443, name: https, protocol: HTTPS}\n    \
        hosts: [\"*\"]\n    tls: {mode: SIMPLE, credentialName: bookinfo-cert}\n---\n\
        apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bookinfo-tls, namespace: default}\n\
        spec:\n  hosts: [\"*\"]\n  gateways: [bookinfo-gateway-tls]\n  http:\n  - match: [{uri: {exact: /productpage}}]\n    \
        route: [{destination: {host: productpage, port: {number: 9080}}}]\n";
    mesh.plane.write("secret.yaml", &secret("server")?)?;
    mesh.plane.write("door.yaml", door)?;
    mesh.only(&[SERVICES, GATEWAY]).await?;
    serves(&mesh, 8080, 200).await?;
    let port = mesh.gateway_port(443);
    for identity in ["server", "other", "server"] {
        mesh.plane.write("secret.yaml", &secret(identity)?)?;
        let last = std::cell::RefCell::new(String::new());
        let look = || async {
            let got = over_tls(port).await;
            let fits = matches!(&got, Ok((shown, 200)) if *shown == identity);
            *last.borrow_mut() = format!("{got:?}");
            fits.then_some(())
        };
        let seen = eventually("the certificate", PATIENCE, look).await;
        ensure!(seen.is_ok(), "{identity}: {}", last.borrow());
    }
    Ok(())
}

async fn cert_manager(mut mesh: BookInfo) -> Result<()> {
    mesh.gateway(GatewayKind::Ingress).await?;
    // The resolver is cert-manager's own: BookInfo has only the way to it.
    let (address, port) = mesh.stand_in("cert-manager-resolver").await?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: cert-manager-resolver, namespace: istio-system}\n\
        spec: {selector: {app: cert-manager-resolver}, ports: [{name: http, port: 8089}]}\n---\n";
    let slice =
        cluster::slice("cert-manager-resolver", "istio-system", "http", ("cert-manager-resolver", address, port));
    mesh.plane.write("resolver.yaml", &format!("{service}{slice}"))?;
    mesh.only(&[SERVICES, "networking/certmanager-gateway.yaml"]).await?;
    let challenge = || async {
        let answer = mesh.through_gateway(80, "/.well-known/acme-challenge/token").await.ok()?;
        (answer.body == *b"cert-manager-resolver").then_some(())
    };
    eventually("the challenge is answered", PATIENCE, challenge).await?;
    let other = mesh.through_gateway(80, "/productpage").await?.status();
    ensure!(other == 404, "{other}");
    Ok(())
}
