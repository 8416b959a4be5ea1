//! The program as a process.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::process::Command;

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
