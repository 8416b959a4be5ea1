//! Manifests as text: what is not changed stays byte for byte.
//!
//! A text is cut into documents, each is read, edited as a value, and compared with what it
//! was. The difference is then made in the text itself, so comments, order, quotes and blank
//! lines stay. The edited text is read again and must equal the edited value; where it does
//! not (anchors shared between places, for one), the document is written anew and the
//! [`DocumentReport`] says so. A document that cannot be read stays as it is.

use std::{collections::BTreeMap, str::FromStr};

use hauberk_resources::yaml::{self, Problem, Section};
use serde_json::Value;
use yaml_edit::{Document, Mapping, Sequence, YamlFile, YamlNode};

use crate::{
    Manifest, NamespaceFacts, Outcome,
    patch::{Operation, Step, difference},
    report::Report,
};

/// What was done to one document of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentReport {
    /// One for each object: a list has one for each item.
    pub objects: Vec<Report>,
    /// Why the document could not be read.
    pub problem: Option<Problem>,
    /// How the change was made.
    pub edit: Edit,
}

/// How a change was made in the text of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// There was nothing to change.
    None,
    /// In place.
    InPlace,
    /// The document was written anew; a JSON document has no comments to lose.
    Json,
    /// The document was written anew, without its comments.
    Rewritten,
}

/// A text after all its objects went through a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Transformed {
    /// The whole text.
    pub text: String,
    /// One for each document that is not empty.
    pub documents: Vec<DocumentReport>,
}

impl Transformed {
    /// The reports of all objects.
    pub fn objects(&self) -> impl Iterator<Item = &Report> {
        self.documents.iter().flat_map(|document| &document.objects)
    }
}

/// What the namespaces described in a text say about their pods, by name.
#[must_use]
pub fn namespaces(text: &str) -> BTreeMap<String, NamespaceFacts> {
    let (objects, _) = yaml::objects(text); // Whoever transforms the text tells the problems.
    objects
        .iter()
        .filter(|object| object["kind"] == "Namespace")
        .map(NamespaceFacts::of)
        .map(|facts| (facts.name.clone(), facts))
        .collect()
}

/// Sends each object of a text through `change`, items of lists one by one.
pub fn transform(text: &str, mut change: impl FnMut(&Manifest) -> Outcome) -> Transformed {
    let mut transformed = Transformed { text: String::new(), documents: Vec::new() };
    for section in yaml::sections(text) {
        if section.is_empty() {
            transformed.text.push_str(section.text);
            continue;
        }
        let (text, mut report) = document(&section, &mut change);
        if let Some(problem) = &mut report.problem {
            problem.document = transformed.documents.len() + 1;
        }
        transformed.text.push_str(&text);
        transformed.documents.push(report);
    }
    transformed
}

fn document(
    section: &Section<'_>,
    change: &mut impl FnMut(&Manifest) -> Outcome,
) -> (String, DocumentReport) {
    let before = match section.parse() {
        Ok(value) => value,
        Err(problem) => {
            let report =
                DocumentReport { objects: Vec::new(), problem: Some(problem), edit: Edit::None };
            return (section.text.to_owned(), report);
        }
    };
    let mut objects = Vec::new();
    let after = change_value(before.clone(), change, &mut objects);
    let (text, edit) = rewrite(section.text, &before, &after);
    (text, DocumentReport { objects, problem: None, edit })
}

fn change_value(
    mut value: Value,
    change: &mut impl FnMut(&Manifest) -> Outcome,
    reports: &mut Vec<Report>,
) -> Value {
    if yaml::is_list(&value) {
        if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
            for item in items {
                *item = change_value(item.take(), change, reports);
            }
        }
        return value;
    }
    let Outcome { manifest, report } = change(&Manifest::new(value));
    reports.push(report);
    manifest.value
}

/// The text of a document whose value became another one.
///
/// The result reads back as `after`, whatever way it was made.
#[must_use]
pub fn rewrite(text: &str, before: &Value, after: &Value) -> (String, Edit) {
    if before == after {
        return (text.to_owned(), Edit::None);
    }
    if text.trim_start().starts_with('{') {
        return (json(text, after), Edit::Json);
    }
    match edit(text, &difference(before, after)) {
        Some(edited) if reads_as(&edited, after) => (edited, Edit::InPlace),
        _ => (anew(text, after), Edit::Rewritten),
    }
}

fn reads_as(text: &str, expect: &Value) -> bool {
    yaml::sections(text).len() == 1 && yaml::parse(text).is_ok_and(|value| value == *expect)
}

/// A JSON document, indented if it was.
fn json(text: &str, value: &Value) -> String {
    let indented = text.trim().contains('\n');
    let mut json = if indented { format!("{value:#}") } else { value.to_string() };
    if text.ends_with('\n') {
        json.push('\n');
    }
    json
}

/// The document written anew: the comments and the marker before it stay.
fn anew(text: &str, value: &Value) -> String {
    let is_preamble = |line: &&str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "---"
    };
    let preamble: String = text.split_inclusive('\n').take_while(is_preamble).collect();
    let written = yaml::write(value).unwrap_or_else(|_| format!("{value:#}\n")); // JSON is YAML.
    let separator = if preamble.is_empty() || preamble.ends_with('\n') { "" } else { "\n" };
    format!("{preamble}{separator}{written}")
}

/// Makes the operations in the text. `None` where the text has no place for one of them.
fn edit(text: &str, operations: &[Operation]) -> Option<String> {
    let file = YamlFile::from_str(text).ok()?;
    let document = file.document()?;
    for operation in operations {
        match operation {
            Operation::Add(path, value) => add(&document, path, value)?,
            Operation::Replace(path, value) => replace(&document, path, value)?,
            Operation::Remove(path) => remove(&document, path)?,
        }
    }
    Some(file.to_string())
}

/// The map or list that holds the end of a path.
enum Holder<'path> {
    Map(Mapping, &'path str),
    List(Sequence, usize),
}

fn holder<'path>(document: &Document, path: &'path [Step]) -> Option<Holder<'path>> {
    let (last, way) = path.split_last()?;
    let node = way.iter().try_fold(Place::Root(document.clone()), Place::enter)?;
    match last {
        Step::Key(key) => Some(Holder::Map(node.mapping()?, key)),
        Step::Index(index) => Some(Holder::List(node.sequence()?, *index)),
    }
}

enum Place {
    Root(Document),
    Node(YamlNode),
}

impl Place {
    fn enter(self, step: &Step) -> Option<Self> {
        let node = match step {
            Step::Key(key) => self.mapping()?.get(key.as_str()),
            Step::Index(index) => self.sequence()?.get(*index),
        };
        node.map(Self::Node)
    }

    fn mapping(&self) -> Option<Mapping> {
        match self {
            Self::Root(document) => document.as_mapping(),
            Self::Node(node) => node.as_mapping().cloned(),
        }
    }

    fn sequence(&self) -> Option<Sequence> {
        match self {
            Self::Root(document) => document.as_sequence(),
            Self::Node(node) => node.as_sequence().cloned(),
        }
    }
}

fn add(document: &Document, path: &[Step], value: &Value) -> Option<()> {
    match holder(document, path)? {
        Holder::Map(map, key) => with_node(value, |node| map.set(key, node)),
        Holder::List(list, index) => with_node(value, |node| list.insert(index, node)),
    }
}

fn replace(document: &Document, path: &[Step], value: &Value) -> Option<()> {
    match holder(document, path)? {
        Holder::Map(map, key) => with_node(value, |node| map.set(key, node)),
        Holder::List(list, index) => with_node(value, |node| {
            list.set(index, node);
        }),
    }
}

fn remove(document: &Document, path: &[Step]) -> Option<()> {
    match holder(document, path)? {
        Holder::Map(map, key) => map.remove(key).map(drop),
        Holder::List(list, index) => list.remove(index).map(drop),
    }
}

/// Builds a node for a value by writing and reading it, so that quotes are set as
/// [`yaml::write`] sets them.
fn with_node(value: &Value, then: impl FnOnce(&dyn yaml_edit::AsYaml)) -> Option<()> {
    let text = yaml::write(value).ok()?;
    let document = Document::from_str(&text).ok()?;
    if let Some(map) = document.as_mapping() {
        then(&map);
    } else if let Some(list) = document.as_sequence() {
        then(&list);
    } else {
        then(&document.as_scalar()?);
    }
    Some(())
}
