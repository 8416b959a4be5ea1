//! Service profiles and single endpoints, each way.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::name::Authority;
use hauberk_model::profile::{
    ProfileRoute, RequestMatch, ResponseClass, ResponseMatch, WeightedTarget,
};
use hauberk_model::retry::RetryBudget;
use hauberk_model::{Port, Profile};

use crate::api::destination as wire;
use crate::destination::{endpoint_from_wire, endpoint_to_wire};
use crate::invalid::{Invalid, Required};
use crate::{meta, scalar};

/// Says a profile.
pub fn to_wire(profile: &Profile) -> wire::DestinationProfile {
    let target = |target: &WeightedTarget| wire::WeightedDst {
        authority: target.authority.to_string(),
        weight: target.weight,
        backend_ref: target.backend.as_ref().map(meta::to_wire),
    };
    wire::DestinationProfile {
        fully_qualified_name: profile.name.as_deref().unwrap_or_default().to_owned(),
        opaque_protocol: profile.opaque,
        routes: profile.routes.iter().map(route_to_wire).collect(),
        retry_budget: profile.retry_budget.as_ref().map(|budget| wire::RetryBudget {
            retry_ratio: budget.retry_ratio,
            min_retries_per_second: budget.min_retries_per_second,
            ttl: scalar::duration_to_wire(budget.ttl),
        }),
        dst_overrides: profile.targets.iter().map(target).collect(),
        endpoint: profile.endpoint.as_deref().map(endpoint_to_wire),
        parent_ref: profile.parent.as_ref().map(meta::to_wire),
        profile_ref: profile.profile.as_ref().map(meta::to_wire),
    }
}

/// Understands a profile, with what was wrong about single routes and the retry budget: these are
/// left out, the others count; without a budget nothing is retried (linkerd2-proxy does the same).
///
/// # Errors
/// If the endpoint or the traffic split cannot be understood.
pub fn from_wire(wire: wire::DestinationProfile) -> Result<(Profile, Vec<Invalid>), Invalid> {
    let mut problems = Vec::new();
    let routes = wire.routes.into_iter().map(route_from_wire);
    let routes = routes.filter_map(|route| route.map_err(|invalid| problems.push(invalid)).ok());
    let routes: Arc<[_]> = routes.collect();
    let targets = wire.dst_overrides.into_iter().map(target_from_wire);
    let retry_budget = wire.retry_budget.map(budget_from_wire).transpose();
    let profile = Profile {
        name: (!wire.fully_qualified_name.is_empty()).then(|| wire.fully_qualified_name.into()),
        opaque: wire.opaque_protocol,
        endpoint: wire.endpoint.map(endpoint_from_wire).transpose()?.map(Arc::new),
        routes,
        retry_budget: retry_budget.unwrap_or_else(|invalid| {
            problems.push(invalid);
            None
        }),
        targets: targets.collect::<Result<_, _>>()?,
        parent: meta::optional_from_wire("DestinationProfile.parent_ref", wire.parent_ref)?,
        profile: meta::optional_from_wire("DestinationProfile.profile_ref", wire.profile_ref)?,
    };
    Ok((profile, problems))
}

/// What linkerd2-proxy v2 takes for a budget: `RetryBudget.ttl` from a second to a minute, a ratio up
/// to a thousand retries for a request.
const BUDGET_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const BUDGET_RATIO: RangeInclusive<f32> = 0.0..=1000.0;

fn budget_from_wire(wire: wire::RetryBudget) -> Result<RetryBudget, Invalid> {
    if !BUDGET_RATIO.contains(&wire.retry_ratio) {
        let ratio = wire.retry_ratio.to_string();
        let why = "must be between 0 and 1000";
        return Err(Invalid::malformed("RetryBudget.retry_ratio", ratio, why));
    }
    let ttl = scalar::required_duration("RetryBudget.ttl", wire.ttl)?;
    if !BUDGET_TTL.contains(&ttl) {
        let why = "must be between one second and one minute";
        return Err(Invalid::malformed("RetryBudget.ttl", format!("{ttl:?}"), why));
    }
    let min_retries_per_second = wire.min_retries_per_second;
    Ok(RetryBudget { retry_ratio: wire.retry_ratio, min_retries_per_second, ttl })
}

fn target_from_wire(wire: wire::WeightedDst) -> Result<WeightedTarget, Invalid> {
    const DEFAULT_PORT: Port = Port::new(80).expect("80 is a port");
    let authority = Authority::parse(&wire.authority, DEFAULT_PORT);
    Ok(WeightedTarget {
        authority: authority.map_err(|error| {
            Invalid::malformed("WeightedDst.authority", &wire.authority, error.reason)
        })?,
        weight: wire.weight,
        backend: meta::optional_from_wire("WeightedDst.backend_ref", wire.backend_ref)?,
    })
}

fn route_to_wire(from: &ProfileRoute) -> wire::Route {
    let class = |class: &ResponseClass| wire::ResponseClass {
        condition: Some(response_match_to_wire(&class.condition)),
        is_failure: class.is_failure,
    };
    wire::Route {
        condition: Some(request_match_to_wire(&from.condition)),
        response_classes: from.response_classes.iter().map(class).collect(),
        metrics_labels: scalar::labels_to_wire(&from.labels),
        is_retryable: from.is_retryable,
        timeout: from.timeout.and_then(scalar::duration_to_wire),
    }
}

fn route_from_wire(wire: wire::Route) -> Result<ProfileRoute, Invalid> {
    let class = |class: wire::ResponseClass| {
        let condition = class.condition.required("ResponseClass.condition")?;
        Ok(ResponseClass {
            condition: response_match_from_wire(condition)?,
            is_failure: class.is_failure,
        })
    };
    let classes = wire.response_classes.into_iter().map(class);
    Ok(ProfileRoute {
        condition: request_match_from_wire(wire.condition.required("Route.condition")?)?,
        response_classes: classes.collect::<Result<_, Invalid>>()?,
        labels: Arc::new(scalar::labels(wire.metrics_labels)),
        is_retryable: wire.is_retryable,
        timeout: scalar::duration("Route.timeout", wire.timeout)?,
    })
}

// Depth is bounded on the way in: protobuf decoding stops at 100 levels of nesting.

fn request_match_to_wire(from: &RequestMatch) -> wire::RequestMatch {
    use wire::request_match::{Match, Seq};
    let seq =
        |all: &[RequestMatch]| Seq { matches: all.iter().map(request_match_to_wire).collect() };
    let kind = match from {
        RequestMatch::All(all) => Match::All(seq(all)),
        RequestMatch::Any(any) => Match::Any(seq(any)),
        RequestMatch::Not(not) => Match::Not(Box::new(request_match_to_wire(not))),
        RequestMatch::Path(path) => {
            Match::Path(wire::PathMatch { regex: path.as_str().to_owned() })
        }
        RequestMatch::Method(method) => Match::Method(method.clone().into()),
    };
    wire::RequestMatch { r#match: Some(kind) }
}

fn request_match_from_wire(wire: wire::RequestMatch) -> Result<RequestMatch, Invalid> {
    use wire::request_match::{Match, Seq};
    let seq =
        |seq: Seq| seq.matches.into_iter().map(request_match_from_wire).collect::<Result<_, _>>();
    Ok(match wire.r#match.required("RequestMatch.match")? {
        Match::All(all) => RequestMatch::All(seq(all)?),
        Match::Any(any) => RequestMatch::Any(seq(any)?),
        Match::Not(not) => RequestMatch::Not(Box::new(request_match_from_wire(*not)?)),
        Match::Path(path) => RequestMatch::Path(scalar::pattern("PathMatch.regex", &path.regex)?),
        Match::Method(method) => {
            RequestMatch::Method(scalar::method("RequestMatch.method", method)?)
        }
    })
}

fn response_match_to_wire(from: &ResponseMatch) -> wire::ResponseMatch {
    use wire::response_match::{Match, Seq};
    let seq =
        |all: &[ResponseMatch]| Seq { matches: all.iter().map(response_match_to_wire).collect() };
    let kind = match from {
        ResponseMatch::All(all) => Match::All(seq(all)),
        ResponseMatch::Any(any) => Match::Any(seq(any)),
        ResponseMatch::Not(not) => Match::Not(Box::new(response_match_to_wire(not))),
        ResponseMatch::Status(range) => Match::Status(wire::HttpStatusRange {
            min: u32::from(*range.start()),
            max: u32::from(*range.end()),
        }),
    };
    wire::ResponseMatch { r#match: Some(kind) }
}

fn response_match_from_wire(wire: wire::ResponseMatch) -> Result<ResponseMatch, Invalid> {
    use wire::response_match::{Match, Seq};
    let seq =
        |seq: Seq| seq.matches.into_iter().map(response_match_from_wire).collect::<Result<_, _>>();
    Ok(match wire.r#match.required("ResponseMatch.match")? {
        Match::All(all) => ResponseMatch::All(seq(all)?),
        Match::Any(any) => ResponseMatch::Any(seq(any)?),
        Match::Not(not) => ResponseMatch::Not(Box::new(response_match_from_wire(*not)?)),
        Match::Status(range) => {
            let min = scalar::ranged_u16("HttpStatusRange.min", range.min)?;
            ResponseMatch::Status(min..=scalar::ranged_u16("HttpStatusRange.max", range.max)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_cannot_be_meant_costs_the_retries_and_nothing_else() {
        let ttl = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let check = |retry_ratio, ttl, is_good: bool| {
            let budget = wire::RetryBudget { retry_ratio, min_retries_per_second: 10, ttl };
            let message = wire::DestinationProfile {
                fully_qualified_name: "web".to_owned(),
                retry_budget: Some(budget),
                ..wire::DestinationProfile::default()
            };
            let (profile, problems) = from_wire(message).unwrap();
            assert_eq!(profile.name.as_deref(), Some("web"), "{budget:?}");
            assert_eq!(profile.retry_budget.is_some(), is_good, "{budget:?}");
            assert_eq!(problems.is_empty(), is_good, "{budget:?}: {problems:?}");
        };
        check(0.2, ttl(10), true);
        check(0.0, ttl(1), true);
        check(1000.0, ttl(60), true);
        check(-0.1, ttl(10), false);
        check(1000.1, ttl(10), false);
        check(f32::NAN, ttl(10), false);
        check(f32::INFINITY, ttl(10), false);
        check(0.2, None, false);
        check(0.2, ttl(0), false);
        check(0.2, ttl(-1), false);
        check(0.2, ttl(61), false);
        check(0.2, ttl(1000), false);
    }
}
