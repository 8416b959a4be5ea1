//! `hauberk validate`: what the API server would say to manifests, without one.
//!
//! Each object goes through [`Verdict`], the function behind the admission webhook and behind the
//! directory that the control plane reads, so all three say the same. The report is the artefact
//! and goes to standard output; its lines begin as compilers' do (`FILE:LINE:`), so that editors
//! find the place.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use hauberk_index::warnings;
use hauberk_resources::{Invalid, ObjectName, Verdict, yaml};
use serde_json::{Value, json};

use crate::{
    args::Global,
    manifests::{self, Input},
    output::{self, Colour, Sign},
};

/// Flags of `hauberk validate`.
#[derive(Args, Debug)]
pub(crate) struct Validate {
    /// Files, folders (read recursively), or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Form of the report
    #[arg(short, long, value_enum, default_value = "text")]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Validates what was named. The exit code is 1 if anything would be refused or cannot be read.
pub(crate) fn run(global: &Global, command: &Validate) -> anyhow::Result<ExitCode> {
    let inputs = manifests::read_all(&command.paths)?;
    let findings: Vec<Finding> = inputs.iter().flat_map(findings).collect();
    output::artefact(&match command.output {
        Form::Text => text(&findings, global.verbose, Colour::of_stdout()),
        Form::Json => format!("{}\n", as_json(&findings)),
    })?;
    let has_failed = findings.iter().any(Finding::is_bad);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is said about one document, or one object of a list in it.
#[derive(Debug)]
struct Finding {
    file: String,
    /// Which document of the file, counted from 1; empty ones do not count.
    document: usize,
    /// Where the mistake is, or the document begins; counted from 1.
    line: usize,
    said: Said,
}

#[derive(Debug)]
enum Said {
    /// The document is no YAML.
    Broken(String),
    /// It is an object.
    Object { object: Box<ObjectName>, verdict: Box<Verdict>, warnings: Vec<String> },
}

/// Goes through the documents of a text as the directory source does.
fn findings(input: &Input) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sections = yaml::sections(&input.text);
    let full = sections.iter().filter(|section| !section.is_empty());
    for (index, section) in full.enumerate() {
        let document = index + 1;
        let at =
            |line: usize, said: Said| Finding { file: input.name.clone(), document, line, said };
        match section.parse() {
            Ok(Value::Null) => {}
            Ok(value) => {
                let begin = section.line + first_line(section.text);
                for object in yaml::expand_list(value) {
                    let name = Box::new(name_of(&object));
                    let verdict = Box::new(Verdict::of(object));
                    let warnings = warnings(&verdict);
                    findings.push(at(begin, Said::Object { object: name, verdict, warnings }));
                }
            }
            Err(problem) => findings.push(at(problem.line, Said::Broken(problem.message))),
        }
    }
    findings
}

/// How many lines of a document come before its first that says something.
fn first_line(text: &str) -> usize {
    let says_nothing = |line: &&str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with(['#', '%'])
    };
    text.lines().take_while(says_nothing).count()
}

fn name_of(object: &Value) -> ObjectName {
    let text = |pointer: &str| {
        object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    ObjectName {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    }
}

impl Finding {
    fn is_bad(&self) -> bool {
        match &self.said {
            Said::Broken(_) => true,
            Said::Object { verdict, .. } => verdict.is_refused(),
        }
    }

    fn warnings(&self) -> &[String] {
        match &self.said {
            Said::Broken(_) => &[],
            Said::Object { warnings, .. } => warnings,
        }
    }

    /// What is wrong: the field and the reason, if it is about a field.
    fn mistake(&self) -> Option<(Option<&str>, String)> {
        match &self.said {
            Said::Broken(message) => Some((None, message.clone())),
            Said::Object { verdict, .. } => match &**verdict {
                Verdict::Refused(Invalid::Malformed { field, reason, .. }) => {
                    Some((Some(field), reason.clone()))
                }
                Verdict::Refused(Invalid::Unrecognised { .. }) => {
                    Some((Some("kind"), "an object needs apiVersion, kind and metadata".to_owned()))
                }
                Verdict::Understood { .. } | Verdict::Foreign(_) | Verdict::Unread(_) => None,
            },
        }
    }
}

/// One line for each mistake and warning, and with `verbose` one for each good object; then how
/// many there were of each.
fn text(findings: &[Finding], verbose: bool, colour: Colour) -> String {
    let mut text = String::new();
    for finding in findings {
        let (file, line) = (&finding.file, finding.line);
        let object = match &finding.said {
            Said::Broken(_) => format!("document {}", finding.document),
            Said::Object { object, .. } => object.to_string(),
        };
        let mut say = |sign: Sign, what: &str| {
            text.push_str(&format!("{file}:{line}: {} {object}{what}\n", sign.render(colour)));
        };
        match finding.mistake() {
            Some((Some(field), reason)) => say(Sign::Bad, &format!(": {field}: {reason}")),
            Some((None, reason)) => say(Sign::Bad, &format!(": {reason}")),
            None => {}
        }
        // The parser's own words begin with the object already.
        let prefix = format!("{object}: ");
        for warning in finding.warnings() {
            let warning = warning.strip_prefix(&prefix).unwrap_or(warning);
            say(Sign::Warning, &format!(": {warning}"));
        }
        if verbose && !finding.is_bad() && finding.warnings().is_empty() {
            let is_foreign = matches!(&finding.said, Said::Object { verdict, .. } if verdict.word() == "foreign");
            say(Sign::Good, if is_foreign { ": none of the mesh's" } else { "" });
        }
    }
    let bad = findings.iter().filter(|finding| finding.is_bad()).count();
    let warned = findings.iter().filter(|one| !one.is_bad() && !one.warnings().is_empty()).count();
    let good = findings.len() - bad - warned;
    text.push_str(&format!("{good} good, {warned} with warnings, {bad} refused\n"));
    text
}

fn as_json(findings: &[Finding]) -> Value {
    let each = findings.iter().map(|finding| {
        let Finding { file, document, line, said } = finding;
        let mistake =
            finding.mistake().map(|(field, reason)| json!({"field": field, "reason": reason}));
        match said {
            Said::Broken(_) => json!({
                "file": file, "document": document, "line": line,
                "object": null, "verdict": "broken", "mistake": mistake, "warnings": [],
            }),
            Said::Object { object, verdict, warnings } => json!({
                "file": file, "document": document, "line": line,
                "object": {
                    "apiVersion": object.api_version, "kind": object.kind,
                    "namespace": object.namespace, "name": object.name,
                },
                "verdict": verdict.word(), "mistake": mistake, "warnings": warnings,
            }),
        }
    });
    json!({"objects": each.collect::<Vec<_>>(), "ok": !findings.iter().any(Finding::is_bad)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_where_documents_begin() {
        let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        let text = format!("# top\n\n{good}---\n# about b\n{good}--- # c\n{good}---\nb: [\n");
        let input = Input { name: "x.yaml".to_owned(), text };
        let places: Vec<_> = findings(&input).iter().map(|one| (one.document, one.line)).collect();
        assert_eq!(places[..3], [(1, 3), (2, 8), (3, 12)]);
        assert_eq!(places[3].0, 4);
    }
}
