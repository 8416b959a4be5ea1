//! The law of the wire: what is said is what is understood.
//!
//! Every message is also encoded to bytes and decoded again, so that the test covers what a peer
//! really receives. On failure proptest prints the smallest input and a seed.

#[path = "round_trip/inbound.rs"]
mod inbound;
#[path = "round_trip/outbound.rs"]
mod outbound;
#[path = "round_trip/vocabulary.rs"]
mod vocabulary;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hauberk_model::endpoints::Labels;
use hauberk_model::profile::{
    ProfileRoute, RequestMatch, ResponseClass, ResponseMatch, WeightedTarget,
};
use hauberk_model::retry::RetryBudget;
use hauberk_model::tap::{
    StreamId, Tap, TapDirection, TapEnd, TapEvent, TapExchange, TapMatch, TapMoment, TextMatch,
};
use hauberk_model::{Endpoints, Profile};
use hauberk_wire::api::tap as api;
use hauberk_wire::{destination, identity, profile, tap};
use http::{HeaderMap, HeaderName, StatusCode};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use vocabulary::*;

/// Through the bytes of the wire.
fn through_bytes<M: prost::Message + Default>(message: M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("what was encoded decodes")
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    (labels(), vec(endpoint(), 0..6)).prop_map(|(labels, endpoints)| Endpoints {
        labels: Arc::new(labels),
        by_address: endpoints.into_iter().map(|e| (e.address, Arc::new(e))).collect(),
    })
}

fn update() -> impl Strategy<Value = destination::Update> {
    let endpoints = vec(endpoint().prop_map(Arc::new), 0..4);
    prop_oneof![
        (labels().prop_map(Arc::new), endpoints)
            .prop_map(|(labels, endpoints)| destination::Update::Add { labels, endpoints }),
        vec(address(), 0..4).prop_map(destination::Update::Remove),
        any::<bool>().prop_map(|exists| destination::Update::NoEndpoints { exists }),
    ]
}

fn request_match() -> impl Strategy<Value = RequestMatch> {
    let leaf = prop_oneof![
        pattern().prop_map(RequestMatch::Path),
        method().prop_map(RequestMatch::Method),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(RequestMatch::All),
            vec(inner.clone(), 0..3).prop_map(RequestMatch::Any),
            inner.prop_map(|inner| RequestMatch::Not(Box::new(inner))),
        ]
    })
}

fn response_match() -> impl Strategy<Value = ResponseMatch> {
    let leaf = (any::<u16>(), any::<u16>()).prop_map(|(min, max)| ResponseMatch::Status(min..=max));
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(ResponseMatch::All),
            vec(inner.clone(), 0..3).prop_map(ResponseMatch::Any),
            inner.prop_map(|inner| ResponseMatch::Not(Box::new(inner))),
        ]
    })
}

fn profile_route() -> impl Strategy<Value = ProfileRoute> {
    let class = (response_match(), any::<bool>())
        .prop_map(|(condition, is_failure)| ResponseClass { condition, is_failure });
    (request_match(), vec(class, 0..3), labels(), any::<bool>(), of(duration())).prop_map(
        |(condition, response_classes, labels, is_retryable, timeout)| ProfileRoute {
            condition,
            response_classes,
            labels: Arc::new(labels),
            is_retryable,
            timeout,
        },
    )
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let ttl = (1_000u64..=60_000).prop_map(std::time::Duration::from_millis);
    let budget =
        (0f32..1000.0, any::<u32>(), ttl).prop_map(|(retry_ratio, min_retries_per_second, ttl)| {
            RetryBudget { retry_ratio, min_retries_per_second, ttl }
        });
    let target = (authority(), any::<u32>(), of(meta()))
        .prop_map(|(authority, weight, backend)| WeightedTarget { authority, weight, backend });
    let parts = (
        of(text()),
        any::<bool>(),
        of(endpoint().prop_map(Arc::new)),
        vec(profile_route(), 0..3),
        of(budget),
        vec(target, 0..3),
        of(meta()),
        of(meta()),
    );
    parts.prop_map(|(name, opaque, endpoint, routes, retry_budget, targets, parent, profile)| {
        let routes = routes.into();
        Profile { name, opaque, endpoint, routes, retry_budget, targets, parent, profile }
    })
}

fn tap_event() -> impl Strategy<Value = TapEvent> {
    let headers = || {
        vec(("[a-z][a-z-]{0,8}", "[ -~]{0,8}"), 0..4).prop_map(|headers| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                map.append(name, value.parse().expect("printable"));
            }
            map
        })
    };
    let scheme = prop_oneof![Just("http"), Just("https")];
    let request = (method(), scheme, "[a-z.]{0,9}", "/[a-z/]{0,9}", headers()).prop_map(
        |(method, scheme, authority, path, headers)| {
            let scheme = scheme.into();
            TapMoment::RequestInit { method, scheme, authority, path, headers }
        },
    );
    let status = (100u16..1000).prop_map(|code| StatusCode::from_u16(code).expect("in range"));
    let response = (duration(), status, headers()).prop_map(|(since, status, headers)| {
        TapMoment::ResponseInit { since_request_init: since, status, headers }
    });
    let how = of(prop_oneof![
        any::<u32>().prop_map(TapEnd::GrpcStatus),
        any::<u32>().prop_map(TapEnd::Reset)
    ]);
    let end = (duration(), duration(), any::<u64>(), how, headers()).prop_map(
        |(since_request_init, since_response_init, response_bytes, end, trailers)| {
            TapMoment::ResponseEnd {
                since_request_init,
                since_response_init,
                response_bytes,
                end,
                trailers,
            }
        },
    );
    let direction = prop_oneof![Just(TapDirection::Inbound), Just(TapDirection::Outbound)];
    let ends = (address(), labels(), address(), labels(), labels());
    let stream = (any::<u32>(), any::<u64>()).prop_map(|(base, stream)| StreamId { base, stream });
    (stream, direction, ends, prop_oneof![request, response, end]).prop_map(
        |(stream, direction, ends, moment)| {
            let (source, source_labels, destination, destination_labels, route_labels) = ends;
            let exchange = TapExchange {
                direction,
                source,
                source_labels,
                destination,
                destination_labels,
                route_labels,
            };
            TapEvent { stream, exchange: Arc::new(exchange), moment }
        },
    )
}

fn any_tap() -> impl Strategy<Value = Tap> {
    let matched =
        || prop_oneof![text().prop_map(TextMatch::Exact), text().prop_map(TextMatch::Prefix)];
    let ports = || (any::<u16>(), 1u16..).prop_map(|(min, max)| min..=max);
    let leaf = prop_oneof![
        net().prop_map(TapMatch::SourceNet),
        ports().prop_map(TapMatch::SourcePorts),
        net().prop_map(TapMatch::DestinationNet),
        ports().prop_map(TapMatch::DestinationPorts),
        (text(), text()).prop_map(|(key, value)| TapMatch::DestinationLabel(key, value)),
        (text(), text()).prop_map(|(key, value)| TapMatch::RouteLabel(key, value)),
        prop_oneof![Just("http"), Just("https"), Just("ws")]
            .prop_map(|s| TapMatch::Scheme(s.into())),
        method().prop_map(TapMatch::Method),
        matched().prop_map(TapMatch::Authority),
        matched().prop_map(TapMatch::Path),
    ];
    let condition = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(TapMatch::All),
            vec(inner.clone(), 0..3).prop_map(TapMatch::Any),
            inner.prop_map(|inner| TapMatch::Not(Box::new(inner))),
        ]
    });
    (1u32.., condition, any::<bool>()).prop_map(|(limit, condition, with_headers)| Tap {
        limit,
        condition,
        with_headers,
    })
}

fn certified() -> impl Strategy<Value = identity::Certified> {
    let bytes = || vec(any::<u8>(), 1..40);
    // Certificates end between 1970 and 9999 (RFC 5280, 4.1.2.5).
    (bytes(), vec(bytes(), 0..3), 0u64..253_402_300_800, 0u32..1_000_000_000).prop_map(
        |(leaf, intermediates, seconds, nanos)| identity::Certified {
            leaf,
            intermediates,
            valid_until: SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos),
        },
    )
}

/// What a reader of metrics sees: the labels of each endpoint, common ones included.
fn effective(endpoints: &Endpoints) -> Vec<(hauberk_model::Endpoint, Labels)> {
    let merged = |endpoint: &Arc<hauberk_model::Endpoint>| {
        let mut labels = (*endpoints.labels).clone();
        labels.extend(endpoint.labels.clone());
        (hauberk_model::Endpoint { labels: Labels::new(), ..(**endpoint).clone() }, labels)
    };
    endpoints.by_address.values().map(merged).collect()
}

fn fold(known: &mut Endpoints, updates: Vec<destination::Update>) {
    for update in updates {
        let wire = through_bytes(destination::to_wire(&update));
        let (understood, problems) = destination::from_wire(wire).expect("valid");
        assert_eq!(problems, []);
        understood.apply(known);
    }
}

/// Random names are seldom the same.
#[test]
fn every_value_of_a_header_is_seen_by_who_taps() {
    let mut headers = HeaderMap::new();
    for cookie in ["a=1", "", "", "b=2"] {
        headers.append("set-cookie", cookie.parse().expect("printable"));
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut event = tap_event().new_tree(&mut runner).expect("an event").current();
    event.moment = TapMoment::ResponseInit {
        since_request_init: Duration::from_millis(1),
        status: StatusCode::OK,
        headers,
    };
    let back = tap::event_from_wire(through_bytes(tap::event_to_wire(&event)));
    assert_eq!(back, Ok(event.clone()));

    // More than a map of headers holds are no reason to end.
    let mut wire = tap::event_to_wire(&event);
    let Some(api::tap_event::Event::Http(http)) = &mut wire.event else { panic!("{wire:?}") };
    let Some(api::tap_event::http::Event::ResponseInit(init)) = &mut http.event else {
        panic!("{http:?}")
    };
    let headers = init.headers.as_mut().expect("there are some");
    headers.headers = vec![headers.headers[0].clone(); 40_000];
    tap::event_from_wire(wire).expect("it is understood");
}

proptest! {
    #[test]
    fn updates_survive(update in update()) {
        let back = destination::from_wire(through_bytes(destination::to_wire(&update)));
        prop_assert_eq!(back, Ok((update, vec![])));
    }

    #[test]
    fn deltas_fold_to_the_newest_set(sets in vec(endpoints(), 1..5)) {
        let mut told: Option<Endpoints> = None;
        let mut folded = Endpoints::default();
        for newest in sets {
            fold(&mut folded, destination::updates(told.as_ref(), &newest, true));
            prop_assert_eq!(effective(&folded), effective(&newest));
            told = Some(newest);
        }
    }

    #[test]
    fn nothing_new_is_not_told(set in endpoints()) {
        prop_assert_eq!(destination::updates(Some(&set), &set.clone(), true), vec![]);
        prop_assert!(!destination::updates(None, &set, true).is_empty());
    }

    #[test]
    fn profiles_survive(value in any_profile()) {
        let back = profile::from_wire(through_bytes(profile::to_wire(&value)));
        prop_assert_eq!(back, Ok((value, vec![])));
    }

    #[test]
    fn taps_survive(value in any_tap()) {
        prop_assert_eq!(tap::from_wire(through_bytes(tap::to_wire(&value))), Ok(value));
    }

    #[test]
    fn tap_events_survive(value in tap_event()) {
        prop_assert_eq!(tap::event_from_wire(through_bytes(tap::event_to_wire(&value))), Ok(value));
    }

    #[test]
    fn certificates_survive(value in certified()) {
        prop_assert_eq!(identity::from_wire(through_bytes(identity::to_wire(&value))), Ok(value));
    }

    #[test]
    fn certificate_requests_survive(identity in workload_id(), token in vec(any::<u8>(), 1..40), csr in vec(any::<u8>(), 1..40)) {
        let value = identity::Request { identity, token, csr };
        let back = identity::request_from_wire(through_bytes(identity::request_to_wire(&value)));
        prop_assert_eq!(back, Ok(value));
    }
}
