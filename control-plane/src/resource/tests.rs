use std::sync::Arc;

use weft_proto::any::{pack, unpack};
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::{Metadata, TypedExtensionConfig};
use weft_proto::pb::google::protobuf::{Any, Struct, Value, value::Kind};

use super::*;

/// A cluster whose metadata has `keys` entries, inserted in this order or the other.
fn cluster(name: &str, keys: usize, forward: bool) -> Cluster {
    let number = |n: usize| Value { kind: Some(Kind::NumberValue(n as f64)) };
    let mut order: Vec<usize> = (0..keys).collect();
    if !forward {
        order.reverse();
    }
    let fields = order.iter().map(|n| (format!("key-{n}"), number(*n))).collect();
    let metadata =
        Metadata { filter_metadata: [("istio".to_owned(), Struct { fields })].into(), ..Metadata::default() };
    Cluster { name: name.to_owned(), metadata: Some(metadata), ..Cluster::default() }
}

fn resource(name: &str, keys: usize) -> Resource {
    Resource::new(name, &cluster(name, keys, true))
}

#[test]
fn equal_messages_have_equal_versions_whatever_the_order_of_their_maps() {
    let first = resource("a", 50);
    for forward in [true, false, true, false] {
        let again = Resource::new("a", &cluster("a", 50, forward));
        assert_eq!(first.version(), again.version());
        assert_eq!(first.any(), again.any());
    }
    assert_ne!(first.version(), resource("a", 51).version());
}

#[test]
fn maps_inside_an_any_are_put_in_order_too() {
    let wrapped = |forward| {
        let inner = pack(&cluster("a", 50, forward));
        Resource::new("x", &TypedExtensionConfig { name: "x".into(), typed_config: Some(inner) })
    };
    assert_eq!(wrapped(true).version(), wrapped(false).version());
}

#[test]
fn sorting_maps_changes_nothing_else() {
    use prost::Message as _;
    let message = cluster("a", 50, true);
    let wrapped = TypedExtensionConfig { name: "x".into(), typed_config: Some(pack(&message)) };
    let sorted = Resource::new("x", &wrapped).message();
    assert_eq!(sorted.len(), wrapped.encoded_len());
    let read = TypedExtensionConfig::decode(sorted).unwrap();
    assert_eq!(unpack::<Cluster>(&read.typed_config.unwrap()).unwrap(), message);
    // Garbage is left alone.
    let garbage = Any { type_url: ResourceType::Cluster.type_url().into(), value: vec![0x0a, 0xff, 0xff, 0x01, 7] };
    let broken = TypedExtensionConfig { name: "x".into(), typed_config: Some(garbage) };
    assert_eq!(Resource::new("x", &broken).message(), broken.encode_to_vec());
}

#[test]
fn the_body_is_an_any_of_the_message() {
    let resource = resource("a", 3);
    let any = <Any as prost::Message>::decode(resource.any().clone()).unwrap();
    assert_eq!(any.type_url, ResourceType::Cluster.type_url());
    assert_eq!(unpack::<Cluster>(&any).unwrap(), cluster("a", 3, true));
    assert_eq!(resource.message(), any.value);
}

#[test]
fn a_version_is_read_back() {
    let version = resource("a", 1).version();
    assert_eq!(Version::parse(&version.to_string()), Some(version));
    for bad in ["", "1", "+00000000000000f", "xxxxxxxxxxxxxxxx", "00000000000000001"] {
        assert_eq!(Version::parse(bad), None, "{bad}");
    }
}

#[test]
fn every_type_is_found_by_its_url_and_stands_at_its_place() {
    for (place, ty) in ResourceType::ALL.into_iter().enumerate() {
        assert_eq!(ty as usize, place);
        assert_eq!(ResourceType::from_type_url(ty.type_url()), Some(ty));
        let name = weft_proto::schema::type_url_name(ty.type_url());
        assert!(weft_proto::schema::MessageType::find(name).is_some(), "{name} is not in the schema");
    }
    assert_eq!(ResourceType::from_type_url(""), None);
}

#[test]
fn the_version_of_a_set_follows_its_content_not_its_history() {
    let mut set: ResourceSet = [resource("a", 1), resource("b", 1)].into_iter().collect();
    let before = set.version();
    assert_ne!(before, ResourceSet::default().version());
    set.insert(resource("b", 2));
    set.insert(resource("c", 1));
    assert_ne!(set.version(), before);
    set.insert(resource("b", 1));
    set.remove("c");
    assert_eq!(set.version(), before);
    assert_eq!(set.iter().map(|r| &**r.name()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_changed_between_two_sets_is_known_with_and_without_the_step() {
    let set = |resources: Vec<Resource>| resources.into_iter().collect::<ResourceSet>();
    let old = set(vec![resource("a", 1), resource("b", 1), resource("d", 1)]);
    let mut new = set(vec![resource("a", 1), resource("b", 2), resource("c", 1)]);
    let names =
        |new: &ResourceSet, old: &ResourceSet| new.changed_since(old).iter().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&new, &old), ["b", "c", "d"]);
    new.reuse(&old, Arc::clone);
    assert_eq!(names(&new, &old), ["b", "c", "d"]);
    assert_eq!(names(&new, &ResourceSet::default()), ["a", "b", "c"]);
    assert!(names(&new, &new.clone()).is_empty());
}

#[test]
fn a_set_over_another_is_the_set_of_both() {
    let base: Arc<ResourceSet> = Arc::new([resource("a", 1), resource("c", 1), resource("e", 1)].into_iter().collect());
    let own = |keys| [resource("b", 1), resource("c", keys), resource("f", 1)].into_iter().collect::<ResourceSet>();
    let both = ResourceSet::over(&base, &own(2));
    let flat: ResourceSet = [resource("a", 1), resource("b", 1), resource("c", 2), resource("e", 1), resource("f", 1)]
        .into_iter()
        .collect();
    let listed = |set: &ResourceSet| set.iter().map(|of| (of.name().to_string(), of.version())).collect::<Vec<_>>();
    assert_eq!((both.version(), listed(&both), both.iter().len()), (flat.version(), listed(&flat), 5));
    assert_eq!(both.get("c").map(|of| of.version()), Some(resource("c", 2).version()));
    // What hides one that is equal hides nothing.
    assert_eq!(ResourceSet::over(&base, &own(1)).len(), 5);
    // It is taken out of both.
    let mut without = both.clone();
    assert!(without.remove("c").is_some() && without.remove("a").is_some() && without.remove("x").is_none());
    assert_eq!(listed(&without).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "e", "f"]);
    assert_eq!(listed(&both), listed(&flat), "the base is as it was");
}

#[test]
fn sets_over_others_know_what_changed_whichever_layer_it_was_in() {
    let set = |resources: Vec<Resource>| resources.into_iter().collect::<ResourceSet>();
    let base = Arc::new(set(vec![resource("a", 1), resource("b", 1), resource("c", 1)]));
    let mut next = set(vec![resource("a", 2), resource("b", 1), resource("d", 1)]);
    next.reuse(&base, Arc::clone);
    let names = |new: &ResourceSet, old: &ResourceSet| {
        new.changed_since(old).iter().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    let own = set(vec![resource("a", 5), resource("x", 1)]);
    let old = ResourceSet::over(&base, &own);
    // `a` is hidden before and after.
    assert_eq!(names(&ResourceSet::over(&Arc::new(next.clone()), &own), &old), ["c", "d"]);
    let other = set(vec![resource("x", 2)]);
    assert_eq!(names(&ResourceSet::over(&Arc::new(next.clone()), &other), &old), ["a", "c", "d", "x"]);
    assert_eq!(names(&ResourceSet::over(&base, &other), &old), ["a", "x"]);
    assert_eq!(names(&old, &next), ["a", "c", "d", "x"]);
}
