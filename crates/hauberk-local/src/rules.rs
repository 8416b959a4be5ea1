//! The rules for service addresses on their way into the kernel, and who waits for them.
//!
//! The lab's writer says what the rules are to be, with a number that grows ([`Wanted`]). [`follow`]
//! loads the newest ones whenever they have changed, and says how far it is ([`Loaded`]). Meanwhile
//! the writer's answers are kept ([`Held`]): who has read that a pod is ready, or that a service is
//! there, finds it at its service's address at once.
//!
//! What the rules say is in [`crate::virtual_ip`]. Sidecars do not go by these rules; they hear of
//! endpoints from the control plane, and keep requests until they have.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use hauberk_process::Shutdown;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};

use crate::api::Answer;

/// Time between two replacements of the rules.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time for one replacement. Some milliseconds are usual; thousands of services on a busy
/// machine take seconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the rules are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Larger than that of all rules before; 0 before there are any.
    pub number: u64,
    /// One transaction for `nft -f -`.
    pub text: String,
}

impl Wanted {
    /// Takes other rules. Tells whether they are other ones.
    pub fn replace(&mut self, text: String) -> bool {
        let changed = self.text != text;
        if changed {
            *self = Self { number: self.number + 1, text };
        }
        changed
    }
}

/// How far loading is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Number of the rules that were tried last.
    pub number: u64,
    /// Why they could not be loaded; the ones before are in force then, and nobody waits any more.
    pub problem: Option<String>,
}

/// Loads the newest rules whenever they have changed, until the process ends.
pub async fn follow(
    mut wanted: watch::Receiver<Wanted>,
    loaded: watch::Sender<Loaded>,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = shutdown.ended() => return,
        }
        let Wanted { number, text } = wanted.borrow_and_update().clone();
        let problem = load(&text).await.err().map(|error| {
            let problem = format!("cannot load the rules for service addresses: {error:#}");
            tracing::error!("{problem}");
            problem
        });
        loaded.send_replace(Loaded { number, problem });
        tokio::time::sleep(PAUSE).await;
    }
}

/// Loads rules with `nft` into the router, in one transaction.
async fn load(rules: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run nft; hint: install the package nftables")?;
    let input = child.stdin.take();
    let write = async {
        if let Some(mut input) = input {
            // One that leaves before it has read all says why.
            let _ = input.write_all(rules.as_bytes()).await;
        }
    };
    let run = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(LOAD_TIMEOUT, run).await;
    let output = output.with_context(|| format!("nft was not done within {LOAD_TIMEOUT:?}"))??;
    if !output.status.success() {
        anyhow::bail!("nft refused the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Answers that wait until the rules of the state that they tell of are loaded. There are no more of
/// them than conversations; each waits for at most two replacements.
#[derive(Debug, Default)]
pub struct Held(VecDeque<HeldAnswer>);

#[derive(Debug)]
struct HeldAnswer {
    answer: Answer,
    to: oneshot::Sender<Answer>,
    /// Of the rules that it waits for, as soon as they have been made.
    number: Option<u64>,
}

impl Held {
    /// Keeps an answer whose rules have not been made yet.
    pub fn hold(&mut self, answer: Answer, to: oneshot::Sender<Answer>) {
        self.0.push_back(HeldAnswer { answer, to, number: None });
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules of all answers so far have been made, the last ones with the number `wanted`, and
    /// those up to `loaded` are in force: sends what need not wait any more.
    pub fn release(&mut self, wanted: u64, loaded: u64) {
        for held in &mut self.0 {
            held.number.get_or_insert(wanted);
        }
        let due = self.0.partition_point(|held| held.number <= Some(loaded));
        for held in self.0.drain(..due) {
            let _ = held.to.send(held.answer); // Whoever asked may have gone.
        }
    }
}
