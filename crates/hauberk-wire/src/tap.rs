//! What somebody wants to watch, and what is reported, each way.

mod event;

pub use event::{event_from_wire, event_to_wire};

use hauberk_model::tap::{Tap, TapMatch, TextMatch};
use ipnet::IpNet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::api::http_types::{Scheme, scheme};
use crate::api::tap::observe_request as wire;
use crate::api::tap::observe_request::r#match as condition;
use crate::api::tap::{ObserveRequest, observe_request::extract};
use crate::invalid::{Invalid, Required};
use crate::scalar;

/// Says a tap.
pub fn to_wire(tap: &Tap) -> ObserveRequest {
    let headers =
        tap.with_headers.then_some(extract::http::Extract::Headers(extract::http::Headers {}));
    ObserveRequest {
        limit: tap.limit,
        r#match: Some(match_to_wire(&tap.condition)),
        extract: Some(wire::Extract {
            extract: Some(extract::Extract::Http(extract::Http { extract: headers })),
        }),
    }
}

/// Understands a tap. Without a condition every request is meant.
///
/// # Errors
/// If the limit is zero, or a condition is of a kind this version does not know: the requests
/// reported instead would not be the ones asked for.
pub fn from_wire(wire: ObserveRequest) -> Result<Tap, Invalid> {
    if wire.limit == 0 {
        return Err(Invalid::out_of_range("ObserveRequest.limit", 0));
    }
    let extract = wire.extract.and_then(|extract| extract.extract);
    let with_headers = extract.is_some_and(|extract::Extract::Http(http)| http.extract.is_some());
    let every = || Ok(TapMatch::All(Vec::new()));
    let condition = wire.r#match.map_or_else(every, match_from_wire)?;
    Ok(Tap { limit: wire.limit, condition, with_headers })
}

fn match_to_wire(from: &TapMatch) -> wire::Match {
    use condition::{Label, Match, Seq, http};
    let seq = |all: &[TapMatch]| Seq { matches: all.iter().map(match_to_wire).collect() };
    let label =
        |key: &Arc<str>, value: &Arc<str>| Label { key: key.to_string(), value: value.to_string() };
    let http = |of: http::Match| Match::Http(condition::Http { r#match: Some(of) });
    let of = match from {
        TapMatch::All(all) => Match::All(seq(all)),
        TapMatch::Any(any) => Match::Any(seq(any)),
        TapMatch::Not(not) => Match::Not(Box::new(match_to_wire(not))),
        TapMatch::SourceNet(net) => Match::Source(net_to_wire(net)),
        TapMatch::SourcePorts(ports) => Match::Source(ports_to_wire(ports)),
        TapMatch::DestinationNet(net) => Match::Destination(net_to_wire(net)),
        TapMatch::DestinationPorts(ports) => Match::Destination(ports_to_wire(ports)),
        TapMatch::DestinationLabel(key, value) => Match::DestinationLabel(label(key, value)),
        TapMatch::RouteLabel(key, value) => Match::RouteLabel(label(key, value)),
        TapMatch::Scheme(scheme) => http(http::Match::Scheme(Scheme::from(&**scheme))),
        TapMatch::Method(method) => http(http::Match::Method(method.clone().into())),
        TapMatch::Authority(text) => http(http::Match::Authority(text_to_wire(text))),
        TapMatch::Path(text) => http(http::Match::Path(text_to_wire(text))),
    };
    wire::Match { r#match: Some(of) }
}

// Depth is bounded on the way in: protobuf decoding stops at 100 levels of nesting.
fn match_from_wire(wire: wire::Match) -> Result<TapMatch, Invalid> {
    use condition::{Match, Seq, http};
    let seq = |seq: Seq| seq.matches.into_iter().map(match_from_wire).collect::<Result<_, _>>();
    Ok(match wire.r#match.required("Match.match")? {
        Match::All(all) => TapMatch::All(seq(all)?),
        Match::Any(any) => TapMatch::Any(seq(any)?),
        Match::Not(not) => TapMatch::Not(Box::new(match_from_wire(*not)?)),
        Match::Source(tcp) => tcp_from_wire(tcp, TapMatch::SourceNet, TapMatch::SourcePorts)?,
        Match::Destination(tcp) => {
            tcp_from_wire(tcp, TapMatch::DestinationNet, TapMatch::DestinationPorts)?
        }
        Match::DestinationLabel(label) => {
            TapMatch::DestinationLabel(label.key.into(), label.value.into())
        }
        Match::RouteLabel(label) => TapMatch::RouteLabel(label.key.into(), label.value.into()),
        Match::Http(http) => match http.r#match.required("Http.match")? {
            http::Match::Scheme(scheme) => TapMatch::Scheme(scheme_from_wire(scheme)?),
            http::Match::Method(method) => TapMatch::Method(scalar::method("Http.method", method)?),
            http::Match::Authority(text) => TapMatch::Authority(text_from_wire(text)?),
            http::Match::Path(text) => TapMatch::Path(text_from_wire(text)?),
        },
    })
}

fn scheme_from_wire(wire: Scheme) -> Result<Arc<str>, Invalid> {
    let name: &scheme::Type = &wire.r#type.required("Http.scheme")?;
    let name: Result<std::borrow::Cow<'static, str>, _> = name.try_into();
    Ok(name.map_err(|error| Invalid::malformed("Http.scheme", "", error))?.into())
}

fn net_to_wire(net: &IpNet) -> condition::Tcp {
    let netmask =
        condition::tcp::Netmask { ip: Some(net.addr().into()), mask: net.prefix_len().into() };
    condition::Tcp { r#match: Some(condition::tcp::Match::Netmask(netmask)) }
}

fn ports_to_wire(ports: &RangeInclusive<u16>) -> condition::Tcp {
    let (min, max) = (u32::from(*ports.start()), u32::from(*ports.end()));
    let range = condition::tcp::PortRange { min, max };
    condition::Tcp { r#match: Some(condition::tcp::Match::Ports(range)) }
}

fn tcp_from_wire(
    wire: condition::Tcp,
    net: impl Fn(IpNet) -> TapMatch,
    ports: impl Fn(RangeInclusive<u16>) -> TapMatch,
) -> Result<TapMatch, Invalid> {
    match wire.r#match.required("Tcp.match")? {
        condition::tcp::Match::Netmask(netmask) => {
            let ip = scalar::ip("Netmask.ip", netmask.ip)?;
            let prefix = u8::try_from(netmask.mask).ok().and_then(|mask| IpNet::new(ip, mask).ok());
            Ok(net(prefix.ok_or_else(|| Invalid::out_of_range("Netmask.mask", netmask.mask))?))
        }
        // Zero stands for an open end (linkerd2's tap).
        condition::tcp::Match::Ports(range) => {
            let min = scalar::ranged_u16("PortRange.min", range.min)?;
            let max = scalar::ranged_u16("PortRange.max", range.max)?;
            Ok(ports(min..=if max == 0 { u16::MAX } else { max }))
        }
    }
}

fn text_to_wire(from: &TextMatch) -> condition::http::StringMatch {
    use condition::http::string_match::Match;
    let of = match from {
        TextMatch::Exact(text) => Match::Exact(text.to_string()),
        TextMatch::Prefix(text) => Match::Prefix(text.to_string()),
    };
    condition::http::StringMatch { r#match: Some(of) }
}

fn text_from_wire(wire: condition::http::StringMatch) -> Result<TextMatch, Invalid> {
    use condition::http::string_match::Match;
    Ok(match wire.r#match.required("StringMatch.match")? {
        Match::Exact(text) => TextMatch::Exact(text.into()),
        Match::Prefix(text) => TextMatch::Prefix(text.into()),
    })
}
