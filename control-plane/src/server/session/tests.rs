use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use weft_proto::pb::google::rpc::Status;

use super::*;
use crate::resource::ResourceType as Type;
use crate::server::fixtures::{cluster, endpoints, listener, route, state};

/// A client that says what it is told to.
struct Peer {
    session: Session,
    now: Instant,
    names: [Vec<String>; 7],
}

impl Peer {
    fn new(variant: Variant, resources: Resources) -> Self {
        Self { session: Session::new(variant, resources), now: Instant::now(), names: Default::default() }
    }

    fn say(&mut self, ty: Type, nonce: &str, error: Option<&str>) -> Result<Option<Answer>, Refused> {
        let error_detail = error.map(|message| Status { message: message.to_owned(), ..Status::default() });
        let names = self.names[ty as usize].clone();
        match self.session.variant() {
            Variant::Sotw => {
                let request = DiscoveryRequest {
                    resource_names: names,
                    response_nonce: nonce.to_owned(),
                    error_detail,
                    ..DiscoveryRequest::default()
                };
                self.session.sotw_request(ty, &request, self.now)
            }
            Variant::Delta => {
                let request = DeltaDiscoveryRequest {
                    resource_names_subscribe: if nonce.is_empty() { names } else { Vec::new() },
                    response_nonce: nonce.to_owned(),
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                };
                self.session.delta_request(ty, &request, self.now)
            }
        }
    }

    fn subscribe(&mut self, ty: Type, names: &[&str]) {
        self.names[ty as usize] = names.iter().map(ToString::to_string).collect();
        let last = self.session.subscription(ty).and_then(Subscription::nonce);
        let nonce = match self.session.variant() {
            Variant::Sotw => last.map(|n| n.to_string()).unwrap_or_default(),
            Variant::Delta => String::new(),
        };
        self.say(ty, &nonce, None).unwrap();
    }

    /// The next push, as `CDS +a +b -c`.
    fn next(&mut self) -> Option<(Push, String)> {
        let push = self.session.next_push(self.now)?;
        let added = push.resources.iter().map(|resource| format!(" +{}", resource.name()));
        let removed = push.removed.iter().filter(|_| push.variant == Variant::Delta).map(|name| format!(" -{name}"));
        let text = format!("{}{}", push.ty, added.chain(removed).collect::<String>());
        Some((push, text))
    }

    /// Accepts every push until there is no more; what they were.
    fn settle(&mut self) -> Vec<String> {
        let mut pushes = Vec::new();
        while let Some((push, text)) = self.next() {
            pushes.push(text);
            self.say(push.ty, &push.nonce.to_string(), None).unwrap();
        }
        pushes
    }
}

const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// A client of clusters `a` and `b`, one listener and its routes, that has everything.
fn envoy(variant: Variant) -> Peer {
    let mut peer = Peer::new(variant, state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", 1)]));
    peer.subscribe(Type::Cluster, &[]);
    assert_eq!(peer.settle(), ["CDS +a +b"]);
    peer.subscribe(Type::Endpoints, &["eds-a", "eds-b"]);
    assert_eq!(peer.settle(), ["EDS +eds-a +eds-b"]);
    peer.subscribe(Type::Listener, &[]);
    peer.subscribe(Type::Route, &["r"]);
    assert_eq!(peer.settle(), ["LDS +in", "RDS +r"]);
    assert!(peer.session.is_synced());
    peer.now += SUBSCRIBE_GRACE;
    peer
}

#[test]
fn nothing_is_sent_that_did_not_change() {
    for variant in BOTH {
        let mut peer = envoy(variant);
        peer.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", 1)]));
        assert!(peer.session.is_synced());
        assert_eq!(peer.settle(), [""; 0]);
        peer.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", 2)]));
        assert!(!peer.session.is_synced());
        assert_eq!(peer.settle(), ["RDS +r"]);
    }
}

#[test]
fn a_changed_cluster_is_followed_by_its_endpoints_and_only_by_its() {
    let expected = [["CDS +a +b", "EDS +eds-a"], ["CDS +a", "EDS +eds-a"]];
    for (variant, expected) in BOTH.into_iter().zip(expected) {
        let mut peer = envoy(variant);
        peer.session.update(state(&[("a", 2), ("b", 1)], &[("in", 1)], &[("r", 1)]));
        // Envoy answers for the cluster only when it has the endpoints.
        let (clusters, text) = peer.next().unwrap();
        let (eds, eds_text) = peer.next().unwrap();
        assert_eq!([text.as_str(), eds_text.as_str()], expected);
        peer.say(Type::Endpoints, &eds.nonce.to_string(), None).unwrap();
        peer.say(Type::Cluster, &clusters.nonce.to_string(), None).unwrap();
        assert_eq!(peer.settle(), [""; 0]);
        assert!(peer.session.is_synced());
    }
}

#[test]
fn routes_wait_for_the_answer_about_new_clusters_but_not_for_ever() {
    for variant in BOTH {
        let mut peer = envoy(variant);
        peer.session.update(state(&[("a", 1), ("b", 1), ("c", 1)], &[("in", 1)], &[("r", 2)]));
        let (clusters, _) = peer.next().unwrap();
        assert_eq!(clusters.ty, Type::Cluster);
        assert!(peer.next().is_none(), "the client has not answered for its clusters");
        assert_eq!(peer.session.deadline(peer.now), Some(peer.now + CLUSTERS_GRACE));
        // A new subscription is answered all the same.
        peer.subscribe(Type::Endpoints, &["eds-a", "eds-b", "eds-c"]);
        assert!(peer.next().unwrap().1.starts_with("EDS"));
        assert!(peer.next().is_none());
        peer.now += CLUSTERS_GRACE;
        assert_eq!(peer.next().unwrap().1, "RDS +r");
    }
}

#[test]
fn clusters_go_when_the_routes_that_do_not_name_them_are_accepted() {
    let expected = ["CDS +a", "CDS -b"];
    for (variant, expected) in BOTH.into_iter().zip(expected) {
        let mut peer = envoy(variant);
        peer.session.update(state(&[("a", 1)], &[("in", 1)], &[("r", 2)]));
        let (routes, text) = peer.next().unwrap();
        assert_eq!(text, "RDS +r");
        assert!(peer.next().is_none());
        // Refused, so the client goes on with the old ones.
        peer.say(Type::Route, &routes.nonce.to_string(), Some("no")).unwrap();
        assert!(peer.next().is_none());
        assert!(!peer.session.is_synced());
        peer.session.update(state(&[("a", 1)], &[("in", 1)], &[("r", 3)]));
        let (routes, _) = peer.next().unwrap();
        peer.say(Type::Route, &routes.nonce.to_string(), None).unwrap();
        let (gone, text) = peer.next().unwrap();
        assert_eq!(text, expected);
        peer.say(Type::Cluster, &gone.nonce.to_string(), None).unwrap();
        let rest = peer.settle();
        assert_eq!(rest, if variant == Variant::Delta { vec!["EDS -eds-b"] } else { vec![] });
        assert!(peer.session.is_synced());
    }
}

#[test]
fn what_comes_and_goes_at_once_comes_first() {
    for variant in BOTH {
        let mut peer = envoy(variant);
        peer.session.update(state(&[("a", 1), ("c", 1)], &[("in", 1)], &[("r", 2)]));
        let texts = peer.settle();
        let expected = match variant {
            Variant::Sotw => ["CDS +a +b +c", "RDS +r", "CDS +a +c"].as_slice(),
            Variant::Delta => &["CDS +c", "RDS +r", "CDS -b", "EDS -eds-b"],
        };
        assert_eq!(texts, expected);
    }
}

#[test]
fn one_push_of_a_type_at_a_time_and_then_the_newest_state() {
    for variant in BOTH {
        let mut peer = envoy(variant);
        for revision in 2..20 {
            peer.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", revision)]));
            assert_eq!(peer.next().is_some(), revision == 2);
        }
        let nonce = peer.session.subscription(Type::Route).unwrap().nonce().unwrap();
        peer.say(Type::Route, &nonce.to_string(), None).unwrap();
        let (push, _) = peer.next().unwrap();
        assert_eq!(push.resources[0].version(), route("r", 19).version());
    }
}

#[test]
fn what_was_refused_is_recorded_and_not_sent_again() {
    for variant in BOTH {
        let mut peer = envoy(variant);
        peer.session.update(state(&[("a", 1), ("b", 1)], &[("in", 2)], &[("r", 1)]));
        let (push, _) = peer.next().unwrap();
        let answer = peer.say(Type::Listener, &push.nonce.to_string(), Some("bad in")).unwrap().unwrap();
        assert_eq!((answer.ty, answer.nack.as_deref()), (Type::Listener, Some("bad in")));
        assert_eq!(peer.settle(), [""; 0]);
        assert_eq!(peer.session.subscription(Type::Listener).unwrap().nack().unwrap().reason, "bad in");
        // Back to what the client has: it is told, and the refusal is over.
        peer.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", 1)]));
        assert_eq!(peer.settle(), ["LDS +in"]);
        assert!(peer.session.is_synced());
    }
}

#[test]
fn a_stale_nonce_is_no_answer_and_an_unknown_one_ends_the_stream() {
    for variant in BOTH {
        let mut peer = envoy(variant);
        let old = peer.session.subscription(Type::Route).unwrap().nonce().unwrap();
        peer.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", 2)]));
        peer.next().unwrap();
        assert_eq!(peer.say(Type::Route, &old.to_string(), Some("late")).unwrap(), None);
        assert!(peer.session.subscription(Type::Route).unwrap().outstanding().is_some());
        for wrong in ["0", "999", "x", "-1", "18446744073709551616"] {
            let error = peer.say(Type::Route, wrong, None).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}

#[test]
fn an_answer_said_twice_is_one_answer() {
    let mut peer = envoy(Variant::Sotw);
    let nonce = peer.session.subscription(Type::Endpoints).unwrap().nonce().unwrap().to_string();
    assert_eq!(peer.say(Type::Endpoints, &nonce, None).unwrap(), None);
    assert_eq!(peer.settle(), [""; 0]);
}

#[test]
fn a_wildcard_without_resources_is_answered() {
    for variant in BOTH {
        let mut peer = Peer::new(variant, Resources::default());
        peer.subscribe(Type::Cluster, &[]);
        peer.subscribe(Type::Listener, &[]);
        // Endpoints have no wildcard without a star.
        peer.subscribe(Type::Endpoints, &[]);
        assert_eq!(peer.settle(), ["CDS", "LDS"]);
    }
}

#[test]
fn grpc_asks_by_name_one_after_the_other() {
    let mut peer = Peer::new(Variant::Sotw, state(&[("a", 1), ("b", 1)], &[("a:80", 1), ("b:80", 1)], &[("r", 1)]));
    peer.subscribe(Type::Listener, &["a:80"]);
    assert_eq!(peer.settle(), ["LDS +a:80"]);
    peer.subscribe(Type::Listener, &["a:80", "b:80"]);
    assert_eq!(peer.settle(), ["LDS +a:80 +b:80"]);
    peer.subscribe(Type::Listener, &["a:80", "b:80", "no:80"]);
    assert_eq!(peer.settle(), ["LDS +a:80 +b:80"]);
    peer.subscribe(Type::Cluster, &["b"]);
    assert_eq!(peer.settle(), ["CDS +b"]);
    peer.subscribe(Type::Listener, &["a:80"]);
    assert_eq!(peer.settle(), [""; 0], "to want less needs no answer");
    peer.session.update(state(&[("a", 2), ("b", 1)], &[("a:80", 1), ("b:80", 2)], &[("r", 1)]));
    assert_eq!(peer.settle(), [""; 0], "nothing it wants has changed");
}

#[test]
fn what_does_not_exist_is_said_so_and_sent_once_it_does() {
    let expected = [vec![], vec!["RDS -x"]];
    for (variant, expected) in BOTH.into_iter().zip(expected) {
        let mut peer = Peer::new(variant, state(&[], &[], &[]));
        peer.subscribe(Type::Route, &["x"]);
        assert_eq!(peer.settle(), expected);
        assert!(peer.session.is_synced());
        peer.session.update(state(&[], &[], &[("x", 1), ("y", 1)]));
        assert_eq!(peer.settle(), ["RDS +x"]);
    }
}

#[test]
fn asked_again_is_sent_again() {
    let mut delta = envoy(Variant::Delta);
    delta.subscribe(Type::Endpoints, &["eds-b"]);
    assert_eq!(delta.settle(), ["EDS +eds-b"]);
    // A route that is gone, given up, asked for again, and back as it was.
    let mut sotw = envoy(Variant::Sotw);
    sotw.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[]));
    sotw.subscribe(Type::Route, &[]);
    sotw.subscribe(Type::Route, &["r"]);
    assert_eq!(sotw.settle(), [""; 0]);
    sotw.session.update(state(&[("a", 1), ("b", 1)], &[("in", 1)], &[("r", 1)]));
    assert_eq!(sotw.settle(), ["RDS +r"]);
}

#[test]
fn a_name_under_a_wildcard() {
    let mut peer = envoy(Variant::Delta);
    let request = |subscribe: &[&str], unsubscribe: &[&str]| DeltaDiscoveryRequest {
        resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let now = peer.now;
    peer.session.delta_request(Type::Cluster, &request(&["a", "none"], &[]), now).unwrap();
    assert_eq!(peer.settle(), ["CDS +a -none", "EDS +eds-a"]);
    peer.session.delta_request(Type::Cluster, &request(&[], &["a", "none"]), now).unwrap();
    assert_eq!(peer.settle(), ["CDS +a -none", "EDS +eds-a"]);
    peer.session.delta_request(Type::Cluster, &request(&["a"], &["*"]), now).unwrap();
    assert_eq!(peer.settle(), ["CDS +a", "EDS +eds-a"]);
    peer.session.update(state(&[("a", 1), ("b", 2)], &[("in", 1)], &[("r", 1)]));
    assert_eq!(peer.settle(), [""; 0]);
    peer.session.delta_request(Type::Cluster, &request(&["*"], &[]), now).unwrap();
    assert_eq!(peer.settle(), ["CDS +b", "EDS +eds-b"]);
}

#[test]
fn a_reconnected_client_gets_what_differs_and_keeps_clusters_until_its_routes_are_new() {
    let mut peer = Peer::new(Variant::Delta, state(&[("a", 2), ("b", 1), ("c", 1)], &[("in", 1)], &[("r", 2)]));
    let now = peer.now;
    let resume = |names: &[&str], held: &[(&str, &Resource)]| DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        initial_resource_versions: held
            .iter()
            .map(|(name, of)| ((*name).to_owned(), of.version().to_string()))
            .collect(),
        response_nonce: "77".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let held = [("a", &cluster("a", 1)), ("b", &cluster("b", 1)), ("old", &cluster("old", 1))];
    peer.session.delta_request(Type::Cluster, &resume(&[], &held), now).unwrap();
    assert_eq!(peer.settle(), ["CDS +a +c"]);
    peer.session.delta_request(Type::Listener, &resume(&[], &[("in", &listener("in", 1))]), now).unwrap();
    peer.session.delta_request(Type::Route, &resume(&["r"], &[("r", &route("r", 1))]), now).unwrap();
    let eds = [("eds-a", &endpoints("a")), ("eds-b", &endpoints("b"))];
    peer.session.delta_request(Type::Endpoints, &resume(&["eds-a", "eds-b"], &eds), now).unwrap();
    assert_eq!(peer.next().unwrap().1, "LDS");
    let (routes, text) = peer.next().unwrap();
    assert_eq!(text, "RDS +r");
    peer.now += SUBSCRIBE_GRACE * 2;
    assert!(peer.next().is_none(), "the old cluster stays while the routes are not accepted");
    peer.say(Type::Route, &routes.nonce.to_string(), None).unwrap();
    peer.say(Type::Listener, &(routes.nonce - 1).to_string(), None).unwrap();
    peer.now += SUBSCRIBE_GRACE;
    assert_eq!(peer.settle(), ["CDS -old"]);
    assert!(peer.session.is_synced());
}

#[test]
fn too_many_names_and_too_long_ones_end_the_stream() {
    let mut peer = Peer::new(Variant::Sotw, Resources::default());
    peer.names[Type::Route as usize] = vec!["x".repeat(5000)];
    assert!(peer.say(Type::Route, "", None).unwrap_err().to_string().contains("at most 4096"));
}

#[test]
fn responses_are_envoys_on_the_wire() {
    use prost::Message as _;
    use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    let wire = |push: &Push| [push.own(), push.shared("weft")].concat();
    let mut sotw = Peer::new(Variant::Sotw, state(&[("a", 1)], &[], &[]));
    sotw.subscribe(Type::Cluster, &[]);
    let push = sotw.next().unwrap().0;
    let read = DiscoveryResponse::decode(wire(&push).as_slice()).unwrap();
    assert_eq!((read.nonce.as_str(), read.type_url.as_str()), ("1", Type::Cluster.type_url()));
    assert_eq!(read.version_info, push.version.to_string());
    assert_eq!(read.control_plane.as_ref().unwrap().identifier, "weft");
    assert_eq!(weft_proto::any::unpack::<Cluster>(&read.resources[0]).unwrap().name, "a");
    assert_eq!(read.encoded_len(), wire(&push).len());

    let mut delta = Peer::new(Variant::Delta, state(&[("a", 1)], &[], &[]));
    delta.names[Type::Cluster as usize] = vec!["a".into(), "gone".into()];
    delta.say(Type::Cluster, "", None).unwrap();
    let push = delta.next().unwrap().0;
    let read = DeltaDiscoveryResponse::decode(wire(&push).as_slice()).unwrap();
    assert_eq!(
        (read.resources[0].name.as_str(), read.removed_resources.as_slice()),
        ("a", ["gone".to_owned()].as_slice())
    );
    assert_eq!(read.resources[0].version, cluster("a", 1).version().to_string());
    assert_eq!((read.nonce.as_str(), read.encoded_len()), ("1", wire(&push).len()));
    // The nonce alone is a stream's own.
    assert_eq!(Push { nonce: 7, ..push.clone() }.content(), push.content());
    assert_ne!(Push { removed: Vec::new(), ..push.clone() }.content(), push.content());
    assert_ne!(Push { resources: Vec::new(), ..push.clone() }.content(), push.content());
}

#[test]
fn endpoints_that_do_not_exist_are_an_empty_assignment() {
    let mut peer = Peer::new(Variant::Sotw, state(&[], &[], &[]));
    peer.subscribe(Type::Endpoints, &["eds-x"]);
    let (push, text) = peer.next().unwrap();
    assert_eq!(text, "EDS +eds-x");
    assert_eq!(push.resources[0].version(), endpoints("x").version());
    let mut peer = Peer::new(Variant::Delta, state(&[], &[], &[]));
    peer.subscribe(Type::Endpoints, &["eds-x"]);
    assert_eq!(peer.settle(), ["EDS -eds-x"]);
}

#[test]
fn what_was_refused_is_not_forgotten_for_something_else_that_is_accepted() {
    for variant in BOTH {
        let (clusters, listeners) = ([("a", 1), ("b", 1)], [("in", 1)]);
        let mut peer = envoy(variant);
        peer.subscribe(Type::Route, &["r", "s"]);
        peer.settle();
        peer.session.update(state(&clusters, &listeners, &[("r", 2), ("s", 1)]));
        let (push, _) = peer.next().unwrap();
        peer.say(Type::Route, &push.nonce.to_string(), Some("bad r")).unwrap();
        peer.session.update(state(&clusters, &listeners, &[("r", 2), ("s", 2)]));
        let (push, text) = peer.next().unwrap();
        // Each response of the incremental protocol is about all that is not accepted; in the other one, good routes would
        // suffer from a bad one beside them.
        let retried = variant == Variant::Delta;
        assert!(text.contains("+s") && text.contains("+r") == retried, "{text}");
        let again = retried.then_some("bad r");
        peer.say(Type::Route, &push.nonce.to_string(), again).unwrap();
        assert_eq!(peer.session.subscription(Type::Route).unwrap().nack().unwrap().reason, "bad r");
        assert!(!peer.session.is_synced());
        peer.session.update(state(&clusters, &listeners, &[("r", 3), ("s", 2)]));
        peer.settle();
        assert!(peer.session.is_synced());
        assert_eq!(peer.session.subscription(Type::Route).unwrap().nack(), None);
    }
}
