//! Endpoints that fail are left alone.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    MS, VERSIONS, answered, application, constant,
    mesh::{self, Way, full},
};
use hauberk_model::backoff::Backoff;
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::outbound::{BackendTarget, Distribution, Load, PeakEwma};
use http::Response;

#[test]
fn an_endpoint_with_too_few_successes_is_left_alone_but_never_the_last_ones() {
    let minute = Duration::from_secs(60);
    let accrual = |min_ready_endpoints| FailureAccrual {
        kind: FailureAccrualKind::Unified {
            max_consecutive: 0,
            success_rate_threshold: 0.9,
            window: minute,
            min_requests: 5,
            backoff: Backoff::new(minute, minute, 0.0).unwrap(),
            honor_retry_after: false,
        },
        min_ready_endpoints,
    };
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let busy = constant(version, 429, &[]).await;
            let good = constant(version, 200, &[]).await;
            mesh.policy(Some(accrual(1)));
            let way = Way::Unmeshed;
            mesh.publish([mesh.endpoint(busy, way).await, mesh.endpoint(good, way).await]);
            let mut refused = 0;
            while refused < 5 {
                refused += answered(&mesh, version, 20, 429).await;
            }
            assert_eq!(answered(&mesh, version, 50, 200).await, 50, "{version:?}");

            // All are busy: one stays in use, and its answer reaches the client.
            let (one, two) = (constant(version, 429, &[]).await, constant(version, 429, &[]).await);
            mesh.publish([mesh.endpoint(one, way).await, mesh.endpoint(two, way).await]);
            for _ in 0..5 {
                assert_eq!(answered(&mesh, version, 20, 429).await, 20, "{version:?}");
            }
        });
    }
}

#[test]
fn an_endpoint_that_fails_quickly_does_not_attract_where_failures_are_penalized() {
    for version in VERSIONS {
        mesh::run(async |mesh| {
            let busy = constant(version, 503, &[("retry-after", "30")]).await;
            let good = application(version, async |_| {
                tokio::time::sleep(2 * MS).await;
                Response::new(full("ok"))
            })
            .await;
            let mut route = mesh::route(Vec::new());
            let Distribution::FirstAvailable(list) = &mut route.route.rules[0].action.backends
            else {
                panic!("another distribution");
            };
            let mut backend = (*list[0].backend).clone();
            backend.target = BackendTarget::Balance {
                authority: mesh::authority(),
                load: Load::PenaltyPeakEwma {
                    ewma: PeakEwma::default(),
                    penalty: Duration::from_secs(5),
                    max_retry_after: Duration::from_secs(300),
                },
                balancing: std::sync::Arc::default(),
            };
            list[0].backend = Arc::new(backend);
            mesh.publish([
                mesh.endpoint(busy, Way::Meshed).await,
                mesh.endpoint(good, Way::Meshed).await,
            ]);
            mesh.publish_policy(vec![route], None);
            let mut failed = 0;
            for _ in 0..60 {
                failed += answered(&mesh, version, 1, 503).await;
            }
            assert!(failed <= 2, "{version:?}: {failed} of 60 went to who said no");
        });
    }
}
