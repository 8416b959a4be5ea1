//! What a balancer does beyond choosing by load, each way.
//!
//! `linkerd2-proxy-api` v0.20 has no words for slow start, affinity, and breakers of single routes.
//! They travel at the end of the *section* of a backend's metadata (of its name, where a rule
//! stands in for the resource), because that text goes with each backend of each protocol, and
//! linkerd2-proxy only shows it (as the label `backend_section_name`) and keeps apart what differs
//! in it. A proxy that knows no more balances as ever (docs/decisions/0020).
//!
//! ```text
//! balancing: slow-start=30s affinity=cookie:session bound=125 memory=3600s breaker=consecutive,7,1s,60s,0.5,0
//! ```
//!
//! A cookie that clients are given has its lifetime behind its name: `cookie:session;3600s`, or
//! `cookie:id;session` where it lasts for a session. Names of cookies have no semicolon.
//!
//! Words come in this order, each at most once and at least one. What is not exactly so is an
//! ordinary section.

use std::sync::Arc;
use std::time::Duration;

use hauberk_model::backoff::Backoff;
use hauberk_model::balancing::{Affinity, AffinityKey, Balancing, Bound, Cookie, Lifetime};
use hauberk_model::failure_accrual::{FailureAccrual, FailureAccrualKind};
use hauberk_model::{Meta, meta::ResourceMeta};

/// Begins the words. No section of a resource looks like this: those are DNS labels.
const MARK: &str = "balancing:";

/// Adds `balancing` to the metadata of a backend.
pub(super) fn add(meta: &Meta, balancing: &Balancing) -> Meta {
    let words = words(balancing);
    if words.is_empty() {
        return meta.clone();
    }
    let with = |text: &str| -> Arc<str> {
        let gap = if text.is_empty() { "" } else { " " };
        format!("{text}{gap}{MARK}{words}").into()
    };
    match meta {
        Meta::Default(name) => Meta::Default(with(name)),
        Meta::Resource(resource) => {
            let section = with(&resource.section);
            Meta::Resource(Arc::new(ResourceMeta { section, ..(**resource).clone() }))
        }
    }
}

/// Takes out again what [`add`] has added.
pub(super) fn take(meta: Meta) -> (Meta, Balancing) {
    let text = match &meta {
        Meta::Default(name) => name,
        Meta::Resource(resource) => &resource.section,
    };
    let Some((before, balancing)) = split(text) else { return (meta, Balancing::default()) };
    let before: Arc<str> = before.into();
    let meta = match meta {
        Meta::Default(_) => Meta::Default(before),
        Meta::Resource(resource) => {
            Meta::Resource(Arc::new(ResourceMeta { section: before, ..(*resource).clone() }))
        }
    };
    (meta, balancing)
}

fn split(text: &str) -> Option<(&str, Balancing)> {
    let at = text.rfind(MARK)?;
    let before = match &text[..at] {
        "" => "",
        before => before.strip_suffix(' ')?,
    };
    Some((before, parse(&text[at + MARK.len()..])?))
}

fn words(from: &Balancing) -> String {
    let mut words = String::new();
    let mut word = |key: &str, value: &str| {
        words += &format!(" {key}={value}");
    };
    if let Some(window) = from.slow_start {
        word("slow-start", &duration(window));
    }
    if let Some(affinity) = &from.affinity {
        match &affinity.key {
            AffinityKey::Source => word("affinity", "source"),
            AffinityKey::Header(name) => word("affinity", &format!("header:{name}")),
            AffinityKey::Cookie(cookie) => word("affinity", &cookie_text(cookie)),
        }
        if let Some(bound) = affinity.bound {
            word("bound", &bound.percent().to_string());
        }
        if let Some(memory) = affinity.memory {
            word("memory", &duration(memory));
        }
    }
    if let Some(breaker) = &from.breaker {
        word("breaker", &breaker_text(breaker));
    }
    words
}

fn parse(text: &str) -> Option<Balancing> {
    let mut words = text.strip_prefix(' ')?.split(' ').peekable();
    let mut word = |key: &str| {
        let value = |word: &&'_ str| word.strip_prefix(key).is_some_and(|v| v.starts_with('='));
        words.next_if(value).map(|word| &word[key.len() + 1..])
    };
    let slow_start = parsed(word("slow-start"), parse_duration)?;
    let key = parsed(word("affinity"), parse_key)?;
    let bound = parsed(word("bound"), |text| Bound::from_percent(text.parse().ok()?))?;
    let memory = parsed(word("memory"), parse_duration)?;
    let breaker = parsed(word("breaker"), parse_breaker)?;
    let affinity = match key {
        Some(key) => Some(Affinity { key, bound, memory }),
        None if bound.is_some() || memory.is_some() => return None,
        None => None,
    };
    words.next().is_none().then_some(Balancing { slow_start, affinity, breaker })
}

/// Absent is fine, and none; malformed is not.
fn parsed<T>(text: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        None => Some(None),
        Some(text) => parse(text).map(Some),
    }
}

fn parse_key(text: &str) -> Option<AffinityKey> {
    if text == "source" {
        return Some(AffinityKey::Source);
    }
    if let Some(name) = text.strip_prefix("header:") {
        return name.parse().ok().map(AffinityKey::Header);
    }
    let text = text.strip_prefix("cookie:")?;
    let (name, given) = match text.split_once(';') {
        None => (text, None),
        Some((name, "session")) => (name, Some(Lifetime::Session)),
        Some((name, time)) => (name, Some(Lifetime::For(parse_duration(time)?))),
    };
    (!name.is_empty()).then(|| AffinityKey::Cookie(Cookie { name: name.into(), given }))
}

fn cookie_text(cookie: &Cookie) -> String {
    let name = &cookie.name;
    match cookie.given {
        None => format!("cookie:{name}"),
        Some(Lifetime::Session) => format!("cookie:{name};session"),
        Some(Lifetime::For(time)) => format!("cookie:{name};{}", duration(time)),
    }
}

fn breaker_text(from: &FailureAccrual) -> String {
    let backoff = |backoff: &Backoff| {
        let (min, max) = (duration(backoff.min()), duration(backoff.max()));
        format!("{min},{max},{}", backoff.jitter_ratio())
    };
    let ready = from.min_ready_endpoints;
    match &from.kind {
        FailureAccrualKind::Consecutive { max_failures, backoff: wait } => {
            format!("consecutive,{max_failures},{},{ready}", backoff(wait))
        }
        FailureAccrualKind::Unified {
            max_consecutive,
            success_rate_threshold,
            window,
            min_requests,
            backoff: wait,
            honor_retry_after,
        } => format!(
            "unified,{max_consecutive},{},{ready},{success_rate_threshold},{},{min_requests},\
             {honor_retry_after}",
            backoff(wait),
            duration(*window)
        ),
    }
}

fn parse_breaker(text: &str) -> Option<FailureAccrual> {
    let parts: Vec<&str> = text.split(',').collect();
    let [kind, failures, min, max, jitter, ready, rest @ ..] = &parts[..] else { return None };
    let failures = failures.parse().ok()?;
    let (min, max) = (parse_duration(min)?, parse_duration(max)?);
    let backoff = Backoff::new(min, max, jitter.parse().ok()?).ok()?;
    let kind = match (*kind, rest) {
        ("consecutive", []) => FailureAccrualKind::Consecutive { max_failures: failures, backoff },
        ("unified", [threshold, window, min_requests, honor_retry_after]) => {
            FailureAccrualKind::Unified {
                max_consecutive: failures,
                success_rate_threshold: {
                    threshold.parse().ok().filter(|share| (0.0..=1.0).contains(share))?
                },
                window: parse_duration(window)?,
                min_requests: min_requests.parse().ok()?,
                backoff,
                honor_retry_after: honor_retry_after.parse().ok()?,
            }
        }
        _ => return None,
    };
    Some(FailureAccrual { kind, min_ready_endpoints: ready.parse().ok()? })
}

/// Exact, in the largest of seconds, milliseconds and nanoseconds that is.
fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match (nanos % 1_000_000_000, nanos % 1_000_000) {
        (0, _) => format!("{}s", duration.as_secs()),
        (_, 0) => format!("{}ms", duration.as_millis()),
        _ => format!("{nanos}ns"),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, nanos) = match (text.strip_suffix("ms"), text.strip_suffix("ns")) {
        (Some(number), _) => (number, 1_000_000),
        (None, Some(number)) => (number, 1),
        (None, None) => (text.strip_suffix('s')?, 1_000_000_000),
    };
    let nanos = number.parse::<u128>().ok()?.checked_mul(nanos)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).expect("below a thousand million");
    Some(Duration::new(seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, before: &str, words: Option<&str>) {
        let meta = Meta::default(text);
        let (rest, balancing) = take(meta.clone());
        match words {
            None => assert_eq!((rest, balancing), (meta, Balancing::default()), "{text}"),
            Some(words) => {
                assert_eq!(rest, Meta::default(before), "{text}");
                assert_eq!(super::words(&balancing), words, "{text}");
                assert_eq!(add(&rest, &balancing), meta, "{text}");
            }
        }
    }

    /// The words are a protocol: they change only with a new form that is read beside this one.
    #[test]
    fn the_words_are_fixed() {
        for words in [
            " slow-start=30s",
            " affinity=source",
            " affinity=source memory=10800s",
            " affinity=header:x-user bound=125",
            " affinity=cookie:session bound=200 memory=1500ms",
            " affinity=cookie:sid;session bound=125",
            " affinity=cookie:sid;3600s",
            " breaker=consecutive,7,1s,60s,0.5,0",
            " breaker=unified,7,1s,60s,0.5,2,0.8,10s,5,true",
            " slow-start=5ms affinity=source breaker=consecutive,3,1ns,1ns,0,1",
        ] {
            check(&format!("balancing:{words}"), "", Some(words));
            check(&format!("rule-1 balancing:{words}"), "rule-1", Some(words));
        }
    }

    #[test]
    fn what_is_not_exactly_so_is_an_ordinary_section() {
        for text in [
            "",
            "http",
            "balancing:",
            "balancing: ",
            "balancing: affinity=source slow-start=30s",
            "balancing: slow-start=30",
            "balancing: slow-start=30s slow-start=30s",
            "balancing: slow-start=30s more=1",
            "balancing: bound=125",
            "balancing: affinity=source bound=99",
            "balancing: affinity=cookie:",
            "balancing: affinity=cookie:;session",
            "balancing: affinity=cookie:sid;",
            "balancing: affinity=cookie:sid;soon",
            "balancing: affinity=header:not a name",
            "balancing: breaker=consecutive,7,60s,1s,0.5,0",
            "balancing: breaker=unified,7,1s,60s,0.5,0,1.5,10s,5,true",
            "http-balancing: slow-start=30s",
        ] {
            check(text, "", None);
        }
    }
}
