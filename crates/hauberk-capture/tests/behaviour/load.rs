//! Rules that are replaced while connections come and go: none is lost, none slips by.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hauberk_capture::rules::Family;
use hauberk_capture::{Backend, CaptureConfig, Choice, plan};
use hauberk_linux::namespace::inside;

use crate::lab::{BACKENDS, Caller, Lab, addresses, call_here};

/// How often the rules are replaced under load.
const ROUNDS: usize = 15;

/// Opens connections until told to stop. Gives the number of good ones, and all bad ones.
fn call_until(
    lab: &Lab,
    caller: Caller,
    to: SocketAddr,
    who: &str,
    stop: &AtomicBool,
) -> (usize, Vec<String>) {
    inside(&[lab.namespace(caller.from)], || {
        let (mut good, mut bad) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) && bad.len() < 10 {
            match call_here(caller, to) {
                Ok((reply, _)) if reply.who == who && reply.original == to => good += 1,
                Ok((reply, _)) => bad.push(format!("{to}: answered by {reply:?}")),
                Err(error) => bad.push(format!("{to}: {error}")),
            }
        }
        (good, bad)
    })
    .expect("the namespace can be entered")
}

/// Runs `change` repeatedly while both directions are under load and a connection of each is open.
fn under_load(lab: &Lab, mut change: impl FnMut(usize)) {
    let v4 = addresses(Family::V4);
    let v6 = addresses(Family::V6);
    let app = SocketAddr::new(v4.pod, 8080);
    let outside = SocketAddr::new(v6.remote, 9000);
    let open = |caller: Caller, to| {
        inside(&[lab.namespace(caller.from)], || call_here(caller, to).expect("captured").1)
            .expect("the namespace can be entered")
    };
    let mut long_lived = [open(Caller::NODE, app), open(Caller::APP, outside)];
    let stop = AtomicBool::new(false);

    let results = thread::scope(|scope| {
        // Told to stop also when a change panics, or the scope would wait for ever.
        let _stop = StopAtEnd(&stop);
        let inbound = scope.spawn(|| call_until(lab, Caller::NODE, app, "inbound", &stop));
        let outbound = scope.spawn(|| call_until(lab, Caller::APP, outside, "outbound", &stop));
        for round in 0..ROUNDS {
            change(round);
            for stream in &mut long_lived {
                let mut byte = [0];
                stream.write_all(b"x").expect("an open connection stays open");
                stream.read_exact(&mut byte).expect("an open connection stays open");
            }
        }
        stop.store(true, Ordering::Relaxed);
        [inbound, outbound].map(|caller| caller.join().expect("no panic"))
    });

    for (good, bad) in results {
        assert_eq!(bad, [""; 0], "after {good} good connections");
        assert!(good > ROUNDS, "only {good} connections: no load");
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn apply(lab: &Lab, backend: Backend) {
    let rules = plan(&CaptureConfig::sidecar());
    lab.in_pod(|pod| pod.apply(&rules, Choice::Only(backend)).expect("the rules are taken"));
}

fn check_reapplying(backend: Backend) {
    let Some(lab) = Lab::new() else { return };
    apply(&lab, backend);

    under_load(&lab, |_| apply(&lab, backend));
}

#[test]
fn reapplying_nft_loses_and_leaks_nothing() {
    check_reapplying(BACKENDS[0]);
}

#[test]
fn reapplying_iptables_nft_loses_and_leaks_nothing() {
    check_reapplying(BACKENDS[1]);
}

#[test]
fn reapplying_iptables_legacy_loses_and_leaks_nothing() {
    check_reapplying(BACKENDS[2]);
}

#[test]
fn changing_the_backend_loses_and_leaks_nothing() {
    let Some(lab) = Lab::new() else { return };
    apply(&lab, BACKENDS[0]);

    under_load(&lab, |round| apply(&lab, BACKENDS[(round + 1) % BACKENDS.len()]));
}
