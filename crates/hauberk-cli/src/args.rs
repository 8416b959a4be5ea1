//! What can be typed: the tree of commands and the flags all of them share.
//!
//! The flags of a command live beside it, in its module under `commands`.

use clap::{Args, Parser, Subcommand};

use crate::commands;

/// A service mesh that runs on Kubernetes and on one machine without it.
#[derive(Debug, Parser)]
#[command(name = "hauberk", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Flags every command knows.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags every command knows.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Namespace of the control plane
    #[arg(
        short = 'L',
        long,
        global = true,
        default_value = "linkerd",
        env = "LINKERD_NAMESPACE",
        value_parser = namespace,
        value_name = "NAMESPACE"
    )]
    pub(crate) linkerd_namespace: String,
    /// Say more on standard error
    #[arg(long, global = true)]
    pub(crate) verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add workloads of a manifest to the mesh
    Inject(Box<commands::inject::Inject>),
    /// Take workloads of a manifest out of the mesh
    Uninject(commands::uninject::Uninject),
    /// Tell what the API server would refuse in manifests, and what in them does nothing
    Validate(commands::validate::Validate),
    /// Run a cluster on this machine, without Kubernetes
    Local(Box<commands::local::Local>),
    /// Print a script that completes this command in a shell
    Completion(commands::completion::Completion),
    /// Print the versions of this command and of the control plane
    Version(commands::version::Version),
}

/// A namespace as a flag: letters, digits and hyphens.
fn namespace(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fine { Ok(text.to_owned()) } else { Err(format!("{text} is not a valid namespace")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_of_commands_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_namespace_has_no_blanks() {
        assert!(namespace("linkerd-2").is_ok());
        assert_eq!(namespace("a b"), Err("a b is not a valid namespace".to_owned()));
        assert!(namespace("").is_err());
    }
}
