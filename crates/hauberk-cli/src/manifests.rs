//! Reading manifests from files, folders and standard input, and showing what became of them.
//!
//! `inject` and `uninject` differ only in the function each object goes through. The
//! manifest goes to standard output, the report to standard error in the layout of
//! `linkerd inject`, with the reasons added.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use hauberk_inject::{
    Action, Manifest, Outcome, Reason, Report,
    text::{self, DocumentReport, Edit},
};
use hauberk_resources::yaml;
use serde_json::{Value, json};
use similar::TextDiff;

use crate::output::{self, Colour, Sign};

/// Flags of commands that change manifests.
#[derive(Args, Debug)]
pub(crate) struct ManifestFlags {
    /// Files, folders (read recursively), or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Show what would change instead of the manifest
    #[arg(long)]
    diff: bool,
    /// Form of the manifest and of the report: yaml with text, or json with json
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Yaml,
    Json,
}

/// A text of manifests and where it is from.
#[derive(Debug)]
pub(crate) struct Input {
    /// The path, `-` for standard input.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

/// Reads everything that was named.
pub(crate) fn read(flags: &ManifestFlags) -> anyhow::Result<Vec<Input>> {
    read_all(&flags.paths)
}

/// Reads files, folders and standard input.
pub(crate) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            inputs.push(Input { name: "-".to_owned(), text });
        } else if path.is_dir() {
            read_folder(path, &mut inputs)?;
        } else {
            inputs.push(read_file(path)?);
        }
    }
    Ok(inputs)
}

fn read_file(path: &Path) -> anyhow::Result<Input> {
    if path.to_string_lossy().contains("://") {
        let path = path.display();
        bail!("cannot read {path}: not a file\nhint: curl -fsSL {path} | hauberk COMMAND -");
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Input { name: path.display().to_string(), text })
}

/// Reads the manifests in a folder and its sub-folders, in the order of their names.
fn read_folder(folder: &Path, inputs: &mut Vec<Input>) -> anyhow::Result<()> {
    let context = || format!("cannot read folder {}", folder.display());
    let entries = fs::read_dir(folder).with_context(context)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().with_context(context)?;
    paths.sort();
    for path in paths {
        // A link to a folder could lead back up; what is linked is read where it lies.
        let is_link = path.is_symlink();
        if path.is_dir() && !is_link {
            read_folder(&path, inputs)?;
        } else if path.is_file() && is_manifest(&path) {
            inputs.push(read_file(&path)?);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Which command speaks; it decides the wording of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `inject`.
    Inject,
    /// `uninject`.
    Uninject,
}

/// Sends all inputs through `change`, prints the result and the report.
pub(crate) fn run(
    flags: &ManifestFlags,
    inputs: &[Input],
    verb: Verb,
    verbose: bool,
    change: impl Fn(&Manifest) -> Outcome,
) -> anyhow::Result<ExitCode> {
    let mut results = Results::default();
    for input in inputs {
        let transformed = text::transform(&input.text, &change);
        if flags.diff {
            results.text.push_str(&difference(&input.name, &input.text, &transformed.text));
        } else {
            results.append(&transformed.text);
        }
        let documents = transformed.documents.into_iter();
        results.documents.extend(documents.map(|document| (input.name.clone(), document)));
    }
    let colour = Colour::of_stderr();
    match flags.output {
        Form::Json if !flags.diff => output::artefact(&json_lines(&results.text))?,
        Form::Json | Form::Yaml => output::artefact(&results.text)?,
    }
    output::note(&match flags.output {
        Form::Json => format!("{}\n", results.json()),
        Form::Yaml => results.report(verb, inputs.len() > 1, verbose, colour),
    });
    Ok(if results.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn difference(name: &str, before: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    let (old, new) = (format!("a/{name}"), format!("b/{name}"));
    if before == after {
        String::new()
    } else {
        diff.unified_diff().context_radius(3).header(&old, &new).to_string()
    }
}

/// Each document as one line of JSON. Those that cannot be read are told in the report.
fn json_lines(text: &str) -> String {
    yaml::documents(text).0.iter().map(|document| format!("{document}\n")).collect()
}

#[derive(Default)]
struct Results {
    text: String,
    documents: Vec<(String, DocumentReport)>,
}

impl Results {
    /// Appends a text so that its first document stays one of its own.
    fn append(&mut self, text: &str) {
        if !self.text.is_empty() {
            if !self.text.ends_with('\n') {
                self.text.push('\n');
            }
            if !text.starts_with("---") {
                self.text.push_str("---\n");
            }
        }
        self.text.push_str(text);
    }

    fn objects(&self) -> impl Iterator<Item = &Report> {
        self.documents.iter().flat_map(|(_, document)| &document.objects)
    }

    fn failed(&self) -> bool {
        let broken = self.documents.iter().any(|(_, document)| document.problem.is_some());
        broken || self.objects().any(|report| report.action == Action::Refused)
    }

    fn json(&self) -> Value {
        let objects: Vec<_> = self.objects().map(Report::to_json).collect();
        let problems: Vec<_> = self
            .documents
            .iter()
            .filter_map(|(name, document)| Some((name, document.problem.as_ref()?)))
            .map(|(name, problem)| {
                json!({
                    "file": name, "document": problem.document, "line": problem.line,
                    "text": problem.message,
                })
            })
            .collect();
        json!({"objects": objects, "problems": problems, "ok": !self.failed()})
    }

    /// The report for people: a blank line, what is worth a look, a blank line, one line for
    /// each object, a blank line.
    fn report(&self, verb: Verb, several_files: bool, verbose: bool, colour: Colour) -> String {
        let lines = match verb {
            Verb::Inject => self.warnings(several_files, verbose),
            Verb::Uninject => self.problems(several_files),
        };
        let mut report = "\n".to_owned();
        for (sign, text) in &lines {
            report.push_str(&format!("{} {text}\n", sign.render(colour)));
        }
        if !lines.is_empty() {
            report.push('\n');
        }
        for object in self.objects() {
            report.push_str(&object_line(object));
        }
        report.push('\n');
        if verbose {
            report.push_str(&format!("{}\n\n", self.summary()));
        }
        report
    }

    fn problems(&self, several_files: bool) -> Vec<(Sign, String)> {
        let mut lines = Vec::new();
        for (name, document) in &self.documents {
            let place = if several_files { format!("{name}: ") } else { String::new() };
            if let Some(problem) = &document.problem {
                lines.push((Sign::Bad, format!("{place}{problem}; left as it is")));
            }
            if document.edit == Edit::Rewritten {
                let objects: Vec<_> = document.objects.iter().map(Report::object).collect();
                let objects = objects.join(", ");
                let text =
                    format!("{place}{objects} had to be written anew; its comments are lost");
                lines.push((Sign::Warning, text));
            }
        }
        lines
    }

    fn warnings(&self, several_files: bool, verbose: bool) -> Vec<(Sign, String)> {
        let mut lines = self.problems(several_files);
        lines.extend(self.checks(verbose));
        for object in self.objects() {
            let notes = object.notes.iter().filter(|note| note.key != "udp_ports_enabled");
            lines.extend(
                notes.map(|note| (Sign::Warning, format!("{}: {}", object.object(), note.text))),
            );
            if object.action == Action::Refused {
                let reasons: Vec<_> = object.reasons.iter().map(Reason::text).collect();
                let text = format!("failed to inject {}: {}", object.object(), reasons.join(", "));
                lines.push((Sign::Bad, text));
            }
            if object.reasons.contains(&Reason::NoKind) {
                lines.push((Sign::Warning, Reason::NoKind.text()));
            }
        }
        lines
    }

    /// The six checks of `linkerd inject`; those that find nothing are told only on request.
    fn checks(&self, verbose: bool) -> Vec<(Sign, String)> {
        let with = |reason: &Reason| -> Vec<String> {
            let hit = self.objects().filter(|object| object.reasons.contains(reason));
            hit.map(Report::object).collect()
        };
        let udp: Vec<_> = self
            .objects()
            .filter(|object| object.notes.iter().any(|note| note.key == "udp_ports_enabled"))
            .map(Report::object)
            .collect();
        let touched =
            |object: &Report| matches!(object.action, Action::Injected | Action::Annotated);
        let none = if self.objects().any(touched) { Vec::new() } else { vec![String::new()] };
        let list = |objects: &[String]| objects.join(", ");
        let checks = [
            (
                with(&Reason::HostNetwork),
                "pods do not use host networking",
                "hostNetwork: true detected in ",
            ),
            (
                with(&Reason::SidecarExists),
                "pods do not have a 3rd party proxy or initContainer already injected",
                "known 3rd party sidecar detected in ",
            ),
            (
                with(&Reason::OptedOut),
                "pods are not annotated to disable injection",
                "\"linkerd.io/inject: disabled\" annotation set on ",
            ),
            (
                none,
                "at least one resource can be injected or annotated",
                "no supported objects found",
            ),
            (udp, "pod specs do not include UDP ports", ""),
            (
                with(&Reason::NoToken),
                "pods do not have automountServiceAccountToken set to \"false\"",
                "automountServiceAccountToken: false detected in ",
            ),
        ];
        let mut lines = Vec::new();
        for (hits, good, bad) in checks {
            if hits.is_empty() {
                lines.extend(verbose.then(|| (Sign::Good, good.to_owned())));
            } else if bad.is_empty() {
                let each = hits.iter().map(|hit| format!("{hit} uses \"protocol: UDP\""));
                lines.extend(each.map(|text| (Sign::Warning, text)));
            } else {
                lines.push((Sign::Warning, format!("{bad}{}", list(&hits))));
            }
        }
        lines
    }

    fn summary(&self) -> String {
        let count = |action| self.objects().filter(|object| object.action == action).count();
        let counts = [
            Action::Injected,
            Action::Annotated,
            Action::Uninjected,
            Action::Skipped,
            Action::Refused,
        ]
        .into_iter()
        .map(|action| (count(action), action.word()))
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"));
        let broken = self.documents.iter().filter(|(_, d)| d.problem.is_some()).count();
        let broken = (broken > 0).then(|| format!("{broken} unreadable"));
        counts.chain(broken).collect::<Vec<_>>().join(", ")
    }
}

/// `deployment "web" injected`; what was refused is skipped here and told above.
fn object_line(object: &Report) -> String {
    if object.kind.is_empty() {
        return String::new();
    }
    let word = match object.action {
        Action::Refused => Action::Skipped.word(),
        action => action.word(),
    };
    format!("{} \"{}\" {word}\n", object.kind, object.name)
}
