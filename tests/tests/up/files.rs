//! Istio's own BookInfo, unchanged: each file of `networking/` and `gateway-api/` in turn, and its effect on the page, over captured
//! connections.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::bookinfo::cluster::file;
use weft_tests::up::Up;
use weft_tests::wait::eventually;

const SERVICES: &str = "platform/kube/bookinfo.yaml";
const GATEWAY: &str = "networking/bookinfo-gateway.yaml";
const SUBSETS: &str = "networking/destination-rule-all.yaml";
/// How long a change may take, with pods that start for it.
const FOLLOW: Duration = Duration::from_secs(40);
/// How many pages show what somebody gets.
const PAGES: usize = 16;

/// What a user's page shows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Versions of reviews.
    reviews: BTreeSet<String>,
    /// `details`, `reviews`, `ratings` where pages say that they are not there.
    missing: BTreeSet<&'static str>,
    /// The first reviewer's stars.
    stars: BTreeSet<u32>,
}

impl Seen {
    async fn by(mesh: &Up, port: u16, user: Option<&str>, pages: usize) -> Result<Self> {
        let mut seen = Self::default();
        let headers = user.map_or_else(String::new, |user| format!("cookie: session-user={user}\r\n"));
        for _ in 0..pages {
            let answer = mesh.get(port, "/productpage", &headers).await?;
            ensure!(answer.status() == 200, "{answer:?}");
            let page = String::from_utf8_lossy(&answer.body);
            seen.reviews.extend(between(&page, "id=version>", "<"));
            seen.stars.extend(between(&page, "data-stars=", ">").and_then(|stars| stars.parse::<u32>().ok()));
            for (part, says) in [
                ("details", "product details are currently unavailable"),
                ("reviews", "product reviews are currently unavailable"),
                ("ratings", "Ratings service is currently unavailable"),
            ] {
                seen.missing.extend(page.contains(says).then_some(part));
            }
        }
        Ok(seen)
    }
}

fn between(page: &str, before: &str, after: &str) -> Option<String> {
    Some(page.split(before).nth(1)?.split(after).next()?.to_owned())
}

/// What pages show with some files beside the services and the gateway.
struct Effect {
    files: &'static [&'static str],
    user: Option<&'static str>,
    reviews: &'static [&'static str],
    missing: &'static [&'static str],
    stars: &'static [u32],
    pages: usize,
}

impl Effect {
    fn of(files: &'static [&'static str], reviews: &'static [&'static str]) -> Self {
        Self { files, user: None, reviews, missing: &[], stars: &[], pages: PAGES }
    }

    fn is(&self, seen: &Seen) -> bool {
        seen.reviews.iter().eq(self.reviews)
            && seen.missing.iter().eq(self.missing)
            && (self.stars.is_empty() || seen.stars.iter().eq(self.stars))
    }
}

/// Applies files and waits until pages show their effect.
async fn shows(mesh: &Up, port: u16, always: &[&str], effect: &Effect) -> Result<()> {
    let read = |name: &&str| anyhow::Ok((name.replace('/', "-"), file(name)?));
    let files: Vec<_> = always.iter().chain(effect.files).map(read).collect::<Result<_>>()?;
    mesh.only(&files)?;
    let last = std::cell::RefCell::new(String::new());
    let look = || async {
        let seen = Seen::by(mesh, port, effect.user, effect.pages).await;
        *last.borrow_mut() = format!("{seen:?}");
        effect.is(&seen.ok()?).then_some(())
    };
    let outcome = eventually("the effect", FOLLOW, look).await;
    if let Err(error) = outcome {
        let picture = mesh.picture().await;
        return Err(error).with_context(|| format!("{:?}: {}\n{picture}", effect.files, last.borrow()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networking() -> Result<()> {
    let first = [("services.yaml", file(SERVICES)?), ("gateway.yaml", file(GATEWAY)?)];
    let Some(mesh) = Up::start("BookInfo's networking", &first).await? else { return Ok(()) };
    let all = &["v1", "v2", "v3"];
    let effects = [
        Effect::of(&["networking/destination-rule-reviews.yaml"], all),
        Effect::of(&["networking/destination-rule-all-mtls.yaml"], all),
        Effect::of(&[SUBSETS, "networking/virtual-service-all-v1.yaml"], &["v1"]),
        Effect { stars: &[5], ..Effect::of(&[SUBSETS, "networking/virtual-service-reviews-v3.yaml"], &["v3"]) },
        Effect::of(&[SUBSETS, "networking/virtual-service-reviews-50-v3.yaml"], &["v1", "v3"]),
        // One page in five, of 60: seen in all but one of a million runs.
        Effect { pages: 60, ..Effect::of(&[SUBSETS, "networking/virtual-service-reviews-80-20.yaml"], &["v1", "v2"]) },
        Effect { pages: 90, ..Effect::of(&[SUBSETS, "networking/virtual-service-reviews-90-10.yaml"], &["v1", "v2"]) },
        Effect::of(&[SUBSETS, "networking/virtual-service-reviews-v2-v3.yaml"], &["v2", "v3"]),
        Effect::of(&[SUBSETS, "networking/virtual-service-reviews-jason-v2-v3.yaml"], &["v3"]),
        Effect {
            user: Some("jason"),
            ..Effect::of(&[SUBSETS, "networking/virtual-service-reviews-jason-v2-v3.yaml"], &["v2"])
        },
        Effect::of(&[SUBSETS, "networking/virtual-service-reviews-test-v2.yaml"], &["v1"]),
        Effect {
            user: Some("jason"),
            ..Effect::of(&[SUBSETS, "networking/virtual-service-reviews-test-v2.yaml"], &["v2"])
        },
        Effect {
            user: Some("jason"),
            missing: &["ratings"],
            ..Effect::of(
                &[
                    SUBSETS,
                    "networking/virtual-service-reviews-v3.yaml",
                    "networking/virtual-service-ratings-test-abort.yaml",
                ],
                &["v3"],
            )
        },
        // Ratings answer after seven seconds; reviews wait two and a half.
        Effect {
            user: Some("jason"),
            missing: &["ratings"],
            pages: 1,
            ..Effect::of(
                &[
                    SUBSETS,
                    "networking/virtual-service-reviews-v3.yaml",
                    "networking/virtual-service-ratings-test-delay.yaml",
                ],
                &["v3"],
            )
        },
        Effect { missing: &["details"], ..Effect::of(&["networking/fault-injection-details-v1.yaml"], all) },
        // A database that speaks first, through mutual TLS.
        Effect {
            stars: &[4],
            ..Effect::of(
                &[
                    SUBSETS,
                    "platform/kube/bookinfo-mysql.yaml",
                    "platform/kube/bookinfo-ratings-v2-mysql.yaml",
                    "networking/virtual-service-ratings-mysql.yaml",
                ],
                &["v3"],
            )
        },
        Effect {
            stars: &[4],
            ..Effect::of(
                &[
                    SUBSETS,
                    "platform/kube/bookinfo-db.yaml",
                    "platform/kube/bookinfo-ratings-v2.yaml",
                    "networking/virtual-service-ratings-db.yaml",
                ],
                &["v3"],
            )
        },
    ];
    for effect in &effects {
        shows(&mesh, 8080, &[SERVICES, GATEWAY], effect).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_api() -> Result<()> {
    const VERSIONS: &str = "platform/kube/bookinfo-versions.yaml";
    const WAY_IN: &str = "gateway-api/bookinfo-gateway.yaml";
    let first =
        [("services.yaml", file(SERVICES)?), ("versions.yaml", file(VERSIONS)?), ("gateway.yaml", file(WAY_IN)?)];
    let Some(mesh) = Up::start("BookInfo by the Gateway API", &first).await? else { return Ok(()) };
    let effects = [
        Effect::of(&[], &["v1", "v2", "v3"]),
        Effect::of(&["gateway-api/route-all-v1.yaml"], &["v1"]),
        Effect::of(&["gateway-api/route-reviews-v1.yaml"], &["v1"]),
        Effect::of(&["gateway-api/route-reviews-v3.yaml"], &["v3"]),
        Effect::of(&["gateway-api/route-reviews-50-v3.yaml"], &["v1", "v3"]),
        Effect { pages: 90, ..Effect::of(&["gateway-api/route-reviews-90-10.yaml"], &["v1", "v2"]) },
    ];
    for effect in &effects {
        shows(&mesh, 80, &[SERVICES, VERSIONS, WAY_IN], effect).await?;
    }
    Ok(())
}
