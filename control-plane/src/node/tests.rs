use super::*;

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn node(id: &str, metadata: &[(&str, Value)]) -> core::Node {
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    core::Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..core::Node::default() }
}

fn labels_of(pairs: &[(&str, &str)]) -> Value {
    let fields = pairs.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

const SIDECAR: &str = "sidecar~10.1.2.3~reviews-v1-7d.prod~prod.svc.cluster.local";

#[test]
fn an_istio_sidecar() {
    let metadata = [
        ("LABELS", labels_of(&[("app", "reviews"), ("version", "v1")])),
        ("SERVICE_ACCOUNT", text("bookinfo-reviews")),
        ("INSTANCE_IPS", text("10.1.2.3,fd00::3")),
    ];
    let mut node = node(SIDECAR, &metadata);
    node.locality = Some(core::Locality { region: "r".into(), zone: "z".into(), sub_zone: String::new() });
    let proxy = Proxy::from_node(&node).unwrap();
    assert_eq!(proxy.kind, ProxyKind::Sidecar);
    assert_eq!(proxy.ips, ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
    assert_eq!((proxy.name.as_str(), proxy.namespace.as_str()), ("reviews-v1-7d", "prod"));
    assert_eq!(proxy.domain, "prod.svc.cluster.local");
    assert_eq!(proxy.labels["version"], "v1");
    assert_eq!(proxy.service_account, "bookinfo-reviews");
    assert_eq!(proxy.locality.to_string(), "r/z");
}

#[test]
fn kinds() {
    let kind = |node: &core::Node| Proxy::from_node(node).unwrap().kind;
    assert_eq!(
        kind(&node("router~10.0.0.1~gw-1.istio-system~istio-system.svc.cluster.local", &[])),
        ProxyKind::Gateway
    );
    assert_eq!(kind(&node(SIDECAR, &[("GENERATOR", text("grpc"))])), ProxyKind::Grpc);
    let mut grpc = node("client-1", &[]);
    grpc.user_agent_name = "gRPC C-core linux Python".into();
    assert_eq!(kind(&grpc), ProxyKind::Grpc);
    assert_eq!(kind(&node("anything", &[])), ProxyKind::Sidecar);
}

#[test]
fn an_id_of_another_form_is_taken_with_defaults() {
    let proxy = Proxy::from_node(&node("test-id", &[("NAMESPACE", text("shop"))])).unwrap();
    assert_eq!((proxy.name.as_str(), proxy.namespace.as_str()), ("test-id", "shop"));
    assert_eq!(proxy.domain, "shop.svc.cluster.local");
    assert!(proxy.ips.is_empty());
    assert_eq!(Proxy::from_node(&node("a~b", &[])).unwrap().namespace, "default");
}

#[test]
fn what_is_no_node_is_refused_with_a_way_out() {
    assert!(Proxy::from_node(&node("", &[])).unwrap_err().to_string().contains("set node.id"));
    assert_eq!(Proxy::from_node(&node(&"x".repeat(2000), &[])).unwrap_err(), NodeError::LongId(2000));
}

#[test]
fn a_tool_names_a_workload_as_its_proxy_would() {
    let ip = "10.1.2.3".parse().unwrap();
    let built = Proxy::sidecar(ip, "reviews-v1-7d", "prod", BTreeMap::new());
    assert_eq!(built, Proxy { metadata: Map::new(), ..Proxy::from_node(&node(SIDECAR, &[])).unwrap() });
    assert_eq!(Proxy::gateway(ip, "gw", "istio-system", BTreeMap::new()).kind, ProxyKind::Gateway);
}
