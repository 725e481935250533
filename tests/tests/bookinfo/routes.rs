//! Subsets, weights, headers, faults: VirtualServices and DestinationRules, and their like of the Gateway API.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;
use weft_tests::bookinfo::{BookInfo, SERVICES};

use crate::{on_both, shares};

const SUBSETS: &str = "networking/destination-rule-all.yaml";
const VERSIONS: &str = "platform/kube/bookinfo-versions.yaml";
/// Requests that tell 10 from 20 percent.
const MANY: usize = 600;

on_both! { versions users weights faults delay gateway_api mutual_tls }

/// The end of a page whose reviews are of this version, by `ratings`.
fn reviews(version: &str, ratings: Option<&str>) -> String {
    let asked = ratings.map_or_else(String::new, |ratings| format!(" ratings={ratings}"));
    format!("reviews=reviews-{version}{asked}")
}

async fn shows(mesh: &BookInfo, user: Option<&str>, version: &str, ratings: Option<&str>) -> Result<()> {
    let end = reviews(version, ratings);
    mesh.page_is(user, |page| page.ends_with(&end)).await?;
    // Not now and then: always.
    for _ in 0..10 {
        let page = mesh.page(user).await?;
        ensure!(page.ends_with(&end), "{page}, not {end}");
    }
    Ok(())
}

async fn versions(mut mesh: BookInfo) -> Result<()> {
    // Without routes, any pod answers.
    mesh.only(&[SERVICES, SUBSETS]).await?;
    let seen = mesh.answers("reviews", 60, "").await?;
    ensure!(seen.keys().map(String::as_str).eq(["reviews-v1", "reviews-v2", "reviews-v3"]), "{seen:?}");

    mesh.only(&[SERVICES, SUBSETS, "networking/virtual-service-all-v1.yaml"]).await?;
    shows(&mesh, None, "v1", None).await?;
    mesh.only(&[SERVICES, SUBSETS, "networking/virtual-service-reviews-v3.yaml"]).await?;
    shows(&mesh, None, "v3", Some("ratings-v1")).await?;

    let second = [SERVICES, SUBSETS, "platform/kube/bookinfo-details-v2.yaml"];
    mesh.only(&second).await?;
    let seen = mesh.answers("details", 40, "").await?;
    ensure!(seen.len() == 2, "the new pod gets its part: {seen:?}");
    mesh.only(&[&second[..], &["networking/virtual-service-details-v2.yaml"]].concat()).await?;
    mesh.page_is(None, |page| page.contains("details=details-v2 ")).await?;
    let seen = mesh.answers("details", 20, "").await?;
    ensure!(seen.len() == 1 && seen.contains_key("details-v2"), "{seen:?}");

    // A subset without its DestinationRule is nowhere.
    mesh.only(&[SERVICES, "networking/virtual-service-reviews-v3.yaml"]).await?;
    mesh.page_is(None, |page| page.ends_with("reviews=503")).await
}

async fn users(mut mesh: BookInfo) -> Result<()> {
    mesh.only(&[SERVICES, SUBSETS, "networking/virtual-service-reviews-test-v2.yaml"]).await?;
    shows(&mesh, Some("jason"), "v2", Some("ratings-v1")).await?;
    shows(&mesh, Some("jasonx"), "v1", None).await?;
    shows(&mesh, None, "v1", None).await?;
    mesh.only(&[SERVICES, SUBSETS, "networking/virtual-service-reviews-jason-v2-v3.yaml"]).await?;
    shows(&mesh, Some("jason"), "v2", Some("ratings-v1")).await?;
    shows(&mesh, None, "v3", Some("ratings-v1")).await
}

async fn weights(mut mesh: BookInfo) -> Result<()> {
    for (file, wanted) in [
        ("networking/virtual-service-reviews-50-v3.yaml", [("reviews-v1", 50), ("reviews-v3", 50)]),
        ("networking/virtual-service-reviews-80-20.yaml", [("reviews-v1", 80), ("reviews-v2", 20)]),
        ("networking/virtual-service-reviews-90-10.yaml", [("reviews-v1", 90), ("reviews-v2", 10)]),
        ("networking/virtual-service-reviews-v2-v3.yaml", [("reviews-v2", 50), ("reviews-v3", 50)]),
    ] {
        mesh.only(&[SERVICES, SUBSETS, file]).await?;
        shares(&mesh.answers("reviews", MANY, "").await?, &wanted)?;
    }
    // Its own subsets, balanced at random.
    let files = [SERVICES, "networking/destination-rule-reviews.yaml", "networking/virtual-service-reviews-80-20.yaml"];
    mesh.only(&files).await?;
    shares(&mesh.answers("reviews", MANY, "").await?, &[("reviews-v1", 80), ("reviews-v2", 20)])?;
    let given = mesh.plane.weft(&["proxy-config", "cluster", "productpage-v1-0", "-o", "json"]).await?;
    ensure!(given.contains("RANDOM"), "{given}");
    // And without weights the whole of it.
    mesh.only(&files[..2]).await?;
    shares(&mesh.answers("reviews", MANY, "").await?, &[("reviews-v1", 33), ("reviews-v2", 33), ("reviews-v3", 33)])
}

async fn faults(mut mesh: BookInfo) -> Result<()> {
    mesh.only(&[SERVICES, "networking/fault-injection-details-v1.yaml"]).await?;
    mesh.page_is(None, |page| page.contains(" details=555 ")).await?;
    let seen = mesh.answers("details", 20, "").await?;
    ensure!(seen.len() == 1 && seen.contains_key("555"), "{seen:?}");

    let to_v3 = ["networking/virtual-service-reviews-v3.yaml", "networking/virtual-service-ratings-test-abort.yaml"];
    mesh.only(&[&[SERVICES, SUBSETS], &to_v3[..]].concat()).await?;
    shows(&mesh, Some("jason"), "v3", Some("500")).await?;
    shows(&mesh, None, "v3", Some("ratings-v1")).await?;
    mesh.only(&[SERVICES, SUBSETS, to_v3[0]]).await?;
    shows(&mesh, Some("jason"), "v3", Some("ratings-v1")).await
}

async fn delay(mut mesh: BookInfo) -> Result<()> {
    let to_v3 = "networking/virtual-service-reviews-v3.yaml";
    mesh.only(&[SERVICES, SUBSETS, to_v3, "networking/virtual-service-ratings-test-delay.yaml"]).await?;
    shows(&mesh, None, "v3", Some("ratings-v1")).await?;
    let began = Instant::now();
    let page = mesh.page(Some("jason")).await?;
    let took = began.elapsed();
    ensure!(page.ends_with(&reviews("v3", Some("ratings-v1"))), "{page}");
    // A proxy's timer counts from when its event loop woke, a moment before the request was seen.
    ensure!(took >= Duration::from_millis(6900), "the page was there after {took:?}");
    Ok(())
}

async fn gateway_api(mut mesh: BookInfo) -> Result<()> {
    let with = |file| [SERVICES, VERSIONS, file];
    mesh.only(&with("gateway-api/route-reviews-v1.yaml")).await?;
    shows(&mesh, None, "v1", None).await?;
    mesh.only(&with("gateway-api/route-reviews-v3.yaml")).await?;
    shows(&mesh, None, "v3", Some("ratings-v1")).await?;
    for (file, wanted) in [
        ("gateway-api/route-reviews-50-v3.yaml", [("reviews-v1", 50), ("reviews-v3", 50)]),
        ("gateway-api/route-reviews-90-10.yaml", [("reviews-v1", 90), ("reviews-v2", 10)]),
    ] {
        mesh.only(&with(file)).await?;
        shares(&mesh.answers("reviews", MANY, "").await?, &wanted)?;
    }
    // All of version 1, though there is a second one of details.
    let second = "platform/kube/bookinfo-details-v2.yaml";
    mesh.only(&[&with("gateway-api/route-all-v1.yaml")[..], &[second]].concat()).await?;
    shows(&mesh, None, "v1", None).await?;
    let seen = mesh.answers("details", 20, "").await?;
    ensure!(seen.len() == 1 && seen.contains_key("details-v1"), "{seen:?}");
    Ok(())
}

/// Workloads have no identities yet: that mutual TLS is asked for is told, and traffic goes on without.
async fn mutual_tls(mut mesh: BookInfo) -> Result<()> {
    let file = "networking/destination-rule-all-mtls.yaml";
    mesh.only(&[SERVICES, file, "networking/virtual-service-reviews-v3.yaml"]).await?;
    shows(&mesh, None, "v3", Some("ratings-v1")).await?;
    let log = mesh.plane.log();
    ensure!(log.contains("ISTIO_MUTUAL"), "it is told: {log}");
    Ok(())
}
