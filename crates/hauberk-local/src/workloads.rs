//! Which pods a workload wants: the controllers of Kubernetes, as pure functions.
//!
//! [`steps`] compares what a workload asks for with the pods it has and says what to do next. It is
//! called again after each change, so each call only says what may be done right now: a rolling
//! update takes as many calls as it needs, and nothing is remembered in between.
//!
//! Deliberately not here: making pods, and injection ([`crate::lab`]).

use crate::spec::{NumberOrText, WorkloadSpec};
use crate::status::Phase;

/// Kinds that make pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// Any number of equal pods, replaced gradually.
    Deployment,
    /// Any number of equal pods, replaced only when they end.
    ReplicaSet,
    /// Numbered pods.
    StatefulSet,
    /// One pod on the lab's only node.
    DaemonSet,
    /// Pods that end.
    Job,
}

impl WorkloadKind {
    /// Reads the kind of a manifest.
    pub fn parse(kind: &str) -> Option<Self> {
        Some(match kind {
            "Deployment" => Self::Deployment,
            "ReplicaSet" => Self::ReplicaSet,
            "StatefulSet" => Self::StatefulSet,
            "DaemonSet" => Self::DaemonSet,
            "Job" => Self::Job,
            _ => return None,
        })
    }
}

/// One of a workload's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Whether it is made from today's template.
    pub current: bool,
    /// Whether it may get traffic.
    pub ready: bool,
    /// Whether it is being ended.
    pub stopping: bool,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Member {
    fn is_alive(&self) -> bool {
        !self.stopping && !self.phase.is_final()
    }
}

/// Something to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a pod from today's template, with a name made up.
    Create,
    /// Make a pod with this number.
    CreateNumbered(u32),
    /// End this pod.
    Stop(String),
}

/// What to do now for a workload with these pods, which are ordered by age, oldest first.
pub fn steps(kind: WorkloadKind, name: &str, spec: &WorkloadSpec, members: &[Member]) -> Vec<Step> {
    match kind {
        WorkloadKind::Deployment => deployment(spec, members),
        WorkloadKind::ReplicaSet => equal_pods(spec.replicas.unwrap_or(1), members),
        WorkloadKind::StatefulSet => stateful_set(name, spec, members),
        WorkloadKind::DaemonSet => daemon_set(members),
        WorkloadKind::Job => job(spec, members),
    }
}

fn stop(member: &Member) -> Step {
    Step::Stop(member.name.clone())
}

/// Pods that have ended are cleared away, and their place is filled.
fn ended(members: &[Member]) -> impl Iterator<Item = Step> {
    members.iter().filter(|one| one.phase.is_final() && !one.stopping).map(stop)
}

/// Brings equal pods to a number. The youngest and unready ones go first.
fn equal_pods(wanted: u32, members: &[Member]) -> Vec<Step> {
    let wanted = wanted as usize;
    let mut alive: Vec<&Member> = members.iter().filter(|one| one.is_alive()).collect();
    let missing = wanted.saturating_sub(alive.len());
    let surplus = alive.len().saturating_sub(wanted);
    alive.sort_by_key(|one| one.ready);
    let (unready, ready) = alive.split_at(alive.partition_point(|one| !one.ready));
    let doomed = unready.iter().rev().chain(ready.iter().rev()).take(surplus).map(|one| stop(one));
    ended(members).chain(doomed).chain(std::iter::repeat_n(Step::Create, missing)).collect()
}

/// A rolling update within `maxSurge` and `maxUnavailable`, as
/// <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/> defines them.
fn deployment(spec: &WorkloadSpec, members: &[Member]) -> Vec<Step> {
    let wanted = spec.replicas.unwrap_or(1) as usize;
    let (current, old): (Vec<&Member>, Vec<&Member>) =
        members.iter().filter(|one| one.is_alive()).partition(|one| one.current);
    if old.is_empty() {
        return equal_pods(spec.replicas.unwrap_or(1), members);
    }
    let recreate = spec.strategy.kind.as_deref() == Some("Recreate");
    if recreate {
        return ended(members).chain(old.into_iter().map(stop)).collect();
    }
    let rolling = &spec.strategy.rolling_update;
    let surge = share(rolling.max_surge.as_ref(), wanted, Rounding::Up);
    let mut unavailable = share(rolling.max_unavailable.as_ref(), wanted, Rounding::Down);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let total = current.len() + old.len();
    let room = (wanted + surge).saturating_sub(total);
    let missing = wanted.saturating_sub(current.len()).min(room);
    // Old pods that serve nobody can go at once; the others as far as enough pods stay ready.
    let ready = current.iter().chain(&old).filter(|one| one.ready).count();
    let spare = ready.saturating_sub(wanted.saturating_sub(unavailable));
    let unready_old = old.iter().filter(|one| !one.ready).map(|one| stop(one));
    let ready_old = old.iter().filter(|one| one.ready).take(spare).map(|one| stop(one));
    ended(members)
        .chain(std::iter::repeat_n(Step::Create, missing))
        .chain(unready_old)
        .chain(ready_old)
        .collect()
}

enum Rounding {
    Up,
    Down,
}

/// A number, or a percentage of `whole`; 25 % when nothing is said.
fn share(value: Option<&NumberOrText>, whole: usize, rounding: Rounding) -> usize {
    let percent = match value {
        Some(NumberOrText::Number(number)) => return *number as usize,
        Some(NumberOrText::Text(text)) => text.trim_end_matches('%').parse::<usize>().unwrap_or(25),
        None => 25,
    };
    match rounding {
        Rounding::Up => (whole * percent).div_ceil(100),
        Rounding::Down => whole * percent / 100,
    }
}

/// Numbered pods, one after the other unless `podManagementPolicy: Parallel`.
fn stateful_set(name: &str, spec: &WorkloadSpec, members: &[Member]) -> Vec<Step> {
    let wanted = spec.replicas.unwrap_or(1);
    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let numbered = |number: u32| {
        let name = format!("{name}-{number}");
        members.iter().find(|one| one.name == name)
    };
    let number_of = |member: &Member| -> u32 {
        let number = member.name.rsplit('-').next().and_then(|text| text.parse().ok());
        number.unwrap_or(u32::MAX)
    };
    let mut steps: Vec<Step> = ended(members).collect();
    let mut all_ready = true;
    for number in 0..wanted {
        match numbered(number) {
            None => steps.push(Step::CreateNumbered(number)),
            Some(member) if member.is_alive() && member.ready => continue,
            Some(_) => {}
        }
        all_ready = false;
        if !parallel {
            return steps;
        }
    }
    // From the highest number down: first those that are too many, then those that are outdated.
    let mut alive: Vec<&Member> = members.iter().filter(|one| one.is_alive()).collect();
    alive.sort_by_key(|one| std::cmp::Reverse(number_of(one)));
    let is_stopping = members.iter().any(|one| one.stopping);
    let surplus = alive.iter().filter(|one| number_of(one) >= wanted);
    let batch = if parallel { usize::MAX } else { usize::from(!is_stopping) };
    let before = steps.len();
    steps.extend(surplus.take(batch).map(|one| stop(one)));
    if steps.len() == before && all_ready && !is_stopping {
        steps.extend(alive.iter().find(|one| !one.current).map(|one| stop(one)));
    }
    steps
}

fn daemon_set(members: &[Member]) -> Vec<Step> {
    let (current, old): (Vec<&Member>, Vec<&Member>) =
        members.iter().filter(|one| one.is_alive()).partition(|one| one.current);
    let occupied = !current.is_empty() || !old.is_empty() || members.iter().any(|one| one.stopping);
    let create = (!occupied).then_some(Step::Create);
    ended(members).chain(old.into_iter().map(stop)).chain(create).collect()
}

/// Pods until enough have succeeded, or too many have failed. A job is never made anew.
fn job(spec: &WorkloadSpec, members: &[Member]) -> Vec<Step> {
    let completions = spec.completions.unwrap_or(1) as usize;
    let parallelism = spec.parallelism.unwrap_or(1) as usize;
    let backoff_limit = spec.backoff_limit.unwrap_or(6) as usize;
    let count = |phase: Phase| members.iter().filter(|one| one.phase == phase).count();
    let active = members.iter().filter(|one| !one.phase.is_final()).count();
    if count(Phase::Failed) > backoff_limit {
        return Vec::new();
    }
    let remaining = completions.saturating_sub(count(Phase::Succeeded));
    let missing = remaining.min(parallelism).saturating_sub(active);
    std::iter::repeat_n(Step::Create, missing).collect()
}

#[cfg(test)]
#[path = "workloads/tests.rs"]
mod tests;
