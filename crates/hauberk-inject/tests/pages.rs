//! Pages of the reference that are written from the tables in the code.
//! `HAUBERK_UPDATE_GOLDEN=1` writes them anew.

use std::{fmt::Write as _, fs, path::Path};

use hauberk_model::settings::{Absent, Form, SETTINGS};
use hauberk_resources::annotations::{PROXY_CONFIG, ValueKind};

fn check(page: &str, expect: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(page);
    if std::env::var_os("HAUBERK_UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&path, expect).expect("written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expect, "{page} is not what the table says");
}

#[test]
fn settings_page_is_current() {
    let mut page = "# Settings of the proxy\n\nWritten from the table in \
        `crates/hauberk-model/src/settings/table.rs`; do not edit here. Every name begins with \
        `LINKERD2_PROXY_`. An empty value counts as absent. All mistakes are reported together \
        and end the proxy with exit code 64. Names that are not listed are ignored.\n\n\
        | Name | Form | Default | Meaning |\n|---|---|---|---|\n"
        .to_owned();
    for setting in SETTINGS {
        let name = setting.name.trim_start_matches("LINKERD2_PROXY_");
        let default = match setting.absent {
            Absent::Value(value) => format!("`{value}`"),
            Absent::Unset => "unset".to_owned(),
            Absent::Required => "**required**".to_owned(),
        };
        let form = form(setting.form);
        writeln!(page, "| `{name}` | {form} | {default} | {} |", setting.text).expect("writes");
    }
    check("settings.md", &page);
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Text => "text",
        Form::Boolean => "`true` or `false`",
        Form::Count => "number",
        Form::Bytes => "bytes",
        Form::Ratio => "number such as `0.1`",
        Form::Duration => "duration (`ms`, `s`, `m`, `h`, `d`)",
        Form::SocketAddress => "`IP:PORT`",
        Form::SocketAddresses => "one or two `IP:PORT`",
        Form::Address => "`IP:PORT` or `name:PORT`",
        Form::Ips => "IP addresses",
        Form::Ports => "ports and ranges",
        Form::Networks => "CIDRs",
        Form::Suffixes => "DNS suffixes",
    }
}

#[test]
fn annotations_page_is_current() {
    let mut page = "# Annotations that configure a sidecar\n\nWritten from the table in \
        `crates/hauberk-resources/src/annotations.rs`; do not edit here. The first good value of \
        pod, namespace (where *inherited* says yes) and installation counts; a bad one is \
        reported and passed over. An empty value counts as absent.\n\n\
        | Annotation | Inherited | Value | Meaning |\n|---|---|---|---|\n"
        .to_owned();
    for annotation in PROXY_CONFIG {
        let inherited = if annotation.inherited { "yes" } else { "no" };
        let (key, value, text) = (annotation.key, value(annotation.value), annotation.text);
        writeln!(page, "| `{key}` | {inherited} | {value} | {text} |").expect("writes");
    }
    check("annotations.md", &page);
}

fn value(kind: ValueKind) -> String {
    let text = match kind {
        ValueKind::Text => "text",
        ValueKind::OneOf(words) => {
            let words = words.iter().filter(|word| !word.is_empty());
            return words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        }
        ValueKind::Bool => "`true` or `false`",
        ValueKind::Port => "port",
        ValueKind::Ports => "ports and ranges",
        ValueKind::NamedPorts => "ports, ranges and names of ports",
        ValueKind::Networks => "CIDRs",
        ValueKind::Quantity => "quantity such as `100m` or `20Mi`",
        ValueKind::Ratio => "number above 0 and below 1",
        ValueKind::Integer => "whole number",
        ValueKind::Seconds => "seconds",
        ValueKind::GoDuration => "duration such as `1m30s`",
        ValueKind::EnvVars => "JSON list of `EnvVar`",
    };
    text.to_owned()
}
