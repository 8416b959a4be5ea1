//! Networks as policies write them: a CIDR or a bare address, with exceptions.

use crate::view::nullable;
use hauberk_model::Network;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use std::net::IpAddr;

#[derive(Deserialize)]
struct Written {
    cidr: Cidr,
    #[serde(default, deserialize_with = "nullable")]
    except: Vec<Cidr>,
}

struct Cidr(IpNet);

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let net =
            net.map_err(|_| de::Error::custom(format!("'{text}' is no network or address")))?;
        Ok(Self(net.trunc()))
    }
}

/// Reads a list of networks; absent and `null` are empty.
pub(super) fn networks<'de, D>(deserializer: D) -> Result<Vec<Network>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(some_networks(deserializer)?.unwrap_or_default())
}

/// Reads a list of networks; absent and `null` are none.
pub(super) fn some_networks<'de, D>(deserializer: D) -> Result<Option<Vec<Network>>, D::Error>
where
    D: Deserializer<'de>,
{
    let written = Option::<Vec<Written>>::deserialize(deserializer)?;
    let network = |one: Written| Network {
        net: one.cidr.0,
        except: one.except.into_iter().map(|except| except.0).collect(),
    };
    Ok(written.map(|all| all.into_iter().map(network).collect()))
}
