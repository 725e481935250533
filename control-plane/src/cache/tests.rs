use std::collections::BTreeMap;

use parking_lot::Mutex as Lock;

use super::*;
use crate::generate::Origin;
use crate::node::Proxy;
use crate::resource::{Resource, ResourceType as Type};
use crate::server::fixtures::state;

/// Gives each namespace its clusters, and writes down what it could start from.
struct World {
    of: BTreeMap<&'static str, Resources>,
    updates: Arc<Lock<Vec<Option<Changes>>>>,
    /// Whose own part was generated.
    own: Arc<Lock<Vec<String>>>,
}

impl Generator for World {
    type Scope = String;
    type Key = String;

    fn scope(&self, proxy: &Proxy) -> String {
        proxy.namespace.clone()
    }

    fn key(&self, proxy: &Proxy) -> String {
        proxy.name.clone()
    }

    fn generate(&self, part: Part, proxy: &Proxy, update: Option<Update<'_>>) -> Resources {
        if part == Part::Own {
            self.own.lock().push(proxy.name.clone());
            return state(&[(&proxy.name, 1)], &[], &[]);
        }
        self.updates.lock().push(update.map(|update| update.changes.clone()));
        self.of[proxy.namespace.as_str()].clone()
    }

    fn origins(&self, _: Type, refused: &Resource, _: Option<&Resource>) -> Vec<Origin> {
        refused.origins().iter().map(|object| Origin { object: object.clone(), at: None }).collect()
    }

    fn written_at(&self, _: &str) -> Option<String> {
        None
    }

    fn touches_own(&self, key: &String, changes: &Changes) -> bool {
        changes.everything || changes.hosts.iter().any(|host| **host == **key)
    }
}

struct Fixture {
    cache: Arc<Cache<World>>,
    updates: Arc<Lock<Vec<Option<Changes>>>>,
    own: Arc<Lock<Vec<String>>>,
}

impl Fixture {
    fn new() -> Self {
        let (updates, own) = (Arc::<Lock<Vec<_>>>::default(), Arc::<Lock<Vec<_>>>::default());
        let world = Self::world(&updates, &own, 1);
        Self { cache: Cache::new(world, Arc::default()), updates, own }
    }

    /// Two namespaces with the same resources, generated apart.
    fn world(updates: &Arc<Lock<Vec<Option<Changes>>>>, own: &Arc<Lock<Vec<String>>>, revision: u32) -> Arc<World> {
        let resources = || state(&[("a", revision), ("b", 1)], &[], &[]);
        let of = [("x", resources()), ("y", resources())].into();
        Arc::new(World { of, updates: updates.clone(), own: own.clone() })
    }

    fn publish(&self, revision: u32, changed: &str) {
        let changes = Changes { endpoints: [changed.into()].into(), ..Changes::default() };
        self.publish_changes(revision, changes);
    }

    fn publish_changes(&self, revision: u32, changes: Changes) {
        self.cache.publish(Self::world(&self.updates, &self.own, revision), changes, Instant::now());
    }

    async fn get(&self, namespace: &str) -> (Computed, Lease<World>) {
        self.get_pod("pod", namespace).await
    }

    async fn get_pod(&self, name: &str, namespace: &str) -> (Computed, Lease<World>) {
        let proxy = Proxy::sidecar([10, 0, 0, 1].into(), name, namespace, BTreeMap::new());
        self.cache.resources(&Arc::new(proxy)).await.unwrap()
    }
}

#[tokio::test]
async fn a_result_is_brought_up_to_date_by_all_that_changed_since() {
    let fixture = Fixture::new();
    let (first, _lease) = fixture.get("x").await;
    fixture.publish(2, "one");
    fixture.publish(3, "two");
    let (third, _lease) = fixture.get("x").await;
    assert_eq!((first.sequence, third.sequence), (1, 3));
    let both = Changes { endpoints: ["one".into(), "two".into()].into(), ..Changes::default() };
    assert_eq!(*fixture.updates.lock(), [None, Some(both)]);
    let (again, _lease) = fixture.get("x").await;
    assert_eq!(again.sequence, 3);
    assert_eq!(fixture.updates.lock().len(), 2, "nothing is generated twice");
}

#[tokio::test]
async fn a_result_that_is_too_old_is_generated_anew() {
    let fixture = Fixture::new();
    let (_, lease) = fixture.get("x").await;
    for revision in 0..=HISTORY as u32 {
        fixture.publish(revision, "any");
    }
    let _again = fixture.get("x").await;
    assert_eq!(*fixture.updates.lock(), [None, None]);
    drop(lease);
}

#[tokio::test]
async fn what_nobody_holds_is_forgotten() {
    let fixture = Fixture::new();
    let (_, first) = fixture.get("x").await;
    let (_, second) = fixture.get("x").await;
    drop(first);
    assert_eq!(fixture.cache.len(), 1);
    drop(second);
    assert!(fixture.cache.is_empty());
}

#[tokio::test]
async fn equal_sets_and_resources_of_different_keys_are_one() {
    let fixture = Fixture::new();
    let ((x, _x_lease), (y, _y_lease)) = (fixture.get("x").await, fixture.get("y").await);
    assert!(Arc::ptr_eq(x.resources.get(Type::Cluster), y.resources.get(Type::Cluster)));
    // The next state shares what did not change with the one before, and again among the keys.
    fixture.publish(2, "a");
    let ((x2, _x2_lease), (y2, _y2_lease)) = (fixture.get("x").await, fixture.get("y").await);
    let cluster = |of: &Computed, name| of.resources.get(Type::Cluster).get(name).unwrap().clone();
    assert!(Arc::ptr_eq(&cluster(&x, "b"), &cluster(&y2, "b")));
    assert!(!Arc::ptr_eq(&cluster(&x, "a"), &cluster(&x2, "a")));
    assert!(Arc::ptr_eq(&cluster(&x2, "a"), &cluster(&y2, "a")));
    assert!(Arc::ptr_eq(x.resources.get(Type::Endpoints), x2.resources.get(Type::Endpoints)));
}

#[tokio::test]
async fn what_a_scope_has_in_common_is_generated_once_and_own_parts_only_when_touched() {
    let fixture = Fixture::new();
    let (_, _one) = fixture.get_pod("one", "x").await;
    let (two, _two) = fixture.get_pod("two", "x").await;
    let names =
        |of: &Computed| of.resources.get(Type::Cluster).iter().map(|r| r.name().to_string()).collect::<Vec<_>>();
    assert_eq!(names(&two), ["a", "b", "two"]);
    assert_eq!((fixture.updates.lock().len(), fixture.own.lock().clone()), (1, vec!["one".into(), "two".into()]));
    assert_eq!((fixture.cache.scopes(), fixture.cache.len()), (1, 2));
    // The common part changes: it is what is under the own one, which is not touched.
    fixture.publish(2, "a");
    let ((one, _one), (two_now, _two)) = (fixture.get_pod("one", "x").await, fixture.get_pod("two", "x").await);
    assert_eq!((fixture.updates.lock().len(), fixture.own.lock().len()), (2, 2));
    let cluster = |of: &Computed, name| of.resources.get(Type::Cluster).get(name).unwrap().clone();
    assert!(Arc::ptr_eq(&cluster(&one, "a"), &cluster(&two_now, "a")));
    assert!(Arc::ptr_eq(&cluster(&two, "two"), &cluster(&two_now, "two")));
    let changed = two_now.resources.get(Type::Cluster).changed_since(two.resources.get(Type::Cluster));
    assert_eq!(changed.iter().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
    // One of the own parts is touched.
    fixture.publish_changes(2, Changes { hosts: ["two".into()].into(), ..Changes::default() });
    let _both = (fixture.get_pod("one", "x").await, fixture.get_pod("two", "x").await);
    assert_eq!(fixture.own.lock().clone(), ["one", "two", "two"]);
}

#[tokio::test]
async fn a_scope_nobody_is_in_is_forgotten() {
    let fixture = Fixture::new();
    let (_, one) = fixture.get_pod("one", "x").await;
    let (_, two) = fixture.get_pod("two", "x").await;
    drop(one);
    assert_eq!(fixture.cache.scopes(), 1);
    drop(two);
    assert_eq!(fixture.cache.scopes(), 0);
}

#[test]
fn one_resource_in_two_sets_is_one() {
    let shared = Shared::default();
    let small = shared.share(state(&[("a", 1)], &[], &[]), None);
    let large = shared.share(state(&[("a", 1), ("b", 1)], &[], &[]), None);
    let cluster = |of: &Resources| of.get(Type::Cluster).get("a").unwrap().clone();
    assert!(Arc::ptr_eq(&cluster(&small), &cluster(&large)));
}
