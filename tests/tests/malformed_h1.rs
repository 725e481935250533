//! Raw HTTP/1 inputs on Envoy and on weft-proxy: what is answered, whether the connection ends, what reaches the upstream.
//!
//! `malformed/h1-envoy.txt` has what Envoy did; `WEFT_UPDATE=1` writes it anew. Known differences are in
//! `malformed/h1-known-gaps.txt`.

#[path = "malformed/h1_inputs.rs"]
mod inputs;
#[path = "malformed/table.rs"]
mod table;

use std::time::Duration;

use anyhow::Result;
use weft_tests::client::Client;
use weft_tests::config::Config;
use weft_tests::world::World;

fn config() -> String {
    Config::new()
        .http(
            "http",
            "route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - {match: {prefix: \"/\"}, route: {cluster: a}}\nhttp_protocol_options: {enable_trailers: true}\n",
        )
        .cluster("a", "")
        .text()
}

/// Sends one input and describes what came of it.
async fn observe(world: &World, bytes: &[u8], quiet: Duration) -> Result<String> {
    let mut client = Client::connect(world.port("http")?).await?;
    client.send(bytes).await;
    client.reader.until_quiet(quiet).await;
    let end = if client.reader.ended { "closed" } else { "open" };
    let text = String::from_utf8_lossy(&client.reader.take()).into_owned();
    // No body here has the version in it.
    let codes: Vec<&str> = text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).collect();
    let answer = if codes.is_empty() { "nothing".to_owned() } else { codes.join("+") };
    let refused = answer.starts_with(['4', '5']);
    let mut reached = Vec::new();
    for entry in world.journal.take() {
        // How much of a request that is refused halfway has gone upstream by then is a race.
        if refused && entry.ends_with("incomplete") {
            continue;
        }
        let kept = entry.lines().filter(|line| {
            let name = line.trim_start();
            !["x-request-id:", "x-envoy-expected-rq-timeout-ms:", "x-forwarded-proto:"]
                .iter()
                .any(|own| name.starts_with(own))
        });
        let line = kept.map(str::trim).collect::<Vec<_>>().join("|");
        reached.push(short(line.trim_start_matches("[a] ")));
    }
    let reached = if reached.is_empty() { "-".to_owned() } else { reached.join(" && ") };
    world.normalise(&format!("{answer} {end} {reached}"))
}

/// A line that stays readable in the record.
fn short(line: &str) -> String {
    const LONG: usize = 300;
    if line.len() <= LONG {
        return line.to_owned();
    }
    let start: String = line.chars().take(40).collect();
    format!("{start}... ({} bytes)", line.len())
}

#[test]
fn malformed_h1() -> Result<()> {
    table::run("h1", &config(), &inputs::all(), |world, bytes, quiet| Box::pin(observe(world, bytes, quiet)))
}
