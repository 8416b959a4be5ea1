//! Which endpoint a key belongs to: what is asked for with the same key goes to the same endpoint.
//!
//! Called by the balancer where a backend has affinity; nobody else pays for it. Pure.
//!
//! - **Rendezvous hashing** (Thaler and Ravishankar, 1998): each endpoint has a score for the key,
//!   and the highest score wins. A new endpoint takes its share of keys from all others and no key
//!   moves between those; the keys of one that goes, or is unavailable, spread over the rest and
//!   come back with it. Scores depend on the key and the endpoint's address only, so all workers
//!   and all proxies agree.
//! - **Bounded loads** (Mirrokni, Thorup and Zadimoghaddam, 2016): an endpoint that has as much
//!   under way as its bound allows is passed over for the next score. The bound is a multiple of
//!   the mean over the available endpoints, so that there is always one below it. What is under way
//!   is what this worker has under way.
//! - [`Memory`] keeps an endpoint for its key for a while although another now scores higher
//!   (`sessionAffinity` of Kubernetes).
//!
//! - A client without a cookie is given one ([`GivenCookie`]) where that is asked for. What is in
//!   it is a number drawn at random that decides for this request already, so the next one goes to
//!   the same endpoint, through whichever proxy it comes; nobody has to remember it.
//!
//! Scores do not withstand somebody who chooses keys to hit one endpoint; the bound does.
//!
//! Cost, estimated: two passes over the endpoints, with two multiplications each (some 2 ns an
//! endpoint); the first only where there is a bound.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hauberk_model::balancing::{Affinity, AffinityKey, Bound, Cookie, Lifetime};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// What requests have in common that belong together, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of a request, if it has one.
    pub fn of_request(affinity: &Affinity, headers: &HeaderMap, client: IpAddr) -> Option<Self> {
        match &affinity.key {
            AffinityKey::Source => Some(Self::of_source(client)),
            AffinityKey::Header(name) => headers.get(name).map(|v| Self::of_bytes(v.as_bytes())),
            AffinityKey::Cookie(of) => cookie(headers, &of.name).map(Self::of_bytes),
        }
    }

    /// The key of a connection, if connections have one.
    pub fn of_connection(affinity: &Affinity, client: IpAddr) -> Option<Self> {
        match &affinity.key {
            AffinityKey::Source => Some(Self::of_source(client)),
            AffinityKey::Header(_) | AffinityKey::Cookie(_) => None,
        }
    }

    fn of_source(client: IpAddr) -> Self {
        match client {
            IpAddr::V4(ip) => Self::of_bytes(&ip.octets()),
            IpAddr::V6(ip) => Self::of_bytes(&ip.octets()),
        }
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        Self(hash(bytes))
    }
}

/// The value of a cookie. HTTP/2 may spread cookies over several headers (RFC 9113 section 8.2.3).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers
        .get_all(COOKIE)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let value =
        |pair: &'h [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    pairs.filter_map(value).next()
}

/// A cookie for a client that has none.
#[derive(Debug)]
pub struct GivenCookie {
    key: Key,
    name: String,
    /// The whole field (RFC 6265 section 4.1).
    field: HeaderValue,
}

impl GivenCookie {
    /// A cookie of that number; none where clients are given none.
    ///
    /// Scripts have no use for it, and it is for all of the site. It goes with requests that come
    /// from other sites only when somebody follows a link, as browsers have it where nothing is
    /// said. Whether the client came by TLS is not known here, so it is not bound to that.
    pub fn new(cookie: &Cookie, number: u64) -> Option<Self> {
        let lifetime = match cookie.given? {
            Lifetime::Session => String::new(),
            Lifetime::For(time) => format!("; Max-Age={}", time.as_secs().max(1)),
        };
        let (name, value) = (&cookie.name, format!("{number:016x}"));
        let field = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{lifetime}");
        let field = HeaderValue::from_str(&field).ok()?;
        Some(Self { key: Key::of_bytes(value.as_bytes()), name: name.to_string(), field })
    }

    /// The key of requests with this cookie.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Adds it to a response, unless the application gives one of that name itself.
    pub fn give(self, response: &mut HeaderMap) {
        let mut given = response.get_all(SET_COOKIE).into_iter().map(HeaderValue::as_bytes);
        let is_named = |field: &[u8]| {
            let rest = field.trim_ascii_start().strip_prefix(self.name.as_bytes());
            rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
        };
        if !given.any(is_named) {
            response.append(SET_COOKIE, self.field);
        }
    }
}

/// Where an endpoint stands among the scores of all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// The place of an address.
    pub fn new(address: SocketAddr) -> Self {
        let mut bytes = [0; 18];
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&address.port().to_be_bytes());
        Self(hash(&bytes))
    }

    fn score(self, key: Key) -> u64 {
        mix(self.0 ^ key.0)
    }

    /// Whether an endpoint that gets `share` (0 to 1) of its full share has this key by now. A key
    /// that it has it keeps as the share grows.
    fn has_by_now(self, key: Key, share: f64) -> bool {
        share >= 1.0 || (mix(self.score(key)) as f64) < share * u64::MAX as f64
    }
}

/// FNV-1a (Fowler, Noll, Vo), mixed once more, since its upper bits alone are poor.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): each bit of the result depends on all.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// An endpoint that is available, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Where it stands among scores.
    pub place: Place,
    /// What this worker has under way there.
    pub under_way: u32,
    /// The part of its full share that it gets, 0 to 1; less than 1 while it is new.
    pub share: f64,
}

/// The endpoint for `key`, of `count` of which `candidate` gives those that are available.
///
/// None if none is available. `kept` is the one that the key had before; it is taken while it is
/// available and within its bound.
pub fn pick(
    key: Key,
    bound: Option<Bound>,
    kept: Option<usize>,
    count: usize,
    candidate: impl Fn(usize) -> Option<Candidate>,
) -> Option<usize> {
    let most = match bound {
        None => u64::MAX,
        Some(bound) => {
            let available = (0..count).filter_map(&candidate);
            let (under_way, endpoints) =
                available.fold((0, 0), |(sum, n), one| (sum + u64::from(one.under_way), n + 1));
            bound.most(under_way, endpoints)
        }
    };
    let within = |index: &usize| {
        candidate(*index).is_some_and(|candidate| u64::from(candidate.under_way) < most)
    };
    if let Some(kept) = kept.filter(within) {
        return Some(kept);
    }
    let mut best: Option<(bool, u64, usize)> = None;
    for index in (0..count).filter(within) {
        let Some(Candidate { place, share, .. }) = candidate(index) else { continue };
        // One that does not have the key yet is better than none.
        let rank = (place.has_by_now(key, share), place.score(key), index);
        best = best.max(Some(rank));
    }
    best.map(|(_, _, index)| index)
}

/// Keys that are remembered. More are served, but go by scores alone.
const KEYS_MAX: usize = 10_000;

/// Shortest time between two looks for what may be forgotten, as a look costs the whole table.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Which endpoint each key had last, and when.
#[derive(Debug, Default)]
pub struct Memory {
    known: HashMap<Key, (SocketAddr, Instant)>,
    swept: Option<Instant>,
}

impl Memory {
    /// The endpoint that `key` has, if it was used within the last `kept_for`.
    pub fn recall(&self, key: Key, kept_for: Duration, now: Instant) -> Option<SocketAddr> {
        let (address, used) = self.known.get(&key)?;
        (now.saturating_duration_since(*used) < kept_for).then_some(*address)
    }

    /// `key` went to `address` now.
    pub fn keep(&mut self, key: Key, address: SocketAddr, kept_for: Duration, now: Instant) {
        if self.known.len() >= KEYS_MAX && !self.known.contains_key(&key) {
            let is_due = |last| now.saturating_duration_since(last) >= SWEEP_PAUSE;
            if self.swept.is_none_or(is_due) {
                self.swept = Some(now);
                let is_fresh = |used| now.saturating_duration_since(used) < kept_for;
                self.known.retain(|_, (_, used)| is_fresh(*used));
            }
            if self.known.len() >= KEYS_MAX {
                return;
            }
        }
        self.known.insert(key, (address, now));
    }

    /// Keys remembered now.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests;
