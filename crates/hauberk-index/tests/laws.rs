//! The laws of the index under random sequences of events.
//!
//! A failure prints its seed; `HAUBERK_SEED=<seed> cargo test -p hauberk-index --test laws` runs
//! that seed alone.

use hauberk_index::{Answer, Answered, ClusterConfig, Index, Key, Subject};
use hauberk_resources::{Kind, Resource, ResourceEvent, ResourceKey};
use hauberk_testkit::clusters::{Universe, keys};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use std::{collections::BTreeMap, sync::Arc};

/// Sequences per law.
const SEEDS: std::ops::Range<u64> = 0..40;
/// Events per sequence.
const EVENTS: usize = 120;

/// Runs a law for each seed and names the one that broke it.
fn for_each_seed(law: impl Fn(&mut SmallRng) + std::panic::RefUnwindSafe) {
    let seeds = match std::env::var("HAUBERK_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("HAUBERK_SEED is a number");
            seed..seed + 1
        }
        Err(_) => SEEDS,
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| law(&mut SmallRng::seed_from_u64(seed)));
        if let Err(panic) = run {
            eprintln!("broken with HAUBERK_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn index(rng: &mut SmallRng) -> Index {
    Index::new(ClusterConfig {
        ipv6: rng.random_bool(0.3),
        requires_reference_grants: rng.random_bool(0.5),
        ..ClusterConfig::default()
    })
}

fn answers(index: &Index, keys: &[Key]) -> Vec<Answered> {
    keys.iter().map(|key| index.answer(key)).collect()
}

#[test]
fn what_changes_an_answer_or_its_subjects_was_announced_by_a_subject_it_recorded() {
    for_each_seed(|rng| {
        let (universe, keys) = (Universe, keys());
        let mut index = index(rng);
        let mut before = answers(&index, &keys);
        for _ in 0..EVENTS {
            let event = universe.event(rng, &index);
            let changes = index.apply(event.clone());
            let after = answers(&index, &keys);
            for ((key, before), after) in keys.iter().zip(&before).zip(&after) {
                let was_announced = before.subjects.iter().any(|s| changes.subjects().contains(s));
                // The subjects too, or a batch of events could slip through between them.
                let is_same = before.answer == after.answer && before.subjects == after.subjects;
                assert!(
                    is_same || was_announced,
                    "{key:?}\nchanged by {event:?}\nwhich announced {:?}\nbut looked at {:?}\nbefore {:?}\nafter {:?} looking at {:?}",
                    changes.subjects(),
                    before.subjects,
                    before.answer,
                    after.answer,
                    after.subjects,
                );
            }
            before = after;
        }
    });
}

#[test]
fn an_index_that_lived_answers_like_one_built_from_what_is_left() {
    for_each_seed(|rng| {
        let (universe, keys) = (Universe, keys());
        let mut index = index(rng);
        for _ in 0..EVENTS {
            let event = universe.event(rng, &index);
            index.apply(event);
        }
        let mut left: Vec<Arc<Resource>> = index.resources().cloned().collect();
        left.shuffle(rng);
        let mut rebuilt = Index::new(index.config().clone());
        for resource in left {
            rebuilt.apply(ResourceEvent::Applied(resource));
        }
        assert_same(&index, &rebuilt, &keys);
    });
}

#[test]
fn the_order_of_events_on_different_objects_does_not_matter() {
    for_each_seed(|rng| {
        let (universe, keys) = (Universe, keys());
        // Each object's own events keep their order; those of different objects are interleaved.
        let mut histories: BTreeMap<ResourceKey, Vec<ResourceEvent>> = BTreeMap::new();
        for _ in 0..EVENTS {
            let resource = universe.resource(rng);
            let key = resource.key();
            let history = histories.entry(key.clone()).or_default();
            history.push(ResourceEvent::Applied(resource));
            if rng.random_bool(0.2) {
                history.push(ResourceEvent::Deleted(key));
            }
        }
        let mut one = index(rng);
        let mut other = Index::new(one.config().clone());
        for index in [&mut one, &mut other] {
            let mut order: Vec<&ResourceKey> =
                histories.iter().flat_map(|(key, history)| vec![key; history.len()]).collect();
            order.shuffle(rng);
            let mut next: BTreeMap<&ResourceKey, usize> = BTreeMap::new();
            for key in order {
                let at = next.entry(key).or_default();
                index.apply(histories[key][*at].clone());
                *at += 1;
            }
        }
        assert_same(&one, &other, &keys);
    });
}

#[test]
fn applying_and_deleting_leaves_nothing() {
    for_each_seed(|rng| {
        let universe = Universe;
        let mut index = index(rng);
        for _ in 0..EVENTS {
            let event = universe.event(rng, &index);
            index.apply(event);
        }
        let mut left: Vec<ResourceKey> = index.resources().map(|resource| resource.key()).collect();
        left.shuffle(rng);
        for key in left {
            let changes = index.apply(ResourceEvent::Deleted(key.clone()));
            assert!(changes.subjects().contains(&Subject::Object(key)));
        }
        assert!(index.is_empty());
    });
}

#[test]
fn an_event_that_changes_nothing_announces_nothing() {
    for_each_seed(|rng| {
        let universe = Universe;
        let mut index = index(rng);
        for _ in 0..EVENTS {
            let event = universe.event(rng, &index);
            index.apply(event);
        }
        let all: Vec<Arc<Resource>> = index.resources().cloned().collect();
        for resource in &all {
            // Equal, but not the same allocation.
            let equal = Arc::new(Resource::clone(resource));
            assert!(index.apply(ResourceEvent::Applied(equal)).is_empty());
        }
        for kind in Kind::ALL {
            let all = all.iter().filter(|resource| resource.kind() == *kind).cloned().collect();
            assert!(index.apply(ResourceEvent::Relisted { kind: *kind, all }).is_empty());
        }
        let unknown = ResourceKey::new(Kind::Pod, "nowhere", "nobody");
        assert!(index.apply(ResourceEvent::Deleted(unknown)).is_empty());
    });
}

/// The generator would be worthless if all it made were refusals.
#[test]
fn the_random_clusters_give_answers_of_every_kind() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in SEEDS {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut index = index(rng);
        for _ in 0..EVENTS {
            let event = Universe.event(rng, &index);
            index.apply(event);
        }
        for answered in answers(&index, &keys()) {
            let what = match answered.answer {
                Answer::Inbound(policy) if policy.authorizations.is_empty() => "closed server",
                Answer::Inbound(_) => "open server",
                Answer::Outbound(_) => "outbound policy",
                Answer::Endpoints(endpoints) if endpoints.is_empty() => "empty endpoints",
                Answer::Endpoints(_) => "endpoints",
                Answer::Profile(profile) if profile.endpoint.is_some() => "endpoint profile",
                Answer::Profile(_) => "service profile",
                Answer::Status(status) if status.parents.is_empty() => "status of an object",
                Answer::Status(_) => "status of a route",
                Answer::Refused(_) => "refusal",
            };
            *seen.entry(what).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
    assert!(seen.values().all(|count| *count > 30), "{seen:?}");
}

fn assert_same(one: &Index, other: &Index, keys: &[Key]) {
    for key in keys {
        let (one, other) = (one.answer(key), other.answer(key));
        assert_eq!(one.answer, other.answer, "{key:?}");
        assert_eq!(one.subjects, other.subjects, "{key:?}");
    }
}

/// What a status says of a route is what its clients get.
#[test]
fn a_route_counts_if_and_only_if_its_status_says_so() {
    let mut counted = [0, 0];
    for seed in SEEDS {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut index = index(rng);
        for _ in 0..EVENTS {
            let event = Universe.event(rng, &index);
            index.apply(event);
        }
        let routes = index.resources().filter(|resource| {
            matches!(***resource, Resource::PolicyHttpRoute(_) | Resource::GatewayHttpRoute(_))
        });
        for route in routes {
            let key = route.key();
            let Answer::Status(status) = index.answer(&Key::Status(key.clone())).answer else {
                panic!("{key} has a status");
            };
            for on in &status.parents {
                let parent = &on.parent;
                if parent.kind.as_deref() != Some("Service") {
                    continue;
                }
                let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
                let name = format!("{}.{namespace}.svc.cluster.local:80", parent.name);
                let question = hauberk_index::Question::new(index.config());
                let asked = question.outbound_to_authority(&format!("{}:x", key.namespace), &name);
                let answer = index.answer(&asked.expect("a question")).answer;
                let Answer::Outbound(policy) = answer else { panic!("{name} has a policy") };
                let is_accepted = on.conditions[0].holds;
                let Some(routes) = http_routes(&policy.protocol) else {
                    continue;
                };
                let counts = routes.iter().any(|known| {
                    known.meta.name() == &*key.name
                        && known.meta.namespace() == &*key.namespace
                        && known.meta.group() == key.kind.group()
                });
                assert_eq!(counts, is_accepted, "seed {seed}: {key}: {status:?}\n{policy:?}");
                counted[usize::from(counts)] += 1;
            }
        }
    }
    assert!(counted.iter().all(|count| *count > 5), "{counted:?}");
}

/// None where something else than HTTP is spoken, so that HTTP routes have nothing to do.
fn http_routes(
    protocol: &hauberk_model::outbound::OutboundProtocol,
) -> Option<&[hauberk_model::outbound::HttpRoute]> {
    use hauberk_model::outbound::OutboundProtocol::{Detect, Grpc, Http1, Http2, Opaque, Tls};
    match protocol {
        Detect { http1: http, .. } | Http1(http) | Http2(http) => Some(&http.routes),
        Grpc(_) | Opaque(_) | Tls(_) => None,
    }
}
