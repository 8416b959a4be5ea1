//! The `hauberk` command.
//!
//! [`args`] says what can be typed, each module of [`commands`] what it means, [`output`] how
//! it is shown. Standard output carries only the artefact (a manifest, a table, a script), so
//! that pipes work; everything for people goes to standard error.
//!
//! Exit codes: 0 done, 1 something went wrong or was typed wrongly, as scripts written for
//! `linkerd` expect. A command that runs something for the user returns that program's code.

mod args;
mod commands;
mod manifests;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for and go to standard output; the rest is a mistake.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            let _ = error.print(); // Nobody is left to tell if the terminal is gone.
            return code;
        }
    };
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Inject(inject) => commands::inject::run(global, inject),
        Command::Uninject(uninject) => commands::uninject::run(global, uninject),
        Command::Validate(validate) => commands::validate::run(global, validate),
        Command::Local(local) => commands::local::run(local),
        Command::Completion(completion) => commands::completion::run(completion),
        Command::Version(version) => commands::version::run(version),
    }
}
