use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::commands::Commands;
use super::local::{self, Local};
use super::plan::Desired;
use crate::model::kinds::service::Service;
use crate::model::kinds::workload::Pod;
use crate::model::kinds::{Kind, ObjectKey};
use crate::source::files::Files;
use crate::source::{Batch, Change, Source};

/// A source that says what it was given.
struct Given(VecDeque<Batch>);

impl Source for Given {
    async fn next(&mut self) -> Option<Batch> {
        match self.0.pop_front() {
            Some(batch) => Some(batch),
            None => std::future::pending().await,
        }
    }
}

fn batch(yaml: &str) -> Batch {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), yaml).unwrap();
    Files::read_once(dir.path()).unwrap()
}

fn local(batches: Vec<Batch>) -> (Local<Given>, mpsc::Sender<Change>, watch::Receiver<Desired>) {
    let (changes, pods) = mpsc::channel(8);
    let (desired, wanted) = watch::channel(Desired::new());
    (Local::new(Given(batches.into()), Commands::load([]).unwrap(), pods, desired), changes, wanted)
}

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: both}
spec: {ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      serviceAccountName: seller
      containers:
      - {name: shop, image: 'example.org/weft-echo:1', args: [--port, '8080'], ports: [{containerPort: 8080}], env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}
";

fn addresses(batch: &Batch, name: &str) -> Vec<String> {
    let found = batch.changes.iter().find_map(|change| match change {
        Change::Applied(object) if &*object.key.name == name => object.of::<Service>().cloned(),
        _ => None,
    });
    found.unwrap().spec.cluster_ips
}

#[tokio::test]
async fn services_get_addresses_that_last_and_deployments_pods() {
    let (mut local, _changes, wanted) = local(vec![batch(SHOP), batch(SHOP)]);
    let first = local.next().await.unwrap();
    let shop = addresses(&first, "shop");
    assert!(shop.len() == 1 && shop[0].starts_with("10.96."), "{shop:?}");
    let both = addresses(&first, "both");
    assert!(both.len() == 2 && both[0].starts_with("fd00:10:96::") && both[1].starts_with("10.96."), "{both:?}");
    assert_eq!(addresses(&first, "headless"), Vec::<String>::new());

    let desired = wanted.borrow().clone();
    assert_eq!(desired.len(), 2);
    for plan in desired.values() {
        assert_eq!(plan.service_account(), "seller");
        assert_eq!(plan.labels["security.istio.io/tlsMode"], "istio");
        assert_eq!(plan.commands[0].argv, ["weft", "demo-app", "echo", "--port", "8080"]);
        assert_eq!(plan.commands[0].env["POD"], plan.name);
        assert_eq!(plan.commands[0].ports, [8080]);
    }
    let second = local.next().await.unwrap();
    assert_eq!(addresses(&second, "shop"), shop, "an address stays");
}

#[tokio::test]
async fn a_pod_with_another_template_has_another_name() {
    let changed = SHOP.replace("serviceAccountName: seller", "serviceAccountName: other");
    let moved = format!("# another line\n{SHOP}");
    let (mut local, _changes, wanted) = local(vec![batch(SHOP), batch(&moved), batch(&changed)]);
    local.next().await.unwrap();
    let before: Vec<_> = wanted.borrow().keys().cloned().collect();
    local.next().await.unwrap();
    assert!(before.iter().eq(wanted.borrow().keys()), "where it stands does not count");
    local.next().await.unwrap();
    let after: Vec<_> = wanted.borrow().keys().cloned().collect();
    assert!(
        before.len() == 2 && after.len() == 2 && before.iter().all(|name| !after.contains(name)),
        "{before:?} {after:?}"
    );
}

#[tokio::test]
async fn what_runs_is_an_object_and_what_is_wrong_stays_said() {
    let broken = format!("{SHOP}---\nkind: Nothing\n");
    let (mut local, changes, wanted) = local(vec![batch(&broken)]);
    let first = local.next().await.unwrap();
    assert_eq!(first.problems.len(), 1);
    let plan = wanted.borrow().values().next().unwrap().clone();
    let object = local::running(&plan, &["10.244.0.10".parse().unwrap()], false);
    changes.send(Change::Applied(Arc::new(object))).await.unwrap();
    let second = local.next().await.unwrap();
    assert_eq!(second.problems.len(), 1, "the files are as wrong as before");
    let [Change::Applied(pod)] = &second.changes[..] else { panic!("{:?}", second.changes) };
    let status = pod.of::<Pod>().unwrap();
    assert!(!status.is_ready() && status.addresses().len() == 1);
}

#[tokio::test]
async fn gateways_run_where_something_asks_for_them() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: one}
spec: {selector: {istio: ingressgateway}, servers: []}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: two}
spec: {selector: {istio: ingressgateway}, servers: []}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: own, namespace: shop}
spec: {gatewayClassName: weft, listeners: []}
";
    let first = batch(yaml);
    let gone = ObjectKey { kind: Kind::Gateway, namespace: "shop".into(), name: "own".into() };
    let second = Batch { changes: vec![Change::Deleted(gone)], ..Batch::default() };
    let (mut local, _changes, wanted) = local(vec![first, second]);
    local.next().await.unwrap();
    let names: Vec<_> = wanted.borrow().keys().cloned().collect();
    assert_eq!(names, ["istio-ingressgateway-0.istio-system", "own-istio-0.shop"]);
    local.next().await.unwrap();
    assert_eq!(wanted.borrow().len(), 1);
}
