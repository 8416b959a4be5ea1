//! Retries, limits and splits by service profiles.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    MS, VERSIONS, Version, answered, application, constant, flaky,
    mesh::{self, Mesh, Way, full},
    metric, request, send, slow, trailers,
};
use hauberk_model::profile::{
    Profile, ProfileRoute, RequestMatch, ResponseClass, ResponseMatch, WeightedTarget,
};
use hauberk_model::retry::RetryBudget;
use hauberk_model::{Pattern, Port};
use hauberk_proxy::control::{Lookup, Target};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

/// The service has this profile, beside a policy whose route goes nowhere.
fn publish_profile(mesh: &Mesh, profile: Profile) {
    let name = Some("web-svc.default.svc.cluster.local".into());
    let profile = Profile { name, ..profile };
    let target = Target::Address(mesh::SERVICE.parse().unwrap());
    mesh.client.control.profile(target, Lookup::Known(Arc::new(profile)));
    mesh.publish_policy(Vec::new(), None);
}

fn budget(min_retries_per_second: u32) -> Option<RetryBudget> {
    let ttl = Duration::from_secs(10);
    Some(RetryBudget { retry_ratio: 0.0, min_retries_per_second, ttl })
}

/// A route for the path of [`request`].
fn profile_route(is_retryable: bool) -> ProfileRoute {
    let labels = [("route".into(), "C".into())].into_iter().collect();
    ProfileRoute {
        condition: RequestMatch::Path(Pattern::new("/a\\.B/.*").unwrap()),
        response_classes: Vec::new(),
        labels: Arc::new(labels),
        is_retryable,
        timeout: None,
    }
}

fn profile(route: ProfileRoute, retry_budget: Option<RetryBudget>) -> Profile {
    Profile { routes: vec![route].into(), retry_budget, ..Profile::default() }
}

#[test]
fn profiles_retry_what_their_routes_call_a_failure() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let ask = async |profile: Profile, failures| {
                let (application, seen) = flaky(version, failures, 503).await;
                mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
                publish_profile(&mesh, profile);
                let got = send(&mesh, version, request(version, full("body"))).await;
                (got.status.as_u16(), got.body.unwrap_or_default(), seen.get())
            };
            let ok = |seen| (200, "body".to_owned(), seen);
            let failed = |seen| (503, "failed".to_owned(), seen);
            assert_eq!(ask(profile(profile_route(true), budget(10)), 2).await, ok(3));
            let route = "rt_route=\"C\"";
            assert_eq!(metric(&mesh, "route_request_total", route), 1, "{version:?}");
            assert_eq!(metric(&mesh, "route_actual_request_total", route), 3);
            assert_eq!(metric(&mesh, "route_response_total", "classification=\"success\""), 1);
            assert_eq!(
                metric(&mesh, "route_actual_response_total", "classification=\"failure\""),
                2
            );
            assert_eq!(metric(&mesh, "route_retryable_total", route), 2);

            assert_eq!(ask(profile(profile_route(false), budget(10)), 1).await, failed(1));
            assert_eq!(ask(profile(profile_route(true), None), 1).await, failed(1));
            let elsewhere = ProfileRoute {
                condition: RequestMatch::Method(http::Method::GET),
                ..profile_route(true)
            };
            assert_eq!(ask(profile(elsewhere, budget(10)), 1).await, failed(1));
            let condition = ResponseMatch::Status(500..=599);
            let calm = ProfileRoute {
                response_classes: vec![ResponseClass { condition, is_failure: false }],
                ..profile_route(true)
            };
            assert_eq!(ask(profile(calm, budget(10)), 1).await, failed(1));
            // A budget of one retry in the whole time.
            let one = RetryBudget { ttl: Duration::from_secs(1), ..budget(1).unwrap() };
            assert_eq!(ask(profile(profile_route(true), Some(one)), 100).await, failed(2));
            assert_eq!(metric(&mesh, "route_retryable_total", "skipped=\"no_budget\""), 1);
        });
    }
}

#[test]
fn profiles_limit_the_wait_for_the_head() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let slow_route = || ProfileRoute { timeout: Some(80 * MS), ..profile_route(false) };
            let silent = slow(version, 60_000 * MS, MS, 1).await;
            mesh.publish([mesh.endpoint(silent, Way::Meshed).await]);
            publish_profile(&mesh, profile(slow_route(), None));
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!(
                (got.status.as_u16(), got.headers["l5d-proxy-connection"].to_str().unwrap()),
                (504, "close")
            );
            // The body may take its time.
            let lengthy = slow(version, MS, 50 * MS, 4).await;
            mesh.publish([mesh.endpoint(lengthy, Way::Meshed).await]);
            let got = send(&mesh, version, request(version, full("x"))).await;
            assert_eq!(got.body.as_deref(), Some("...."), "{version:?}");
        });
    }
}

#[test]
fn profiles_split_traffic_by_weight_as_they_change() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let targets: Vec<_> = ["a", "b"]
                .map(|name| {
                    let host = format!("{name}.default.svc.cluster.local:80");
                    hauberk_model::Authority::parse(&host, Port::new(80).unwrap()).unwrap()
                })
                .into();
            for (authority, status) in targets.iter().zip([201, 202]) {
                let application = constant(version, status, &[]).await;
                let endpoint = mesh.endpoint(application, Way::Meshed).await;
                let by_address = [(endpoint.address, Arc::new(endpoint))].into_iter().collect();
                let set = hauberk_model::Endpoints { labels: Arc::default(), by_address };
                let set = Lookup::Known(Arc::new(set));
                mesh.client.control.endpoints(authority.clone(), set);
            }
            let itself = constant(version, 200, &[]).await;
            mesh.publish([mesh.endpoint(itself, Way::Meshed).await]);
            let split = |weights: [u32; 2]| {
                let targets = targets.iter().zip(weights);
                let targets = targets.map(|(authority, weight)| WeightedTarget {
                    authority: authority.clone(),
                    weight,
                    backend: None,
                });
                publish_profile(
                    &mesh,
                    Profile { targets: targets.collect(), ..Profile::default() },
                );
            };
            split([3, 1]);
            let first = answered(&mesh, version, 80, 201).await;
            assert!((40..80).contains(&first), "{version:?}: {first} of 80 at three in four");
            split([0, 1]);
            assert_eq!(answered(&mesh, version, 20, 202).await, 20, "{version:?}");
            split([0, 0]);
            assert_eq!(answered(&mesh, version, 2, 500).await, 2, "nothing is left to go to");
            // Without a split the policy counts, and then the service itself.
            publish_profile(&mesh, Profile::default());
            mesh.policy(None);
            assert_eq!(answered(&mesh, version, 20, 200).await, 20, "{version:?}");
        });
    }
}

#[test]
fn profiles_retry_grpc_calls_that_fail_in_their_trailers() {
    mesh::run(async |mesh| {
        let seen = Rc::new(Cell::new(0));
        let count = Rc::clone(&seen);
        let application = application(Version::Two, move |request| {
            let attempt = count.replace(count.get() + 1);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let response = Response::builder().header("content-type", "application/grpc");
                let data = || Ok(Frame::data(body.clone()));
                let frames = match attempt {
                    0 => vec![trailers("13")],
                    _ => vec![data(), data(), trailers("0")],
                };
                response.body(mesh::body(StreamBody::new(futures::stream::iter(frames)))).unwrap()
            }
        })
        .await;
        mesh.publish([mesh.endpoint(application, Way::Meshed).await]);
        publish_profile(&mesh, profile(profile_route(true), budget(10)));
        for attempts in [2, 3] {
            let mut call = request(Version::Two, full("abc"));
            call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            let got = send(&mesh, Version::Two, call).await;
            assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
            assert_eq!((got.body.as_deref(), seen.get()), (Some("abcabc"), attempts));
        }
    });
}
