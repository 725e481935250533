use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_last_need_makes_ready() {
    let mut w = Warming::default();
    assert!(w.begin(&"route", []), "it needs nothing");
    assert!(!w.begin(&"cluster", [("endpoints", None), ("secret", None)]));
    assert!(w.met(&"endpoints").is_empty());
    assert_eq!(w.met(&"secret"), ["cluster"]);
    assert!(w.met(&"secret").is_empty() && !w.is_waiting(&"cluster"));
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_too_long_goes_on() {
    let now = Instant::now();
    let soon = now + Duration::from_secs(15);
    let mut w = Warming::default();
    w.begin(&"a", [("x", Some(soon)), ("y", None)]);
    w.begin(&"b", [("x", Some(soon))]);
    assert_eq!(w.next_deadline(), Some(soon));
    assert_eq!(w.expired(now), (vec![], vec![]));
    assert_eq!(w.expired(soon), (vec![("a", "x"), ("b", "x")], vec!["b"]));
    assert_eq!(w.next_deadline(), None);
    assert_eq!(w.met(&"y"), ["a"]);
}

/// The same, as simple as can be.
#[derive(Default)]
struct Model(BTreeMap<u8, BTreeMap<u8, Option<Instant>>>);

impl Model {
    fn settle(&mut self, done: impl Fn(u8, Option<Instant>) -> bool) -> Vec<u8> {
        let mut ready = Vec::new();
        self.0.retain(|item, needs| {
            needs.retain(|need, at| !done(*need, *at));
            if needs.is_empty() {
                ready.push(*item);
            }
            !needs.is_empty()
        });
        ready
    }
}

#[tokio::test(start_paused = true)]
async fn any_order_of_events_agrees_with_the_model() {
    let start = Instant::now();
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut w, mut model) = (Warming::<u8, u8>::default(), Model::default());
        let mut now = start;
        for _ in 0..200 {
            match random.random_range(0..5) {
                0 | 1 => {
                    let item = random.random_range(0..8);
                    let needs: BTreeMap<u8, Option<Instant>> = (0..random.random_range(0..4))
                        .map(|_| {
                            let at = now + Duration::from_secs(random.random_range(1..20));
                            (random.random_range(0..6), random.random_bool(0.7).then_some(at))
                        })
                        .collect();
                    assert_eq!(w.begin(&item, needs.clone()), needs.is_empty());
                    model.0.remove(&item);
                    if !needs.is_empty() {
                        model.0.insert(item, needs);
                    }
                }
                2 => {
                    let need = random.random_range(0..6);
                    assert_eq!(w.met(&need), model.settle(|n, _| n == need));
                }
                3 => {
                    let item = random.random_range(0..8);
                    assert_eq!(w.cancel(&item), model.0.remove(&item).is_some());
                }
                _ => {
                    now += Duration::from_secs(random.random_range(0..10));
                    let (_, mut ready) = w.expired(now);
                    ready.sort_unstable();
                    assert_eq!(ready, model.settle(|_, at| at.is_some_and(|at| at <= now)));
                }
            }
            let waiting: BTreeMap<u8, Vec<u8>> = w.waiting().map(|(i, n)| (*i, n.copied().collect())).collect();
            let wanted = model.0.iter().map(|(i, n)| (*i, n.keys().copied().collect())).collect();
            assert_eq!(waiting, wanted, "seed {seed}");
            let next = model.0.values().flat_map(|n| n.values().flatten()).min().copied();
            assert_eq!(w.next_deadline(), next, "seed {seed}");
            assert_eq!(
                w.by_need.values().map(BTreeSet::len).sum::<usize>(),
                model.0.values().map(BTreeMap::len).sum::<usize>()
            );
        }
    }
}
