//! The settings of a proxy: one table for the writer (the injector) and the reader (the proxy).
//!
//! Names, defaults and forms are those of linkerd2-proxy, so that either proxy runs from the
//! same pod. Each line of [`SETTINGS`] is also a constant with the full name, and carries a
//! form, a default and a sentence for people.
//!
//! The [`Reader`] takes the environment as a map and collects everything that is wrong, so
//! that a person sees all mistakes at once. It reads no environment itself. Settings that are
//! not in the table are ignored: newer injectors may write more than we read.

mod table;
pub mod value;

use std::collections::BTreeMap;

pub use self::table::*;
pub use self::value::BadValue;

/// What every name in the table begins with.
pub const PREFIX: &str = "LINKERD2_PROXY_";

/// The form of a setting's value; [`value`] has a parser for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// [`value::text`].
    Text,
    /// [`value::boolean`].
    Boolean,
    /// [`value::count`].
    Count,
    /// [`value::count`], meaning bytes.
    Bytes,
    /// [`value::ratio`].
    Ratio,
    /// [`value::duration`].
    Duration,
    /// [`value::socket_address`].
    SocketAddress,
    /// [`value::socket_addresses`].
    SocketAddresses,
    /// [`value::address`].
    Address,
    /// [`value::ips`].
    Ips,
    /// [`value::ports`].
    Ports,
    /// [`value::networks`].
    Networks,
    /// [`value::suffixes`].
    Suffixes,
}

impl Form {
    /// Whether a value is of this form.
    ///
    /// # Errors
    /// What the parser of the form says.
    pub fn check(self, text: &str) -> Result<(), BadValue> {
        match self {
            Self::Text => value::text(text).map(drop),
            Self::Boolean => value::boolean(text).map(drop),
            Self::Count | Self::Bytes => value::count(text).map(drop),
            Self::Ratio => value::ratio(text).map(drop),
            Self::Duration => value::duration(text).map(drop),
            Self::SocketAddress => value::socket_address(text).map(drop),
            Self::SocketAddresses => value::socket_addresses(text).map(drop),
            Self::Address => value::address(text).map(drop),
            Self::Ips => value::ips(text).map(drop),
            Self::Ports => value::ports(text).map(drop),
            Self::Networks => value::networks(text).map(drop),
            Self::Suffixes => value::suffixes(text).map(drop),
        }
    }
}

/// What holds when a setting is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// This value.
    Value(&'static str),
    /// Nothing: the feature is off or the limit does not exist.
    Unset,
    /// The proxy does not start.
    Required,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The full name of the environment variable.
    pub name: &'static str,
    /// The form of its value.
    pub form: Form,
    /// What holds when it is absent or empty.
    pub absent: Absent,
    /// One sentence for people.
    pub text: &'static str,
}

/// The setting with this full name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Something wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A required setting is absent.
    #[error("{name} is not set")]
    Missing {
        /// The full name.
        name: String,
    },
    /// The value has the wrong form.
    #[error("{name}: {why}")]
    Invalid {
        /// The full name.
        name: String,
        /// What was expected.
        why: BadValue,
    },
    /// Values that are fine alone do not go together.
    #[error("{name}: {why}")]
    Conflict {
        /// The full name of the setting to change.
        name: String,
        /// What does not go together.
        why: String,
    },
}

/// Reads settings from a map and remembers what is wrong with them.
///
/// ```
/// use std::collections::BTreeMap;
/// use hauberk_model::settings::{self, Reader, value};
///
/// let environment = BTreeMap::from([(settings::INBOUND_DETECT_TIMEOUT.to_owned(), "3s".to_owned())]);
/// let mut reader = Reader::new(&environment);
/// let detect_timeout = reader.read(settings::INBOUND_DETECT_TIMEOUT, value::duration);
/// assert_eq!(detect_timeout, Some(std::time::Duration::from_secs(3)));
/// assert!(reader.problems().is_empty());
/// ```
#[derive(Debug)]
pub struct Reader<'env> {
    environment: &'env BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl<'env> Reader<'env> {
    /// A reader of this environment.
    #[must_use]
    pub fn new(environment: &'env BTreeMap<String, String>) -> Self {
        Self { environment, problems: Vec::new() }
    }

    /// Reads one setting: its value, or what the table says holds in its absence.
    ///
    /// `None` means it is unset, or that a problem was noted. An empty value counts as absent.
    pub fn read<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, BadValue>,
    ) -> Option<T> {
        let absent = find(name).map_or(Absent::Unset, |setting| setting.absent);
        let value = match (self.raw(name), absent) {
            (Some(value), _) => value,
            (None, Absent::Value(default)) => default,
            (None, Absent::Unset) => return None,
            (None, Absent::Required) => {
                self.problems.push(Problem::Missing { name: name.to_owned() });
                return None;
            }
        };
        match parse(value) {
            Ok(value) => Some(value),
            Err(why) => {
                self.problems.push(Problem::Invalid { name: name.to_owned(), why });
                None
            }
        }
    }

    /// The value as it stands in the environment, unless it is absent or empty.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'env str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Notes a problem found by the caller, such as two values that do not go together.
    pub fn conflict(&mut self, name: &str, why: impl Into<String>) {
        self.problems.push(Problem::Conflict { name: name.to_owned(), why: why.into() });
    }

    /// Everything wrong so far.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Ends reading.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_default_has_the_form_of_its_setting() {
        for setting in SETTINGS {
            assert!(setting.name.starts_with(PREFIX), "{}", setting.name);
            assert!(!setting.text.is_empty(), "{}", setting.name);
            if let Absent::Value(default) = setting.absent {
                assert_eq!(setting.form.check(default), Ok(()), "{}", setting.name);
            }
        }
    }

    #[test]
    fn every_name_is_listed_once() {
        let names: std::collections::BTreeSet<_> = SETTINGS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
        assert_eq!(find(ADMIN_LISTEN_ADDR).map(|s| s.form), Some(Form::SocketAddress));
        assert_eq!(find("PATH"), None);
    }

    #[test]
    fn all_problems_are_collected() {
        let environment = BTreeMap::from([
            (INBOUND_CONNECT_TIMEOUT.to_owned(), "fast".to_owned()),
            (OUTBOUND_CONNECT_TIMEOUT.to_owned(), String::new()),
        ]);
        let mut reader = Reader::new(&environment);
        assert_eq!(reader.read(INBOUND_CONNECT_TIMEOUT, value::duration), None);
        assert_eq!(
            reader.read(OUTBOUND_CONNECT_TIMEOUT, value::duration),
            Some(Duration::from_secs(1))
        );
        assert_eq!(reader.read(DESTINATION_SVC_ADDR, value::address), None);
        assert_eq!(reader.read(TAP_SVC_NAME, value::text), None);
        reader.conflict(CORES_MIN, "more than LINKERD2_PROXY_CORES_MAX");
        let told: Vec<_> = reader.into_problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT: expected a whole number with a unit of \
                 ms, s, m, h or d, such as 10s, got 'fast'",
                "LINKERD2_PROXY_DESTINATION_SVC_ADDR is not set",
                "LINKERD2_PROXY_CORES_MIN: more than LINKERD2_PROXY_CORES_MAX",
            ]
        );
    }
}
