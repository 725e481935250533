use clap::Parser;
use serde_json::json;

use super::output::{Format, Table, print};
use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
    for line in [
        "weft control-plane --config-dir d --grpc-addr 127.0.0.1:0 --debounce 50ms",
        "weft proxy-status",
        "weft proxy-status a.default -o json",
        "weft pc route --admin 127.0.0.1:15000",
        "weft proxy-config all a --control-plane 127.0.0.1:8080",
        "weft wait --proxies 3 --timeout 5s",
        "weft wait virtualservice/reviews.default --for=delete --timeout 5s",
        "weft status vs/a -n b -o json",
        "weft completions bash",
        "weft control-plane --config-dir d --tls-cert c --tls-key k --tls-client-ca a --tls-any-client",
        "weft ca status -o json",
        "weft ca rotate-root --ca-dir d",
        "weft token create --namespace default --service-account web --ttl 1h",
        "weft version -o yaml",
    ] {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    for (line, says) in [
        ("weft proxy-config route", "<PROXY>"),
        ("weft control-plane --config-dir d --tls-cert c", "--tls-key"),
        ("weft control-plane --config-dir d --tls-client-ca a", "--tls-cert"),
        ("weft control-plane --config-dir d --token-jwks f", "--token-issuer"),
        ("weft control-plane --config-dir d --no-ca --ca-dir f", "cannot be used"),
        ("weft token create -n default", "--service-account"),
        ("weft wait --timeout 5", "a number with a unit"),
        ("weft wait --for delete", "<OBJECT>"),
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn durations() {
    assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
    assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
    for bad in ["", "5", "s", "-1s", "1d"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn columns_are_aligned() {
    let mut table = Table::new(&["A", "LONG"]);
    table.row(["wörter".to_owned(), "x".to_owned()]);
    assert_eq!(table.render(), "A        LONG\nwörter   x\n");
}

#[test]
fn yaml_says_what_json_says() {
    let json = json!({
        "a": [{ "b": 1, "c": [true, null] }, [], "no", "plain.text", "with: colon"],
        "empty": {},
        "10.0.0.1": "x",
    });
    let expected = "\
\"10.0.0.1\": x
a:
- b: 1
  c:
  - true
  - null
- []
- \"no\"
- plain.text
- \"with: colon\"
empty: {}";
    let text = print(Format::Yaml, &json, String::new);
    assert_eq!(text, expected);
    // The reader of the wire types reads it, too.
    let document = weft_proto::document::Document::parse("t", &text, weft_proto::document::Format::Yaml);
    assert!(document.is_ok(), "{document:?}");
}

#[test]
fn a_refusal_is_shown_with_its_reason() {
    let stream = |name: &str, lds: &str| {
        json!({
            "name": name, "namespace": "default", "kind": "sidecar", "protocol": "delta",
            "connectedAt": "2026-01-02T03:04:05.678Z",
            "types": {
                "CDS": { "status": "SYNCED" },
                "LDS": { "status": lds, "refused": { "reason": "no such filter", "at": "2026-01-02T03:04:06Z" } },
            },
        })
    };
    let table = proxy_status::table(&[stream("b", "NACKED"), stream("a", "SYNCED")]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].starts_with("a.default   sidecar   SYNCED   -"), "{table}");
    assert!(lines[2].contains("NACKED") && lines[2].ends_with("2026-01-02T03:04:05"), "{table}");
    assert_eq!(lines[4], "b.default refused LDS at 2026-01-02T03:04:06Z: no such filter");
    assert_eq!(lines.len(), 5, "{table}");
}

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews}
spec:
  selector: {matchLabels: {app: reviews}}
  template: {metadata: {labels: {app: reviews}}, spec: {containers: [{name: c, image: i}]}}
";

const ROUTE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{timeout: 3s, route: [{destination: {host: reviews}}]}]}
";

/// A directory of these files.
fn mesh(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, text) in files.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{number}.yaml")), text).unwrap();
    }
    dir
}

/// What a command that needs nothing running prints.
fn offline(args: &[&str]) -> Result<String> {
    match Cli::try_parse_from([&["weft"], args].concat())?.command {
        Command::Translate(options) => translate::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::Analyze(options) => analyze::run(&options).map(|()| String::new()),
        other => panic!("{other:?} needs something running"),
    }
}

#[test]
fn translate_prints_what_a_workload_gets() {
    let dir = mesh(&[MESH]);
    let path = dir.path().to_str().unwrap();
    let text = offline(&["translate", path, "reviews-0", "--type", "endpoint"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let endpoint =
        json["EDS"]["outbound|9080||reviews.default.svc.cluster.local"]["endpoints"][0]["lb_endpoints"][0].clone();
    assert!(
        endpoint["endpoint"]["address"]["socket_address"]["address"].as_str().unwrap().starts_with("192.0.2."),
        "{text}"
    );
    let grpc = offline(&["translate", path, "reviews-0.default", "--grpc", "-o", "table"]).unwrap();
    assert!(grpc.contains("LDS    reviews.default.svc.cluster.local:9080"), "{grpc}");
    let error = offline(&["translate", path, "ratings"]).unwrap_err().to_string();
    assert_eq!(error, "no workload ratings; there are: reviews-0.default");
}

#[test]
fn diff_names_the_fields_that_change_in_each_proxy() {
    let (before, after) = (mesh(&[MESH]), mesh(&[MESH, ROUTE]));
    let [before, after] = [&before, &after].map(|dir| dir.path().to_str().unwrap());
    let text = offline(&["diff", before, after]).unwrap();
    assert!(text.starts_with("reviews-0.default\n  ~ RDS 9080\n"), "{text}");
    assert!(text.lines().any(|line| line.trim_start().ends_with("route.timeout: \"0s\" -> \"3s\"")), "{text}");
    assert_eq!(offline(&["diff", after, after]).unwrap(), "nothing changes for any proxy");
}

#[test]
fn analyze_fails_on_what_is_to_be_corrected() {
    let good = mesh(&[MESH, ROUTE]);
    offline(&["analyze", good.path().to_str().unwrap()]).unwrap();
    let bad = mesh(&[MESH, &ROUTE.replace("timeout: 3s", "timeout: soon")]);
    let error = offline(&["analyze", bad.path().to_str().unwrap()]).unwrap_err().to_string();
    assert_eq!(error, "1 of 1 to be corrected");
}
