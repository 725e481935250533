//! Clusters and virtual hosts on demand: the `on_demand` filter with ODCDS and VHDS.

use anyhow::{Context, Result, bail, ensure};
use prost::Message as _;
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use weft_tests::ads::{CDS, EDS, LDS, RDS, Resource, Seen, VHDS};
use weft_tests::client::fetch;
use weft_tests::locate::Kind;
use weft_tests::scene::{Scene, Variant, play};
use weft_tests::wait::{PATIENCE, eventually};

use crate::yaml::{eds, endpoints, fixed, listener, rds_listener, routes};

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3";
/// Clusters on demand over the aggregated stream.
pub(crate) const CLUSTERS: &str = "odcds: {source: {ads: {}, resource_api_version: V3}, timeout: 3s}";

/// A listener with the filter, set up like this.
pub(crate) fn on_demand(listener: &str, fields: &str) -> String {
    let router = "      - name: envoy.filters.http.router\n";
    let filter = format!(
        "      - name: envoy.filters.http.on_demand\n        typed_config: {{'@type': {TYPES}.OnDemand, {fields}}}\n"
    );
    listener.replace(router, &format!("{filter}{router}"))
}

/// Routes to the cluster that a header names; `fields` are further ones of the route.
fn by_header(fields: &str) -> String {
    format!(
        "route_config: {{name: inline, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster_header: x-cluster}}{fields}}}]}}]}}"
    )
}

/// The answer to a request with these further header lines and this body.
async fn ask(scene: &Scene, host: &str, lines: &str, body: &str) -> Result<String> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let request = format!("{method} / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}{length}\r\n{body}");
    let answer = fetch(scene.world.port("l1")?, request.as_bytes()).await?;
    Ok(format!("{} {}", answer.status(), String::from_utf8_lossy(&answer.body)))
}

pub(crate) async fn to_cluster(scene: &Scene, name: &str) -> Result<String> {
    ask(scene, "example.com", &format!("x-cluster: {name}\r\n"), "").await
}

/// Requests so far that subscribe to a name.
fn asked(scene: &Scene, type_url: &str, name: &str) -> usize {
    scene.plane.seen().iter().filter(|s| s.type_url == type_url && s.names.iter().any(|n| n == name)).count()
}

/// Waits until a name was subscribed to so often.
async fn subscribed(scene: &Scene, type_url: &str, name: &str, times: usize) -> Result<()> {
    let what = format!("{name} is asked for {times} times");
    let found = eventually(&what, PATIENCE, || async { (asked(scene, type_url, name) >= times).then_some(()) });
    found.await.with_context(|| format!("{:#?}", scene.plane.seen()))
}

/// Tells that a resource does not exist.
fn gone(scene: &Scene, type_url: &str, name: &str) {
    let response = DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: "x/gone".to_owned(),
        removed_resources: vec![name.to_owned()],
        ..DeltaDiscoveryResponse::default()
    };
    scene.plane.message(&response.encode_to_vec());
}

pub(crate) async fn with_clusters(scene: &mut Scene, fields: &str) -> Result<()> {
    scene.serve(CDS, "1", &[])?;
    scene.serve(LDS, "1", &[&on_demand(&listener("l", "l1", &by_header("")), fields)])?;
    scene.ready().await?;
    scene.until("l1", "/", 503).await?;
    Ok(())
}

#[test]
fn a_request_waits_for_its_cluster() -> Result<()> {
    play("a cluster on demand", Variant::Delta, |mut scene| async move {
        with_clusters(&mut scene, CLUSTERS).await?;
        let serve = async {
            subscribed(&scene, CDS, "c", 1).await?;
            scene.serve(CDS, "2", &[&fixed("c", "c", "")])
        };
        let (answer, served) = tokio::join!(to_cluster(&scene, "c"), serve);
        served?;
        scene.note(format!("held: {}", answer?));
        let again = to_cluster(&scene, "c").await?;
        scene.note(format!("there: {again}, asked {}", asked(&scene, CDS, "c")));
        // Two at a time.
        let serve = async {
            subscribed(&scene, CDS, "b", 1).await?;
            scene.stat("http.l.downstream_rq_active", 2).await?;
            scene.serve(CDS, "3", &[&fixed("c", "c", ""), &fixed("b", "b", "")])
        };
        let (one, two, served) = tokio::join!(to_cluster(&scene, "b"), to_cluster(&scene, "b"), serve);
        served?;
        scene.note(format!("two: {} {}, asked {}", one?, two?, asked(&scene, CDS, "b")));
        // With a body.
        let serve = async {
            subscribed(&scene, CDS, "d", 1).await?;
            scene.serve(CDS, "4", &[&fixed("c", "c", ""), &fixed("b", "b", ""), &fixed("d", "a", "")])
        };
        let (answer, served) = tokio::join!(ask(&scene, "example.com", "x-cluster: d\r\n", "hello"), serve);
        served?;
        scene.note(format!("body: {}", answer?));
        scene.note_stats(&["cluster_manager.active_clusters", "cluster_manager.cluster_added"]).await?;
        Ok(scene)
    })
}

#[test]
fn a_cluster_that_does_not_come_is_a_503() -> Result<()> {
    play("no cluster on demand", Variant::Delta, |mut scene| async move {
        with_clusters(&mut scene, &CLUSTERS.replace("3s", "0.2s")).await?;
        let answer = to_cluster(&scene, "never").await?;
        scene.note(format!("too late: {answer}, asked {}", asked(&scene, CDS, "never")));
        let again = to_cluster(&scene, "never").await?;
        scene.note(format!("again: {again}, asked {}", asked(&scene, CDS, "never")));
        // It may come to exist.
        scene.serve(CDS, "2", &[&fixed("never", "a", "")])?;
        eventually("the cluster is there", PATIENCE, || async {
            to_cluster(&scene, "never").await.ok().filter(|answer| answer.starts_with("200"))
        })
        .await?;
        scene.note_stats(&["http.l.no_cluster"]).await?;
        Ok(scene)
    })
}

#[test]
fn a_cluster_that_is_said_not_to_exist_is_a_503_at_once() -> Result<()> {
    play("a cluster that is not", Variant::Delta, |mut scene| async move {
        with_clusters(&mut scene, &CLUSTERS.replace("3s", "60s")).await?;
        let tell = async {
            subscribed(&scene, CDS, "none", 1).await?;
            gone(&scene, CDS, "none");
            anyhow::Ok(())
        };
        let (answer, told) = tokio::join!(to_cluster(&scene, "none"), tell);
        told?;
        scene.note(format!("told: {}", answer?));
        Ok(scene)
    })
}

#[test]
fn a_cluster_that_went_is_asked_for_again() -> Result<()> {
    play("a cluster again", Variant::Delta, |mut scene| async move {
        with_clusters(&mut scene, CLUSTERS).await?;
        // Envoy does not ask again: requests wait for their time limit.
        if scene.world.kind == Kind::Envoy {
            scene.note("as it should");
            return Ok(scene);
        }
        for round in 1..=2 {
            let serve = async {
                subscribed(&scene, CDS, "c", round).await?;
                scene.serve(CDS, &format!("{round}.there"), &[&fixed("c", "c", "")])
            };
            let (answer, served) = tokio::join!(to_cluster(&scene, "c"), serve);
            served?;
            ensure!(answer?.starts_with("200"));
            scene.serve(CDS, &format!("{round}.gone"), &[])?;
            scene.plane.answer(CDS, &format!("{round}.gone")).await?;
        }
        scene.note("as it should");
        Ok(scene)
    })
}

#[test]
fn names_are_asked_for_after_a_reconnect() -> Result<()> {
    play("names again", Variant::Delta, |mut scene| async move {
        with_clusters(&mut scene, CLUSTERS).await?;
        let tell = async {
            subscribed(&scene, CDS, "never", 1).await?;
            gone(&scene, CDS, "never");
            anyhow::Ok(())
        };
        let (answer, told) = tokio::join!(to_cluster(&scene, "never"), tell);
        told?;
        scene.note(answer?);
        let serve = async {
            subscribed(&scene, CDS, "c", 1).await?;
            scene.serve(CDS, "2", &[&fixed("c", "c", "")])
        };
        let (answer, served) = tokio::join!(to_cluster(&scene, "c"), serve);
        served?;
        scene.note(answer?);
        scene.answered(CDS, "2").await?;
        scene.note_stats(&["cluster_manager.odcds.update_attempt", "cluster_manager.odcds.update_success"]).await?;
        let before = scene.plane.opened();
        scene.plane.reset();
        let first = |s: &Seen| s.stream >= before && s.type_url == CDS && s.nonce.is_empty();
        let first = scene.plane.request("clusters are asked for again", first).await?;
        scene.note(format!("names {:?} holds {:?}", first.names, first.initial.keys().collect::<Vec<_>>()));
        let again = to_cluster(&scene, "c").await?;
        scene.note(again);
        Ok(scene)
    })
}

#[test]
fn a_cluster_without_endpoints_holds_no_other_up() -> Result<()> {
    play("slow endpoints", Variant::Delta, |mut scene| async move {
        with_clusters(&mut scene, CLUSTERS).await?;
        scene.plane.withhold(EDS);
        let serve = async {
            subscribed(&scene, CDS, "slow", 1).await?;
            scene.serve(CDS, "2", &[&eds("slow", "")])?;
            scene.serve(EDS, "2", &[&endpoints("slow", &["a"])])?;
            scene.stat("cluster_manager.warming_clusters", 1).await?;
            // Envoy asks for nothing while a cluster is warming.
            if scene.world.kind == Kind::Weft {
                let quick = async {
                    subscribed(&scene, CDS, "quick", 1).await?;
                    scene.serve(CDS, "3", &[&eds("slow", ""), &fixed("quick", "b", "")])
                };
                let (answer, served) = tokio::join!(to_cluster(&scene, "quick"), quick);
                served?;
                ensure!(answer?.starts_with("200"));
            }
            scene.plane.release(EDS);
            anyhow::Ok(())
        };
        let (answer, served) = tokio::join!(to_cluster(&scene, "slow"), serve);
        served?;
        scene.note(format!("slow: {}", answer?));
        Ok(scene)
    })
}

#[test]
fn routes_say_whether_clusters_come_on_demand() -> Result<()> {
    play("per route", Variant::Delta, |mut scene| async move {
        let per_route = |fields: &str| {
            format!(
                ", typed_per_filter_config: {{envoy.filters.http.on_demand: {{'@type': {TYPES}.PerRouteConfig{fields}}}}}"
            )
        };
        scene.serve(CDS, "1", &[])?;
        let off = on_demand(&listener("l", "l1", &by_header(&per_route(""))), CLUSTERS);
        scene.serve(LDS, "1", &[&off])?;
        scene.ready().await?;
        scene.until("l1", "/", 503).await?;
        let answer = to_cluster(&scene, "c").await?;
        scene.note(format!("off: {answer}, asked {}", asked(&scene, CDS, "c")));
        let on = on_demand(&listener("l", "l1", &by_header(&per_route(&format!(", {CLUSTERS}")))), "");
        scene.serve(LDS, "2", &[&on])?;
        scene.answered(LDS, "2").await?;
        scene.stat("listener_manager.listener_modified", 1).await?;
        let serve = async {
            subscribed(&scene, CDS, "c", 1).await?;
            scene.serve(CDS, "2", &[&fixed("c", "c", "")])
        };
        let (answer, served) = tokio::join!(to_cluster(&scene, "c"), serve);
        served?;
        scene.note(format!("on: {}", answer?));
        Ok(scene)
    })
}

/// Routes `r` with a host of their own, whose further hosts are discovered.
pub(crate) fn with_hosts() -> String {
    routes("r", "a").replace("'*'", "own.example.com") + "vhds: {config_source: {ads: {}, resource_api_version: V3}}\n"
}

/// A virtual host of routes `r` to a cluster.
pub(crate) fn host(name: &str, cluster: &str) -> String {
    format!("name: r/{name}\ndomains: [{name}]\nroutes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]\n")
}

async fn with_routes(scene: &mut Scene) -> Result<()> {
    scene.serve(CDS, "1", &[&fixed("a", "a", ""), &fixed("b", "b", "")])?;
    scene.serve(LDS, "1", &[&on_demand(&rds_listener("l", "l1", "r"), "")])?;
    scene.serve(RDS, "1", &[&with_hosts()])?;
    scene.serve(VHDS, "1", &[&host("first.example.com", "a")])?;
    scene.ready().await?;
    settled(scene, "own.example.com", "200").await?;
    settled(scene, "first.example.com", "200").await
}

/// Waits until a host is answered so.
async fn settled(scene: &Scene, name: &str, wanted: &str) -> Result<()> {
    let what = format!("{name} is answered {wanted}");
    let found = eventually(&what, PATIENCE, || async {
        ask(scene, name, "", "").await.ok().filter(|answer| answer.starts_with(wanted))
    });
    match found.await {
        Ok(_) => Ok(()),
        Err(e) => bail!(
            "{e:#}: {:?}; {:#?}; log: {}",
            ask(scene, name, "", "").await,
            scene.plane.seen(),
            scene.world.proxy.log_tail()
        ),
    }
}

#[test]
fn a_request_waits_for_its_virtual_host() -> Result<()> {
    play("a host on demand", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        let first = scene.plane.request("hosts are asked for", |s| s.type_url == VHDS).await?;
        scene.note(format!("first: {:?}", first.names));
        let hosts = [host("first.example.com", "a"), host("example.com", "b")];
        let serve = async {
            subscribed(&scene, VHDS, "r/example.com", 1).await?;
            scene.serve(VHDS, "2", &[&hosts[0], &hosts[1]])
        };
        let (answer, served) = tokio::join!(ask(&scene, "Example.com", "", ""), serve);
        served?;
        scene.note(format!("held: {}", answer?));
        scene.answered(VHDS, "2").await?;
        let there = ask(&scene, "example.com", "", "").await?;
        scene.note(format!("there: {there}, asked {}", asked(&scene, VHDS, "r/example.com")));
        // Routes that come again keep the hosts.
        scene.serve(RDS, "2", &[&format!("{}request_headers_to_remove: [x-none]\n", with_hosts())])?;
        scene.answered(RDS, "2").await?;
        let kept = ask(&scene, "example.com", "", "").await?;
        scene.note(format!("kept: {kept}"));
        let mut dump = scene.dump("RoutesConfigDump").await?;
        let names = dump["dynamic_route_configs"][0]["route_config"]["virtual_hosts"].take();
        let mut names: Vec<_> = names.as_array().into_iter().flatten().map(|h| h["name"].to_string()).collect();
        names.sort();
        scene.note(format!("dumped: {names:?}"));
        let before = scene.plane.opened();
        scene.plane.reset();
        let first = |s: &Seen| s.stream >= before && s.type_url == VHDS && s.nonce.is_empty();
        let first = scene.plane.request("hosts are asked for again", first).await?;
        scene.note(format!("again: {:?} holds {:?}", first.names, first.initial.keys().collect::<Vec<_>>()));
        scene
            .note_stats(&["http.l.rds.vhds.r.config_reload", "http.l.rds.vhds.r.update_attempt", "http.l.no_route"])
            .await?;
        Ok(scene)
    })
}

#[test]
fn a_virtual_host_that_does_not_exist_is_a_404() -> Result<()> {
    play("no host", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        let none = Resource {
            name: "r/example.com".into(),
            body: None,
            ttl: None,
            aliases: vec!["r/example.com".into()],
            copy: 0,
        };
        let tell = async {
            subscribed(&scene, VHDS, "r/example.com", 1).await?;
            let first = scene.resource(VHDS, &host("first.example.com", "a"))?;
            scene.plane.set(VHDS, "2", vec![first, none]);
            anyhow::Ok(())
        };
        let (answer, told) = tokio::join!(ask(&scene, "example.com", "", ""), tell);
        told?;
        scene.note(format!("told: {}", answer?));
        Ok(scene)
    })
}

#[test]
fn a_virtual_host_may_answer_for_other_names() -> Result<()> {
    play("an alias", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        let serve = async {
            subscribed(&scene, VHDS, "r/example.com", 1).await?;
            let first = scene.resource(VHDS, &host("first.example.com", "a"))?;
            let mut shop =
                scene.resource(VHDS, &host("shop", "b").replace("[shop]", "[example.com, shop.example.com]"))?;
            shop.aliases = vec!["r/example.com".into(), "r/shop.example.com".into()];
            scene.plane.set(VHDS, "2", vec![first, shop]);
            anyhow::Ok(())
        };
        let (answer, served) = tokio::join!(ask(&scene, "example.com", "", ""), serve);
        served?;
        scene.note(format!("held: {}", answer?));
        let other = ask(&scene, "shop.example.com", "", "").await?;
        scene.note(format!("other: {other}, asked {}", asked(&scene, VHDS, "r/shop.example.com")));
        Ok(scene)
    })
}

#[test]
fn a_virtual_host_goes_live_when_its_cluster_is_warm() -> Result<()> {
    play("a host that waits", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        scene.serve(CDS, "2", &[&fixed("a", "a", ""), &fixed("b", "b", ""), &eds("c", "")])?;
        scene.plane.request("endpoints are asked for", |s| s.type_url == EDS).await?;
        let first = |cluster| host("first.example.com", cluster);
        scene.serve(VHDS, "2", &[&first("c"), &host("second.example.com", "b")])?;
        scene.answered(VHDS, "2").await?;
        settled(&scene, "second.example.com", "200").await?;
        // Envoy's host is live at once, and has no cluster (docs/differences.md).
        let meanwhile = if scene.world.kind == Kind::Weft { "200" } else { "503" };
        settled(&scene, "first.example.com", meanwhile).await?;
        scene.serve(EDS, "1", &[&endpoints("c", &["b"])])?;
        let second = ask(&scene, "second.example.com", "", "").await?;
        let there = eventually("it leads to where c is", PATIENCE, || async {
            ask(&scene, "first.example.com", "", "").await.ok().filter(|answer| *answer == second)
        });
        let there = there.await.with_context(|| scene.world.proxy.log_tail())?;
        scene.note(there);
        scene.note_stats(&["http.l.rds.vhds.r.update_rejected"]).await?;
        Ok(scene)
    })
}

#[test]
fn a_virtual_host_that_went_is_asked_for_again() -> Result<()> {
    play("a host again", Variant::Delta, |mut scene| async move {
        // Envoy does not ask again, and answers 404.
        if scene.world.kind == Kind::Envoy {
            scene.note("as it should");
            return Ok(scene);
        }
        with_routes(&mut scene).await?;
        for round in 1..=2 {
            let hosts = [host("first.example.com", "a"), host("example.com", "b")];
            let serve = async {
                subscribed(&scene, VHDS, "r/example.com", round).await?;
                scene.serve(VHDS, &format!("{round}.there"), &[&hosts[0], &hosts[1]])
            };
            let (answer, served) = tokio::join!(ask(&scene, "example.com", "", ""), serve);
            served?;
            ensure!(answer?.starts_with("200"));
            scene.serve(VHDS, &format!("{round}.gone"), &[&hosts[0]])?;
            scene.plane.answer(VHDS, &format!("{round}.gone")).await?;
            scene.stat("http.l.rds.vhds.r.config_reload", 2 * round as u64 + 1).await?;
        }
        scene.note("as it should");
        Ok(scene)
    })
}

#[test]
fn bad_virtual_hosts_are_refused() -> Result<()> {
    play("bad hosts", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        let first = host("first.example.com", "a");
        // A domain that the routes have already; a resource that breaks a rule.
        let twice = host("twice", "b").replace("[twice]", "[own.example.com]");
        scene.serve(VHDS, "2", &[&first, &twice])?;
        scene.answered(VHDS, "2").await?;
        scene.serve(VHDS, "3", &[&first, &host("bad", "b").replace("[bad]", "[]")])?;
        scene.answered(VHDS, "3").await?;
        for name in ["own.example.com", "first.example.com"] {
            let answer = ask(&scene, name, "", "").await?;
            scene.note(format!("{name}: {answer}"));
        }
        Ok(scene)
    })
}

#[test]
fn routes_without_hosts_on_demand_answer_404_at_once() -> Result<()> {
    play("no vhds", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        scene.serve(RDS, "2", &[&routes("r", "a").replace("'*'", "own.example.com")])?;
        scene.answered(RDS, "2").await?;
        settled(&scene, "first.example.com", "404").await?;
        let answer = ask(&scene, "own.example.com", "", "").await?;
        scene.note(format!("own: {answer}, asked {}", asked(&scene, VHDS, "r/example.com")));
        Ok(scene)
    })
}

#[test]
fn on_demand_needs_delta() -> Result<()> {
    play("state of the world", Variant::Sotw, |mut scene| async move {
        scene.serve(CDS, "1", &[&fixed("a", "a", "")])?;
        scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r")])?;
        scene.serve(RDS, "1", &[&routes("r", "a")])?;
        scene.ready().await?;
        scene.until("l1", "/", 200).await?;
        scene.serve(RDS, "2", &[&with_hosts()])?;
        scene.answered(RDS, "2").await?;
        scene.note_get("l1", "/").await?;
        // Envoy accepts this; its request for a name then takes the place of the one for all clusters.
        scene.serve(LDS, "2", &[&on_demand(&rds_listener("l", "l1", "r"), CLUSTERS)])?;
        let refused = scene.plane.answer(LDS, "2").await?.error.is_some();
        ensure!(refused == (scene.world.kind == Kind::Weft));
        Ok(scene)
    })
}

#[test]
fn a_request_with_a_body_waits_for_its_virtual_host() -> Result<()> {
    play("a host with a body", Variant::Delta, |mut scene| async move {
        with_routes(&mut scene).await?;
        let hosts = [host("first.example.com", "a"), host("example.com", "b")];
        let serve = async {
            subscribed(&scene, VHDS, "r/example.com", 1).await?;
            scene.serve(VHDS, "2", &[&hosts[0], &hosts[1]])
        };
        let (answer, served) = tokio::join!(ask(&scene, "example.com", "", "hello"), serve);
        served?;
        scene.note(format!("held: {}", answer?));
        Ok(scene)
    })
}

/// A TCP proxy to a cluster that may have to be fetched first.
fn tcp(cluster: &str, timeout: &str) -> String {
    format!(
        r#"name: t
address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{port:l1}}}}}}}}
filter_chains:
- filters:
  - name: envoy.filters.network.tcp_proxy
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: t
      cluster: {cluster}
      on_demand: {{odcds_config: {{ads: {{}}, resource_api_version: V3}}, timeout: {timeout}}}
"#
    )
}

const TCP_STATS: [&str; 5] = [
    "tcp.t.on_demand_cluster_attempt",
    "tcp.t.on_demand_cluster_missing",
    "tcp.t.on_demand_cluster_success",
    "tcp.t.on_demand_cluster_timeout",
    "tcp.t.downstream_cx_no_route",
];

#[test]
fn a_tcp_connection_waits_for_its_cluster() -> Result<()> {
    play("TCP on demand", Variant::Delta, |mut scene| async move {
        scene.serve(CDS, "1", &[])?;
        scene.serve(LDS, "1", &[&tcp("c", "10s")])?;
        scene.ready().await?;
        let serve = async {
            subscribed(&scene, CDS, "c", 1).await?;
            scene.serve(CDS, "2", &[&fixed("c", "c", "")])
        };
        let (answer, served) = tokio::join!(ask(&scene, "example.com", "", ""), serve);
        served?;
        scene.note(format!("held: {}", answer?));
        let again = ask(&scene, "example.com", "", "").await?;
        scene.note(format!("there: {again}, asked {}", asked(&scene, CDS, "c")));
        scene.note_stats(&TCP_STATS).await?;
        Ok(scene)
    })
}

#[test]
fn a_tcp_connection_whose_cluster_does_not_come_is_closed() -> Result<()> {
    play("no TCP on demand", Variant::Delta, |mut scene| async move {
        scene.serve(CDS, "1", &[])?;
        scene.serve(LDS, "1", &[&tcp("none", "0.3s")])?;
        scene.ready().await?;
        let late = ask(&scene, "example.com", "", "").await;
        scene.note(format!("closed: {}", late.is_err()));
        scene.stat("tcp.t.on_demand_cluster_timeout", 1).await?;
        scene.note_stats(&TCP_STATS).await?;
        scene.serve(LDS, "2", &[&tcp("gone", "60s")])?;
        scene.answered(LDS, "2").await?;
        scene.stat("listener_manager.listener_modified", 1).await?;
        let tell = async {
            subscribed(&scene, CDS, "gone", 1).await?;
            gone(&scene, CDS, "gone");
            anyhow::Ok(())
        };
        let (told, said) = tokio::join!(ask(&scene, "example.com", "", ""), tell);
        said?;
        scene.note(format!("closed: {}", told.is_err()));
        scene.stat("tcp.t.on_demand_cluster_missing", 1).await?;
        scene.note_stats(&TCP_STATS).await?;
        Ok(scene)
    })
}
