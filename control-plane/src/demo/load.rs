//! Requests at a rate.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use http::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::http::get;

/// What is sent.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// http://HOST[:PORT]/PATH
    #[arg(default_value = "http://productpage:9080/productpage")]
    url: String,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// For how long; without it until it is ended
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Sends until it is over; says every five seconds how requests were answered.
pub(super) async fn run(options: Options) -> Result<()> {
    let rest = options.url.strip_prefix("http://").context("the address begins with http://")?;
    let (place, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = place.rsplit_once(':').map_or(Ok((place, 80)), |(h, p)| p.parse().map(|p| (h, p)))?;
    let mut ticks = interval(Duration::from_secs(1) / options.rate);
    let mut said = Instant::now();
    let end = options.seconds.map(|seconds| said + Duration::from_secs(seconds));
    let mut asked = JoinSet::new();
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    while end.is_none_or(|end| Instant::now() < end) {
        ticks.tick().await;
        // Slow answers do not pile up.
        if asked.len() < 512 {
            let (host, path) = (host.to_owned(), path.to_owned());
            asked.spawn(async move {
                let outcome = get(&host, port, &path, &HeaderMap::new(), Duration::from_secs(10)).await;
                // A page is no JSON, and fine.
                match outcome {
                    Ok(_) => "fine".to_owned(),
                    Err(error) if error.to_string().contains("no JSON") => "fine".to_owned(),
                    Err(error) => format!("{error:#}"),
                }
            });
        }
        while let Some(Ok(outcome)) = asked.try_join_next() {
            if answers.len() < 100 || answers.contains_key(&outcome) {
                *answers.entry(outcome).or_default() += 1;
            }
        }
        if said.elapsed() >= Duration::from_secs(5) {
            said = Instant::now();
            println!("{answers:?}");
        }
    }
    println!("{answers:?}");
    Ok(())
}
