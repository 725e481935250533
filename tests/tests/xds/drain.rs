//! Connections and requests while configuration changes.

use anyhow::{Context, Result, ensure};
use weft_tests::ads::{CDS, EDS, LDS, RDS};
use weft_tests::client::{Client, tcp};
use weft_tests::scene::{Scene, Variant, play, play_from};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::{BOTH, serving};
use crate::yaml::{direct, eds, endpoints, fixed, inline, listener, rds_listener, routes};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";
const SLOW: &[u8] = b"GET / HTTP/1.1\r\nhost: example.com\r\nx-script: 200,delay=700,body=slow\r\n\r\n";

/// The next answer on a connection.
async fn answer(client: &mut Client) -> Result<String> {
    let answer = client.responses("GET", PATIENCE).await?.pop();
    Ok(answer.map_or("none".to_owned(), |a| {
        let close = a.header("connection").unwrap_or("-").to_owned();
        format!("{} connection: {close}", a.status())
    }))
}

/// Waits until an upstream has seen a request.
async fn under_way(scene: &Scene) -> Result<()> {
    eventually("the upstream has the request", PATIENCE, || async { (!scene.world.journal.is_empty()).then_some(()) })
        .await
}

#[test]
fn a_removed_listener_finishes_its_requests() -> Result<()> {
    for variant in BOTH {
        play("a removed listener", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let (mut slow, mut idle) =
                (Client::connect(scene.world.port("l1")?).await?, Client::connect(scene.world.port("l1")?).await?);
            idle.send(GET).await;
            answer(&mut idle).await?;
            drop(scene.world.journal.take());
            slow.send(SLOW).await;
            under_way(&scene).await?;
            scene.serve(LDS, "2", &[])?;
            scene.answered(LDS, "2").await?;
            scene.until("l1", "/", 0).await?;
            let seen = answer(&mut slow).await?;
            scene.note(format!("under way: {}", seen.split(' ').next().unwrap_or("")));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_removed_cluster_finishes_its_requests() -> Result<()> {
    for variant in BOTH {
        play("a removed cluster", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let mut slow = Client::connect(scene.world.port("l1")?).await?;
            drop(scene.world.journal.take());
            slow.send(SLOW).await;
            under_way(&scene).await?;
            scene.serve(CDS, "2", &[])?;
            scene.until("l1", "/", 503).await?;
            let seen = answer(&mut slow).await?;
            scene.note(format!("under way: {seen}"));
            slow.send(GET).await;
            let seen = answer(&mut slow).await?;
            scene.note(format!("after it: {seen}"));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_removed_endpoint_finishes_its_requests() -> Result<()> {
    for variant in BOTH {
        play("a removed endpoint", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let mut slow = Client::connect(scene.world.port("l1")?).await?;
            drop(scene.world.journal.take());
            slow.send(SLOW).await;
            under_way(&scene).await?;
            scene.serve(EDS, "2", &[&endpoints("a", &["b"])])?;
            scene.answered(EDS, "2").await?;
            let seen = answer(&mut slow).await?;
            scene.note(format!("under way: {seen}"));
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

/// A listener with a chain for each name of a server, and one for all others.
fn by_name(names: &[(&str, &str)]) -> String {
    let mut text = listener("l", "l1", &direct("default"));
    let chain = text.split_once("filter_chains:\n").map(|(_, c)| c.to_owned()).unwrap_or_default();
    for (port, body) in names {
        let own =
            chain.replacen("- filters:", &format!("- filter_chain_match: {{destination_port: {port}}}\n  filters:"), 1);
        text += &own.replace("inline_string: default", &format!("inline_string: {body}"));
    }
    text
}

#[test]
fn connections_of_other_chains_are_not_touched() -> Result<()> {
    for variant in BOTH {
        play("other chains", variant, |mut scene| async move {
            scene.serve(CDS, "1", &[])?;
            scene.serve(LDS, "1", &[&by_name(&[("1", "one")])])?;
            scene.ready().await?;
            scene.until_body("l1", "/", "default").await?;
            let mut open = Client::connect(scene.world.port("l1")?).await?;
            open.send(GET).await;
            let first = answer(&mut open).await?;
            for (version, body) in [("2", "two"), ("3", "three"), ("4", "four")] {
                scene.serve(LDS, version, &[&by_name(&[("1", body), ("2", "more")])])?;
                scene.answered(LDS, version).await?;
            }
            scene.stat("listener_manager.listener_in_place_updated", 3).await?;
            open.send(GET).await;
            let second = answer(&mut open).await?;
            scene.note(format!("{first}, then {second}"));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn the_end_of_a_drain_closes_what_is_left() -> Result<()> {
    let start = |kind| Scene::with(kind, Variant::Sotw, weft_tests::scene::bootstrap, &[]);
    play_from("the end of a drain", Variant::Sotw, start, |mut scene| async move {
        let tunnel = "name: t\naddress: {socket_address: {address: 127.0.0.1, port_value: {{port:l2}}}}\nfilter_chains: [{filters: [{name: tcp, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: a}}]}]\n";
        serving(&mut scene).await?;
        scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), tunnel])?;
        scene.until("l2", "/", 200).await?;
        let mut idle = Client::over(Box::new(tcp(scene.world.port("l2")?).await?));
        idle.send(GET).await;
        let first = answer(&mut idle).await?;
        scene.serve(LDS, "3", &[&rds_listener("l", "l1", "r")])?;
        scene.answered(LDS, "3").await?;
        let closed = idle.closes(PATIENCE).await;
        scene.note(format!("{}; closed in the end: {closed}", first.split(' ').next().unwrap_or("")));
        Ok(scene)
    })
}

/// Requests without end on a kept connection, as a well-behaved client makes them. How many, and what went wrong.
async fn load(port: u16, stop: tokio::sync::watch::Receiver<bool>) -> Result<(u64, Vec<String>)> {
    let (mut done, mut failed) = (0, Vec::new());
    let mut client: Option<Client> = None;
    while !*stop.borrow() {
        let own = match &mut client {
            Some(own) => own,
            None => client.insert(Client::connect(port).await.context("connect")?),
        };
        own.send(GET).await;
        let answer = own.responses("GET", PATIENCE).await?.pop();
        done += 1;
        match answer {
            Some(a) if a.status() == 200 => {
                if a.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
                    client = None;
                }
            }
            Some(a) => {
                failed.push(format!("{} {}", a.status(), String::from_utf8_lossy(&a.body)));
                client = None;
            }
            None => {
                failed.push("no answer".to_owned());
                client = None;
            }
        }
    }
    Ok((done, failed))
}

#[test]
fn changes_under_load_fail_no_request() -> Result<()> {
    for variant in BOTH {
        play("changes under load", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let (end, stop) = tokio::sync::watch::channel(false);
            let port = scene.world.port("l1")?;
            let clients: Vec<_> = (0..4).map(|_| tokio::spawn(load(port, stop.clone()))).collect();
            for n in 0..60 {
                let to = if n % 2 == 0 { "b" } else { "a" };
                let v = format!("n{n}");
                match n % 5 {
                    0 => scene.serve(EDS, &v, &[&endpoints("a", &[to])])?,
                    1 => scene.serve(
                        RDS,
                        &v,
                        &[&format!(
                            "{}response_headers_to_add: [{{header: {{key: x-n, value: '{n}'}}}}]\n",
                            routes("r", "a")
                        )],
                    )?,
                    2 => {
                        let changed = eds("a", &format!("per_connection_buffer_limit_bytes: {}", 70000 + n));
                        scene.serve(CDS, &v, &[&changed, &fixed("extra", "c", "")])?;
                        scene.plane.push(EDS);
                        scene.answered(CDS, &v).await?;
                    }
                    3 => {
                        let changed =
                            rds_listener("l", "l1", "r").replace("stat_prefix: l", &format!("stat_prefix: l{n}"));
                        scene.serve(LDS, &v, &[&changed, &listener("m", "l2", &inline("a"))])?;
                        scene.answered(LDS, &v).await?;
                    }
                    _ => scene.plane.reset(),
                }
            }
            scene.serve(EDS, "last", &[&endpoints("a", &["a", "b"])])?;
            scene.answered(EDS, "last").await?;
            end.send(true)?;
            let mut total = 0;
            for client in clients {
                let (done, failed) = client.await??;
                // Envoy cuts off what a drain leaves, also where a request is on its way.
                let envoy = scene.world.kind == weft_tests::locate::Kind::Envoy;
                ensure!(envoy || failed.is_empty(), "{} of {done} failed: {failed:?}", failed.len());
                total += done;
            }
            ensure!(total > 100, "only {total} requests were made");
            Ok(scene)
        })?;
    }
    Ok(())
}
