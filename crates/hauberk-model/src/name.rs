//! Names of things in the mesh, each a type of its own so that they cannot be swapped.

use crate::port::Port;
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// A Kubernetes namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Wraps a namespace name; any text is taken as it is.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Namespace {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// A Service, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace the Service lives in.
    pub namespace: Namespace,
    /// Name of the Service object.
    pub name: Arc<str>,
}

impl ServiceName {
    /// Names the Service `name` in `namespace`.
    pub fn new(namespace: impl Into<Namespace>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The DNS name under a cluster domain: `web-svc.emojivoto.svc.cluster.local`.
    pub fn fqdn(&self, cluster_domain: &str) -> String {
        format!("{}.{}.svc.{cluster_domain}", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A host (name or address literal) and a port: what a request is addressed to.
///
/// The host is kept in lower case and without a trailing dot, as DNS compares names (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    host: Arc<str>,
    port: Port,
}

/// Why a text is not an authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not host:port: {reason}")]
pub struct InvalidAuthority {
    /// The text as it came.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Authority {
    /// Joins a host and a port.
    pub fn new(host: &str, port: Port) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Self { host: host.into(), port }
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; without a port, `default_port` is taken.
    pub fn parse(text: &str, default_port: Port) -> Result<Self, InvalidAuthority> {
        let invalid = |reason| InvalidAuthority { text: text.to_owned(), reason };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| invalid("missing ']'"))?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(invalid("brackets are for IPv6 addresses"));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(invalid("unexpected text after ']'")),
            }
        } else {
            match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(invalid("an IPv6 address needs brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() || host == "." {
            return Err(invalid("the host is empty"));
        }
        if !host.contains(':') && !is_host_name(host) {
            return Err(invalid("the host is not a name"));
        }
        let port = match port {
            Some(port) => port.parse().map_err(|_| invalid("the port must be 1 to 65535"))?,
            None => default_port,
        };
        Ok(Self::new(host, port))
    }

    /// The host, lower case, without brackets or trailing dot.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The host as an IP address, if it is a literal.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Labels of the characters that RFC 3986 allows in a registered name, perhaps with a final dot.
fn is_host_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~%!$&'()*+,;=".contains(&byte);
    let label_ok = |label: &str| !label.is_empty() && label.bytes().all(allowed);
    host.strip_suffix('.').unwrap_or(host).split('.').all(label_ok)
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        let got = Authority::parse(text, Port::new(80).expect("80 is a port"));
        match expect {
            Ok(shown) => assert_eq!(got.expect(text).to_string(), shown),
            Err(reason) => assert_eq!(got.expect_err(text).reason, reason),
        }
    }

    #[test]
    fn reads_authorities() {
        check("Web.Example.", Ok("web.example:80"));
        check("web:8080", Ok("web:8080"));
        check("[FD00::1]:99", Ok("[fd00::1]:99"));
        check("[::1]", Ok("[::1]:80"));
    }

    #[test]
    fn refuses_what_is_not_an_authority() {
        check("", Err("the host is empty"));
        check(":80", Err("the host is empty"));
        check("a:0", Err("the port must be 1 to 65535"));
        check("a:65536", Err("the port must be 1 to 65535"));
        check("fd00::1", Err("an IPv6 address needs brackets"));
        check("[::1", Err("missing ']'"));
        check("[::1]x", Err("unexpected text after ']'"));
        check("[[a]", Err("brackets are for IPv6 addresses"));
        check("a..:80", Err("the host is not a name"));
        check("me@a", Err("the host is not a name"));
        check("a/b:80", Err("the host is not a name"));
    }
}
