use std::path::Path;

use super::*;
use crate::source::Change;
use crate::source::files::Directory;

/// What is found in a text, without the reasons.
fn found(text: &str) -> Vec<String> {
    let mut directory = Directory::default();
    directory.put(Path::new("a.yaml"), text);
    let batch = directory.take_batch();
    let objects = batch.changes.iter().filter_map(|change| match change {
        Change::Applied(object) => Some(object.clone()),
        Change::Deleted(_) => None,
    });
    let world = World::of(objects);
    let show = |of: &Finding| format!("{} {} {}", of.problem.at.line, of.code, of.problem.path);
    analyze(&world, &batch.problems).iter().map(show).collect()
}

const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80}, {name: http-b, port: 81}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a-0, labels: {app: a, version: v1}}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
";

#[test]
fn references_that_lead_nowhere() {
    let text = format!(
        "{SERVICES}apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: a}}
spec:
  hosts: [a]
  gateways: [gone]
  http:
  - match: [{{uri: {{prefix: /x}}}}]
    route: [{{destination: {{host: b}}}}]
  - match: [{{uri: {{prefix: /y}}}}]
    route: [{{destination: {{host: a, port: {{number: 82}}}}}}]
  - match: [{{uri: {{prefix: /z}}}}]
    route: [{{destination: {{host: a, port: {{number: 80}}, subset: v3}}}}]
  - route: [{{destination: {{host: a, port: {{number: 80}}, subset: v2}}}}]
"
    );
    assert_eq!(
        found(&text),
        [
            "20 missing-gateway spec.gateways[0]",
            "24 missing-host spec.http[0].route[0].destination.host",
            "26 missing-port spec.http[1].route[0].destination.port",
            "28 missing-subset spec.http[2].route[0].destination.subset",
            "29 empty-subset spec.http[3].route[0].destination.subset",
        ]
    );
}

#[test]
fn rules_that_no_request_reaches() {
    let text = format!(
        "{SERVICES}apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: a}}
spec:
  hosts: [a]
  http:
  - match:
    - uri: {{prefix: /x}}
    - uri: {{exact: /x/y}}
    route: [{{destination: {{host: a, port: {{number: 80}}}}}}]
  - match:
    - uri: {{prefix: /x/z}}
      headers: {{h: {{exact: v}}}}
    route: [{{destination: {{host: a, port: {{number: 80}}}}}}]
  - route: [{{destination: {{host: a, port: {{number: 80}}}}}}]
  - match:
    - port: 81
    redirect: {{uri: /}}
"
    );
    assert_eq!(
        found(&text),
        [
            "24 shadowed-match spec.http[0].match[1]",
            "27 unreachable-route spec.http[1].match[0]",
            "32 unreachable-route spec.http[3].match[0]",
        ]
    );
}

#[test]
fn what_is_fine_is_not_found() {
    let bookinfo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bookinfo");
    let mut text = String::new();
    for file in
        ["platform/kube/bookinfo.yaml", "networking/bookinfo-gateway.yaml", "networking/destination-rule-all.yaml"]
    {
        text.push_str(&std::fs::read_to_string(bookinfo.join(file)).unwrap());
        text.push_str("\n---\n");
    }
    assert_eq!(found(&text), Vec::<String>::new());
}
