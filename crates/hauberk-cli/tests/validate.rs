//! `hauberk validate`, as a person or a script runs it.

mod program;

use program::{Ran, hauberk};
use serde_json::{Value, json};
use std::fs;

const GOOD: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: shop}
";

const MIXED: &str = "# What is wrong with it:
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: shop}
spec: {port: 80, podSelector: {}, proxyProtocol: HTTP/3}
---
b: [
---
apiVersion: v1
kind: List
items:
- apiVersion: policy.linkerd.io/v1beta3
  kind: Server
  metadata: {name: db, namespace: shop}
  spec: {port: 80, podSelector: {}, accesPolicy: deny}
- {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: 7}}
";

#[test]
fn good_manifests_are_passed_in_few_words() {
    let Ran { code, stdout, stderr } = hauberk(&["validate", "-"], GOOD);
    assert_eq!((code, &*stdout, &*stderr), (0, "2 good, 0 with warnings, 0 refused\n", ""));
    let Ran { stdout, .. } = hauberk(&["validate", "--verbose", "-"], GOOD);
    assert_eq!(
        stdout,
        "-:1: √ Namespace (v1) shop\n\
         -:5: √ ConfigMap (v1) shop/c: none of the mesh's\n\
         2 good, 0 with warnings, 0 refused\n"
    );
}

#[test]
fn mistakes_are_told_by_file_line_object_and_field() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("mixed.yaml"), MIXED).expect("written");
    fs::write(folder.path().join("good.yml"), GOOD).expect("written");
    let path = folder.path().to_str().expect("text");
    let Ran { code, stdout, stderr } = hauberk(&["validate", path], "");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((code, lines.len(), &*stderr), (1, 5, ""), "{stdout}");
    assert_eq!(
        lines[0],
        format!(
            "{path}/mixed.yaml:3: × Server (policy.linkerd.io/v1beta3) shop/web: spec.proxyProtocol: unknown variant \
             `HTTP/3`, expected one of `unknown`, `HTTP/1`, `HTTP/2`, `gRPC`, `opaque`, `TLS`"
        )
    );
    assert!(lines[1].contains("/mixed.yaml:") && lines[1].contains(": × document 2: "), "{stdout}");
    assert_eq!(
        lines[2],
        format!(
            "{path}/mixed.yaml:10: ‼ Server (policy.linkerd.io/v1beta3) shop/db: \
             spec.accesPolicy: the mesh reads no such field"
        )
    );
    assert!(
        lines[3].starts_with(&format!(
            "{path}/mixed.yaml:10: ‼ Service (v1) s: spec.ports: invalid type"
        )) && lines[3].ends_with("; the mesh cannot read it and leaves it alone"),
        "{stdout}"
    );
    assert_eq!(lines[4], "2 good, 2 with warnings, 2 refused");
}

#[test]
fn scripts_get_json() {
    let Ran { code, stdout, .. } = hauberk(&["validate", "-o", "json", "-"], MIXED);
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &report["ok"]), (1, &json!(false)));
    let objects = report["objects"].as_array().expect("a list");
    let words: Vec<_> = objects.iter().map(|object| object["verdict"].as_str()).collect();
    assert_eq!(words, ["refused", "broken", "understood", "unread"].map(Some));
    assert_eq!(objects[0]["object"]["name"], "web");
    assert_eq!((&objects[0]["file"], &objects[0]["line"]), (&json!("-"), &json!(3)));
    assert_eq!(objects[0]["mistake"]["field"], "spec.proxyProtocol");
    assert_eq!(objects[2]["warnings"], json!(["spec.accesPolicy: the mesh reads no such field"]));
    let Ran { code, stdout, .. } = hauberk(&["validate", "-o", "json", "-"], GOOD);
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &report["ok"]), (0, &json!(true)));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let Ran { code, stdout, stderr } = hauberk(&["validate", "/does/not/exist"], "");
    assert_eq!((code, &*stdout), (1, ""));
    assert!(stderr.starts_with("Error: cannot read /does/not/exist"), "{stderr}");
    assert_eq!(hauberk(&["validate"], "").code, 1, "something must be named");
    let Ran { code, stdout, .. } = hauberk(&["validate", "-"], "a: b\n");
    assert_eq!(code, 1);
    assert!(stdout.contains("kind: an object needs apiVersion, kind and metadata"), "{stdout}");
}
