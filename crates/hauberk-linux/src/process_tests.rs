//! Tests that start real processes; those that need namespaces say so when they cannot run.

use std::fs::File;
use std::io::Read;

use super::*;
use crate::namespace::{Kind, Namespace, inside};

/// Namespaces may be made here: by root, or because `HAUBERK_REQUIRE_NAMESPACES` insists.
fn may_make_namespaces() -> bool {
    let root = rustix::process::geteuid().is_root();
    let required = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some();
    if !root && !required {
        eprintln!("SKIPPED: only root makes namespaces without a user namespace");
    }
    root || required
}

fn shell(script: &str) -> (Program, std::io::PipeReader) {
    let (output, input) = std::io::pipe().unwrap();
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let program = Program {
        candidates: vec!["/nowhere/sh".into(), "/bin/sh".into()],
        arguments: vec!["sh".into(), "-c".into(), script.into()],
        environment: vec![("GREETING".into(), "hello there".into())],
        directory: "/".into(),
        stdio: [null().into(), input.into(), null().into()],
        create: Vec::new(),
        mounts: Mounts::Inherit,
        ids: None,
        tie: Tie::None,
    };
    (program, output)
}

fn output_of(program: Program, mut output: std::io::PipeReader) -> (String, Ended) {
    let running = program.spawn().unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    (text, running.wait().unwrap())
}

#[test]
fn runs_the_first_candidate_that_exists_with_the_given_environment() {
    let (program, output) = shell("echo $GREETING; pwd; exit 3");
    let (text, ended) = output_of(program, output);
    assert_eq!((text.as_str(), ended), ("hello there\n/\n", Ended::Code(3)));
}

#[test]
fn says_which_step_failed() {
    let (mut program, _output) = shell("true");
    program.candidates = vec!["/nowhere/program".into()];
    let error = program.spawn().unwrap_err();
    assert_eq!(error.step, "execute");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);

    let (mut program, _output) = shell("true");
    program.directory = "/nowhere".into();
    assert_eq!(program.spawn().unwrap_err().step, "change to the working directory");
}

#[test]
fn a_failing_preparation_leaves_no_process() {
    let (program, mut output) = shell("echo started");
    let error = program.spawn_after(|_| Err(io::Error::other("no"))).unwrap_err();
    assert_eq!(error.step, "prepare the new process");
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn tells_a_signal_from_an_exit() {
    let (program, _output) = shell("kill -TERM $$");
    let running = program.spawn().unwrap();
    let ended = running.wait().unwrap();
    assert_eq!(ended, Ended::Signal(15));
    assert_eq!(ended.exit_code(), 143);
    assert!(running.try_wait().is_err(), "it was collected");
}

#[test]
fn inherits_no_descriptor_and_no_ignored_signal() {
    let _open = File::open("/dev/null").unwrap();
    let (program, output) = shell("ls /proc/self/fd | wc -l; grep SigIgn /proc/self/status");
    let (text, _) = output_of(program, output);
    // 0, 1, 2 and the directory that ls itself reads. The shell ignores nothing by itself.
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words, ["4", "SigIgn:", "0000000000000000"]);
}

#[test]
fn a_holder_keeps_namespaces_that_others_enter() {
    if !may_make_namespaces() {
        return;
    }
    let holder = hold(&[Kind::Network, Kind::Uts, Kind::Ipc, Kind::Pid]).unwrap();
    let open = |kind| Namespace::of_process(holder.pid(), kind).unwrap();
    let (network, uts, pid) = (open(Kind::Network), open(Kind::Uts), open(Kind::Pid));
    let (program, output) = shell("echo $$; hostname; cat /proc/self/net/dev | wc -l");
    let text = inside(&[&network, &uts, &pid], || {
        nix::unistd::sethostname("pod-of-a-test").unwrap();
        output_of(program, output).0
    })
    .unwrap();
    assert!(text.starts_with("2\npod-of-a-test\n"), "second process of its namespace: {text}");
    assert_ne!(nix::unistd::gethostname().unwrap(), "pod-of-a-test");

    let (program, mut output) = shell("echo; exec sleep 600");
    let inner = inside(&[&pid], || program.spawn().unwrap()).unwrap();
    output.read_exact(&mut [0]).unwrap();
    holder.signal(Signal::KILL).unwrap();
    assert_eq!(inner.wait().unwrap(), Ended::Signal(9), "the kernel ends the others");
    holder.wait().unwrap();
}

#[test]
fn mounts_stay_in_the_child() {
    if !may_make_namespaces() {
        return;
    }
    let source = std::env::temp_dir().join(format!("hauberk-mount-{}", std::process::id()));
    std::fs::write(&source, "127.0.0.1 a-name-of-the-pod\n").unwrap();
    let (mut program, output) = shell("cat /etc/hosts; (echo x > /etc/hosts) 2>&1 || echo refused");
    let target = PathBuf::from("/etc/hosts");
    program.mounts =
        Mounts::Own(vec![Mount::Bind { source: source.clone(), target, read_only: ReadOnly::Yes }]);
    let (text, _) = output_of(program, output);
    std::fs::remove_file(&source).unwrap();
    assert!(text.starts_with("127.0.0.1 a-name-of-the-pod\n"), "{text}");
    assert!(text.ends_with("refused\n"), "{text}");
    assert!(!std::fs::read_to_string("/etc/hosts").unwrap().contains("a-name-of-the-pod"));
}

#[test]
fn a_tied_child_dies_with_the_thread_that_started_it() {
    let (mut program, mut output) = shell("echo; exec sleep 600");
    program.tie = Tie::ToParent;
    let running = std::thread::spawn(move || {
        let running = program.spawn().unwrap();
        output.read_exact(&mut [0]).unwrap();
        running
    })
    .join()
    .unwrap();
    assert_eq!(running.wait().unwrap(), Ended::Signal(9));
}

#[test]
fn becomes_another_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root becomes another user");
        return;
    }
    let script = "id -u; id -g; id -G; grep CapEff /proc/self/status";
    let become_ids = |capabilities| {
        let (mut program, output) = shell(script);
        program.ids = Some(Ids { user: 2102, group: 2103, capabilities });
        output_of(program, output).0
    };
    let none = become_ids(Capabilities::default());
    assert_eq!(none, "2102\n2103\n2103\nCapEff:\t0000000000000000\n");
    let net_admin = become_ids(Capabilities(1 << 12));
    assert_eq!(net_admin, "2102\n2103\n2103\nCapEff:\t0000000000001000\n");
}
