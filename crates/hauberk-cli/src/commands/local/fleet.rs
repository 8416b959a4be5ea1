//! Many sidecars at once: which ones are meant, asking each, a bounded number at a time.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use hauberk_local::{
    api::{Answer, PROXY_CONTAINER, PodRow, Request, Target},
    client::{Client, StateDirectory},
};

/// Port of a sidecar's admin server.
pub(super) const ADMIN_PORT: u16 = 4191;

/// Sidecars that are asked at the same time.
pub(super) const FETCHERS: usize = 8;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer that is read; a busy proxy's metrics have some hundred KiB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The sidecars of a lab that run, or should: of all pods, or of those that are named.
///
/// # Errors
/// When a name means no pod, or none with a sidecar, so that a slip is not taken for success.
pub(super) fn sidecars(
    state: &StateDirectory,
    names: &[String],
    namespace: Option<&str>,
) -> anyhow::Result<Vec<PodRow>> {
    let pods = pods(state)?;
    for name in names {
        let mut meant = pods.iter().filter(|pod| means(pod, name, namespace)).peekable();
        if meant.peek().is_none() {
            bail!("no pod of {name} in this lab; hint: `hauberk local ps` lists them");
        }
        if !meant.any(has_sidecar) {
            bail!("no pod of {name} has a sidecar that runs");
        }
    }
    let is_meant = |pod: &PodRow| {
        let in_namespace = namespace.is_none_or(|namespace| pod.namespace == namespace);
        let by_name = names.iter().any(|name| means(pod, name, namespace));
        has_sidecar(pod) && if names.is_empty() { in_namespace } else { by_name }
    };
    Ok(pods.into_iter().filter(is_meant).collect())
}

/// All pods of a lab.
///
/// # Errors
/// When the lab cannot be asked.
pub(super) fn pods(state: &StateDirectory) -> anyhow::Result<Vec<PodRow>> {
    match Client::connect(state)?.ask(&Request::Pods)? {
        Answer::Pods { pods } => Ok(pods),
        other => bail!("the lab answered {other:?}"),
    }
}

fn has_sidecar(pod: &PodRow) -> bool {
    let is_over = matches!(pod.phase.as_str(), "Succeeded" | "Failed" | "Terminating");
    !is_over && pod.containers.iter().any(|one| one.name == PROXY_CONTAINER)
}

/// Whether a pod is meant by a name: its own, that of its owner, with or without kind or namespace.
pub(super) fn means(pod: &PodRow, name: &str, namespace: Option<&str>) -> bool {
    let is_name = |name: &str| {
        let owner = pod.owner.as_str();
        let of_owner = owner.split_once('/');
        let by_kind = name.split_once('/').map(|(kind, name)| (whole(kind), name));
        let by_name = of_owner.is_some_and(|(_, owner)| owner == name);
        !name.is_empty()
            && (pod.name == name || by_name || by_kind.is_some() && by_kind == of_owner)
    };
    let with_namespace = name.split_once('/');
    namespace.is_none_or(|wanted| pod.namespace == *wanted)
        && (is_name(name)
            || with_namespace
                .is_some_and(|(namespace, name)| pod.namespace == namespace && is_name(name)))
}

/// The kind that a short name stands for.
fn whole(kind: &str) -> &str {
    match kind {
        "deploy" => "deployment",
        "sts" => "statefulset",
        "ds" => "daemonset",
        other => other,
    }
}

/// What a pod belongs to: `deployment/web`, or itself.
pub(super) fn workload(pod: &PodRow) -> String {
    if pod.owner.is_empty() { format!("pod/{}", pod.name) } else { pod.owner.clone() }
}

/// Exactly this pod.
pub(super) fn target(pod: &PodRow) -> Target {
    Target { pod: pod.name.clone(), namespace: Some(pod.namespace.clone()), container: None }
}

/// Does `work` for all items, at most `parallel` at a time, and begins no more when a result says so.
/// Results are in the order of the items; those that were not begun are none.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    parallel: usize,
    work: impl Fn(&T) -> R + Sync,
    go_on: impl Fn(&R) -> bool + Sync,
) -> Vec<Option<R>> {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results = Mutex::new(items.iter().map(|_| None).collect::<Vec<Option<R>>>());
    let hand = || {
        while !stopped.load(SeqCst) {
            let at = next.fetch_add(1, SeqCst);
            let Some(item) = items.get(at) else { return };
            let result = work(item);
            if !go_on(&result) {
                stopped.store(true, SeqCst);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..parallel.min(items.len()) {
            scope.spawn(hand);
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Gets a page of a pod, from its loopback address.
///
/// # Errors
/// When nobody listens there, answers in time, or answers well.
pub(super) fn get(
    state: &StateDirectory,
    pod: &PodRow,
    port: u16,
    path: &str,
) -> anyhow::Result<String> {
    ask(state, pod, port, &format!("GET {path} HTTP/1.0\r\nhost: sidecar\r\n\r\n"))
}

/// Puts a text to a path of a pod. As [`get`].
///
/// # Errors
/// As [`get`].
pub(super) fn put(
    state: &StateDirectory,
    pod: &PodRow,
    port: u16,
    path: &str,
    text: &str,
) -> anyhow::Result<String> {
    let length = text.len();
    let head = format!("PUT {path} HTTP/1.0\r\nhost: sidecar\r\ncontent-length: {length}\r\n\r\n");
    ask(state, pod, port, &(head + text))
}

/// HTTP/1.0, so that the end of the answer is the connection's end.
fn ask(state: &StateDirectory, pod: &PodRow, port: u16, request: &str) -> anyhow::Result<String> {
    let mut stream = Client::connect(state)?.dial(target(pod), port)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
    read.with_context(|| format!("no answer within {ANSWER_TIMEOUT:?}"))?;
    let text = String::from_utf8(bytes).context("the answer is not UTF-8")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("it answers {status}: {}", body.trim());
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_bounded_and_stops_when_it_should() {
        let items: Vec<usize> = (0..20).collect();
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let double = |item: &usize| {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::yield_now();
            running.fetch_sub(1, SeqCst);
            item * 2
        };
        let all = each(&items, 3, double, |_| true);
        assert_eq!(all, items.iter().map(|item| Some(item * 2)).collect::<Vec<_>>());
        assert!(most.into_inner() <= 3);
        let some = each(&items, 1, |item| *item, |item| *item != 4);
        assert_eq!(some.iter().flatten().count(), 5, "none is begun after the fifth");
        assert!(each(&[], 4, |item: &u8| *item, |_| true).is_empty());
    }
}
