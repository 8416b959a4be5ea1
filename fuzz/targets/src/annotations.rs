//! Values of annotations: port lists, durations, and all that configures a sidecar.

use hauberk_inject::check_value;
use hauberk_model::{PortSet, settings::value};
use hauberk_resources::{
    PortList, annotations::PROXY_CONFIG, parse_annotation, parse_gateway, parse_go,
};

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let list = PortList::parse_numbers(&text);
    assert!(list.bad.len() <= text.split(',').count());
    let shown = list.ports.to_string();
    assert_eq!(PortSet::parse(&shown).as_ref(), Ok(&list.ports), "{shown}");
    let named = PortList::parse(&text, |_name| [80, 0]);
    assert!(named.bad.is_empty(), "every entry is a name");

    // The same grammar in two places: annotations and settings of the proxy.
    assert_eq!(parse_annotation(&text).ok(), value::duration(&text).ok(), "{text:?}");
    if let Ok(duration) = parse_gateway(&text) {
        // GEP-2257 is a part of what Go reads.
        assert_eq!(parse_go(&text), Ok(duration), "{text:?}");
    }
    let _ = parse_go(&text);
    for annotation in PROXY_CONFIG {
        if let Err(expected) = check_value(annotation.value, &text) {
            assert!(expected.starts_with("expected "), "{}: {expected}", annotation.key);
        }
    }
}
