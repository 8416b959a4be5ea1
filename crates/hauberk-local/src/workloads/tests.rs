//! Each case: a workload, its pods as one word each, and the steps as one word each.
//!
//! A pod is `name`, then `o` for an outdated template, `r` for ready, `s` for stopping, `+` for
//! succeeded and `-` for failed.

use serde_json::json;

use super::*;
use crate::spec;

fn member(text: &str) -> Member {
    let (name, flags) = text.split_once(':').unwrap_or((text, ""));
    let has = |flag: char| flags.contains(flag);
    Member {
        name: name.to_owned(),
        current: !has('o'),
        ready: has('r'),
        stopping: has('s'),
        phase: match (has('+'), has('-')) {
            (true, _) => Phase::Succeeded,
            (_, true) => Phase::Failed,
            _ => Phase::Running,
        },
    }
}

fn check(kind: WorkloadKind, spec: serde_json::Value, pods: &str, expect: &str) {
    let members: Vec<Member> = pods.split_whitespace().map(member).collect();
    let spec: WorkloadSpec = spec::read(&spec).unwrap();
    let said: Vec<String> = steps(kind, "db", &spec, &members)
        .into_iter()
        .map(|step| match step {
            Step::Create => "new".to_owned(),
            Step::CreateNumbered(number) => format!("new{number}"),
            Step::Stop(name) => format!("-{name}"),
        })
        .collect();
    assert_eq!(said.join(" "), expect, "{kind:?} {pods}");
}

#[test]
fn a_deployment_scales() {
    use WorkloadKind::Deployment;
    check(Deployment, json!({}), "", "new");
    check(Deployment, json!({"replicas": 3}), "a:r", "new new");
    check(Deployment, json!({"replicas": 1}), "a:r b c:r", "-b -c");
    check(Deployment, json!({"replicas": 0}), "a:r b:s", "-a");
    check(Deployment, json!({"replicas": 1}), "a:-", "-a new");
    check(Deployment, json!({"replicas": 1}), "a:s", "new");
}

#[test]
fn a_rolling_update_never_has_too_few_ready_nor_too_many() {
    use WorkloadKind::Deployment;
    let four = json!({"replicas": 4});
    check(Deployment, four.clone(), "a:or b:or c:or d:or", "new -a");
    check(Deployment, four.clone(), "b:or c:or d:or e", "new");
    check(Deployment, four.clone(), "b:or c:or d:or e f:r", "-b");
    check(Deployment, four.clone(), "d:or e:r f:r g:r", "new -d");
    check(Deployment, four, "a:o b:or c:or d:or e:r", "-a -b");
    // One replica: first the new one, the old one when the new one is ready.
    check(Deployment, json!({"replicas": 1}), "a:or", "new");
    check(Deployment, json!({"replicas": 1}), "a:or b", "");
    check(Deployment, json!({"replicas": 1}), "a:or b:r", "-a");
    let none =
        json!({"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}});
    check(Deployment, none, "a:or b:or", "-a");
    let percent = json!({"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": "100%"}}});
    check(Deployment, percent, "a:or b:or", "new new");
    let recreate = json!({"replicas": 1, "strategy": {"type": "Recreate"}});
    check(Deployment, recreate.clone(), "a:or", "-a");
    check(Deployment, recreate, "a:ors", "new");
}

#[test]
fn a_stateful_set_goes_in_order() {
    use WorkloadKind::StatefulSet;
    let three = json!({"replicas": 3});
    check(StatefulSet, three.clone(), "", "new0");
    check(StatefulSet, three.clone(), "db-0", "");
    check(StatefulSet, three.clone(), "db-0:r", "new1");
    check(StatefulSet, three.clone(), "db-0:r db-2:r", "new1");
    check(StatefulSet, three.clone(), "db-0:ro db-1:ro db-2:ro", "-db-2");
    check(StatefulSet, three.clone(), "db-0:ro db-1:ro db-2:ros", "");
    check(StatefulSet, three, "db-0:ro db-1:ro db-2:r", "-db-1");
    check(StatefulSet, json!({"replicas": 1}), "db-0:r db-1:r db-10:r", "-db-10");
    let parallel = json!({"replicas": 2, "podManagementPolicy": "Parallel"});
    check(StatefulSet, parallel, "", "new0 new1");
}

#[test]
fn a_daemon_set_has_one_pod_at_a_time() {
    use WorkloadKind::DaemonSet;
    check(DaemonSet, json!({}), "", "new");
    check(DaemonSet, json!({}), "a", "");
    check(DaemonSet, json!({}), "a:or", "-a");
    check(DaemonSet, json!({}), "a:ors", "");
    check(DaemonSet, json!({}), "a:+", "-a new");
}

#[test]
fn a_job_ends() {
    use WorkloadKind::Job;
    check(Job, json!({}), "", "new");
    check(Job, json!({}), "a", "");
    check(Job, json!({}), "a:+", "");
    check(Job, json!({}), "a:-", "new");
    check(Job, json!({"backoffLimit": 0}), "a:-", "");
    check(Job, json!({"completions": 3, "parallelism": 2}), "a:+ b", "new");
    check(Job, json!({"completions": 3, "parallelism": 2}), "a:+ b:+ c", "");
}

#[test]
fn a_replica_set_does_not_replace_outdated_pods() {
    check(WorkloadKind::ReplicaSet, json!({"replicas": 2}), "a:or b:r", "");
}
