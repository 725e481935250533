//! The sample, as the README shows it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use weft_tests::up::Up;
use weft_tests::wait::{PATIENCE, eventually};

use super::sample;

/// Which version of reviews a page shows.
fn version(page: &str) -> String {
    let from = page.split("id=version>").nth(1).unwrap_or_default();
    from.split('<').next().unwrap_or_default().to_owned()
}

/// Who serves reviews to `count` pages.
async fn versions(mesh: &Up, user: Option<&str>, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut all = BTreeMap::new();
    for _ in 0..count {
        *all.entry(version(&mesh.page(user).await?)).or_default() += 1;
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_follows_users_weights_and_files() -> Result<()> {
    let Some(mut mesh) = Up::start("the page", &sample()?).await? else { return Ok(()) };

    let page = mesh.page(None).await?;
    ensure!(page.contains("William Shakespeare"), "{page}");

    // Half of the pages have reviews v1, half v3: of 60 between 15 and 45, in all but 1 of 10,000 runs.
    let everybody = versions(&mesh, None, 60).await?;
    ensure!(everybody.keys().eq(["v1", "v3"]), "{everybody:?}");
    ensure!(everybody.values().all(|count| (15..=45).contains(count)), "{everybody:?}");
    let jason = versions(&mesh, Some("jason"), 10).await?;
    ensure!(jason.keys().eq(["v2"]), "{jason:?}");
    ensure!(mesh.page(Some("jason")).await?.contains("stars black"));

    // Requests went through the proxies on both sides: nobody else has told the application's address.
    for (pod, counter) in [
        ("productpage", "http.outbound_0.0.0.0_9080;.downstream_rq_2xx"),
        ("reviews-v2", "http.inbound_0.0.0.0_9080;.downstream_rq_2xx"),
        ("ratings", "http.inbound_0.0.0.0_9080;.downstream_rq_2xx"),
    ] {
        let seen = mesh.counter(pod, counter).await?;
        ensure!(seen >= 10, "{pod} has {counter} {seen}");
    }

    // A file that is saved is applied.
    let reviews = std::fs::read_to_string(mesh.mesh().join("reviews.yaml"))?;
    let only = reviews.replace("weight: 50", "weight: 0").replacen("weight: 0", "weight: 100", 1);
    mesh.write("reviews.yaml", &only)?;
    let followed = || async { versions(&mesh, None, 10).await.ok()?.keys().eq(["v1"]).then_some(()) };
    eventually("only v1 is left", PATIENCE, followed).await?;

    let state = mesh.state();
    ensure!(state.exists());
    let pids: Vec<i64> = mesh.pods().await?.iter().filter_map(|pod| pod["proxyPid"].as_i64()).collect();
    ensure!(pids.len() == 7, "{pids:?}");
    mesh.down().await?;
    ensure!(!state.exists(), "{} is left", state.display());
    for pid in pids {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    Ok(())
}
