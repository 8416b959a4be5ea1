//! `hauberk uninject`: workloads of a manifest leave the mesh.

use std::process::ExitCode;

use clap::Args;
use hauberk_inject::uninject;

use crate::{
    args::Global,
    manifests::{self, ManifestFlags, Verb},
};

/// Flags of `hauberk uninject`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    kubectl get deploy -o yaml | hauberk uninject - | kubectl apply -f -")]
pub(crate) struct Uninject {
    #[command(flatten)]
    manifests: ManifestFlags,
}

/// Takes what was named out of the mesh.
pub(crate) fn run(global: &Global, command: &Uninject) -> anyhow::Result<ExitCode> {
    let inputs = manifests::read(&command.manifests)?;
    manifests::run(&command.manifests, &inputs, Verb::Uninject, global.verbose, uninject)
}
