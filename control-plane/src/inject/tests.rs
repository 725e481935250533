use super::*;

fn settings(cni: bool) -> Settings {
    Settings {
        image: "weft-proxy:1".into(),
        init_image: "weft:1".into(),
        discovery_address: "istiod.istio-system.svc:15012".into(),
        root_config_map: "istio-ca-root-cert".into(),
        trust_domain: "cluster.local".into(),
        cluster_id: "Kubernetes".into(),
        mode: Mode::Redirect,
        cni,
    }
}

const DEPLOYMENT: &str = "# kept: no
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata:
      labels: {app: web, version: v2}
      annotations: {prometheus.io/scrape: \"true\", prometheus.io/port: \"9080\", sidecar.istio.io/proxyCPU: 50m, traffic.sidecar.istio.io/excludeOutboundPorts: \"3306\", proxy.istio.io/config: x}
    spec:
      containers:
      - name: web
        image: web:1
        ports: [{name: http, containerPort: 8080}]
        livenessProbe: {httpGet: {path: /live, port: http}, timeoutSeconds: 2, periodSeconds: 5}
        readinessProbe: {tcpSocket: {port: 8080}}
        startupProbe: {exec: {command: [\"true\"]}}
      - name: other
        image: other:1
        livenessProbe: {grpc: {port: 9000, service: a}}
";
const SERVICE: &str = "apiVersion: v1\nkind: Service   # as it is\nmetadata: {name: web}\n";

fn injected(text: &str, settings: &Settings) -> (Yaml, Vec<Note>) {
    let (out, notes) = inject("in.yaml", text, settings).expect("injected");
    (Yaml::parse("out", &out).expect("YAML"), notes)
}

fn container<'y>(spec: &'y Yaml, list: &str, name: &str) -> &'y Yaml {
    let all = spec.get(list).expect("a list").items();
    all.iter().find(|container| container.text("name") == Some(name)).expect("the container")
}

fn variable<'y>(container: &'y Yaml, name: &str) -> &'y str {
    let all = container.get("env").expect("variables").items();
    all.iter().find(|of| of.text("name") == Some(name)).and_then(|of| of.text("value")).expect("the variable")
}

#[test]
fn a_workload_has_a_proxy_and_its_probes_lead_through_it() {
    let (out, notes) = injected(DEPLOYMENT, &settings(false));
    let template = out.at(&["spec", "template"]).expect("a template");
    let spec = template.get("spec").expect("a spec");
    let first: Vec<_> = spec.get("initContainers").expect("some").items().iter().map(|of| of.text("name")).collect();
    assert_eq!(first, [Some("weft-init"), Some("weft-proxy")]);
    let proxy = container(spec, "initContainers", "weft-proxy");
    assert_eq!(proxy.text("restartPolicy"), Some("Always"));
    assert_eq!(proxy.at(&["resources", "requests"]).and_then(|of| of.text("cpu")), Some("50m"));
    let init = container(spec, "initContainers", "weft-init").get("args").expect("arguments").json();
    assert_eq!(init, serde_json::json!(["capture", "--exclude-outbound-ports=3306"]));

    let probers: serde_json::Value = serde_json::from_str(variable(proxy, "ISTIO_KUBE_APP_PROBERS")).expect("JSON");
    let expected = serde_json::json!({
        "/app-health/web/livez": {"httpGet": {"path": "/live", "port": 8080}, "timeoutSeconds": 2},
        "/app-health/web/readyz": {"tcpSocket": {"port": 8080}},
        "/app-health/other/livez": {"grpc": {"port": 9000, "service": "a"}},
    });
    assert_eq!(probers, expected);
    let web = container(spec, "containers", "web").json();
    let live = serde_json::json!({"httpGet": {"path": "/app-health/web/livez", "port": 15020}, "timeoutSeconds": 2, "periodSeconds": 5});
    assert_eq!(web["livenessProbe"], live);
    assert_eq!(web["startupProbe"]["exec"]["command"][0], "true", "commands stay");

    assert_eq!(variable(proxy, "ISTIO_PROMETHEUS_ANNOTATIONS"), r#"{"path":"","port":"9080","scrape":"true"}"#);
    let meta = template.get("metadata").expect("metadata").json();
    assert_eq!(meta["annotations"]["prometheus.io/port"], "15020");
    assert_eq!(meta["labels"]["security.istio.io/tlsMode"], "istio");
    assert_eq!(meta["labels"]["service.istio.io/canonical-revision"], "v2");
    assert_eq!(notes[1].what, "annotation proxy.istio.io/config has no effect");
}

/// The [restricted](https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted) profile.
#[test]
fn without_an_init_container_the_restricted_profile_holds() {
    let (out, _) = injected(DEPLOYMENT, &settings(true));
    let spec = out.at(&["spec", "template", "spec"]).expect("a spec");
    let added = spec.get("initContainers").expect("some").items();
    assert_eq!(added.len(), 1);
    let context = added[0].get("securityContext").expect("a context").json();
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}));
    assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&true.into(), &1337.into()));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(context["privileged"], false);
    let allowed = ["configMap", "downwardAPI", "emptyDir", "projected", "secret"];
    for volume in spec.get("volumes").expect("volumes").items() {
        let Yaml::Map(fields) = volume else { panic!("{volume:?}") };
        assert!(fields.iter().all(|(key, _)| key == "name" || allowed.contains(&key.as_str())), "{volume:?}");
    }
}

#[test]
fn what_is_no_workload_stays_as_it_is_written_and_nothing_is_done_twice() {
    let text = format!("{SERVICE}---\n{DEPLOYMENT}---\n{SERVICE}");
    let (once, notes) = inject("in.yaml", &text, &settings(false)).expect("injected");
    assert!(once.starts_with(&format!("{SERVICE}---\n")) && once.ends_with(&format!("---\n{SERVICE}")), "{once}");
    assert_eq!(notes[0].workload, "Deployment web");
    let (twice, notes) = inject("in.yaml", &once, &settings(false)).expect("injected");
    assert_eq!(once, twice);
    assert_eq!(notes[0].what, "left as it is: it has a proxy already");
    for left in ["hostNetwork: true, containers: [{name: a}]", "containers: [{name: a}]"] {
        let text = format!(
            "kind: Pod\nmetadata: {{name: a, labels: {{sidecar.istio.io/inject: \"false\"}}}}\nspec: {{{left}}}\n"
        );
        assert_eq!(inject("in.yaml", &text, &settings(false)).expect("text").0, text);
    }
}

#[test]
fn every_kind_of_workload_and_lists_of_them() {
    let pod = "{metadata: {labels: {app: a}}, spec: {containers: [{name: a}]}}";
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"] {
        let text = format!("kind: List\nitems: [{{kind: {kind}, metadata: {{name: a}}, spec: {{template: {pod}}}}}]\n");
        let (out, notes) = injected(&text, &settings(false));
        assert_eq!(notes[0].workload, format!("{kind} a"));
        let item = &out.get("items").expect("items").items()[0];
        assert!(item.at(&["spec", "template", "spec", "initContainers"]).is_some(), "{kind}");
    }
    let text = format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {pod}}}}}}}\n");
    assert!(
        injected(&text, &settings(false))
            .0
            .at(&["spec", "jobTemplate", "spec", "template", "spec", "volumes"])
            .is_some()
    );
}

#[test]
fn mistakes_are_told_with_where_they_are() {
    let told = |text: &str| inject("in.yaml", text, &settings(false)).expect_err("a mistake");
    assert!(told("a: b\n---\nkind: [\n").contains("in.yaml:3") || told("a: b\n---\nkind: [\n").contains("in.yaml:4"));
    assert_eq!(told("kind: Pod\nmetadata: {name: a}\n"), "in.yaml: Pod a: it has no containers");
    let probe =
        "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: b, livenessProbe: {httpGet: {port: web}}}]}\n";
    assert!(told(probe).contains("livenessProbe of container b: there is no port \"web\""), "{}", told(probe));
    let mode = "kind: Pod\nmetadata: {annotations: {sidecar.istio.io/interceptionMode: NONE}}\nspec: {containers: [{name: b}]}\n";
    assert!(told(mode).contains("write REDIRECT or TPROXY"));
}
