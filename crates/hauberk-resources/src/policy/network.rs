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

/// A network whose exceptions are parts of it, as Linkerd's validator demands.
#[derive(Deserialize)]
#[serde(try_from = "Written")]
struct Listed(Network);

impl TryFrom<Written> for Listed {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let net = written.cidr.0;
        let except: Vec<IpNet> = written.except.into_iter().map(|except| except.0).collect();
        match except.iter().find(|except| **except == net || !net.contains(*except)) {
            Some(except) if *except == net => {
                Err(format!("except {except} leaves nothing of {net}"))
            }
            Some(except) => Err(format!("except {except} is not a part of {net}")),
            None => Ok(Self(Network { net, except })),
        }
    }
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
    let written = Option::<Vec<Listed>>::deserialize(deserializer)?;
    Ok(written.map(|all| all.into_iter().map(|listed| listed.0).collect()))
}
