//! `hauberk-init` as it is called: names, flags, log, exit codes, and what remains in the kernel.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use hauberk_capture::rules::{Family, Generation};
use hauberk_capture::{Backend, CaptureConfig, Choice, RuleSet, Variant, plan, render};
use hauberk_linux::namespace::inside;

use crate::lab::{BACKENDS, Lab, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hauberk-init");

const FIRST: &str = "--incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 \
                     --inbound-ports-to-ignore 4190,4191";
const LATER: &str = "--incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 \
                     --inbound-ports-to-ignore 4190,4191,4567,4568 \
                     --outbound-ports-to-ignore 4567,4568";

/// Runs the program in the pod under the given name.
fn run_as(lab: &Lab, name: &str, flags: &str) -> Output {
    inside(&[&lab.pod], || Command::new(PROGRAM).arg0(name).args(flags.split_whitespace()).output())
        .expect("the pod's namespace")
        .expect("the program starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn expect_success(output: &Output) -> String {
    let text = out(output);
    assert!(output.status.success(), "{text}");
    text
}

fn expect_failure(output: &Output) -> String {
    let text = out(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

/// Lines of our chains and jumps, as `iptables-save` shows them.
fn saved(lab: &Lab, program: &str) -> Vec<String> {
    let text = lab.output(program, &["-t", "nat"]);
    text.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect()
}

fn expected(rules: &RuleSet, family: Family) -> Vec<String> {
    let lines = render::iptables::lines(rules, family);
    lines.jumps.into_iter().chain(lines.rules).collect()
}

#[test]
fn documented_command_lines_work_under_all_names() {
    for (name, flags, backend) in [
        ("proxy-init", FIRST, "iptables-nft"),
        ("linkerd2-proxy-init", LATER, "iptables-legacy"),
        ("hauberk-init", LATER, "iptables-legacy"),
    ] {
        let Some(lab) = Lab::new() else { return };
        let config = CaptureConfig {
            inbound_ports_to_ignore: hauberk_capture::lists::ports(&[if flags == FIRST {
                "4190,4191"
            } else {
                "4190,4191,4567,4568"
            }])
            .expect("ports"),
            outbound_ports_to_ignore: hauberk_capture::lists::ports(&[if flags == FIRST {
                ""
            } else {
                "4567,4568"
            }])
            .expect("ports"),
            ..CaptureConfig::sidecar()
        };

        expect_success(&run_as(&lab, name, &format!("{flags} --firewall-bin-path {backend}")));

        let rules = plan(&config);
        assert_eq!(saved(&lab, &format!("{backend}-save")), expected(&rules, Family::V4));
        let v6 = format!("{}-save", backend.replacen("ip", "ip6", 1));
        assert_eq!(saved(&lab, &v6), expected(&rules, Family::V6));
    }
}

#[test]
fn a_bare_call_uses_a_native_table() {
    let Some(lab) = Lab::new() else { return };

    let log = expect_success(&run_as(&lab, "proxy-init", LATER));

    assert!(log.contains("level=info") && log.contains("(nft)"), "{log}");
    let rules = lab.output("nft", &["list", "ruleset"]);
    assert!(
        rules.contains("table inet hauberk_capture") && !rules.contains("PROXY_INIT"),
        "{rules}"
    );
}

#[test]
fn the_run_of_2_7_gives_its_rules_and_its_log() {
    for backend in ["iptables-nft", "iptables-legacy"] {
        let Some(lab) = Lab::new() else { return };
        let flags = format!("{FIRST} --compat 2.7 --firewall-bin-path {backend}");

        let log = expect_success(&run_as(&lab, "proxy-init", &flags));

        let trace_id = log.split(['[', ']']).nth(1).and_then(|id| id.parse().ok());
        let config = CaptureConfig {
            inbound_ports_to_ignore: hauberk_capture::lists::ports(&["4190,4191"]).expect("ports"),
            outbound_ports_to_ignore: Vec::new(),
            generation: Generation::Linkerd27 { trace_id: trace_id.expect("a trace id") },
            ..CaptureConfig::sidecar()
        };
        let rules = saved(&lab, &format!("{backend}-save"));
        assert_eq!(rules, expected(&plan(&config), Family::V4));
        assert_eq!(rules.len(), 8);
        expect_in_order(
            &log,
            &[
                "Tracing this script execution as [",
                "State of iptables rules before run:",
                "-t nat -vnL",
                "< Chain PREROUTING",
                "-t nat -F PROXY_INIT_REDIRECT",
                "< iptables: No chain/target/match by that name.",
                "-t nat -X PROXY_INIT_REDIRECT",
                "Will ignore port(s) [4190 4191] on chain PROXY_INIT_REDIRECT",
                "Will redirect all INPUT ports to proxy",
                "-t nat -F PROXY_INIT_OUTPUT",
                "Ignoring uid 2102",
                "Redirecting all OUTPUT to 4140",
                "Executing commands:",
                "-t nat -N PROXY_INIT_REDIRECT -m comment --comment proxy-init/redirect-common-chain/",
                "--match multiport --dports 4190,4191 -j RETURN",
                "-j REDIRECT --to-port 4143",
                "-A PREROUTING -j PROXY_INIT_REDIRECT",
                "-t nat -N PROXY_INIT_OUTPUT",
                "-A OUTPUT -j PROXY_INIT_OUTPUT",
                "-t nat -vnL",
                "redir ports 4140",
            ],
        );
        let undated = log.lines().find(|line| !line.starts_with("20"));
        assert_eq!(undated, None, "each line begins with date and time");

        let again = run_as(&lab, "proxy-init", &flags);
        expect_success(&again);
        assert_eq!(saved(&lab, &format!("{backend}-save")).len(), 8);
        expect_success(&run_as(&lab, "hauberk-init", &format!("verify {flags}")));
    }
}

fn expect_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let found = rest.split_once(part);
        assert!(found.is_some(), "'{part}' is missing or too early in:\n{text}");
        rest = found.map_or("", |(_, after)| after);
    }
}

#[test]
fn verifying_sees_what_was_changed_by_hand() {
    let changes: [(Backend, &[&str]); 3] = [
        (
            BACKENDS[0],
            &["nft", "add", "element", "inet", "hauberk_capture", "inbound_skip_ports", "{ 9000 }"],
        ),
        (BACKENDS[1], &["iptables-nft", "-t", "nat", "-D", "PROXY_INIT_OUTPUT", "2"]),
        (
            BACKENDS[2],
            &["ip6tables-legacy", "-t", "nat", "-I", "PROXY_INIT_REDIRECT", "-j", "RETURN"],
        ),
    ];
    for (backend, change) in changes {
        let Some(lab) = Lab::new() else { return };
        let none = expect_failure(&run_as(&lab, "hauberk-init", &format!("verify {LATER}")));
        assert!(none.contains("there are no capture rules"), "{none}");
        expect_success(&run_as(&lab, "hauberk-init", &format!("{LATER} --backend {backend}")));
        expect_success(&run_as(&lab, "hauberk-init", &format!("{LATER} --verify")));

        lab.output(change[0], &change[1..]);

        let log = expect_failure(&run_as(&lab, "hauberk-init", &format!("verify {LATER}")));
        assert!(log.contains("missing: ") || log.contains("unexpected: "), "{backend}: {log}");
        let other = LATER.replace("4140", "4150");
        expect_failure(&run_as(&lab, "hauberk-init", &format!("verify {other}")));
    }
}

#[test]
fn cleaning_up_leaves_nothing_of_any_backend() {
    let Some(lab) = Lab::new() else { return };
    let rules = plan(&CaptureConfig::sidecar());
    for backend in BACKENDS {
        lab.in_pod(|pod| pod.apply(&rules, Choice::Only(backend)).expect("taken"));

        let log = expect_success(&run_as(&lab, "proxy-init", &format!("{LATER} --cleanup")));

        assert!(log.contains(&format!("({backend})")), "{log}");
        assert!(!lab.output("nft", &["list", "ruleset"]).contains("hauberk_capture"));
        for program in [
            "iptables-nft-save",
            "ip6tables-nft-save",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
        ] {
            assert!(!lab.output(program, &[]).contains("PROXY_INIT"), "{program}");
        }
    }
    let log = expect_success(&run_as(&lab, "hauberk-init", "remove"));
    assert!(log.contains("there were no capture rules"), "{log}");
}

#[test]
fn rules_of_another_backend_and_half_rule_sets_are_replaced() {
    let Some(lab) = Lab::new() else { return };
    expect_success(&run_as(
        &lab,
        "proxy-init",
        &format!("{FIRST} --compat 2.7 --iptables-mode legacy"),
    ));
    lab.output("iptables-nft", &["-t", "nat", "-N", "PROXY_INIT_REDIRECT"]);

    let log =
        expect_success(&run_as(&lab, "proxy-init", &format!("{LATER} --backend iptables-nft")));

    assert!(log.contains("removed the rules of an earlier run from iptables-legacy"), "{log}");
    assert_eq!(saved(&lab, "iptables-legacy-save"), [""; 0]);
    let rules = plan(&CaptureConfig::sidecar());
    assert_eq!(saved(&lab, "iptables-nft-save"), expected(&rules, Family::V4));

    expect_success(&run_as(&lab, "proxy-init", LATER));
    assert_eq!(saved(&lab, "iptables-nft-save"), [""; 0]);
}

#[test]
fn simulating_needs_no_right_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.output("nft", &["list", "ruleset"]);

    let nft = unprivileged(&lab, &format!("{LATER} --simulate"));
    let iptables =
        unprivileged(&lab, &format!("{LATER} --simulate --iptables-mode nft --ipv6=false"));

    let rules = plan(&CaptureConfig::sidecar());
    assert_eq!(expect_success(&nft), render::nft(&rules));
    assert_eq!(expect_success(&iptables), render::iptables::restore(&rules, Family::V4));
    assert_eq!(lab.output("nft", &["list", "ruleset"]), before);
}

#[test]
fn a_missing_right_is_said_with_the_way_out() {
    for backend in ["auto", "nft", "iptables-nft", "iptables-legacy"] {
        let Some(lab) = Lab::new() else { return };

        let log = expect_failure(&unprivileged(&lab, &format!("{LATER} --backend {backend}")));

        assert!(log.contains("aborting firewall configuration"), "{log}");
        assert!(log.contains("CAP_NET_ADMIN"), "{backend}: {log}");
    }
}

/// Runs the program as a user with no right over the pod's namespace: the first in a user namespace of
/// its own, which does not own the network namespace.
fn unprivileged(lab: &Lab, flags: &str) -> Output {
    inside(&[&lab.pod], || {
        Command::new("unshare").args(["-U", PROGRAM]).args(flags.split_whitespace()).output()
    })
    .expect("the pod's namespace")
    .expect("unshare is part of every distribution")
}

/// In a user namespace without user 2102 iptables refuses a rule about that user.
#[test]
fn an_unmapped_user_leaves_the_exemption_to_the_mark() {
    for variant in ["nft", "legacy"] {
        let script = format!(
            "{PROGRAM} {LATER} --backend iptables-{variant} && iptables-{variant}-save -t nat && \
             {PROGRAM} verify {LATER}"
        );
        let output = Command::new("unshare")
            .args(["-U", "-r", "-n", "sh", "-c", &script])
            .output()
            .expect("unshare is part of every distribution");
        if out(&output).contains("unshare failed") {
            skip::<()>(&format!("cannot make a user namespace: {}", out(&output)));
            return;
        }

        let log = expect_success(&output);

        assert!(log.contains("user 2102 is not mapped"), "{log}");
        assert!(log.contains("--mark 0x539") && !log.contains("--uid-owner"), "{log}");
    }
}

#[test]
fn the_namespace_can_be_given_by_path() {
    let Some(lab) = Lab::new() else { return };
    let path = format!("/proc/{}/fd/{}", std::process::id(), lab.pod.as_fd().as_raw_fd());

    let output = Command::new(PROGRAM)
        .args(LATER.split_whitespace())
        .args(["--netns", &path, "--log-format", "json"])
        .output()
        .expect("the program starts");

    let log = expect_success(&output);
    assert!(log.starts_with("{\"level\":\"info\",\"msg\":\"capture rules are in place"), "{log}");
    assert!(lab.output("nft", &["list", "tables"]).contains("hauberk_capture"));
}

#[test]
fn the_life_of_close_wait_entries_is_set() {
    let Some(lab) = Lab::new() else { return };

    expect_success(&run_as(&lab, "proxy-init", &format!("{LATER} --timeout-close-wait-secs 3600")));

    let setting = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    assert_eq!(lab.output("cat", &[setting]), "3600\n");
}

#[test]
fn every_mistake_is_named_at_once() {
    let flags = "-p 4143 --proxy-uid root --subnets-to-ignore 10.0.0.0/33,fd00::/8 --iptables-mode x \
                 --inbound-ports-to-ignore 25,smtp,99999";

    let output = Command::new(PROGRAM).args(flags.split_whitespace()).output().expect("starts");

    let log = expect_failure(&output);
    for part in ["outgoing-proxy-port", "'root'", "'10.0.0.0/33'", "'x'", "'smtp'", "'99999'"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    assert!(!log.contains("'fd00"), "{log}");
}

/// Removing is the harmless way to try: there is nothing of ours in the machine's namespace.
#[test]
fn the_machines_own_namespace_is_refused() {
    if hauberk_capture::host::Facts::read().why_machine().is_none() {
        println!("SKIPPED: the tests do not run in the machine's own network namespace");
        return;
    }

    let output = Command::new(PROGRAM).arg("remove").output().expect("the program starts");

    let log = expect_failure(&output);
    assert!(log.contains("--allow-host-namespace"), "{log}");
}

#[test]
fn auto_takes_nft_and_prefers_nothing_that_is_missing() {
    let Some(lab) = Lab::new() else { return };
    let rules = plan(&CaptureConfig::sidecar());

    let applied = lab.in_pod(|pod| pod.apply(&rules, Choice::Auto).expect("taken"));
    assert_eq!(applied.backend, Backend::Nft);
    assert_eq!(applied.notes, [""; 0]);

    let preferred = Choice::Prefer(Variant::Legacy);
    let applied = lab.in_pod(|pod| pod.apply(&rules, preferred).expect("taken"));
    assert_eq!(applied.backend, Backend::Iptables(Variant::Legacy));
}
