//! Raw HTTP/2 frame sequences on Envoy and on weft-proxy: the class of the answer (a status, a reset stream, an ended
//! connection, silence) has to be Envoy's, and nothing may hang or panic.
//!
//! `malformed/h2-envoy.txt` has what Envoy did; `WEFT_UPDATE=1` writes it anew. Known differences are in
//! `malformed/h2-known-gaps.txt`.

#[path = "malformed/h2_inputs.rs"]
mod inputs;
#[path = "malformed/table.rs"]
mod table;

use std::time::Duration;

use anyhow::Result;
use weft_tests::client::Client;
use weft_tests::config::Config;
use weft_tests::frames::summary;
use weft_tests::world::World;

fn config() -> String {
    let fields = "route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - {match: {prefix: \"/\"}, route: {cluster: a}}\n";
    Config::new().http("http", fields).cluster("a", "").text()
}

/// Sends one sequence; the class of what came of it.
async fn observe(world: &World, bytes: &[u8], quiet: Duration) -> Result<String> {
    let mut client = Client::connect(world.port("http")?).await?;
    client.send(bytes).await;
    client.reader.until_quiet(quiet).await;
    let ended = client.reader.ended;
    let answer = client.reader.take();
    let _not_compared = world.journal.take();
    if answer.starts_with(b"HTTP/1.1 ") {
        return Ok(format!(
            "HTTP/1.1 {} {}",
            String::from_utf8_lossy(&answer[9..12]),
            if ended { "ended" } else { "open" }
        ));
    }
    let said = summary(&answer);
    // Which error code a connection ends with is the library's choice, that it ends is not.
    if ended || said.iter().any(|what| what.starts_with("GOAWAY") && !what.ends_with("NO_ERROR")) {
        return Ok("connection ended".to_owned());
    }
    let mut classes: Vec<String> = said
        .iter()
        .map(|what| match what.split_once(":RST ") {
            Some((stream, _)) => format!("{stream}:reset"),
            None => what.clone(),
        })
        .collect();
    // Streams are answered in any order.
    classes.sort();
    classes.dedup();
    Ok(if classes.is_empty() { "silence".to_owned() } else { classes.join(" ") })
}

#[test]
fn malformed_h2() -> Result<()> {
    table::run("h2", &config(), &inputs::all(), |world, bytes, quiet| Box::pin(observe(world, bytes, quiet)))
}
