//! `hauberk completion`: a script that completes commands and flags in a shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Arguments, output};

/// Flags of `hauberk completion`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    source <(hauberk completion bash)\n  \
    hauberk completion zsh > \"${fpath[1]}/_hauberk\"\n  \
    hauberk completion fish > ~/.config/fish/completions/hauberk.fish")]
pub(crate) struct Completion {
    /// The shell to complete in
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Prints the script.
pub(crate) fn run(completion: &Completion) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(completion.shell, &mut Arguments::command(), "hauberk", &mut script);
    output::artefact(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
