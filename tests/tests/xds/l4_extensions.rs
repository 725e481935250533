//! Configurations of network filters and listener filters by discovery (ECDS).

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_tests::ads::{CDS, ECDS, LDS};
use weft_tests::client::tcp;
use weft_tests::scene::{Scene, Variant, play};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::BOTH;
use crate::warming::not_ready;

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
const LISTENER: &str = "type.googleapis.com/envoy.extensions.filters.listener";

/// A network filter that answers with a text.
fn answering(text: &str) -> String {
    format!("{{'@type': {NETWORK}.direct_response.v3.Config, response: {{inline_string: {text}}}}}")
}

fn limiting(connections: u32) -> String {
    format!(
        "{{'@type': {NETWORK}.connection_limit.v3.ConnectionLimit, stat_prefix: limit, max_connections: {connections}}}"
    )
}

fn proxied(without: bool) -> String {
    format!("{{'@type': {LISTENER}.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: {without}}}")
}

/// That filter as a resource.
fn named(name: &str, filter: &str) -> String {
    format!("name: {name}\ntyped_config: {filter}\n")
}

fn echo() -> String {
    format!("{{name: echo, typed_config: {{'@type': {NETWORK}.echo.v3.Echo}}}}")
}

/// A filter by discovery; `fields` are further ones of its source.
fn discovered(name: &str, types: &[&str], limit: &str, fields: &str) -> String {
    format!(
        "{{name: {name}, config_discovery: {{config_source: {{ads: {{}}, resource_api_version: V3{limit}}}, type_urls: [{}]{fields}}}}}",
        types.join(", ")
    )
}

/// A listener with these listener filters and network filters.
fn listener(name: &str, port: &str, own: &[String], filters: &[String]) -> String {
    format!(
        "name: {name}\naddress: {{socket_address: {{address: 127.0.0.1, port_value: {{{{port:{port}}}}}}}}}\n\
         listener_filters: [{}]\nfilter_chains: [{{filters: [{}]}}]\n",
        own.join(", "),
        filters.join(", ")
    )
}

fn direct(limit: &str, fields: &str) -> String {
    let types = [format!("{NETWORK}.direct_response.v3.Config"), format!("{NETWORK}.sni_cluster.v3.SniCluster")];
    discovered("f", &[&types[0], &types[1]], limit, fields)
}

/// What comes back for some bytes: text, `closed`, or `refused`.
async fn talk(scene: &Scene, port: &str, bytes: &[u8]) -> Result<String> {
    let Ok(mut stream) = tcp(scene.world.port(port)?).await else { return Ok("refused".to_owned()) };
    let _gone = stream.write_all(bytes).await;
    let mut buffer = [0; 256];
    Ok(match tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await? {
        Ok(n @ 1..) => String::from_utf8_lossy(&buffer[..n]).into_owned(),
        Ok(_) | Err(_) => "closed".to_owned(),
    })
}

async fn note_talk(scene: &mut Scene, port: &str, bytes: &[u8]) -> Result<()> {
    let found = talk(scene, port, bytes).await?;
    scene.note(format!("{port}: {found}"));
    Ok(())
}

/// Waits until this comes back.
async fn until(scene: &mut Scene, port: &str, bytes: &[u8], wanted: &str) -> Result<()> {
    let found = eventually("another answer", PATIENCE, || async {
        talk(scene, port, bytes).await.ok().filter(|found| found == wanted)
    });
    if let Err(e) = found.await {
        let found = talk(scene, port, bytes).await;
        bail!("{e:#}: wanted {wanted}, found {found:?}; log: {}", scene.world.proxy.log_tail());
    }
    scene.note(format!("eventually {port}: {wanted}"));
    Ok(())
}

async fn note_counts(scene: &mut Scene, kind: &str, name: &str) -> Result<()> {
    for count in
        ["config_reload", "config_fail", "config_conflict", "update_success", "update_rejected", "init_fetch_timeout"]
    {
        scene.note_stats(&[&format!("extension_config_discovery.{kind}.{name}.{count}")]).await?;
    }
    Ok(())
}

#[test]
fn a_listener_waits_for_its_network_filter_and_follows_it() -> Result<()> {
    for variant in BOTH {
        play("a network filter", variant, |mut scene| async move {
            scene.serve(CDS, "1", &[])?;
            scene.plane.withhold(ECDS);
            scene.serve(ECDS, "1", &[&named("f", &answering("one"))])?;
            scene.serve(LDS, "1", &[&listener("l", "l1", &[], &[direct("", "")])])?;
            let asked = scene.plane.request("the filter is asked for", |s| s.type_url == ECDS).await?;
            scene.note(format!("names {:?}", asked.names));
            scene.answered(LDS, "1").await?;
            not_ready(&mut scene).await?;
            note_talk(&mut scene, "l1", b"").await?;
            scene.plane.release(ECDS);
            scene.ready().await?;
            until(&mut scene, "l1", b"", "one").await?;
            scene.serve(ECDS, "2", &[&named("f", &answering("two"))])?;
            scene.answered(ECDS, "2").await?;
            until(&mut scene, "l1", b"", "two").await?;
            // Of no type that is taken; one that cannot stand at the end.
            let sni = format!("{{'@type': {NETWORK}.sni_cluster.v3.SniCluster}}");
            let limit = limiting(1);
            for (version, filter, why) in [
                ("3", &limit, "filter config has type URL"),
                ("4", &sni, "is the last filter in a network filter chain"),
            ] {
                scene.serve(ECDS, version, &[&named("f", filter)])?;
                let error = scene.answered(ECDS, version).await?.unwrap_or_default();
                ensure!(error.contains(why), "{error}");
                note_talk(&mut scene, "l1", b"").await?;
            }
            note_counts(&mut scene, "network_filter", "f").await?;
            let mut dump = scene.dump("EcdsConfigDump").await?;
            if let Some(all) = dump["ecds_filters"].as_array_mut() {
                all.iter_mut().for_each(|one| {
                    // A refused one has its reason there, in its own words and of its own time.
                    let fields = one.as_object_mut();
                    fields.into_iter().for_each(|one| one.retain(|key, _| key == "ecds_filter"));
                });
            }
            scene.note(format!("dump {dump}"));
            // Another listener has it at once.
            scene.serve(
                LDS,
                "2",
                &[&listener("l", "l1", &[], &[direct("", "")]), &listener("m", "l2", &[], &[direct("", "")])],
            )?;
            until(&mut scene, "l2", b"", "two").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn connections_keep_the_network_filters_they_began_with() -> Result<()> {
    for variant in BOTH {
        play("a limit changes", variant, |mut scene| async move {
            scene.serve(CDS, "1", &[])?;
            let limit = discovered("g", &[&format!("{NETWORK}.connection_limit.v3.ConnectionLimit")], "", "");
            scene.serve(ECDS, "1", &[&named("g", &limiting(1))])?;
            scene.serve(LDS, "1", &[&listener("l", "l1", &[], &[limit, echo()])])?;
            scene.ready().await?;
            let port = scene.world.port("l1")?;
            let mut kept = tcp(port).await?;
            let mut said = [0; 3];
            kept.write_all(b"abc").await?;
            kept.read_exact(&mut said).await?;
            note_talk(&mut scene, "l1", b"second").await?;
            scene.serve(ECDS, "2", &[&named("g", &limiting(2))])?;
            scene.answered(ECDS, "2").await?;
            until(&mut scene, "l1", b"third", "third").await?;
            kept.write_all(b"def").await?;
            kept.read_exact(&mut said).await?;
            scene.note(format!("the first: {:?}", String::from_utf8_lossy(&said)));
            note_counts(&mut scene, "network_filter", "g").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn connections_without_a_network_filter_are_closed() -> Result<()> {
    for variant in BOTH {
        play("a network filter too late", variant, |mut scene| async move {
            scene.serve(CDS, "1", &[])?;
            scene.plane.withhold(ECDS);
            let default =
                format!(", default_config: {}, apply_default_config_without_warming: true", answering("default"));
            let by_default = direct("", &default).replace("name: f,", "name: d,");
            scene.serve(ECDS, "1", &[&named("f", &answering("one")), &named("d", &answering("other"))])?;
            let late = listener("l", "l1", &[], &[direct(", initial_fetch_timeout: 0.3s", "")]);
            scene.serve(LDS, "1", &[&late, &listener("m", "l2", &[], &[by_default])])?;
            scene.ready().await?;
            note_talk(&mut scene, "l2", b"").await?;
            until(&mut scene, "l1", b"", "closed").await?;
            let port = scene.world.port("l1")?;
            scene.stat(&format!("listener.127.0.0.1_{port}.network_extension_config_missing"), 1).await?;
            scene.stat(&format!("listener.127.0.0.1_{port}.downstream_cx_destroy"), 1).await?;
            note_counts(&mut scene, "network_filter", "f").await?;
            scene.plane.release(ECDS);
            until(&mut scene, "l1", b"", "one").await?;
            until(&mut scene, "l2", b"", "other").await?;
            if variant == Variant::Delta {
                // Taken away: nothing is left of the one, and of the other its default.
                scene.plane.set(ECDS, "2", Vec::new());
                until(&mut scene, "l1", b"", "closed").await?;
                until(&mut scene, "l2", b"", "default").await?;
            }
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn listener_filters_are_followed_and_missed() -> Result<()> {
    const HEADER: &[u8] = b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 2000\r\nhello";
    for variant in BOTH {
        play("a listener filter", variant, |mut scene| async move {
            scene.serve(CDS, "1", &[])?;
            let types = format!("{LISTENER}.proxy_protocol.v3.ProxyProtocol");
            let own = discovered("p", &[&types], ", initial_fetch_timeout: 0.3s", "");
            scene.plane.withhold(ECDS);
            scene.serve(ECDS, "1", &[&named("p", &proxied(false))])?;
            let first = listener("l", "l1", &[own], &[echo()]);
            scene.serve(LDS, "1", &[&first])?;
            scene.ready().await?;
            until(&mut scene, "l1", HEADER, "closed").await?;
            let port = scene.world.port("l1")?;
            scene.stat(&format!("listener.127.0.0.1_{port}.extension_config_missing"), 1).await?;
            scene.plane.release(ECDS);
            until(&mut scene, "l1", HEADER, "hello").await?;
            note_talk(&mut scene, "l1", b"hello, without a header").await?;
            scene.serve(ECDS, "2", &[&named("p", &proxied(true))])?;
            scene.answered(ECDS, "2").await?;
            until(&mut scene, "l1", b"hello", "hello").await?;
            let inspector = format!("{{'@type': {LISTENER}.tls_inspector.v3.TlsInspector}}");
            scene.serve(ECDS, "3", &[&named("p", &inspector)])?;
            ensure!(scene.answered(ECDS, "3").await?.is_some_and(|e| e.contains("filter config has type URL")));
            note_talk(&mut scene, "l1", HEADER).await?;
            note_counts(&mut scene, "tcp_listener_filter", "p").await?;
            // One that comes later waits: its name was asked for before, and is there.
            let again = discovered("p", &[&types], ", initial_fetch_timeout: 0.3s", "");
            let other = discovered("q", &[&types], "", "");
            scene.plane.withhold(ECDS);
            scene.serve(ECDS, "4", &[&named("p", &proxied(true)), &named("q", &proxied(true))])?;
            scene.serve(
                LDS,
                "2",
                &[&first, &listener("m", "l2", &[again], &[echo()]), &listener("o", "l3", &[other], &[echo()])],
            )?;
            until(&mut scene, "l2", b"hello", "hello").await?;
            scene.stat("listener_manager.total_listeners_warming", 1).await?;
            note_talk(&mut scene, "l3", b"hello").await?;
            scene.plane.release(ECDS);
            until(&mut scene, "l3", b"hello", "hello").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}
