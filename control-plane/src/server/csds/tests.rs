use std::collections::BTreeMap;

use prost::Message as _;
use tokio::time::Instant;
use weft_proto::any::unpack;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};
use weft_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;
use weft_proto::pb::envoy::r#type::matcher::v3::{
    NodeMatcher, StringMatcher, StructMatcher, ValueMatcher, string_matcher::MatchPattern, struct_matcher,
    value_matcher,
};
use weft_proto::pb::google::rpc;

use super::*;
use crate::node::Proxy;
use crate::resource::{ResourceSet, ResourceType as Type, Resources};
use crate::server::connections::{Connections, Guard};
use crate::server::fixtures::state;
use crate::server::session::Variant;

fn open(connections: &Arc<Connections>, name: &str, resources: Resources) -> Guard {
    let mut proxy = Proxy::sidecar([10, 0, 0, 1].into(), name, "shop", BTreeMap::new());
    proxy.metadata.insert("VERSION".to_owned(), name.len().into());
    connections.open(Arc::new(proxy), None, "ADS", Session::new(Variant::Sotw, resources))
}

fn say(guard: &Guard, ty: Type, nonce: &str, names: &[&str], error: Option<&str>) {
    let request = DiscoveryRequest {
        response_nonce: nonce.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        error_detail: error.map(|message| rpc::Status { message: message.to_owned(), ..rpc::Status::default() }),
        ..DiscoveryRequest::default()
    };
    guard.session().sotw_request(ty, &request, Instant::now()).unwrap();
}

fn sent(guard: &Guard) -> String {
    guard.session().next_push(Instant::now()).unwrap().nonce.to_string()
}

/// Name, status at the server, status at the client, and the reason of a refusal.
fn shown(connections: &Connections) -> Vec<(String, ConfigStatus, ClientResourceStatus, Option<String>)> {
    let answer = answer(&connections.list(), &ClientStatusRequest::default()).unwrap();
    let row = |of: &GenericXdsConfig| {
        let reason = of.error_state.as_ref().map(|state| state.details.clone());
        (of.name.clone(), of.config_status(), of.client_status(), reason)
    };
    answer.config.iter().flat_map(|client| &client.generic_xds_configs).map(row).collect()
}

#[test]
fn each_resource_is_shown_as_it_stands() {
    use {ClientResourceStatus as Client, ConfigStatus as Config};
    let connections = Connections::new(Arc::default());
    let guard = open(&connections, "pod", state(&[("a", 1), ("b", 1)], &[], &[]));
    let rows = |of: [(Config, Client, Option<&str>); 2]| {
        let names = ["a".to_owned(), "b".to_owned()].into_iter();
        names.zip(of).map(|(name, (c, s, why))| (name, c, s, why.map(str::to_owned))).collect::<Vec<_>>()
    };
    say(&guard, Type::Cluster, "", &[], None);
    assert_eq!(shown(&connections), rows([(Config::NotSent, Client::Requested, None); 2]));
    let nonce = sent(&guard);
    assert_eq!(shown(&connections), rows([(Config::Stale, Client::Requested, None); 2]));
    say(&guard, Type::Cluster, &nonce, &[], None);
    assert_eq!(shown(&connections), rows([(Config::Synced, Client::Acked, None); 2]));
    guard.session().update(state(&[("a", 2), ("b", 1)], &[], &[]));
    assert_eq!(
        shown(&connections),
        rows([(Config::Stale, Client::Acked, None), (Config::Synced, Client::Acked, None)])
    );
    let nonce = sent(&guard);
    say(&guard, Type::Cluster, &nonce, &[], Some("no such thing"));
    let refused = (Config::Error, Client::Nacked, Some("no such thing"));
    assert_eq!(shown(&connections), rows([refused, (Config::Synced, Client::Acked, None)]));
    say(&guard, Type::Route, "", &["gone"], None);
    let route = shown(&connections).pop().unwrap();
    assert_eq!(route, ("gone".to_owned(), Config::NotSent, Client::Requested, None));
}

#[test]
fn an_answer_has_the_node_and_the_configuration_with_its_version() {
    let connections = Connections::new(Arc::default());
    let guard = open(&connections, "pod", state(&[("a", 1)], &[], &[]));
    say(&guard, Type::Cluster, "", &[], None);
    let nonce = sent(&guard);
    say(&guard, Type::Cluster, &nonce, &[], None);
    let answered = answer(&connections.list(), &ClientStatusRequest::default()).unwrap();
    let client = &answered.config[0];
    let node = client.node.as_ref().unwrap();
    assert_eq!(node.id, "sidecar~10.0.0.1~pod.shop~shop.svc.cluster.local");
    assert_eq!(Proxy::from_node(node).unwrap().metadata["VERSION"], 3.0);
    let config = &client.generic_xds_configs[0];
    assert_eq!(config.type_url, Type::Cluster.type_url());
    assert_eq!(config.version_info, crate::server::fixtures::cluster("a", 1).version().to_string());
    assert_eq!(unpack::<Cluster>(config.xds_config.as_ref().unwrap()).unwrap().name, "a");
    assert!(config.last_updated.as_ref().unwrap().seconds > 1_700_000_000);
    let bare = ClientStatusRequest { exclude_resource_contents: true, ..ClientStatusRequest::default() };
    let answered = answer(&connections.list(), &bare).unwrap();
    assert_eq!(answered.config[0].generic_xds_configs[0].xds_config, None);
}

#[test]
fn keys_are_not_shown() {
    let inline =
        |text: &str| Some(DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() });
    let certificate = TlsCertificate {
        certificate_chain: inline("public"),
        private_key: inline("hidden"),
        ..TlsCertificate::default()
    };
    let secret = Secret { name: "s".into(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
    let mut resources = Resources::default();
    resources.set(Type::Secret, [Resource::new("s", &secret)].into_iter().collect::<ResourceSet>());
    let connections = Connections::new(Arc::default());
    let guard = open(&connections, "pod", resources);
    say(&guard, Type::Secret, "", &["s"], None);
    let nonce = sent(&guard);
    say(&guard, Type::Secret, &nonce, &["s"], Some("bad"));
    let answered = answer(&connections.list(), &ClientStatusRequest::default()).unwrap();
    let wire = answered.encode_to_vec();
    let has = |text: &str| wire.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("public") && has("[redacted]") && !has("hidden"));
}

fn by_id(pattern: MatchPattern, ignore_case: bool) -> NodeMatcher {
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case });
    NodeMatcher { node_id, ..NodeMatcher::default() }
}

fn by_metadata(value: Option<value_matcher::MatchPattern>) -> NodeMatcher {
    let key = Some(struct_matcher::path_segment::Segment::Key("VERSION".into()));
    let path = vec![struct_matcher::PathSegment { segment: key }];
    let value = Some(ValueMatcher { match_pattern: value });
    NodeMatcher { node_metadatas: vec![StructMatcher { path, value }], ..NodeMatcher::default() }
}

#[test]
fn matchers_choose_proxies_and_bad_ones_are_named() {
    let connections = Connections::new(Arc::default());
    let _open = ["one", "three"].map(|name| open(&connections, name, Resources::default()));
    let found = |node_matchers: Vec<NodeMatcher>| {
        let request = ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() };
        answer(&connections.list(), &request).map(|answer| {
            let name = |id: &str| id.split('~').nth(2).unwrap().to_owned();
            answer.config.iter().map(|of| name(&of.node.as_ref().unwrap().id)).collect::<Vec<_>>()
        })
    };
    assert_eq!(found(vec![]).unwrap(), ["one.shop", "three.shop"]);
    assert_eq!(found(vec![by_id(MatchPattern::Contains("~THREE.".into()), true)]).unwrap(), ["three.shop"]);
    assert!(found(vec![by_id(MatchPattern::Exact("one".into()), false)]).unwrap().is_empty());
    let five = value_matcher::MatchPattern::DoubleMatch(weft_proto::pb::envoy::r#type::matcher::v3::DoubleMatcher {
        match_pattern: Some(weft_proto::pb::envoy::r#type::matcher::v3::double_matcher::MatchPattern::Exact(5.0)),
    });
    assert_eq!(found(vec![by_metadata(Some(five.clone()))]).unwrap(), ["three.shop"]);
    let one = by_id(MatchPattern::Prefix("sidecar~10.0.0.1~one".into()), false);
    assert_eq!(found(vec![by_metadata(Some(five)), one]).unwrap(), ["one.shop", "three.shop"]);
    let error = found(vec![by_metadata(None)]).unwrap_err();
    assert_eq!(error.message(), "node_matchers[0].node_metadatas[0].value.match_pattern: missing");
    let regex = weft_proto::pb::envoy::r#type::matcher::v3::RegexMatcher { regex: "(".into(), ..Default::default() };
    let error = found(vec![by_id(MatchPattern::SafeRegex(regex), false)]).unwrap_err();
    assert!(error.message().starts_with("node_matchers[0].node_id: safe_regex: "), "{error}");
}
