//! Runtime values by discovery (RTDS).

use std::pin::Pin;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::ads::{CDS, LDS, RTDS, Seen};
use weft_tests::locate::Kind;
use weft_tests::scene::{Scene, Variant, bootstrap, play_from};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::BOTH;
use crate::warming::not_ready;
use crate::yaml::listener;

/// Layers: of the bootstrap, discovered, of the admin interface. `limit` is the source's `initial_fetch_timeout`.
pub(crate) fn layered(variant: Variant, port: u16, limit: &str) -> String {
    format!(
        "{}layered_runtime:\n  layers:\n  - {{name: base, static_layer: {{go: 0, kept: 1}}}}\n  \
         - {{name: found, rtds_layer: {{name: rt, rtds_config: {{ads: {{}}, resource_api_version: V3{limit}}}}}}}\n  \
         - {{name: admin, admin_layer: {{}}}}\n",
        bootstrap(variant, port)
    )
}

fn start(variant: Variant, limit: &'static str) -> impl Fn(Kind) -> Pin<Box<dyn Future<Output = Result<Scene>>>> {
    move |kind| Box::pin(Scene::with(kind, variant, move |v, port| layered(v, port, limit), &[]))
}

/// A layer with these values.
fn layer(values: &str) -> String {
    format!("name: rt\nlayer: {{{values}}}\n")
}

/// A listener that answers "new" for the share of requests that the key `go` says, and "old" for the others.
pub(crate) fn by_key() -> String {
    let answer = |body: &str, fraction: &str| {
        format!("{{match: {{prefix: /{fraction}}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}")
    };
    let share = ", runtime_fraction: {default_value: {numerator: 0}, runtime_key: go}";
    let both = [answer("new", share), answer("old", "")].join(", ");
    listener(
        "l",
        "l1",
        &format!("route_config: {{name: inline, virtual_hosts: [{{name: all, domains: ['*'], routes: [{both}]}}]}}"),
    )
}

async fn serve_rest(scene: &mut Scene) -> Result<()> {
    scene.serve(CDS, "1", &[])?;
    scene.serve(LDS, "1", &[&by_key()])
}

/// Notes what `/runtime` shows of some keys.
async fn note_runtime(scene: &mut Scene, keys: &[&str]) -> Result<()> {
    let text = scene.world.proxy.admin().text("/runtime").await?;
    let page: Value = serde_json::from_str(&text).context("/runtime")?;
    scene.note(format!("layers {}", page["layers"]));
    for key in keys {
        scene.note(format!("{key}: {} {}", page["entries"][key]["layer_values"], page["entries"][key]["final_value"]));
    }
    Ok(())
}

const STATS: [&str; 6] = [
    "runtime.update_attempt",
    "runtime.num_layers",
    "runtime.num_keys",
    "runtime.update_success",
    "runtime.update_rejected",
    "runtime.load_error",
];

#[test]
fn the_start_waits_for_runtime_values() -> Result<()> {
    for variant in BOTH {
        play_from("runtime first", variant, start(variant, ""), |mut scene| async move {
            scene.plane.withhold(RTDS);
            scene.serve(
                RTDS,
                "1",
                &[&layer("go: 100, more: {inner: text, share: {numerator: 3, denominator: MILLION}}")],
            )?;
            serve_rest(&mut scene).await?;
            let asked = scene.plane.request("runtime values are asked for", |s| s.type_url == RTDS).await?;
            scene.note(format!("names {:?} node {:?}", asked.names, asked.node));
            not_ready(&mut scene).await?;
            ensure!(!scene.plane.seen().iter().any(|s| s.type_url == CDS), "clusters are asked for too early");
            scene.plane.release(RTDS);
            scene.ready().await?;
            scene.answered(RTDS, "1").await?;
            scene.note_get("l1", "/").await?;
            note_runtime(&mut scene, &["go", "kept", "more.inner"]).await?;
            scene.note_stats(&STATS).await?;
            scene.note_stats(&["runtime.init_fetch_timeout"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn runtime_values_change_while_serving() -> Result<()> {
    for variant in BOTH {
        play_from("runtime changes", variant, start(variant, ""), |mut scene| async move {
            scene.serve(RTDS, "1", &[&layer("go: 0")])?;
            serve_rest(&mut scene).await?;
            scene.ready().await?;
            scene.until_body("l1", "/", "old").await?;
            scene.serve(RTDS, "2", &[&layer("go: 100, other: 7")])?;
            scene.answered(RTDS, "2").await?;
            scene.until_body("l1", "/", "new").await?;
            // A layer above wins, and leaves what is below as it was.
            scene.world.proxy.admin().request("POST", "/runtime_modify?go=0").await?;
            scene.until_body("l1", "/", "old").await?;
            note_runtime(&mut scene, &["go", "other"]).await?;
            scene.world.proxy.admin().request("POST", "/runtime_modify?go=").await?;
            scene.until_body("l1", "/", "new").await?;
            // What a layer no longer says is as it was below.
            scene.serve(RTDS, "3", &[&layer("other: 8")])?;
            scene.answered(RTDS, "3").await?;
            scene.until_body("l1", "/", "old").await?;
            note_runtime(&mut scene, &["go", "other"]).await?;
            scene.note_stats(&STATS).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_start_without_runtime_values_goes_on_after_its_time() -> Result<()> {
    for variant in BOTH {
        let start = start(variant, ", initial_fetch_timeout: 0.3s");
        play_from("no runtime values", variant, start, |mut scene| async move {
            scene.plane.withhold(RTDS);
            scene.serve(RTDS, "1", &[&layer("go: 100")])?;
            serve_rest(&mut scene).await?;
            scene.ready().await?;
            scene.until_body("l1", "/", "old").await?;
            scene.note_stats(&["runtime.init_fetch_timeout"]).await?;
            scene.note_stats(&STATS).await?;
            scene.plane.release(RTDS);
            scene.until_body("l1", "/", "new").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn refused_runtime_values_do_not_stop_the_start() -> Result<()> {
    for variant in BOTH {
        play_from("bad runtime values", variant, start(variant, ""), |mut scene| async move {
            scene.serve(RTDS, "1", &[&layer("go: [100]")])?;
            serve_rest(&mut scene).await?;
            ensure!(scene.answered(RTDS, "1").await?.is_some_and(|e| e.contains("Invalid runtime entry value for go")));
            scene.ready().await?;
            scene.until_body("l1", "/", "old").await?;
            scene.note_stats(&["runtime.update_rejected", "runtime.num_keys"]).await?;
            scene.serve(RTDS, "2", &[&layer("go: 100")])?;
            scene.answered(RTDS, "2").await?;
            scene.until_body("l1", "/", "new").await?;
            scene.serve(RTDS, "3", &[&layer("go: [0]")])?;
            scene.answered(RTDS, "3").await?;
            scene.note_get("l1", "/").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_layer_that_goes_away() -> Result<()> {
    for variant in BOTH {
        play_from("a layer goes", variant, start(variant, ""), |mut scene| async move {
            scene.serve(RTDS, "1", &[&layer("go: 100")])?;
            serve_rest(&mut scene).await?;
            scene.ready().await?;
            scene.until_body("l1", "/", "new").await?;
            scene.answered(RTDS, "1").await?;
            scene.serve(RTDS, "2", &[])?;
            scene.answered(RTDS, "2").await?;
            // By delta it is removed; by the state of the world it was only not mentioned.
            let now = if variant.is_delta() { "old" } else { "new" };
            scene.until_body("l1", "/", now).await?;
            note_runtime(&mut scene, &["go"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn runtime_values_outlive_their_server() -> Result<()> {
    for variant in BOTH {
        play_from("runtime outage", variant, start(variant, ""), |mut scene| async move {
            scene.serve(RTDS, "1", &[&layer("go: 100")])?;
            serve_rest(&mut scene).await?;
            scene.ready().await?;
            scene.until_body("l1", "/", "new").await?;
            scene.answered(RTDS, "1").await?;
            let before = scene.plane.opened();
            scene.plane.reset();
            eventually("another stream", PATIENCE, || async { (scene.plane.opened() > before).then_some(()) }).await?;
            let again = |s: &Seen| s.stream >= before && s.type_url == RTDS && s.nonce.is_empty();
            let again = scene.plane.request("runtime values are asked for again", again).await?;
            scene.note(format!("names {:?} version {:?} holds {:?}", again.names, again.version, again.initial.keys()));
            scene.note_get("l1", "/").await?;
            scene.serve(RTDS, "2", &[&layer("go: 0")])?;
            scene.answered(RTDS, "2").await?;
            scene.until_body("l1", "/", "old").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}
