//! How thin views are read: small types and serde helpers that several kinds share.
//!
//! The API server and hand-written YAML both write `null` where they mean "not set" (for example
//! `creationTimestamp: null`), so every list and map is read with [`nullable`].

use serde::{Deserialize, Deserializer, de};
use std::{fmt, sync::Arc};

/// Reads `null` as the type's default value.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads an optional number that uses zero for "not set", as port fields do.
pub(crate) fn port_or_none<'de, D>(deserializer: D) -> Result<Option<u16>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Option::<u16>::deserialize(deserializer)?.filter(|port| *port != 0))
}

/// A transport protocol as Kubernetes writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Protocol {
    /// `TCP`, the default wherever the field is absent.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// `UDP`; the mesh leaves such ports alone.
    #[serde(rename = "UDP")]
    Udp,
    /// `SCTP`; the mesh leaves such ports alone.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// A value that is a number or a name, such as a target port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// A port number from 1 to 65535.
    Number(u16),
    /// A port name.
    Name(Arc<str>),
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = IntOrString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number from 1 to 65535 or a port name")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                match u16::try_from(value) {
                    Ok(number) if number != 0 => Ok(IntOrString::Number(number)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                match u64::try_from(value) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
                if value.is_empty() {
                    return Err(E::invalid_value(de::Unexpected::Str(value), &self));
                }
                // A quoted number is a number: no port name consists of digits alone.
                match value.parse::<u64>() {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Ok(IntOrString::Name(value.into())),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// One entry of a status' condition list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// What the condition is about, for example `Accepted` or `Ready`.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// `True`, `False` or `Unknown`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: String,
}

impl Condition {
    /// Whether the list holds the condition `kind` with status `True`.
    pub fn is_true(conditions: &[Self], kind: &str) -> bool {
        conditions.iter().any(|condition| &*condition.kind == kind && condition.status == "True")
    }
}
