//! What a manifest becomes.

use serde_json::json;

use super::*;
use crate::address::POD_NETWORK;

struct Lab {
    images: Images,
    objects: Objects,
    ids: IdRanges,
    _directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut objects = Objects::new(directory.path().to_owned());
        let mut put = |value: Value| objects.put(Key::of(&value).unwrap(), value).unwrap();
        put(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "shop"}, "data": {"COLOUR": "red", "a": "b"}}));
        put(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "key", "namespace": "shop"}, "data": {"k": "c2VjcmV0"}}));
        let ids = IdRanges::parse("         0       4242          1\n 1 100000 65535\n");
        Self { images: Images::new("/opt".into()), objects, ids, _directory: directory }
    }

    fn plan(&self, spec: Value) -> Result<PodPlan, PlanError> {
        let manifest = json!({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u",
            "labels": {"app": "web"}}, "spec": spec});
        let context = Context {
            images: &self.images,
            objects: &self.objects,
            addresses: POD_NETWORK.pair(20),
            path: "/opt:/bin",
            ids: &self.ids,
        };
        plan(&manifest, context)
    }
}

fn container(extra: Value) -> Value {
    let mut value = json!({"name": "main", "image": "x", "command": ["run"]});
    value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    value
}

#[test]
fn environment_comes_from_all_places_and_reaches_the_command() {
    let main = container(json!({
        "command": ["run", "$(HOST):$(COLOUR)"], "args": ["$(K)"],
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": ""}],
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "HOST", "value": "$(POD).shop"},
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": true}}},
            {"name": "EMPTY", "value": null},
        ],
    }));
    let plan = Lab::new().plan(json!({"containers": [main]})).unwrap();
    let main = &plan.containers[0];
    assert_eq!(main.command, ["run", "web-1.shop:red", "secret"]);
    let value = |name: &str| {
        main.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(value("APP"), Some("web"));
    assert_eq!(value("EMPTY"), Some(""));
    assert_eq!(value("NONE"), None);
    assert_eq!(value("PATH"), Some("/opt:/bin"));
}

#[test]
fn an_init_container_that_always_restarts_is_a_sidecar() {
    let spec = json!({"initContainers": [
        {"name": "once", "image": "x", "command": ["a"]},
        {"name": "side", "image": "x", "command": ["b"], "restartPolicy": "Always"},
    ], "containers": [container(json!({}))]});
    let plan = Lab::new().plan(spec).unwrap();
    let kinds: Vec<_> = plan.init.iter().map(|one| (one.name.as_str(), one.kind)).collect();
    assert_eq!(kinds, [("once", ContainerKind::Init), ("side", ContainerKind::Sidecar)]);
}

#[test]
fn every_container_gets_its_token_unless_the_pod_declines() {
    let lab = Lab::new();
    let plan = lab.plan(json!({"containers": [container(json!({}))]})).unwrap();
    assert_eq!(plan.containers[0].mounts[0].path.to_str(), Some(SERVICE_ACCOUNT_PATH));
    let Content::Files(files) = &plan.volumes[0].content else { panic!("files") };
    assert!(matches!(&files[0].text, FileText::Token { .. }));

    let spec = json!({"automountServiceAccountToken": false, "containers": [container(json!({}))]});
    let plan = lab.plan(spec).unwrap();
    assert!(plan.volumes.is_empty() && plan.containers[0].mounts.is_empty());
}

#[test]
fn volumes_become_files_and_deeper_mounts_come_later() {
    let spec = json!({
        "automountServiceAccountToken": false,
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "conf", "configMap": {"name": "settings", "items": [{"key": "a", "path": "x/y"}]}},
            {"name": "mixed", "projected": {"sources": [
                {"serviceAccountToken": {"audience": "identity.l5d.io", "path": "t", "expirationSeconds": 600}},
                {"secret": {"name": "key"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ]}},
        ],
        "containers": [container(json!({"volumeMounts": [
            {"name": "conf", "mountPath": "/data/conf", "readOnly": true},
            {"name": "scratch", "mountPath": "/data"},
        ]}))],
    });
    let plan = Lab::new().plan(spec).unwrap();
    let paths: Vec<_> =
        plan.containers[0].mounts.iter().map(|m| m.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/data", "/data/conf"]);
    assert_eq!(plan.volumes[0].content, Content::Empty);
    let file = |path: &str, text: &str| File {
        path: path.into(),
        text: FileText::Bytes(text.as_bytes().to_owned()),
    };
    assert_eq!(plan.volumes[1].content, Content::Files(vec![file("x/y", "b")]));
    let token =
        FileText::Token { audience: "identity.l5d.io".into(), lifetime: Duration::from_secs(600) };
    let files = vec![
        File { path: "t".into(), text: token },
        file("k", "secret"),
        file("labels", "app=\"web\"\n"),
    ];
    assert_eq!(plan.volumes[2].content, Content::Files(files));
}

#[test]
fn ids_are_taken_where_the_user_namespace_has_them() {
    let check = |context: Value, expect| {
        let spec = json!({"containers": [container(json!({"securityContext": context}))]});
        let mut lab = Lab::new();
        assert_eq!(lab.plan(spec.clone()).unwrap().containers[0].ids, expect);
        lab.ids = IdRanges::parse("0 4242 1");
        assert_eq!(lab.plan(spec).unwrap().containers[0].ids, None, "single id");
    };
    check(json!({"runAsUser": 2102}), Some((2102, 0)));
    check(json!({"runAsUser": 2102, "runAsGroup": 2102}), Some((2102, 2102)));
    check(json!({"runAsUser": 70000}), None);
}

#[test]
fn what_cannot_be_done_is_said() {
    let check = |spec: Value, expect: &str| {
        let error = Lab::new().plan(spec).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let with = |extra: Value| json!({"containers": [container(extra)]});
    check(json!({"hostNetwork": true, "containers": []}), "the host's network");
    check(json!({"containers": [{"name": "a", "image": "nginx"}]}), "local.hauberk.io/command.a");
    check(with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})), "is no volume");
    check(with(json!({"envFrom": [{"secretRef": {"name": "none"}}]})), "no Secret none");
    let outside = json!({"name": "v", "configMap": {"name": "settings",
        "items": [{"key": "a", "path": "../../etc/passwd"}]}});
    check(json!({"volumes": [outside], "containers": []}), "outside of it");
    check(with(json!({"livenessProbe": {"httpGet": {"port": "web"}}})), "has no port");
}

#[test]
fn probes_have_the_defaults_of_kubernetes() {
    let extra = json!({"ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "ready", "port": "web"}, "periodSeconds": 2}});
    let plan = Lab::new().plan(json!({"containers": [container(extra)]})).unwrap();
    let probe = plan.containers[0].readiness.clone().unwrap();
    let action = Action::Http {
        host: "10.42.0.20".into(),
        port: 8080,
        path: "/ready".into(),
        headers: Vec::new(),
    };
    let second = Duration::from_secs(1);
    assert_eq!(
        probe,
        ProbePlan {
            action,
            initial_delay: Duration::ZERO,
            period: 2 * second,
            timeout: second,
            success_threshold: 1,
            failure_threshold: 3,
        }
    );
}
