//! Services in their variants, their databases, and pods that come later.

use anyhow::{Result, ensure};
use weft_tests::bookinfo::apps::ask_database;
use weft_tests::bookinfo::{BookInfo, SERVICES};
use weft_tests::wait::{PATIENCE, eventually};

use crate::on_both;

const SUBSETS: &str = "networking/destination-rule-all.yaml";

on_both! { databases variants both_families }

/// What the database at a port says to reviews.
async fn database(mesh: &BookInfo, port: u16) -> Result<String> {
    let to = mesh.from_reviews(port);
    eventually(&format!("a database at {to}"), PATIENCE, || async { ask_database(to).await.ok() }).await
}

async fn databases(mut mesh: BookInfo) -> Result<()> {
    let mongo = ["platform/kube/bookinfo-db.yaml", "platform/kube/bookinfo-ratings-v2.yaml"];
    mesh.only(&[&[SERVICES, SUBSETS, "networking/virtual-service-ratings-db.yaml"], &mongo[..]].concat()).await?;
    mesh.page_is(None, |page| page.ends_with("reviews=reviews-v3 ratings=ratings-v2")).await?;
    ensure!(database(&mesh, 27017).await? == "mongodb-v1");

    let mysql = ["platform/kube/bookinfo-mysql.yaml", "platform/kube/bookinfo-ratings-v2-mysql.yaml"];
    mesh.only(&[&[SERVICES, SUBSETS, "networking/virtual-service-ratings-mysql.yaml"], &mysql[..]].concat()).await?;
    mesh.page_is(None, |page| page.ends_with("reviews=reviews-v3 ratings=ratings-v2-mysql")).await?;
    ensure!(database(&mesh, 3306).await? == "mysqldb-v1");

    let vm = "platform/kube/bookinfo-ratings-v2-mysql-vm.yaml";
    mesh.only(&[SERVICES, SUBSETS, vm, "networking/virtual-service-ratings-mysql-vm.yaml"]).await?;
    mesh.page_is(None, |page| page.ends_with("reviews=reviews-v3 ratings=ratings-v2-mysql-vm")).await
}

/// Files that say the same of a service in another way, in place of those of [`SERVICES`].
async fn variants(mut mesh: BookInfo) -> Result<()> {
    let whole = |page: &str| page.contains("productpage-v1 details=details-v1 reviews=reviews-v");
    mesh.only(&["platform/kube/bookinfo-psa.yaml"]).await?;
    mesh.page_is(None, whole).await?;
    for file in [
        "platform/kube/productpage-nodeport.yaml",
        "platform/kube/bookinfo-details.yaml",
        "platform/kube/bookinfo-ratings.yaml",
        "platform/kube/bookinfo-ratings-discovery.yaml",
        "platform/kube/bookinfo-reviews-v2.yaml",
    ] {
        mesh.only(&[SERVICES, file]).await?;
        mesh.page_is(None, whole).await?;
    }
    // By themselves: a service without pods, then with.
    let (service, pods) = ("platform/kube/bookinfo-ratings-discovery.yaml", "platform/kube/bookinfo-ratings-v2.yaml");
    let answers = |mesh: &BookInfo, who: &'static str| {
        let to = mesh.from_reviews(9080);
        let look = move || async move {
            let answer = weft_tests::bookinfo::apps::get(to, "ratings:9080", "/", "").await.ok()?;
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            (said == who || answer.status().to_string() == who).then_some(())
        };
        eventually(who, PATIENCE, look)
    };
    mesh.only(&[service]).await?;
    answers(&mesh, "503").await?;
    mesh.only(&[service, pods]).await?;
    answers(&mesh, "ratings-v2").await
}

/// Dual-stack services: pods answer at their IPv4 and at their IPv6 addresses.
async fn both_families(mut mesh: BookInfo) -> Result<()> {
    let all = "platform/kube/bookinfo-dualstack.yaml";
    mesh.only(&[all]).await?;
    mesh.page_is(None, |page| page.contains(" details=details-v1 ")).await?;
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        weft_tests::locate::skipped("BookInfo over IPv6", "there is no ::1 here");
        return Ok(());
    }
    for files in [
        &[all][..],
        &[SERVICES, "platform/kube/bookinfo-details-dualstack.yaml"],
        &[SERVICES, "platform/kube/bookinfo-ratings-dualstack.yaml"],
        &[SERVICES, "platform/kube/bookinfo-ratings-discovery-dualstack.yaml"],
    ] {
        mesh.six = true;
        mesh.forget_pods_but_sidecars();
        mesh.only(files).await?;
        mesh.page_is(None, |page| page.contains(" details=details-v1 over IPv6 ")).await?;
        let seen = mesh.answers("ratings", 5, "").await?;
        ensure!(seen.keys().all(|name| name == "ratings-v1"), "{seen:?}");
    }
    Ok(())
}
