//! Configurations of HTTP filters by discovery (ECDS).

use anyhow::{Context, Result, bail};
use weft_tests::ads::{CDS, ECDS, LDS};
use weft_tests::client::{Client, fetch};
use weft_tests::scene::{Scene, play};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::BOTH;
use crate::warming::not_ready;
use crate::yaml::{fixed, listener};

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters.http";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";

/// The message of a filter that marks answers with `x-v: <version>`.
fn marking(version: &str) -> String {
    format!(
        "{{'@type': {TYPES}.header_mutation.v3.HeaderMutation, mutations: {{response_mutations: \
         [{{append: {{header: {{key: x-v, value: '{version}'}}}}}}]}}}}"
    )
}

/// That filter as a resource `f`.
pub(crate) fn filter(version: &str) -> String {
    format!("name: f\ntyped_config: {}\n", marking(version))
}

/// A listener whose filter `f` is discovered; `fields` are further ones of its source.
pub(crate) fn with_filter(name: &str, port: &str, fields: &str) -> String {
    let router = "      - name: envoy.filters.http.router\n";
    let source = format!(
        "      - name: f\n        config_discovery:\n          config_source: {{ads: {{}}, resource_api_version: V3{}}}\n          \
         type_urls: [{TYPES}.header_mutation.v3.HeaderMutation]\n{}",
        if fields.contains("initial_fetch_timeout") { ", initial_fetch_timeout: 0.3s" } else { "" },
        fields.replace("initial_fetch_timeout", "")
    );
    let routes = "route_config: {name: inline, virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}";
    listener(name, port, routes).replace(router, &format!("{source}{router}"))
}

/// A field of the source: this default.
fn default(version: &str) -> String {
    format!("          default_config: {}\n", marking(version))
}

/// Status and mark of an answer of this moment.
async fn mark(scene: &Scene, port: &str) -> Result<String> {
    let request = "GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n";
    let answer = fetch(scene.world.port(port)?, request.as_bytes()).await?;
    Ok(format!("{} {:?} {}", answer.status(), answer.header("x-v"), String::from_utf8_lossy(&answer.body)))
}

/// Waits until answers carry this mark (or have this status), and notes the answer.
pub(crate) async fn until(scene: &mut Scene, port: &str, wanted: &str) -> Result<()> {
    let found = eventually("another answer", PATIENCE, || async {
        mark(scene, port).await.ok().filter(|found| found.contains(wanted))
    });
    match found.await {
        Ok(found) => scene.note(format!("eventually {port}: {found}")),
        Err(e) => {
            bail!("{e:#}: wanted {wanted}, found {:?}; log: {}", mark(scene, port).await, scene.world.proxy.log_tail())
        }
    }
    Ok(())
}

async fn note_mark(scene: &mut Scene, port: &str) -> Result<()> {
    let found = mark(scene, port).await.unwrap_or_else(|_| "refused".to_owned());
    scene.note(format!("{port}: {found}"));
    Ok(())
}

const STATS: [&str; 6] = [
    "extension_config_discovery.http_filter.f.config_reload",
    "extension_config_discovery.http_filter.f.config_fail",
    "extension_config_discovery.http_filter.f.config_conflict",
    "extension_config_discovery.http_filter.f.update_success",
    "extension_config_discovery.http_filter.f.update_rejected",
    "extension_config_discovery.http_filter.f.init_fetch_timeout",
];

async fn serve(scene: &mut Scene, filters: &[&str], listeners: &[&str]) -> Result<()> {
    scene.serve(CDS, "1", &[&fixed("a", "a", "")])?;
    scene.serve(ECDS, "1", filters)?;
    scene.serve(LDS, "1", listeners)
}

#[test]
fn a_listener_waits_for_its_filters() -> Result<()> {
    for variant in BOTH {
        play("a filter withheld", variant, |mut scene| async move {
            scene.plane.withhold(ECDS);
            serve(&mut scene, &[&filter("1")], &[&with_filter("l", "l1", "")]).await?;
            let asked = scene.plane.request("the filter is asked for", |s| s.type_url == ECDS).await?;
            scene.note(format!("names {:?}", asked.names));
            scene.answered(LDS, "1").await?;
            not_ready(&mut scene).await?;
            note_mark(&mut scene, "l1").await?;
            scene.plane.release(ECDS);
            scene.ready().await?;
            until(&mut scene, "l1", "\"1\"").await?;
            scene.answered(ECDS, "1").await?;
            scene.note_stats(&STATS).await?;
            let mut dump = scene.dump("EcdsConfigDump").await?;
            if let Some(all) = dump["ecds_filters"].as_array_mut() {
                all.iter_mut().for_each(|one| drop(one.as_object_mut().and_then(|one| one.remove("last_updated"))));
            }
            scene.note(format!("dump {dump}"));
            let page = scene.world.proxy.admin().text("/config_dump?include_eds").await?;
            let page: serde_json::Value = serde_json::from_str(&page).context("/config_dump")?;
            let sections = page["configs"].as_array().into_iter().flatten();
            scene.note(format!("sections {:?}", sections.take(4).map(|s| s["@type"].clone()).collect::<Vec<_>>()));
            // A listener that comes later has its filter at once, and waits for one that nobody wanted yet.
            scene.plane.withhold(ECDS);
            let other = with_filter("m", "l3", "").replace("name: f\n", "name: g\n");
            let again = with_filter("k", "l2", "");
            scene.serve(ECDS, "2", &[&filter("1"), &filter("2").replace("name: f", "name: g")])?;
            scene.serve(LDS, "2", &[&with_filter("l", "l1", ""), &again, &other])?;
            scene.answered(LDS, "2").await?;
            until(&mut scene, "l2", "\"1\"").await?;
            scene.stat("listener_manager.total_listeners_warming", 1).await?;
            note_mark(&mut scene, "l3").await?;
            scene.plane.release(ECDS);
            until(&mut scene, "l3", "\"2\"").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn filters_change_and_connections_stay() -> Result<()> {
    for variant in BOTH {
        play("a filter changes", variant, |mut scene| async move {
            serve(&mut scene, &[&filter("1")], &[&with_filter("l", "l1", "")]).await?;
            scene.ready().await?;
            until(&mut scene, "l1", "\"1\"").await?;
            let mut kept = Client::connect(scene.world.port("l1")?).await?;
            kept.send(REQUEST).await;
            let first = kept.responses("GET", PATIENCE).await?.pop().context("no answer")?;
            scene.note(format!("{:?}", first.header("x-v")));
            scene.serve(ECDS, "2", &[&filter("2")])?;
            scene.answered(ECDS, "2").await?;
            until(&mut scene, "l1", "\"2\"").await?;
            kept.send(REQUEST).await;
            let second = kept.responses("GET", PATIENCE).await?.pop().context("no answer")?;
            scene.note(format!("{:?} {:?}", second.header("x-v"), second.header("connection")));
            // The same again is accepted and changes nothing.
            scene.serve(ECDS, "3", &[&filter("2")])?;
            scene.plane.push(ECDS);
            scene.answered(ECDS, "3").await?;
            scene.note_stats(&STATS).await?;
            scene
                .note_stats(&["listener_manager.listener_modified", "listener_manager.listener_in_place_updated"])
                .await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_filter_of_the_wrong_kind_is_refused() -> Result<()> {
    for variant in BOTH {
        play("a wrong filter", variant, |mut scene| async move {
            serve(&mut scene, &[&filter("1")], &[&with_filter("l", "l1", "")]).await?;
            scene.ready().await?;
            until(&mut scene, "l1", "\"1\"").await?;
            let buffer =
                format!("name: f\ntyped_config: {{'@type': {TYPES}.buffer.v3.Buffer, max_request_bytes: 5}}\n");
            scene.serve(ECDS, "2", &[&buffer])?;
            let error = scene.answered(ECDS, "2").await?.unwrap_or_default();
            scene.note(format!("says so: {}", error.contains("filter config has type URL")));
            scene.serve(ECDS, "3", &[&filter("").replace("key: x-v", "key: ''")])?;
            scene.answered(ECDS, "3").await?;
            note_mark(&mut scene, "l1").await?;
            scene.note_stats(&STATS).await?;
            scene.serve(ECDS, "4", &[&filter("4")])?;
            scene.answered(ECDS, "4").await?;
            until(&mut scene, "l1", "\"4\"").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_filter_that_does_not_come_answers_500() -> Result<()> {
    for variant in BOTH {
        play("a filter too late", variant, |mut scene| async move {
            scene.plane.withhold(ECDS);
            serve(&mut scene, &[&filter("1")], &[&with_filter("l", "l1", "initial_fetch_timeout")]).await?;
            scene.ready().await?;
            until(&mut scene, "l1", "500").await?;
            scene.stat("http.l.downstream_rq_5xx", 1).await?;
            scene.note_stats(&STATS).await?;
            scene.plane.release(ECDS);
            until(&mut scene, "l1", "\"1\"").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_refused_first_filter_does_not_hold_a_listener_up() -> Result<()> {
    for variant in BOTH {
        play("a bad first filter", variant, |mut scene| async move {
            let buffer =
                format!("name: f\ntyped_config: {{'@type': {TYPES}.buffer.v3.Buffer, max_request_bytes: 5}}\n");
            let listeners = [with_filter("l", "l1", ""), with_filter("k", "l2", &default("0"))];
            serve(&mut scene, &[&buffer], &[&listeners[0], &listeners[1]]).await?;
            scene.answered(ECDS, "1").await?;
            scene.ready().await?;
            until(&mut scene, "l1", "500").await?;
            until(&mut scene, "l2", "\"0\"").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_default_is_in_force_until_a_filter_comes_and_after_it_went() -> Result<()> {
    for variant in BOTH {
        play("a default filter", variant, |mut scene| async move {
            scene.plane.withhold(ECDS);
            let fields = format!("{}          apply_default_config_without_warming: true\n", default("0"));
            serve(&mut scene, &[&filter("1")], &[&with_filter("l", "l1", &fields)]).await?;
            scene.ready().await?;
            until(&mut scene, "l1", "\"0\"").await?;
            scene.plane.release(ECDS);
            until(&mut scene, "l1", "\"1\"").await?;
            scene.answered(ECDS, "1").await?;
            scene.serve(ECDS, "2", &[])?;
            scene.answered(ECDS, "2").await?;
            // By delta it is taken away; by the state of the world it was only not mentioned.
            until(&mut scene, "l1", if variant.is_delta() { "\"0\"" } else { "\"1\"" }).await?;
            scene.note_stats(&STATS).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_filter_that_is_taken_away_answers_500() -> Result<()> {
    for variant in BOTH.into_iter().filter(|v| v.is_delta()) {
        play("a filter goes", variant, |mut scene| async move {
            serve(&mut scene, &[&filter("1")], &[&with_filter("l", "l1", "")]).await?;
            scene.ready().await?;
            until(&mut scene, "l1", "\"1\"").await?;
            scene.answered(ECDS, "1").await?;
            scene.serve(ECDS, "2", &[])?;
            scene.answered(ECDS, "2").await?;
            until(&mut scene, "l1", "500").await?;
            scene.note_stats(&STATS).await?;
            scene.serve(ECDS, "3", &[&filter("1")])?;
            until(&mut scene, "l1", "\"1\"").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn the_router_may_be_discovered() -> Result<()> {
    for variant in BOTH {
        play("a discovered router", variant, |mut scene| async move {
            let source = format!(
                "- name: f\n        config_discovery:\n          config_source: {{ads: {{}}, resource_api_version: V3}}\n          \
                 type_urls: [{TYPES}.router.v3.Router, {TYPES}.header_mutation.v3.HeaderMutation]\n"
            );
            let inline = listener("l", "l1", &crate::yaml::inline("a"));
            let (head, _) = inline.split_once("- name: envoy.filters.http.router").context("no router")?;
            let listener = format!("{head}{source}");
            let router = format!("name: f\ntyped_config: {{'@type': {TYPES}.router.v3.Router}}\n");
            serve(&mut scene, &[&router], &[&listener]).await?;
            scene.ready().await?;
            until(&mut scene, "l1", "200").await?;
            let error = {
                scene.serve(ECDS, "2", &[&filter("1")])?;
                scene.answered(ECDS, "2").await?.unwrap_or_default()
            };
            scene.note(format!("says so: {}", error.contains("non-terminal filter named f")));
            note_mark(&mut scene, "l1").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn sources_of_filters_that_make_no_sense_are_refused() -> Result<()> {
    for variant in BOTH {
        play("bad sources", variant, |mut scene| async move {
            serve(&mut scene, &[&filter("1")], &[]).await?;
            scene.ready().await?;
            let whole = with_filter("l", "l1", "");
            let unwarmed = with_filter("l", "l1", "          apply_default_config_without_warming: true\n");
            let no_types = whole.replace(&format!("[{TYPES}.header_mutation.v3.HeaderMutation]"), "[]");
            let unknown = whole.replace("header_mutation.v3.HeaderMutation", "none.v3.None");
            let buffer =
                format!("          default_config: {{'@type': {TYPES}.buffer.v3.Buffer, max_request_bytes: 5}}\n");
            let default = with_filter("l", "l1", &buffer);
            for (i, listener) in [unwarmed, no_types, unknown, default].iter().enumerate() {
                let version = format!("{}", i + 2);
                scene.serve(LDS, &version, &[listener])?;
                scene.answered(LDS, &version).await?;
            }
            Ok(scene)
        })?;
    }
    Ok(())
}
