//! Messages of the control plane and the proxy. The first byte chooses the kind of message.

use std::fmt::Debug;

use hauberk_wire::api;
use hauberk_wire::{Invalid, destination, identity, inbound, outbound, profile, tap};
use prost::Message;

pub(crate) fn check(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    match kind % 8 {
        0 => reads_back(message, good(destination::from_wire), destination::to_wire),
        1 => reads_back(message, good(profile::from_wire), profile::to_wire),
        2 => reads_back(message, identity::request_from_wire, identity::request_to_wire),
        3 => reads_back(message, identity::from_wire, identity::to_wire),
        4 => reads_back(message, tap::from_wire, tap::to_wire),
        5 => settles(message, inbound::from_wire, inbound::to_wire),
        6 => settles(message, outbound::from_wire, outbound::to_wire),
        _ => traffic_spec(message),
    }
}

/// Leaves out what was wrong about parts of a message.
fn good<M, T>(
    from_wire: impl Fn(M) -> Result<(T, Vec<Invalid>), Invalid>,
) -> impl Fn(M) -> Result<T, Invalid> {
    move |message| from_wire(message).map(|(value, _)| value)
}

/// What is understood is said so that it is understood the same way.
fn reads_back<M: Message + Default, T: PartialEq + Debug>(
    bytes: &[u8],
    from_wire: impl Fn(M) -> Result<T, Invalid>,
    to_wire: impl Fn(&T) -> M,
) {
    let Ok(message) = M::decode(bytes) else { return };
    let value = match from_wire(message) {
        Ok(value) => value,
        Err(invalid) => return assert!(!invalid.to_string().is_empty()),
    };
    assert_eq!(through_bytes(&to_wire(&value), &from_wire), value);
}

/// As [`reads_back`], for messages that say less than the value holds: from the second time on.
fn settles<M: Message + Default, T: PartialEq + Debug>(
    bytes: &[u8],
    from_wire: impl Fn(M) -> Result<T, Invalid>,
    to_wire: impl Fn(&T) -> M,
) {
    let Ok(message) = M::decode(bytes) else { return };
    let Ok(value) = from_wire(message) else { return };
    let once = through_bytes(&to_wire(&value), &from_wire);
    assert_eq!(through_bytes(&to_wire(&once), &from_wire), once);
}

fn through_bytes<M: Message + Default, T>(
    message: &M,
    from_wire: impl Fn(M) -> Result<T, Invalid>,
) -> T {
    let bytes = message.encode_to_vec();
    let message = M::decode(bytes.as_slice()).expect("what was encoded decodes");
    from_wire(message).expect("what was said is understood")
}

fn traffic_spec(bytes: &[u8]) {
    let Ok(spec) = api::outbound::TrafficSpec::decode(bytes) else { return };
    let Ok(target) = outbound::target(&spec) else { return };
    let again = outbound::request(&spec.source_workload, &target);
    assert_eq!(outbound::target(&again), Ok(target));
}
