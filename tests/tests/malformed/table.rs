//! Runs a table of raw inputs on both proxies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::gaps::Gaps;
use weft_tests::locate::{Kind, NO_ENVOY, NO_WEFT, skipped};
use weft_tests::world::World;

/// A named input.
pub(crate) type Input = (String, Vec<u8>);
/// Sends one input to a world.
pub(crate) type Observe =
    for<'a> fn(&'a World, &'a [u8], Duration) -> Pin<Box<dyn Future<Output = Result<String>> + Send + 'a>>;

/// Silence that ends an observation; a case whose two sides differ gets the longer one before it counts.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_AGAIN: Duration = Duration::from_millis(1500);
/// Proxies of each kind at work at once.
const SHARDS: usize = 4;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("malformed").join(name)
}

async fn one_side(
    kind: Kind,
    config: String,
    inputs: Vec<Input>,
    observe: Observe,
    quiet: Duration,
) -> Result<BTreeMap<String, String>> {
    let mut world = World::start(kind, &config).await.with_context(|| format!("start {}", kind.name()))?;
    let mut seen = BTreeMap::new();
    for (name, bytes) in inputs {
        let mut text = match observe(&world, &bytes, quiet).await {
            Ok(text) => text,
            Err(error) => format!("harness: {error:#}"),
        };
        if let Some(status) = world.proxy.ended() {
            text += &format!(" THE PROXY ENDED with {status}");
            seen.insert(name, text);
            world = World::start(kind, &config).await?;
            continue;
        }
        seen.insert(name, text);
    }
    let log = world.proxy.log();
    if let Some(panic) = log.lines().find(|line| line.contains("panicked at")) {
        seen.insert("panic".to_owned(), panic.to_owned());
    }
    Ok(seen)
}

async fn side(
    kind: Kind,
    config: &str,
    inputs: &[Input],
    observe: Observe,
    quiet: Duration,
) -> Result<BTreeMap<String, String>> {
    let mut shards = vec![Vec::new(); SHARDS.min(inputs.len().max(1))];
    let count = shards.len();
    for (at, input) in inputs.iter().enumerate() {
        if let Some(shard) = shards.get_mut(at % count) {
            shard.push(input.clone());
        }
    }
    let mut tasks = tokio::task::JoinSet::new();
    for shard in shards {
        tasks.spawn(one_side(kind, config.to_owned(), shard, observe, quiet));
    }
    let mut all = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.context("a shard")??);
    }
    Ok(all)
}

fn recorded(name: &str) -> Result<BTreeMap<String, String>> {
    let path = file(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    Ok(pairs.map(|(name, seen)| (name.to_owned(), seen.to_owned())).collect())
}

fn record(name: &str, inputs: &[Input], seen: &BTreeMap<String, String>) -> Result<()> {
    let mut text = "# What Envoy 1.40.0 did: case, then answers, connection, what reached the upstream.\n".to_owned();
    for (case, _) in inputs {
        let _infallible = writeln!(text, "{case}\t{}", seen.get(case).map_or("", String::as_str));
    }
    std::fs::write(file(name), text).context("write the record")
}

/// Runs the table `name` and judges weft-proxy by Envoy, or by the record of Envoy where it is not installed.
pub(crate) fn run(name: &str, config: &str, inputs: &[Input], observe: Observe) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let file_name = format!("{name}-envoy.txt");
    let with_envoy = Kind::Envoy.binary().is_some();
    let with_weft = Kind::Weft.binary().is_some();
    let both = runtime.block_on(async {
        let envoy = async {
            if with_envoy { side(Kind::Envoy, config, inputs, observe, QUIET).await.map(Some) } else { Ok(None) }
        };
        let weft =
            async { if with_weft { Some(side(Kind::Weft, config, inputs, observe, QUIET).await) } else { None } };
        tokio::join!(envoy, weft)
    });
    let (envoy, weft) = both;
    let reference = match envoy? {
        Some(mut live) => {
            // A busy machine may have cut an observation short: what is not as recorded gets a second look.
            let before = recorded(&file_name).unwrap_or_default();
            let doubtful: Vec<Input> =
                inputs.iter().filter(|(case, _)| before.get(case) != live.get(case)).cloned().collect();
            if !doubtful.is_empty() {
                live.extend(runtime.block_on(side(Kind::Envoy, config, &doubtful, observe, QUIET_AGAIN))?);
            }
            if std::env::var_os("WEFT_UPDATE").is_some() {
                record(&file_name, inputs, &live)?;
            } else {
                let changed: Vec<&str> = inputs
                    .iter()
                    .map(|(case, _)| case.as_str())
                    .filter(|case| before.get(*case) != live.get(*case))
                    .collect();
                if !changed.is_empty() {
                    // How answers fall into reads differs from run to run; the comparison below is with this run.
                    eprintln!(
                        "malformed/{file_name} is not what Envoy did this time (WEFT_UPDATE=1 writes it): {changed:?}"
                    );
                }
            }
            live
        }
        None => {
            skipped(&format!("malformed {name} on Envoy (its record is used)"), NO_ENVOY);
            recorded(&file_name)?
        }
    };
    let Some(weft) = weft else {
        skipped(&format!("malformed {name} on weft-proxy"), NO_WEFT);
        return Ok(());
    };
    let mut weft = weft?;
    let differs = |weft: &BTreeMap<String, String>, case: &str| reference.get(case) != weft.get(case);
    let doubtful: Vec<Input> = inputs.iter().filter(|(case, _)| differs(&weft, case)).cloned().collect();
    if !doubtful.is_empty() {
        weft.extend(runtime.block_on(side(Kind::Weft, config, &doubtful, observe, QUIET_AGAIN))?);
    }
    runtime.shutdown_timeout(Duration::from_secs(2));
    let gaps = Gaps::read(&file(&format!("{name}-known-gaps.txt")))?;
    let results: Vec<(&str, bool)> = inputs.iter().map(|(case, _)| (case.as_str(), differs(&weft, case))).collect();
    let verdict = gaps.judge(results.iter().copied());
    let mut text = String::new();
    let nothing = String::new();
    for (case, _) in results.iter().filter(|(_, differs)| *differs) {
        let _infallible = writeln!(
            text,
            "DIFFERS {case}\n  - {}\n  + {}",
            reference.get(*case).unwrap_or(&nothing),
            weft.get(*case).unwrap_or(&nothing)
        );
    }
    let count = results.iter().filter(|(_, differs)| *differs).count();
    eprintln!("malformed {name}: {} inputs, {count} differ, {} of them known\n{text}", inputs.len(), verdict.known);
    ensure!(!weft.contains_key("panic"), "weft-proxy panicked: {:?}", weft.get("panic"));
    ensure!(verdict.unexpected.is_empty(), "not in malformed/{name}-known-gaps.txt: {}", verdict.unexpected.join(" "));
    if !verdict.stale.is_empty() {
        eprintln!("in malformed/{name}-known-gaps.txt, but agreeing (take them out): {}", verdict.stale.join(" "));
    }
    Ok(())
}
