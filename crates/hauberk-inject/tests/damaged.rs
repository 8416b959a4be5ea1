//! Damaged manifests: whatever line is missing or doubled, nothing panics, what is written
//! reads back as meant, and injecting twice changes nothing.

use std::{fs, path::Path};

use hauberk_inject::{
    Demand, Form, InjectConfig, Manifest, NamespaceFacts, TrustAnchors, inject, text, uninject,
};
use hauberk_resources::yaml;

fn inputs() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut inputs: Vec<_> = fs::read_dir(folder)
        .expect("the folder of goldens exists")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.to_string_lossy().ends_with(".in.yaml"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("readable");
            (path.display().to_string(), text)
        })
        .filter(|(_, text)| text.lines().count() < 26)
        .collect();
    inputs.sort();
    inputs
}

fn config(form: Form) -> InjectConfig {
    let mut config = InjectConfig::new("linkerd", "1");
    config.demand = Demand::Everything;
    config.form = form;
    config.trust_anchors = TrustAnchors::Inline("anchors".to_owned());
    config
}

/// Each line missing, each line doubled, each line at another depth.
fn damaged(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let with = |index: usize, replacement: &[&str]| -> String {
        [&lines[..index], replacement, &lines[index + 1..]].concat().concat()
    };
    let mut all = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let deeper = format!("  {line}");
        all.push(with(index, &[]));
        all.push(with(index, &[line, line]));
        all.push(with(index, &[&deeper]));
        all.push(with(index, &[line.strip_prefix("  ").unwrap_or(line)]));
    }
    all
}

#[test]
fn damage_stays_where_it_is() {
    for (name, original) in inputs() {
        for text in damaged(&original) {
            for form in [Form::Annotation, Form::Sidecar] {
                check(&name, &text, &config(form));
            }
        }
    }
}

fn check(name: &str, text: &str, config: &InjectConfig) {
    let change = |manifest: &Manifest| inject(manifest, config, &NamespaceFacts::default());
    let once = text::transform(text, change);
    let meant: Vec<_> = yaml::objects(text)
        .0
        .into_iter()
        .map(|object| change(&Manifest::new(object)).manifest.value)
        .collect();
    assert_eq!(yaml::objects(&once.text).0, meant, "{name}:\n{text}");
    let twice = text::transform(&once.text, change);
    assert_eq!(twice.text, once.text, "{name}:\n{text}");
    let _ = text::transform(&once.text, uninject); // It must end without a panic.
}
