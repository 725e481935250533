//! `weft wait`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::object::ObjectName;
use super::{Server, client};

/// The pause between two questions.
const POLL: Duration = Duration::from_millis(100);
/// How often in a row an object must be found good: a file that was written just now is read within less than one pause.
const TIMES: u32 = 2;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft wait                                       until everybody runs the newest configuration
  weft wait virtualservice/reviews.default        until every proxy that has something of it runs it as it is now
  weft wait vs/reviews -n default --for delete    until it is gone, from proxies too

It fails when the time is over, and says which proxies are not there and why.")]
pub(super) struct Options {
    /// Only for this object: KIND/NAME or KIND/NAME.NAMESPACE; without one for everything
    object: Option<String>,
    /// The namespace of the object; then dots are part of its name
    #[arg(short, long, requires = "object")]
    namespace: Option<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value_t, requires = "object")]
    what: What,
    /// How many proxies there must be at least (streams, if it is for everything)
    #[arg(long, value_name = "N", default_value_t = 1)]
    proxies: u64,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::duration)]
    timeout: Duration,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum What {
    /// Proxies run it as it is now
    #[default]
    Distribution,
    /// It is gone, and no proxy runs what was made of it
    Delete,
}

pub(super) async fn run(options: &Options) -> Result<String> {
    match &options.object {
        None => everything(options).await,
        Some(text) => object(options, &ObjectName::parse(text, options.namespace.as_deref())?).await,
    }
}

async fn everything(options: &Options) -> Result<String> {
    let end = Instant::now() + options.timeout;
    loop {
        let status = client::get(&options.server.control_plane, "/debug/push_status").await?;
        let streams = status["streams"].as_u64().unwrap_or_default();
        let synced = status["byState"]["synced"].as_u64().unwrap_or_default();
        let sequence = &status["sequence"];
        if streams >= options.proxies && synced == streams {
            return Ok(format!("{synced} of {streams} run configuration {sequence}"));
        }
        if Instant::now() >= end {
            bail!(
                "{synced} of {streams} run configuration {sequence} after {:?} ({} refused it, {} wanted at least); \
                 weft proxy-status shows which",
                options.timeout,
                status["byState"]["nacked"],
                options.proxies
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn object(options: &Options, name: &ObjectName) -> Result<String> {
    let end = Instant::now() + options.timeout;
    let mut good = 0;
    loop {
        let status =
            client::get(&options.server.control_plane, &format!("/debug/objectz?object={}", name.query())).await?;
        let found = Found::of(&status);
        good = if found.is_good(options) { good + 1 } else { 0 };
        if good == TIMES {
            return Ok(found.says(name, options.what));
        }
        if Instant::now() >= end {
            bail!("{} after {:?}{}", found.says(name, options.what), options.timeout, found.why(options));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How proxies stand with an object.
pub(super) struct Found {
    /// Where it is written, if it is there.
    at: Option<String>,
    /// The control plane has read something that it does not serve yet.
    waiting: bool,
    /// Why proxies that have something of it do not run it; nothing for one that does.
    proxies: BTreeMap<String, Vec<String>>,
}

impl Found {
    pub(super) fn of(status: &Json) -> Self {
        let mut proxies: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for stream in status["proxies"].as_array().into_iter().flatten() {
            let text = |field: &str| stream[field].as_str().unwrap_or_default();
            let why = stream["why"].as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned);
            proxies.entry(format!("{}.{}", text("name"), text("namespace"))).or_default().extend(why);
        }
        let at = status["at"].as_str().map(str::to_owned);
        Self { at, waiting: status["waiting"].as_bool().unwrap_or_default(), proxies }
    }

    fn running(&self) -> usize {
        self.proxies.values().filter(|why| why.is_empty()).count()
    }

    fn is_good(&self, options: &Options) -> bool {
        let all = self.running() == self.proxies.len();
        let there = match options.what {
            What::Distribution => self.at.is_some() && self.proxies.len() as u64 >= options.proxies,
            What::Delete => self.at.is_none(),
        };
        there && all && !self.waiting
    }

    fn says(&self, name: &ObjectName, what: What) -> String {
        let (running, all) = (self.running(), self.proxies.len());
        match (&self.at, what) {
            (None, What::Distribution) => format!("{name} is not there"),
            (Some(at), What::Distribution) => format!("{name} ({at}): {running} of {all} proxies run it as it is"),
            (Some(at), What::Delete) => format!("{name} is still there ({at})"),
            (None, What::Delete) if running < all => {
                format!("{name} is gone, but {} of {all} proxies are not done with it", all - running)
            }
            (None, What::Delete) => format!("{name} is gone, from all proxies too"),
        }
    }

    /// Which proxies are not there, and why.
    fn why(&self, options: &Options) -> String {
        let mut text = String::new();
        if options.what == What::Distribution && (self.proxies.len() as u64) < options.proxies {
            text +=
                &format!("; {} wanted at least: no other proxy that is connected has something of it", options.proxies);
        }
        if self.waiting {
            text += "; the control plane is about to serve something newer";
        }
        for (proxy, reasons) in self.proxies.iter().filter(|(_, reasons)| !reasons.is_empty()) {
            text += &format!("\n{proxy} {}", reasons.join("; "));
        }
        text
    }
}
