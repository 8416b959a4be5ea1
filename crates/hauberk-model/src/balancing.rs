//! What a balancer does beyond choosing by load: parameters only.
//!
//! Whoever asks for nothing gets [`Balancing::default`], and then a proxy does what linkerd2-proxy
//! does. The state that acts on these parameters lives in the proxy's balancer.

use crate::failure_accrual::FailureAccrual;
use http::HeaderName;
use std::{sync::Arc, time::Duration};

/// What a balancer does beyond choosing by load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balancing {
    /// How long the share of a new endpoint grows before it is a full one.
    pub slow_start: Option<Duration>,
    /// What goes to one and the same endpoint.
    pub affinity: Option<Affinity>,
    /// A breaker for the requests of one route, in place of the breaker of all.
    pub breaker: Option<FailureAccrual>,
}

/// What goes to one and the same endpoint, as long as that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// What requests have in common that belong together.
    pub key: AffinityKey,
    /// Most that one endpoint may have under way; none for no bound.
    pub bound: Option<Bound>,
    /// How long after its last use an endpoint is kept for a key although another would now be
    /// chosen for it; none to go by the set of endpoints alone.
    pub memory: Option<Duration>,
}

/// What requests have in common that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityKey {
    /// The address they come from, without the port. The only one for bytes that are not looked
    /// into.
    Source,
    /// The first value of this header.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(Cookie),
}

/// A cookie by which requests belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: Arc<str>,
    /// How long it lasts where a client without one is given one; none where nobody is given any.
    pub given: Option<Lifetime>,
}

impl Cookie {
    /// A cookie that the application gives, or nobody.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), given: None }
    }
}

/// How long a cookie lasts that a client is given (Gateway API GEP-1619: `lifetimeType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the client keeps what it is told for a session.
    Session,
    /// For that long, in whole seconds and at least one.
    For(Duration),
}

/// A multiple of the mean, in hundredths: 125 is a quarter more than the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound(u32);

impl Bound {
    /// A quarter more than the mean: the value of the paper that describes bounded loads (Mirrokni,
    /// Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads", 2016) is "1 + ε", and a
    /// quarter is what its first users took.
    pub const DEFAULT: Self = Self(125);
    /// More than that bounds nothing.
    pub const MAX_PERCENT: u32 = 100_000;

    /// A bound of so many hundredths; none below the mean, which somebody has to exceed, or above
    /// [`Bound::MAX_PERCENT`].
    pub fn from_percent(percent: u32) -> Option<Self> {
        (100..=Self::MAX_PERCENT).contains(&percent).then_some(Self(percent))
    }

    /// In hundredths.
    pub fn percent(self) -> u32 {
        self.0
    }

    /// Most that one of `endpoints` may have under way, with one more, when all together have
    /// `under_way`; at least one.
    pub fn most(self, under_way: u64, endpoints: usize) -> u64 {
        let endpoints = u64::try_from(endpoints).unwrap_or(u64::MAX).max(1);
        let scaled = under_way.saturating_add(1).saturating_mul(self.0.into());
        scaled.div_ceil(endpoints.saturating_mul(100)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_multiple_of_the_mean_rounded_up() {
        let quarter = Bound::DEFAULT;
        assert_eq!(quarter.most(0, 4), 1);
        assert_eq!(quarter.most(7, 4), 3, "8 over 4 is 2, and a quarter more");
        assert_eq!(quarter.most(99, 10), 13);
        assert_eq!(quarter.most(5, 0), 8, "no endpoint counts as one");
        assert_eq!(Bound::from_percent(99), None);
        assert_eq!(Bound::from_percent(100).map(|mean| mean.most(11, 4)), Some(3));
    }
}
