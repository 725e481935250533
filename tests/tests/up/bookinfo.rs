//! The sample, as the README shows it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use base64::Engine as _;
use weft_tests::browser::Browser;
use weft_tests::locate::skipped;
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

/// Counts packets at a pod's device, for some seconds: those with a part of HTTP in plaintext, and those that begin a record of TLS.
const SNIFF: &str = r#"
import re, socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 0)); s.settimeout(0.1)
plain = tls = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    try: frame = s.recv(65535)
    except TimeoutError: continue
    if frame[12:14] != b"\x08\x00" or frame[23] != 6: continue
    ip = frame[14:]; tcp = ip[(ip[0] & 15) * 4:int.from_bytes(ip[2:4], "big")]; data = tcp[(tcp[12] >> 4) * 4:]
    if re.search(rb"HTTP/[12]|^PRI |productpage|reviews/0", data): plain += 1
    if re.match(rb"[\x14-\x17]\x03[\x01-\x03]", data): tls += 1
print(plain, tls)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_pods_everything_is_mutual_tls() -> Result<()> {
    let Some(mesh) = Up::start("no plaintext", &sample()?).await? else { return Ok(()) };
    let python = std::process::Command::new("python3").args(["-c", ""]).status();
    if !python.is_ok_and(|status| status.success()) {
        skipped("no plaintext", "python3 is not installed");
        return Ok(());
    }
    mesh.page(None).await?;
    let details = "cluster.outbound|9080||details.default.svc.cluster.local.ssl.handshake";
    for (pod, name) in [("productpage", details), ("details", "listener.0.0.0.0_15006.ssl.handshake")] {
        ensure!(mesh.counter(pod, name).await? >= 1, "{pod}: {name} is 0");
    }
    let sniff = mesh.weft(&["exec", "productpage", "--", "python3", "-c", SNIFF, "2"]);
    tokio::pin!(sniff);
    let mut pages = 0;
    let said = loop {
        tokio::select! {
            said = &mut sniff => break said?,
            page = mesh.page(Some("jason")) => {
                page?;
                pages += 1;
            }
        }
    };
    let counts: Vec<u64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [plain, tls] = counts[..] else { anyhow::bail!("{said}") };
    // Each page is a request and an answer at least, on each side of productpage.
    ensure!(pages > 5 && tls > pages && plain == 0, "{pages} pages: {plain} packets in plaintext, {tls} of TLS");
    Ok(())
}

/// What a person sees: the stars of each version, before and after signing in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_in_a_browser() -> Result<()> {
    const TEST: &str = "the page in a browser";
    let Some(mesh) = Up::start(TEST, &sample()?).await? else { return Ok(()) };
    let Some(browser) = Browser::start(TEST).await? else { return Ok(()) };
    let page = format!("http://{}:8080/productpage", mesh.listen);
    let shown = || async {
        browser.open(&page).await?;
        let version = browser.texts("#version").await?.pop().unwrap_or_default();
        Ok::<_, anyhow::Error>((version, browser.texts(".stars").await?))
    };

    // Half of the pages have reviews v1, without stars, half v3, in red: after 60 each was there, in all but 1 of 10^17 runs.
    let mut seen = BTreeMap::new();
    for _ in 0..60 {
        let (version, stars) = shown().await?;
        if version == "v3" && !seen.contains_key("v3") {
            ensure!(browser.style(".stars", "color").await? == "rgba(198, 40, 40, 1)");
        }
        seen.insert(version, stars);
        if seen.len() == 2 {
            break;
        }
    }
    let stars = vec!["★★★★★".to_owned(), "★★★★☆".to_owned()];
    ensure!(seen == BTreeMap::from([("v1".to_owned(), Vec::new()), ("v3".to_owned(), stars.clone())]), "{seen:?}");
    ensure!(browser.texts("dd").await?.contains(&"William Shakespeare".to_owned()));

    // Jason has v2, in black.
    browser.fill("input[name=username]", "jason").await?;
    browser.click("form.user button").await?;
    for _ in 0..5 {
        ensure!(shown().await? == ("v2".to_owned(), stars.clone()));
    }
    ensure!(browser.style(".stars", "color").await? == "rgba(29, 36, 51, 1)");
    ensure!(browser.texts("form.user").await?.iter().any(|text| text.contains("jason")));
    if let Some(to) = std::env::var_os("WEFT_SCREENSHOT") {
        let image = base64::engine::general_purpose::STANDARD.decode(browser.screenshot().await?)?;
        std::fs::write(to, image)?;
    }
    browser.click("form.user button").await?;
    ensure!(shown().await?.0 != "v2", "signed out");
    browser.close().await
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
