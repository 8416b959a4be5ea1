//! Manifests as text: cutting a file into documents, reading them, writing them.
//!
//! Everything that takes manifests from people comes through here: the directory source,
//! `hauberk inject`, the local runtime. The reader understands what `kubectl` understands
//! (YAML 1.1 booleans, octal numbers such as `0644`, merge keys, JSON) and never fails as a
//! whole: a broken document becomes a [`Problem`] with its line, and its neighbours are read.
//!
//! A value is a [`serde_json::Value`] whose maps keep the order of the file. What the values
//! mean is not decided here.

use std::ops::Range;

use serde_json::Value;
use thiserror::Error;

/// Deepest nesting that is read; CRD schemas reach about sixty levels. The reader takes up to ten
/// kilobytes of stack for each, and a thread has two megabytes: much more would abort the process.
const DEPTH_MAX: usize = 100;

/// Most scalars, lists and maps that aliases may stand for together in a document. A few lines of
/// aliases to aliases would else become a hundred megabytes.
const REPLAYS_MAX: usize = 100_000;

/// A document that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("document {document}, line {line}: {message}")]
pub struct Problem {
    /// Which document of the text, counted from 1; empty documents do not count.
    pub document: usize,
    /// Line of the text where reading stopped, counted from 1.
    pub line: usize,
    /// What is wrong, in one line.
    pub message: String,
}

/// A stretch of text between two document markers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'text> {
    /// The text, with the `---` line that begins it, if there is one.
    pub text: &'text str,
    /// Where it lies in the whole text, in bytes.
    pub span: Range<usize>,
    /// The line it begins at, counted from 1.
    pub line: usize,
}

impl Section<'_> {
    /// Whether there is nothing but comments, directives and markers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.lines().all(|line| {
            let line = if is_marker(line, "---") || is_marker(line, "...") {
                line[3..].trim()
            } else {
                line.trim()
            };
            line.is_empty() || line.starts_with('#') || line.starts_with('%')
        })
    }

    /// Reads the section as one value.
    ///
    /// # Errors
    /// The line is counted in the whole text, and `document` is 1.
    pub fn parse(&self) -> Result<Value, Problem> {
        parse(self.text)
            .map_err(|problem| Problem { line: problem.line + self.line - 1, ..problem })
    }
}

/// Cuts a text at its document markers. The sections put together give the text again.
///
/// YAML forbids a line beginning with `---` inside any scalar (YAML 1.2.2, rule 206), so the
/// cut needs no parser and works around documents that are broken.
#[must_use]
pub fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let (mut begin, mut begin_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let cut = is_marker(line, "---") && !is_preamble(&text[begin..offset]);
        if cut {
            sections.push(Section {
                text: &text[begin..offset],
                span: begin..offset,
                line: begin_line,
            });
            (begin, begin_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    if begin < text.len() {
        sections.push(Section { text: &text[begin..], span: begin..text.len(), line: begin_line });
    }
    sections
}

/// Whether a line is the given marker: the three characters, then white space or nothing.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether the text so far belongs to the document the next `---` begins: nothing at all, or
/// comments and `%` directives only.
fn is_preamble(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim_end();
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "\u{feff}"
    })
}

/// Reads one document, YAML or JSON.
///
/// # Errors
/// [`Problem`] with the line in this text.
pub fn parse(text: &str) -> Result<Value, Problem> {
    let trimmed = text.trim_start_matches('\u{feff}').trim_start();
    if trimmed.starts_with('{')
        && let Ok(value) = serde_json::from_str(trimmed)
    {
        return Ok(value);
    }
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYS_MAX },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        Problem {
            document: 1,
            line: usize::try_from(line).unwrap_or(usize::MAX).max(1),
            message: without_place(&one_line(&error.to_string())).to_owned(),
        }
    })
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The message without the place in it, which counts from the begin of the document.
fn without_place(message: &str) -> &str {
    match message.rfind(" at line ") {
        Some(at) if !message[at..].contains(['"', '\'', ';']) => &message[..at],
        _ => message,
    }
}

/// Reads all documents of a text; empty ones are left out.
#[must_use]
pub fn documents(text: &str) -> (Vec<Value>, Vec<Problem>) {
    let (mut values, mut problems) = (Vec::new(), Vec::new());
    let sections = sections(text).into_iter().filter(|section| !section.is_empty());
    for (index, section) in sections.enumerate() {
        match section.parse() {
            Ok(Value::Null) => {}
            Ok(value) => values.push(value),
            Err(problem) => problems.push(Problem { document: index + 1, ..problem }),
        }
    }
    (values, problems)
}

/// Like [`documents`], with each `List` replaced by its items.
#[must_use]
pub fn objects(text: &str) -> (Vec<Value>, Vec<Problem>) {
    let (values, problems) = documents(text);
    (values.into_iter().flat_map(expand_list).collect(), problems)
}

/// The items of a `List` (`List`, `PodList`, …), in order and nested ones too; any other
/// value is returned as it is.
#[must_use]
pub fn expand_list(mut value: Value) -> Vec<Value> {
    if !is_list(&value) {
        return vec![value];
    }
    let items = value.get_mut("items").map(Value::take);
    match items {
        Some(Value::Array(items)) => items.into_iter().flat_map(expand_list).collect(),
        _ => Vec::new(),
    }
}

/// Whether a value is a Kubernetes list object.
#[must_use]
pub fn is_list(value: &Value) -> bool {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    kind == "List" || (kind.ends_with("List") && value.get("items").is_some_and(Value::is_array))
}

/// Writes a value as a YAML document, without a marker, ending in a newline.
///
/// Strings that another reader could take for a boolean, number or date are quoted.
///
/// # Errors
/// Only when the value holds what YAML cannot; no JSON value does.
pub fn write(value: &Value) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! {
        compact_list_indent: true,
        prefer_block_scalars: true,
        folded_wrap_chars: usize::MAX,
    };
    let mut text = serde_saphyr::to_string_with_options(value, options)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_kubectl_reads() {
        let (values, problems) = documents(
            "defaultMode: 0644\nflag: yes\nquoted: \"yes\"\nbase: &b {x: 1}\nmerged:\n  <<: *b\n  y: 2\n",
        );
        assert_eq!(problems, vec![]);
        assert_eq!(
            values,
            vec![json!({
                "defaultMode": 420, "flag": true, "quoted": "yes",
                "base": {"x": 1}, "merged": {"x": 1, "y": 2}
            })]
        );
    }

    #[test]
    fn keeps_the_order_of_keys() {
        let value = parse("zebra: 1\napple: 2\nmango: 3\n").expect("valid");
        let keys: Vec<_> = value.as_object().expect("a map").keys().cloned().collect();
        assert_eq!(keys, ["zebra", "apple", "mango"]);
    }

    #[test]
    fn sections_put_together_give_the_text() {
        for text in [
            "",
            "a: 1",
            "a: 1\n---\nb: 2\n",
            "---\na: 1\n---\n---\nb: 2\n...\n",
            "# top\n---\na: |\n  text\n  --- not a marker\n--- # note\nb: 2\n---\n",
            "%YAML 1.2\n---\na: 1\n",
        ] {
            let cut: String = sections(text).iter().map(|section| section.text).collect();
            assert_eq!(cut, text);
        }
    }

    #[test]
    fn a_comment_before_the_marker_belongs_to_the_document() {
        let found = sections("# about a\n---\na: 1\n--- # about b\nb: 2\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].line, found[1].text), (4, "--- # about b\nb: 2\n"));
    }

    #[test]
    fn a_broken_document_stays_alone() {
        let (values, problems) = documents("a: 1\n---\nb: [1, 2\nc: {\n---\nd: 4\n");
        assert_eq!(values, vec![json!({"a": 1}), json!({"d": 4})]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].document, 2);
        assert!((3..=5).contains(&problems[0].line), "{problems:?}");
        assert!(!problems[0].message.contains("line"), "{problems:?}");
    }

    #[test]
    fn deep_nesting_is_refused_and_not_the_end_of_the_process() {
        for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
            let nested = |depth| format!("{}x{}", open.repeat(depth), close.repeat(depth));
            assert!(parse(&nested(90)).is_ok() || open == "? ", "{open}");
            assert!(parse(&nested(200)).is_err(), "{open}");
        }
    }

    #[test]
    fn aliases_to_aliases_are_bounded() {
        let levels = (1..9).map(|level| {
            format!("a{level}: &a{level} [{}]\n", format!("*a{},", level - 1).repeat(9))
        });
        let text = format!("a0: &a0 [x]\n{}", levels.collect::<String>());
        assert!(parse(&text).is_err());
    }

    #[test]
    fn duplicate_keys_are_refused() {
        let (values, problems) = documents("a: 1\na: 2\n");
        assert!(values.is_empty());
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn lists_are_expanded_on_request() {
        let text =
            "kind: List\nitems:\n- kind: Pod\n- kind: PodList\n  items:\n  - {kind: Pod, n: 2}\n";
        assert_eq!(documents(text).0.len(), 1);
        assert_eq!(objects(text).0, vec![json!({"kind": "Pod"}), json!({"kind": "Pod", "n": 2})]);
    }

    #[test]
    fn json_is_read_too() {
        let (values, problems) = documents("{\n\t\"kind\": \"Pod\",\n\t\"n\": 1\n}\n");
        assert_eq!((values, problems), (vec![json!({"kind": "Pod", "n": 1})], vec![]));
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let value = json!({
            "kind": "Pod", "yes": "yes", "n": "0644", "e": "1e3", "t": "12:30:00", "empty": "",
            "text": "line one\nline two\n", "list": [[], {}, [1, [2]], {"a": [null, true]}],
            "long": "x ".repeat(100), "tab": "a\tb", "colon": "a: b", "hash": "a #b", "tilde": "~",
        });
        let text = write(&value).expect("writes");
        assert_eq!(parse(&text).expect("reads"), value, "{text}");
    }
}
