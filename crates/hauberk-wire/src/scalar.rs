//! Numbers, addresses, durations and texts, each way.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hauberk_model::endpoints::Labels;
use hauberk_model::{Network, Pattern, Port};
use http::{Method, StatusCode};
use ipnet::IpNet;

use crate::api::http_types::HttpMethod;
use crate::api::net;
use crate::invalid::{Invalid, Required};

pub(crate) fn port(field: &'static str, number: u32) -> Result<Port, Invalid> {
    Port::try_from(number).map_err(|_| Invalid::out_of_range(field, number))
}

/// Zero stands for "no port".
pub(crate) fn optional_port(field: &'static str, number: u32) -> Result<Option<Port>, Invalid> {
    if number == 0 { Ok(None) } else { port(field, number).map(Some) }
}

pub(crate) fn port_to_wire(port: Option<Port>) -> u32 {
    port.map_or(0, |port| port.get().into())
}

pub(crate) fn ip(field: &'static str, ip: Option<net::IpAddress>) -> Result<IpAddr, Invalid> {
    IpAddr::try_from(ip.required(field)?).map_err(|_| Invalid::missing(field))
}

pub(crate) fn address(
    field: &'static str,
    address: Option<net::TcpAddress>,
) -> Result<SocketAddr, Invalid> {
    let address = address.required(field)?;
    // Not the API's own conversion: it cuts a port above 65535 down to 16 bits.
    let port = port(field, address.port)?;
    Ok(SocketAddr::new(ip(field, address.ip)?, port.get()))
}

fn net(field: &'static str, network: Option<net::IpNetwork>) -> Result<IpNet, Invalid> {
    let network = network.required(field)?;
    let prefix = network.prefix_len;
    IpNet::try_from(network).map_err(|_| Invalid::out_of_range(field, prefix))
}

pub(crate) fn network(
    field: &'static str,
    of: Option<net::IpNetwork>,
    except: Vec<net::IpNetwork>,
) -> Result<Network, Invalid> {
    let except = except.into_iter().map(|except| net(field, Some(except)));
    Ok(Network { net: net(field, of)?, except: except.collect::<Result<_, _>>()? })
}

/// Longer than the wire can say becomes the longest it can.
pub(crate) fn duration_to_wire(duration: Duration) -> Option<prost_types::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).expect("below a thousand million");
    Some(prost_types::Duration { seconds, nanos })
}

pub(crate) fn duration(
    field: &'static str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Invalid> {
    let read = |duration: prost_types::Duration| {
        let seconds = duration.seconds;
        Duration::try_from(duration).map_err(|_| Invalid::out_of_range(field, seconds))
    };
    duration.map(read).transpose()
}

pub(crate) fn required_duration(
    field: &'static str,
    from: Option<prost_types::Duration>,
) -> Result<Duration, Invalid> {
    duration(field, from)?.required(field)
}

pub(crate) fn pattern(field: &'static str, text: &str) -> Result<Pattern, Invalid> {
    Pattern::new(text).map_err(|error| Invalid::malformed(field, text, error.reason))
}

pub(crate) fn status(field: &'static str, number: u32) -> Result<StatusCode, Invalid> {
    let short = u16::try_from(number).ok();
    let status = short.and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or_else(|| Invalid::out_of_range(field, number))
}

pub(crate) fn method(field: &'static str, method: HttpMethod) -> Result<Method, Invalid> {
    Method::try_from(method).map_err(|error| Invalid::malformed(field, "", error))
}

pub(crate) fn ranged_u16(field: &'static str, number: u32) -> Result<u16, Invalid> {
    u16::try_from(number).map_err(|_| Invalid::out_of_range(field, number))
}

pub(crate) fn labels_to_wire(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub(crate) fn labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_ports_that_do_not_fit() {
        let ip = Some(net::IpAddress::from(IpAddr::from([192, 0, 2, 1])));
        for number in [0, 65_536, 65_616] {
            let wire = net::TcpAddress { ip, port: number };
            assert_eq!(address("A", Some(wire)), Err(Invalid::out_of_range("A", number)));
        }
    }

    #[test]
    fn refuses_negative_durations_and_keeps_the_longest() {
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        assert_eq!(duration("D", Some(negative)), Err(Invalid::out_of_range("D", -1)));
        let longest = duration_to_wire(Duration::MAX);
        let back = duration("D", longest).expect("valid").expect("present");
        assert_eq!(back.as_secs(), i64::MAX as u64);
    }
}
