//! The admin interface: which pages there are, their types, and the shape of what they say.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, Step, View, get, run};

#[test]
fn admin() -> Result<()> {
    let config = Config::new()
        .http("http", "route_config:\n  name: routes\n  virtual_hosts:\n  - {name: all, domains: [\"*\"], routes: [{match: {prefix: \"/\"}, route: {cluster: a}}]}\n")
        .cluster("a", "")
        .top("node: {id: node-1, cluster: c, locality: {zone: z}}\n");
    let page = |method: &str, path: &str, view: View| Step::Admin { method: method.into(), path: path.into(), view };
    let mut group = Group::new("admin", config).step("traffic", get("http", "/", &[]));
    for (name, method, path, view) in [
        ("ready", "GET", "/ready", View::Body),
        ("ready-head", "HEAD", "/ready", View::Head),
        ("server-info", "GET", "/server_info", View::Keys(2)),
        ("clusters", "GET", "/clusters", View::Body),
        ("clusters-json", "GET", "/clusters?format=json", View::Keys(5)),
        ("listeners", "GET", "/listeners", View::Body),
        ("listeners-json", "GET", "/listeners?format=json", View::Keys(5)),
        ("stats", "GET", "/stats", View::Head),
        ("stats-json", "GET", "/stats?format=json", View::Keys(2)),
        ("stats-filter", "GET", "/stats?filter=^cluster%5C.a%5C.upstream_rq_(200|total|completed)$", View::Body),
        ("stats-used", "GET", "/stats?usedonly&filter=cluster%5C.a%5C.upstream_rq_[2t]", View::Body),
        ("stats-type", "GET", "/stats?type=Gauges&filter=^cluster%5C.a%5C.membership", View::Body),
        ("stats-bad-filter", "GET", "/stats?filter=(", View::Head),
        ("stats-bad-format", "GET", "/stats?format=xml", View::Body),
        (
            "stats-prometheus",
            "GET",
            "/stats/prometheus?filter=cluster%5C.a%5C.upstream_rq_(200|total|completed)$",
            View::Body,
        ),
        (
            "stats-prometheus-format",
            "GET",
            "/stats?format=prometheus&filter=http%5C.http%5C.downstream_rq_(2xx|total)",
            View::Body,
        ),
        ("config-dump", "GET", "/config_dump", View::Keys(3)),
        ("config-dump-resource", "GET", "/config_dump?resource=static_clusters", View::Keys(4)),
        ("config-dump-mask", "GET", "/config_dump?mask=bootstrap.node.id", View::Keys(5)),
        ("config-dump-bad", "GET", "/config_dump?resource=nothing", View::Head),
        ("certs", "GET", "/certs", View::Body),
        ("memory", "GET", "/memory", View::Keys(1)),
        ("runtime", "GET", "/runtime", View::Keys(2)),
        ("hot-restart-version", "GET", "/hot_restart_version", View::Head),
        ("init-dump", "GET", "/init_dump", View::Body),
        ("logging-get", "GET", "/logging", View::Head),
        ("logging-post", "POST", "/logging?level=warning", View::Head),
        ("logging-bad", "POST", "/logging?level=nonsense", View::Head),
        ("unknown", "GET", "/nothing/here", View::Head),
        ("home", "GET", "/", View::Head),
        ("help", "GET", "/help", View::Head),
        ("reset-get", "GET", "/reset_counters", View::Body),
        ("reset-post", "POST", "/reset_counters", View::Body),
        ("reset-happened", "GET", "/stats?filter=^cluster%5C.a%5C.upstream_rq_total$", View::Body),
        ("fail", "POST", "/healthcheck/fail", View::Body),
        ("fail-ready", "GET", "/ready", View::Body),
        ("ok", "POST", "/healthcheck/ok", View::Body),
        ("ok-ready", "GET", "/ready", View::Body),
        ("runtime-modify", "POST", "/runtime_modify?some.key=5", View::Body),
        ("runtime-modified", "GET", "/runtime", View::Keys(3)),
        ("drain", "POST", "/drain_listeners?graceful&skip_exit", View::Body),
        ("put", "PUT", "/ready", View::Head),
    ] {
        group = group.step(name, page(method, path, view));
    }
    run(&group)
}
