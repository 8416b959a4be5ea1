//! `hauberk inject` and its relatives, as a person or a script runs them.

mod program;

use program::hauberk;
use std::{fs, path::Path, process::Command};

const NGINX: &str = include_str!("../../hauberk-inject/tests/golden/e8-nginx.in.yaml");
const NGINX_INJECTED: &str = include_str!("../../hauberk-inject/tests/golden/e8-nginx.out.yaml");
const BROKEN: &str = include_str!("../../hauberk-inject/tests/golden/broken-document.in.yaml");
const HOST_NETWORK: &str = include_str!("../../hauberk-inject/tests/golden/host-network.in.yaml");

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

#[test]
fn standard_input_is_injected_and_only_the_manifest_goes_to_standard_output() {
    let ran = hauberk(&["inject", "-"], NGINX);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, NGINX_INJECTED));
    assert_eq!(ran.stderr, "\ndeployment \"nginx\" injected\n\n");
}

#[test]
fn injecting_and_uninjecting_gives_the_original() {
    for mode in [&["inject", "-"][..], &["inject", "--manual", "-"]] {
        let injected = hauberk(mode, NGINX);
        assert_ne!(injected.stdout, NGINX);
        let back = hauberk(&["uninject", "-"], &injected.stdout);
        assert_eq!((back.code, back.stdout.as_str()), (0, NGINX));
        assert_eq!(back.stderr, "\ndeployment \"nginx\" uninjected\n\n");
        let again = hauberk(&["uninject", "-"], NGINX);
        assert_eq!(again.stderr, "\ndeployment \"nginx\" skipped\n\n");
    }
}

#[test]
fn a_folder_is_injected_and_doing_it_twice_makes_no_difference() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("sub")).expect("created");
    fs::write(folder.path().join("b.yml"), NGINX).expect("written");
    fs::write(folder.path().join("sub/c.yaml"), NGINX.trim_end()).expect("written");
    fs::write(folder.path().join("README.md"), "no: manifest: here").expect("written");
    fs::write(
        folder.path().join("a.json"),
        "{\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"},\"spec\":{\"containers\":[]}}",
    )
    .expect("written");
    let once = hauberk(&["inject", path(folder.path())], "");
    assert_eq!(once.code, 0, "{once:?}");
    assert_eq!(once.stdout.matches("linkerd.io/inject").count(), 3);
    assert_eq!(
        once.stderr,
        "\npod \"a\" injected\ndeployment \"nginx\" injected\ndeployment \"nginx\" injected\n\n"
    );
    let twice = hauberk(&["inject", "-"], &once.stdout);
    assert_eq!(twice.stdout, once.stdout);
    let diff = hauberk(&["inject", "--diff", "-"], &once.stdout);
    assert_eq!((diff.code, diff.stdout.as_str()), (0, ""));
}

#[test]
fn a_difference_is_shown_on_request() {
    let ran = hauberk(&["inject", "--diff", "-"], NGINX);
    let expect = "--- a/-\n+++ b/-\n@@ -13,6 +13,8 @@\n     metadata:\n       labels:\n         \
                  app: nginx\n+      annotations:\n+        linkerd.io/inject: enabled\n     \
                  spec:\n       containers:\n       - name: nginx\n";
    assert_eq!(ran.stdout, expect);
}

#[test]
fn what_cannot_be_injected_stays_and_fails_the_command() {
    let ran = hauberk(&["inject", "-"], HOST_NETWORK);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stdout.matches("linkerd.io/inject").count(), 1);
    assert!(ran.stdout.starts_with("apiVersion: apps/v1\nkind: DaemonSet\n"));
    assert_eq!(
        ran.stderr,
        "\n‼ hostNetwork: true detected in daemonset/node-agent\n× failed to inject \
         daemonset/node-agent: hostNetwork is enabled\n\ndaemonset \"node-agent\" skipped\n\
         pod \"fine\" injected\n\n"
    );
}

#[test]
fn a_broken_document_is_told_and_kept_while_the_others_are_injected() {
    let ran = hauberk(&["inject", "-"], BROKEN);
    assert_eq!(ran.code, 1);
    let broken = "---\n# This one is broken:\napiVersion: v1\nkind: Pod\nmetadata:\n  name: \
                  broken\n   annotations: [\nspec: }\n---\n";
    assert!(ran.stdout.contains(broken), "{}", ran.stdout);
    assert!(ran.stderr.contains("× document 2, line 15: "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("pod \"first\" injected\n")
            && ran.stderr.contains("pod \"last\" injected\n")
    );
    assert!(ran.stderr.contains("document missing \"kind\" field, skipped"));
}

#[test]
fn refusing_is_no_failure() {
    let pod = "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    linkerd.io/inject: disabled\n\
               spec:\n  containers: []\n";
    let ran = hauberk(&["inject", "-"], pod);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, pod));
    assert_eq!(
        ran.stderr,
        "\n‼ \"linkerd.io/inject: disabled\" annotation set on pod/a\n‼ no supported objects \
         found\n\npod \"a\" skipped\n\n"
    );
}

#[test]
fn a_list_from_kubectl_stays_a_list() {
    let list = include_str!("../../hauberk-inject/tests/golden/e3-kubectl-get-list.in.yaml");
    let ran = hauberk(&["inject", "-"], list);
    assert_eq!(ran.stdout.matches("kind: List").count(), 1);
    assert_eq!(ran.stdout.lines().count(), list.lines().count() + 2);
}

#[test]
fn verbose_tells_the_checks_and_counts() {
    let ran = hauberk(&["inject", "--verbose", "-"], NGINX);
    assert_eq!(ran.stderr.matches('√').count(), 6, "{}", ran.stderr);
    assert!(ran.stderr.ends_with("\n1 injected\n\n"), "{}", ran.stderr);
}

#[test]
fn json_is_one_line_for_each_document_and_the_report_too() {
    let ran = hauberk(&["inject", "-o", "json", "-"], BROKEN);
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["metadata"]["annotations"]["linkerd.io/inject"], "enabled");
    let report: serde_json::Value = serde_json::from_str(&ran.stderr).expect("JSON");
    assert_eq!((ran.code, &report["ok"]), (1, &false.into()));
    assert_eq!(report["problems"][0]["line"], 15);
    assert_eq!(report["objects"][0]["action"], "injected");
    assert_eq!(report["objects"][1]["reasons"][0]["reason"], "malformed_resource");
}

#[test]
fn flags_become_annotations_and_hold_for_the_written_sidecar() {
    let flags = ["inject", "--skip-outbound-ports", "3306", "--proxy-log-level", "debug", "-"];
    let ran = hauberk(&flags, NGINX);
    assert!(ran.stdout.contains("config.linkerd.io/skip-outbound-ports: \"3306\"\n"));
    assert!(ran.stdout.contains("config.linkerd.io/proxy-log-level: debug\n"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let anchors = folder.path().join("ca.crt");
    fs::write(&anchors, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        .expect("written");
    let manual =
        [&["inject", "--manual", "--trust-anchors", path(&anchors)][..], &flags[1..]].concat();
    let ran = hauberk(&manual, NGINX);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("- --outbound-ports-to-ignore\n          - \"3306\"\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("value: debug,[{headers}]=off,[{request}]=off\n"));
    assert!(ran.stdout.contains("-----BEGIN CERTIFICATE-----"));
    assert_eq!(ran.stderr, "\ndeployment \"nginx\" injected\n\n");
    let again = hauberk(&manual, &ran.stdout);
    assert_eq!(again.stdout, ran.stdout);
}

#[test]
fn mistakes_are_told_and_exit_with_one() {
    let check = |arguments: &[&str], expect: &str| {
        let ran = hauberk(arguments, "");
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(ran.stderr.contains(expect), "{arguments:?}: {}", ran.stderr);
    };
    check(&["inject"], "FILE|DIR|-");
    check(&["inject", "/nowhere.yaml"], "cannot read /nowhere.yaml: ");
    check(
        &["inject", "https://example.com/a.yml"],
        "hint: curl -fsSL https://example.com/a.yml | ",
    );
    check(
        &["inject", "--proxy-uid", "x", "--skip-inbound-ports", "9-1", "-"],
        "--skip-inbound-ports",
    );
    check(&["inject", "--proxy-uid", "x", "--skip-inbound-ports", "9-1", "-"], "--proxy-uid");
    check(&["inject", "-L", "a b", "-"], "a b is not a valid namespace");
    check(&["inject", "--trust-anchors", "x", "-"], "--manual");
    check(&["nonsense"], "nonsense");
    check(&[], "Usage");
}

#[test]
fn the_namespace_of_the_control_plane_can_be_chosen() {
    let ran = hauberk(&["inject", "-L", "mesh", "--manual", "-"], NGINX);
    assert!(ran.stdout.contains("linkerd.io/control-plane-ns: mesh\n"));
    assert!(ran.stdout.contains("linkerd-dst-headless.mesh.svc.cluster.local.:8086"));
    assert!(ran.stderr.contains("--trust-anchors FILE"), "{}", ran.stderr);
}

#[test]
fn a_version_without_a_control_plane() {
    let ran = hauberk(&["version"], "");
    let version = env!("CARGO_PKG_VERSION");
    let expect = format!("Client version: {version}\nServer version: unavailable\n");
    assert_eq!((ran.code, ran.stdout), (0, expect));
}

#[test]
fn shells_accept_the_completion() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = hauberk(&["completion", shell], "");
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("uninject"), "{shell}");
    }
    let script = hauberk(&["completion", "bash"], "").stdout;
    match Command::new("bash").args(["-n", "-c", &script]).output() {
        Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
        Err(error) => println!("SKIPPED the syntax check: cannot run bash: {error}"),
    }
    assert_eq!(hauberk(&["completion", "tcsh"], "").code, 1);
}
