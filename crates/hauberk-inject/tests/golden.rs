//! Manifests before and after, with the report: `tests/golden/<case>.{in,out,report}.yaml`.
//!
//! The first lines of an input say how it is injected, as `# key: value`:
//! `mode` (annotation, manual, admission or uninject), `annotate` (an annotation a person
//! asked for, `key=value`), `default` (an annotation of the installation), and `with` (cni,
//! ipv6, tracing, default-token). `HAUBERK_UPDATE_GOLDEN=1` writes the outputs anew; read the
//! difference before you commit it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use hauberk_inject::{
    Capture, ControlPlaneService, Demand, Form, InjectConfig, Ipv6, Manifest, NamespaceFacts,
    Outcome, Token, Tracing, TrustAnchors, inject, text, uninject,
};
use hauberk_model::settings;
use hauberk_resources::yaml;
use serde_json::{Value, json};

const ANCHORS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

struct Case {
    name: String,
    path: PathBuf,
    text: String,
    config: InjectConfig,
    uninjects: bool,
}

fn golden(path: &Path) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn cases() -> Vec<Case> {
    let entries = fs::read_dir(golden(Path::new(""))).expect("the folder of goldens exists");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.expect("readable").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".in.yaml").map(str::to_owned))
        .collect();
    names.sort();
    names.into_iter().map(case).collect()
}

fn case(name: String) -> Case {
    let path = golden(Path::new(&format!("{name}.in.yaml")));
    let text = fs::read_to_string(&path).expect("a golden input is readable");
    let mut config = InjectConfig::new("linkerd", "1.2.3");
    config.trust_anchors = TrustAnchors::Inline(ANCHORS.to_owned());
    config.created_by = "hauberk/cli 1.2.3".to_owned();
    config.demand = Demand::Everything;
    config.form = Form::Annotation;
    let mut uninjects = false;
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        let Some((key, value)) = line.split_once(": ") else { continue };
        let pair = || {
            let (key, value) = value.split_once('=').expect("an annotation has a value");
            (key.to_owned(), value.to_owned())
        };
        match (key, value) {
            ("mode", "annotation") => {}
            ("mode", "manual") => config.form = Form::Sidecar,
            ("mode", "admission") => {
                (config.demand, config.form) = (Demand::WhenAsked, Form::Sidecar);
            }
            ("mode", "uninject") => uninjects = true,
            ("annotate", _) => config.overrides.extend([pair()]),
            ("default", _) => config.defaults.extend([pair()]),
            ("with", "cni") => config.capture = Capture::Cni,
            ("with", "ipv6") => config.ipv6 = Ipv6::On,
            ("with", "default-token") => config.token = Token::Default,
            ("with", "tracing") => config.tracing = Some(tracing()),
            _ => {}
        }
    }
    Case { name, path, text, config, uninjects }
}

fn tracing() -> Tracing {
    Tracing {
        collector: ControlPlaneService {
            address: "collector.tracing.svc.cluster.local.:4317".to_owned(),
            name: "collector.tracing.serviceaccount.identity.linkerd.cluster.local".to_owned(),
        },
        service_name: "linkerd-proxy".to_owned(),
        attributes: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
    }
}

impl Case {
    fn run(&self, text: &str) -> text::Transformed {
        let namespaces = text::namespaces(text);
        text::transform(text, |manifest| self.change(manifest, &namespaces))
    }

    fn change(
        &self,
        manifest: &Manifest,
        namespaces: &BTreeMap<String, NamespaceFacts>,
    ) -> Outcome {
        if self.uninjects {
            return uninject(manifest);
        }
        let facts = manifest.namespace().and_then(|name| namespaces.get(name)).cloned();
        inject(manifest, &self.config, &facts.unwrap_or_default())
    }
}

fn report(transformed: &text::Transformed) -> String {
    let documents = transformed.documents.iter().map(|document| {
        let objects: Vec<_> = document.objects.iter().map(|object| object.to_json()).collect();
        let problem = document.problem.as_ref().map(ToString::to_string);
        json!({"edit": format!("{:?}", document.edit), "problem": problem, "objects": objects})
    });
    yaml::write(&documents.collect()).expect("a report can be written")
}

#[test]
fn goldens_match() {
    let update = std::env::var_os("HAUBERK_UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 25, "{} cases", cases.len());
    for case in cases {
        let transformed = case.run(&case.text);
        for (suffix, got) in [("out", transformed.text.clone()), ("report", report(&transformed))] {
            let path = case.path.with_file_name(format!("{}.{suffix}.yaml", case.name));
            if update {
                fs::write(&path, &got).expect("a golden can be written");
            }
            let expect = fs::read_to_string(&path).unwrap_or_default();
            if got != expect {
                let diff = similar::TextDiff::from_lines(&expect, &got);
                wrong.push(format!(
                    "{}\n{}",
                    path.display(),
                    diff.unified_diff().header("expected", "got")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn injecting_twice_changes_nothing() {
    for case in cases() {
        let once = case.run(&case.text).text;
        let twice = case.run(&once).text;
        assert_eq!(twice, once, "{}", case.name);
    }
}

/// Without what injection is about: the wish, and maps and lists that are empty.
fn bare(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.remove("linkerd.io/inject");
            for child in map.values_mut() {
                *child = bare(child.take());
            }
            map.retain(|key, child| {
                let may_vanish = ["annotations", "labels", "metadata", "initContainers", "volumes"];
                let empty = match child {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(list) => list.is_empty(),
                    Value::Null => true,
                    Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
                };
                !(empty && may_vanish.contains(&key.as_str()))
            });
        }
        Value::Array(list) => {
            for child in list {
                *child = bare(child.take());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

#[test]
fn uninjecting_gives_the_original() {
    for case in cases() {
        let is_original = !case.uninjects
            && case.config.overrides.is_empty()
            && case.config.demand == Demand::Everything
            && !case.text.contains("name: linkerd-proxy");
        if !is_original {
            continue;
        }
        let injected = case.run(&case.text).text;
        let back = text::transform(&injected, uninject).text;
        let values =
            |text: &str| -> Vec<_> { yaml::documents(text).0.into_iter().map(bare).collect() };
        assert_eq!(values(&back), values(&case.text), "{}", case.name);
        // Byte for byte, unless there was a wish of the author or an empty map to be lost, or
        // the document had to be written anew.
        let inexact = ["linkerd.io/inject", "metadata: {}", "&container"];
        if !inexact.iter().any(|part| case.text.contains(part)) {
            assert_eq!(back, case.text, "{}", case.name);
        }
    }
}

#[test]
fn what_is_not_a_pod_stays_byte_for_byte() {
    let text = "# mine\nkind:   ConfigMap # odd spacing\ndata: {b: 1,   a: 2}\n...\n---\n\n# end";
    let config = InjectConfig::new("linkerd", "1");
    let transformed =
        text::transform(text, |manifest| inject(manifest, &config, &NamespaceFacts::default()));
    assert_eq!(transformed.text, text);
}

/// Every variable that is written is one the proxy knows, in the form it reads.
#[test]
fn the_proxy_understands_its_environment() {
    let mut checked = 0;
    for case in cases().into_iter().filter(|case| !case.uninjects) {
        for object in yaml::objects(&case.run(&case.text).text).0 {
            let manifest = Manifest::new(object);
            let Some(pod) = manifest.pod() else { continue };
            for variable in proxy_environment(pod) {
                let name = variable["name"].as_str().expect("a variable has a name");
                if !name.starts_with(settings::PREFIX) {
                    continue;
                }
                let setting = settings::find(name).unwrap_or_else(|| panic!("unknown {name}"));
                if let Some(value) = variable["value"].as_str() {
                    assert_eq!(setting.form.check(value), Ok(()), "{}: {name}", case.name);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 500, "{checked}");
}

fn proxy_environment(pod: &Value) -> Vec<Value> {
    let containers = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let proxies = containers.filter(|container| container["name"] == "linkerd-proxy");
    proxies.flat_map(|proxy| proxy["env"].as_array().cloned().unwrap_or_default()).collect()
}
