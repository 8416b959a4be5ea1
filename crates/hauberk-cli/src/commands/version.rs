//! `hauberk version`: which version this is, and which one the control plane runs.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::output;

/// The version of this program.
pub(crate) const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// Flags of `hauberk version`.
#[derive(Args, Debug)]
pub(crate) struct Version {
    /// Print only the version of this command, without asking the control plane
    #[arg(long)]
    client: bool,
    /// Print bare version numbers
    #[arg(long)]
    short: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "text")]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Prints the versions.
pub(crate) fn run(version: &Version) -> anyhow::Result<ExitCode> {
    output::artefact(&render(version, server_version()))?;
    Ok(ExitCode::SUCCESS)
}

/// The version of the control plane, if one can be asked. This command does not speak to a
/// cluster yet, so there is never one to ask.
fn server_version() -> Option<String> {
    None
}

fn render(version: &Version, server: Option<String>) -> String {
    let available = server.clone().unwrap_or_else(|| "unavailable".to_owned());
    match (version.output, version.client, version.short) {
        (Form::Json, true, _) => format!("{}\n", json!({"client": CLIENT})),
        (Form::Json, false, _) => format!("{}\n", json!({"client": CLIENT, "server": server})),
        (Form::Text, true, true) => format!("{CLIENT}\n"),
        (Form::Text, true, false) => format!("Client version: {CLIENT}\n"),
        (Form::Text, false, true) => format!("{CLIENT}\n{available}\n"),
        (Form::Text, false, false) => {
            format!("Client version: {CLIENT}\nServer version: {available}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: bool, short: bool, output: Form, server: Option<&str>, expect: &str) {
        let version = Version { client, short, output };
        assert_eq!(render(&version, server.map(str::to_owned)), expect.replace("VERSION", CLIENT));
    }

    #[test]
    fn says_unavailable_without_a_control_plane() {
        let text = "Client version: VERSION\nServer version: unavailable\n";
        check(false, false, Form::Text, None, text);
        check(false, true, Form::Text, None, "VERSION\nunavailable\n");
        check(false, false, Form::Json, None, "{\"client\":\"VERSION\",\"server\":null}\n");
    }

    #[test]
    fn can_leave_the_control_plane_out() {
        check(true, false, Form::Text, None, "Client version: VERSION\n");
        check(true, true, Form::Text, Some("1"), "VERSION\n");
    }
}
