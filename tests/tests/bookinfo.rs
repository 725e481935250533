//! Istio's BookInfo by live traffic: its files unchanged under `weft control-plane`, Envoy and weft-proxy as gateway and as sidecars,
//! and the effect of each file seen in what requests get.

#[path = "bookinfo/egress.rs"]
mod egress;
#[path = "bookinfo/gateways.rs"]
mod gateways;
#[path = "bookinfo/identities.rs"]
mod identities;
#[path = "bookinfo/policy.rs"]
mod policy;
#[path = "bookinfo/routes.rs"]
mod routes;
#[path = "bookinfo/services.rs"]
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use weft_tests::bookinfo::cluster::folder;

/// Runs scenarios on both proxies.
macro_rules! on_both {
    ($($scenario:ident)*) => {
        $(mod $scenario {
            use weft_tests::bookinfo::BookInfo;
            use weft_tests::locate::Kind;

            async fn on(kind: Kind) -> anyhow::Result<()> {
                match BookInfo::start(kind, stringify!($scenario)).await? {
                    Some(mesh) => super::$scenario(mesh).await,
                    None => Ok(()),
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn envoy() -> anyhow::Result<()> {
                on(Kind::Envoy).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn weft() -> anyhow::Result<()> {
                on(Kind::Weft).await
            }
        })*
    };
}
use on_both;

/// Whether these names share requests as they should, in percent. Five standard deviations of a binomial distribution: by chance
/// it is outside once in 1.7 million times.
fn shares(seen: &BTreeMap<String, usize>, wanted: &[(&str, u32)]) -> Result<()> {
    let all: usize = seen.values().sum();
    let names: BTreeSet<&str> = seen.keys().map(String::as_str).collect();
    ensure!(names == wanted.iter().map(|(name, _)| *name).collect(), "{seen:?}, not {wanted:?}");
    for (name, percent) in wanted {
        let (n, p) = (all as f64, f64::from(*percent) / 100.0);
        let (mean, deviation) = (n * p, (n * p * (1.0 - p)).sqrt());
        let count = seen.get(*name).copied().unwrap_or_default() as f64;
        ensure!((count - mean).abs() <= 5.0 * deviation, "{name} has {count} of {all}, not about {mean:.0}: {seen:?}");
    }
    Ok(())
}

/// Every file of BookInfo is in a scenario.
#[test]
fn no_file_is_forgotten() -> Result<()> {
    let scenarios = [
        include_str!("bookinfo/egress.rs"),
        include_str!("bookinfo/gateways.rs"),
        include_str!("bookinfo/policy.rs"),
        include_str!("bookinfo/routes.rs"),
        include_str!("bookinfo/services.rs"),
        // What every scenario starts with.
        weft_tests::bookinfo::SERVICES,
    ];
    let mut missing = Vec::new();
    let mut folders = vec![folder()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|is| is == "yaml") {
                let name = path.strip_prefix(folder()).unwrap_or(Path::new("")).display().to_string();
                if !scenarios.iter().any(|text| text.contains(&name)) {
                    missing.push(name);
                }
            }
        }
    }
    ensure!(missing.is_empty(), "in no scenario: {missing:?}");
    Ok(())
}
