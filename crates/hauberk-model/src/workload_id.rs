//! Identities of workloads as they stand in certificates.

use std::{fmt, str::FromStr, sync::Arc};

/// The name a workload proves by its certificate: a DNS-like name or a URI (SPIFFE).
///
/// Two identities are equal if their normal forms are: DNS names in lower case and without a
/// trailing dot, URIs with scheme and host in lower case (RFC 3986 section 6.2.2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadId {
    /// Such as `web.emojivoto.serviceaccount.identity.linkerd.cluster.local`.
    Dns(Arc<str>),
    /// Such as `spiffe://example.org/ns/emojivoto/sa/web`.
    Uri(Arc<str>),
}

/// Why a text is not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a DNS name nor a URI with a scheme and a host")]
pub struct InvalidWorkloadId(pub String);

impl WorkloadId {
    /// The identity of a service account, in Linkerd's form.
    pub fn service_account(
        account: &str,
        namespace: &str,
        control_plane_namespace: &str,
        trust_domain: &str,
    ) -> Self {
        let name = format!(
            "{account}.{namespace}.serviceaccount.identity.{control_plane_namespace}.{trust_domain}"
        );
        Self::Dns(name.to_ascii_lowercase().into())
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dns(name) | Self::Uri(name) => name,
        }
    }
}

impl FromStr for WorkloadId {
    type Err = InvalidWorkloadId;

    fn from_str(text: &str) -> Result<Self, InvalidWorkloadId> {
        let invalid = || InvalidWorkloadId(text.to_owned());
        if let Some((scheme, rest)) = text.split_once("://") {
            let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            let printable = text.bytes().all(|b| b.is_ascii_graphic());
            if !scheme_ok || host.is_empty() || !printable {
                return Err(invalid());
            }
            let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
            return Ok(Self::Uri(format!("{scheme}://{host}{path}").into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if is_dns_name(name) {
            Ok(Self::Dns(name.to_ascii_lowercase().into()))
        } else {
            Err(invalid())
        }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether `name` is a DNS name: labels of 1 to 63 letters, digits, `-` or `_`, at most 253 bytes.
fn is_dns_name(name: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label_ok)
}

/// Which identities a rule means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityMatch {
    /// Exactly this one.
    Exact(WorkloadId),
    /// DNS-like names that end in these labels and have at least one label before them.
    ///
    /// Written `*.emojivoto.serviceaccount…`; without labels (`*`) it means any identity at all,
    /// URIs included.
    Suffix(Vec<Arc<str>>),
}

impl IdentityMatch {
    /// Reads `*`, `*.suffix` or an exact identity.
    pub fn parse(text: &str) -> Result<Self, InvalidWorkloadId> {
        match text.strip_prefix('*') {
            Some("") => Ok(Self::Suffix(Vec::new())),
            Some(rest) => {
                let suffix = rest.strip_prefix('.').filter(|suffix| is_dns_name(suffix));
                let suffix = suffix.ok_or_else(|| InvalidWorkloadId(text.to_owned()))?;
                let labels = suffix.split('.').map(|label| label.to_ascii_lowercase().into());
                Ok(Self::Suffix(labels.collect()))
            }
            None => Ok(Self::Exact(text.parse()?)),
        }
    }

    /// Whether `id` is meant.
    pub fn matches(&self, id: &WorkloadId) -> bool {
        match (self, id) {
            (Self::Exact(exact), id) => exact == id,
            (Self::Suffix(labels), _) if labels.is_empty() => true,
            (Self::Suffix(labels), WorkloadId::Dns(name)) => {
                let mut of_name = name.rsplit('.');
                labels.iter().rev().all(|label| of_name.next() == Some(&**label))
                    && of_name.next().is_some()
            }
            (Self::Suffix(_), WorkloadId::Uri(_)) => false,
        }
    }
}

impl fmt::Display for IdentityMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::Suffix(labels) => {
                f.write_str("*")?;
                labels.iter().try_for_each(|label| write!(f, ".{label}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_identities() {
        let check = |text: &str, expect: &str| {
            assert_eq!(text.parse::<WorkloadId>().expect(text).as_str(), expect);
        };
        check("Web.NS.identity.", "web.ns.identity");
        check("SPIFFE://Example.org/ns/A/sa/b", "spiffe://example.org/ns/A/sa/b");
        for bad in ["", ".", "a..b", "-a", "a b", "spiffe://", "1x://h", "a/b"] {
            assert!(bad.parse::<WorkloadId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn suffixes_match_whole_labels_of_dns_names_only() {
        let check = |pattern: &str, id: &str, expect: bool| {
            let pattern = IdentityMatch::parse(pattern).expect(pattern);
            assert_eq!(pattern.matches(&id.parse().expect(id)), expect, "{pattern} {id}");
        };
        check("*", "a.b", true);
        check("*", "spiffe://a/b", true);
        check("*.b.c", "a.b.c", true);
        check("*.b.c", "b.c", false);
        check("*.b.c", "ab.c", false);
        check("*.b.c", "x.xb.c", false);
        check("*.example.org", "spiffe://example.org/x", false);
        check("a.b", "A.b", true);
    }
}
