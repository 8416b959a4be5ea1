//! The program as a process.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use hauberk_testkit::ca::TestCa;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::SystemTime,
};

/// A proxy as a process, which ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn logs_are_json_where_that_is_asked_for() {
    let token = tempfile::NamedTempFile::new().unwrap();
    let name = "web.test.serviceaccount.identity.linkerd.cluster.local";
    let anchors = TestCa::new(SystemTime::now()).anchors().to_pem();
    let settings = [
        ("LOG", "info"),
        ("LOG_FORMAT", "json"),
        ("INBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
        ("DESTINATION_SVC_ADDR", "127.0.0.1:1"),
        ("POLICY_SVC_ADDR", "127.0.0.1:1"),
        ("POLICY_WORKLOAD", "w"),
        ("IDENTITY_SVC_ADDR", "127.0.0.1:1"),
        ("IDENTITY_LOCAL_NAME", name),
        ("IDENTITY_TRUST_ANCHORS", &anchors),
        ("IDENTITY_TOKEN_FILE", token.path().to_str().unwrap()),
    ];
    let settings = settings.map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value));
    let child = Command::new(env!("CARGO_BIN_EXE_hauberk-proxy"))
        .env_clear()
        .envs(settings)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut proxy = Running(child);
    let lines = BufReader::new(proxy.0.stdout.take().unwrap()).lines();
    for line in lines {
        let line = line.unwrap();
        assert!(line.starts_with("{\"timestamp\":\"20") && line.ends_with('}'), "{line}");
        if line.contains("Inbound interface on 127.0.0.1:") {
            assert!(line.contains("\"level\":\"INFO\""), "{line}");
            assert!(line.contains("\"target\":\"hauberk_proxy"), "{line}");
            return;
        }
    }
    panic!("the proxy ended without a word about its ports");
}

#[test]
fn wrong_settings_are_reported_at_once_with_exit_code_64() {
    let output = Command::new(env!("CARGO_BIN_EXE_hauberk-proxy"))
        .env_clear()
        .env("LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT", "soon")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    for name in ["INBOUND_CONNECT_TIMEOUT", "DESTINATION_SVC_ADDR", "IDENTITY_TRUST_ANCHORS"] {
        assert!(text.contains(name), "{name} in {text}");
    }
}
