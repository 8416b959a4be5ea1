//! Names, ports, networks, identities and patterns of the vocabulary.

use hauberk_model::route::HostMatch;
use hauberk_model::settings::value;
use hauberk_model::workload_id::IdentityMatch;
use hauberk_model::{Authority, Pattern, Port, PortRange, PortSet, WorkloadId};

pub(crate) fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    authority(text);
    ports(text);
    identities(text);
    pattern(text);
    if let Ok(networks) = value::networks(text) {
        let shown: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(value::networks(&shown.join(",")), Ok(networks));
    }
    let host = HostMatch::parse(text);
    assert_eq!(HostMatch::parse(&text.to_ascii_uppercase()), host, "case does not matter");
}

fn authority(text: &str) {
    let port = Port::new(80).expect("80 is a port");
    let Ok(authority) = Authority::parse(text, port) else { return };
    assert!(!authority.host().is_empty() && authority.host().len() <= text.len());
    let shown = authority.to_string();
    assert_eq!(Authority::parse(&shown, port).as_ref(), Ok(&authority), "{text:?} {shown:?}");
}

fn ports(text: &str) {
    if let Ok(port) = text.parse::<Port>() {
        assert_eq!(port.to_string().parse(), Ok(port));
    }
    if let Ok(range) = text.parse::<PortRange>() {
        assert_eq!(range.to_string().parse(), Ok(range));
        assert!(range.contains(range.first()) && range.contains(range.last()));
    }
    let Ok(set) = PortSet::parse(text) else { return };
    assert_eq!(PortSet::parse(&set.to_string()).as_ref(), Ok(&set));
    let ranges: Vec<_> = set.ranges().collect();
    let apart =
        |pair: &[PortRange]| u32::from(pair[0].last().get()) + 1 < u32::from(pair[1].first().get());
    assert!(ranges.windows(2).all(apart), "{set}");
    assert!(ranges.iter().all(|range| set.contains(range.first()) && set.contains(range.last())));
}

fn identities(text: &str) {
    if let Ok(id) = text.parse::<WorkloadId>() {
        assert_eq!(id.as_str().parse().as_ref(), Ok(&id), "{text:?}");
        assert!(IdentityMatch::Exact(id.clone()).matches(&id));
        assert!(IdentityMatch::Suffix(Vec::new()).matches(&id));
    }
    if let Ok(matching) = IdentityMatch::parse(text) {
        assert_eq!(IdentityMatch::parse(&matching.to_string()).as_ref(), Ok(&matching));
        if let Some(suffix) = text.strip_prefix("*.") {
            let matches = |name: &str| name.parse().is_ok_and(|id| matching.matches(&id));
            assert!(!matches(suffix), "{text:?} needs a label before it");
            assert!(format!("a.{suffix}").len() > 253 || matches(&format!("a.{suffix}")));
        }
    }
}

fn pattern(text: &str) {
    let Ok(pattern) = Pattern::new(text) else { return };
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        assert!(pattern.matches(text), "a word means itself");
        let more = [format!("{text}x"), format!("x{text}"), format!("{text}\n")];
        assert!(!more.iter().any(|more| pattern.matches(more)), "{text:?} matches as a whole");
    }
    let _ = pattern.matches("/a/b?c=d");
    assert_eq!(Pattern::new(pattern.as_str()).as_ref(), Ok(&pattern));
}
