//! Regular expressions as policies use them: the whole value must match.

use std::{fmt, sync::Arc};

/// Longest pattern text accepted, in bytes. A pattern comes from a resource that any tenant may
/// write, and compiling costs memory.
const SOURCE_BYTES_MAX: usize = 4096;

/// Most memory a compiled pattern may take, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A regular expression that must match a whole value. Equal if the text is equal.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: Arc<regex::Regex>,
}

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid regular expression '{source_text}': {reason}")]
pub struct InvalidPattern {
    /// The text as it came, shortened to its limit.
    pub source_text: String,
    /// What the compiler says.
    pub reason: String,
}

impl Pattern {
    /// Compiles `source`, anchored at both ends (`/a|/ab` matches `/ab` as a whole).
    pub fn new(source: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason: String| InvalidPattern {
            source_text: source.chars().take(200).collect(),
            reason,
        };
        if source.len() > SOURCE_BYTES_MAX {
            return Err(invalid(format!("longer than {SOURCE_BYTES_MAX} bytes")));
        }
        // Compiled alone first, so that an unbalanced `)` cannot slip out of the group.
        let build =
            |text: &str| regex::RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build();
        build(source).map_err(|error| invalid(error.to_string()))?;
        let regex = build(&format!(r"\A(?:{source})\z")).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { source: source.into(), regex: Arc::new(regex) })
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_whole_values() {
        let pattern = Pattern::new("/a|/ab").expect("valid");
        assert!(pattern.matches("/ab") && pattern.matches("/a"));
        assert!(!pattern.matches("/abc") && !pattern.matches("x/a"));
        assert!(!Pattern::new("a").expect("valid").matches("a\n"));
    }

    #[test]
    fn refuses_bad_or_greedy_patterns() {
        assert!(Pattern::new("a)|(b").is_err());
        assert!(Pattern::new(&"a".repeat(SOURCE_BYTES_MAX + 1)).is_err());
        assert!(Pattern::new("((a{999}){999}){999}").is_err());
    }
}
