//! The command line, and what it means.
//!
//! All flags of Linkerd's `linkerd2-proxy-init` are understood under their names and forms, including
//! Go's way with booleans (`--ipv6=false`) and `-1` for "not set". What is ours alone says so in its
//! help. Reading values is a second step, so that one error names everything that is wrong.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use hauberk_capture::rules::Families;
use hauberk_capture::{
    Backend, CaptureConfig, Choice, Generation, InboundPorts, PROXY_MARK, Variant, lists,
};
use hauberk_model::port::Port;

use crate::log::{Format, Level};

/// Redirects the TCP connections of a pod to its sidecar proxy.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) init: Init,
}

impl CommandLine {
    /// The file of the network namespace to work in. Showing rules needs none.
    pub(crate) fn namespace(&self) -> Option<&Path> {
        let place = match &self.command {
            None if self.init.simulate => None,
            Some(Command::Init(init)) if init.simulate => None,
            None => Some(&self.init.place),
            Some(Command::Init(init) | Command::Verify(init)) => Some(&init.place),
            Some(Command::Remove(remove)) => Some(&remove.place),
            Some(Command::Plan(_)) => None,
        };
        // An empty path, as charts pass it, means the current namespace.
        place?.netns.as_deref().filter(|path| !path.is_empty()).map(Path::new)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put the rules in (what happens without a command, too).
    Init(Init),
    /// Show the rules that the other flags ask for. Needs no privilege and changes nothing.
    Plan(Plan),
    /// Read the rules back and compare them with the ones that the other flags ask for.
    Verify(Init),
    /// Remove the rules of any earlier run, from all backends.
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) rules: Rules,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) log: Logging,
    /// Print what would be loaded and do nothing. Needs no privilege.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    pub(crate) simulate: bool,
    /// Compare the rules in the kernel with the wanted ones instead of writing them.
    #[arg(long, conflicts_with = "cleanup")]
    pub(crate) verify: bool,
    /// Remove the rules of any earlier run instead of writing new ones.
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// Seconds that connections may stay in CLOSE_WAIT in the connection table; 0 leaves it alone.
    #[arg(long, default_value = "0", allow_hyphen_values = true)]
    timeout_close_wait_secs: String,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) rules: Rules,
    /// Print the rules as text for this tool, instead of in words.
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "nft")]
    pub(crate) show: Option<Show>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Show {
    Nft,
    Iptables,
    Ip6tables,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) log: Logging,
}

/// Which rules.
#[derive(Debug, Args)]
pub(crate) struct Rules {
    /// Port of the proxy for connections from outside.
    #[arg(short = 'p', long, default_value = "-1", allow_hyphen_values = true)]
    incoming_proxy_port: String,
    /// Port of the proxy for connections of the application.
    #[arg(short = 'o', long, default_value = "-1", allow_hyphen_values = true)]
    outgoing_proxy_port: String,
    /// User that the proxy runs as, never captured (0 cannot be exempted).
    #[arg(short = 'u', long, default_value = "-1", allow_hyphen_values = true)]
    proxy_uid: String,
    /// Group that the proxy runs as, never captured.
    #[arg(short = 'g', long, default_value = "-1", allow_hyphen_values = true)]
    proxy_gid: String,
    /// Mark of the proxy's packets, never captured; 0 for none. (Hauberk)
    #[arg(long, default_value = "1337")]
    proxy_mark: String,
    /// Capture only these inbound ports instead of all.
    #[arg(short = 'r', long, action = ArgAction::Append)]
    ports_to_redirect: Vec<String>,
    /// Inbound ports and ranges (8000-8010) that clients reach directly.
    #[arg(long, action = ArgAction::Append)]
    inbound_ports_to_ignore: Vec<String>,
    /// Outbound ports and ranges that the application reaches directly.
    #[arg(long, action = ArgAction::Append)]
    outbound_ports_to_ignore: Vec<String>,
    /// Networks (CIDR) whose clients reach the application directly.
    #[arg(long, action = ArgAction::Append)]
    subnets_to_ignore: Vec<String>,
    /// Networks (CIDR) that the application reaches directly. (Hauberk)
    #[arg(long, action = ArgAction::Append)]
    outbound_subnets_to_ignore: Vec<String>,
    /// Capture IPv6 connections too.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    ipv6: bool,
    /// Reproduce rules, commands and log of an old generation: 2.7. (Hauberk)
    #[arg(long)]
    compat: Option<String>,
}

/// Where, and with which tool.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// What writes the rules: auto, nft, iptables-nft, iptables-legacy, iptables. (Hauberk)
    #[arg(long)]
    backend: Option<String>,
    /// Which iptables: legacy, nft or plain; another one if it is not installed.
    #[arg(long, default_value = "")]
    iptables_mode: String,
    /// Older spelling of --iptables-mode: iptables-legacy, iptables-nft or iptables.
    #[arg(long, default_value = "")]
    firewall_bin_path: String,
    /// Accepted, not needed.
    #[arg(long, default_value = "", hide = true)]
    firewall_save_bin_path: String,
    /// Accepted, not needed: iptables always waits up to 10 s for its lock.
    #[arg(short = 'w', long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set, hide = true)]
    use_wait_flag: bool,
    /// Work in the network namespace that this file stands for.
    #[arg(long)]
    netns: Option<OsString>,
    /// Work even in the machine's own network namespace. (Hauberk)
    #[arg(long)]
    pub(crate) allow_host_namespace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logging {
    /// plain or json.
    #[arg(long, default_value = "plain")]
    log_format: String,
    /// error, warn, info, debug or trace.
    #[arg(long, default_value = "info")]
    log_level: String,
}

/// Everything that is wrong with a command line.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, flag: &str, what: impl Display) {
        self.0.push(format!("--{flag}: {what}"));
    }

    fn take<T: Default>(&mut self, flag: &str, result: Result<T, impl Display>) -> T {
        result.unwrap_or_else(|what| {
            self.add(flag, what);
            T::default()
        })
    }

    fn list<T>(&mut self, flag: &str, what: &str, result: Result<Vec<T>, Vec<String>>) -> Vec<T> {
        result.unwrap_or_else(|bad| {
            for entry in bad {
                self.add(flag, format!("'{entry}' is not {what}"));
            }
            Vec::new()
        })
    }

    /// One error for all of them.
    pub(crate) fn into_result(self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        anyhow::bail!("the command line has {} mistake(s): {}", self.0.len(), self.0.join("; "))
    }
}

const RANGES: &str = "a port (1 to 65535) or a range such as 8000-8010";

impl Rules {
    /// The capture settings; `now` is the Unix time that becomes the trace id of a 2.7 run.
    pub(crate) fn config(&self, now: i64, problems: &mut Problems) -> CaptureConfig {
        let inbound_port =
            required_port(&self.incoming_proxy_port, "incoming-proxy-port", problems);
        let outbound_port =
            required_port(&self.outgoing_proxy_port, "outgoing-proxy-port", problems);
        let any = Port::new(1).expect("one is not zero");
        if let (Some(inbound), Some(outbound)) = (inbound_port, outbound_port)
            && inbound == outbound
        {
            problems.add("outgoing-proxy-port", "must differ from --incoming-proxy-port");
        }
        let what = "a port (1 to 65535)";
        let listed = lists::single_ports(&self.ports_to_redirect);
        let listed = problems.list("ports-to-redirect", what, listed);
        let mut ports =
            |flag, entries: &[String]| problems.list(flag, RANGES, lists::ports(entries));
        let inbound_ports_to_ignore =
            ports("inbound-ports-to-ignore", &self.inbound_ports_to_ignore);
        let outbound_ports_to_ignore =
            ports("outbound-ports-to-ignore", &self.outbound_ports_to_ignore);
        let what = "a network such as 10.0.0.0/8 or fd00::/8";
        let mut subnets =
            |flag, entries: &[String]| problems.list(flag, what, lists::subnets(entries));
        let subnets_to_ignore = subnets("subnets-to-ignore", &self.subnets_to_ignore);
        let outbound_subnets_to_ignore =
            subnets("outbound-subnets-to-ignore", &self.outbound_subnets_to_ignore);
        CaptureConfig {
            proxy_uid: problems.take("proxy-uid", id(&self.proxy_uid)),
            proxy_gid: problems.take("proxy-gid", id(&self.proxy_gid)),
            proxy_mark: problems.take("proxy-mark", mark(&self.proxy_mark)),
            inbound: if listed.is_empty() {
                InboundPorts::All
            } else {
                InboundPorts::Listed(listed)
            },
            inbound_ports_to_ignore,
            outbound_ports_to_ignore,
            subnets_to_ignore,
            outbound_subnets_to_ignore,
            families: if self.ipv6 { Families::Both } else { Families::V4Only },
            generation: problems.take("compat", generation(self.compat.as_deref(), now)),
            ..CaptureConfig::new(inbound_port.unwrap_or(any), outbound_port.unwrap_or(any))
        }
    }
}

impl Place {
    /// The backend asked for. An explicit one wins over the spellings of Linkerd.
    pub(crate) fn choice(&self, problems: &mut Problems) -> Choice {
        if let Some(backend) = &self.backend {
            let only = |backend| Ok(Choice::Only(backend));
            let choice = match backend.as_str() {
                "auto" => Ok(Choice::Auto),
                "nft" => only(Backend::Nft),
                "iptables-nft" => only(Backend::Iptables(Variant::Nft)),
                "iptables-legacy" => only(Backend::Iptables(Variant::Legacy)),
                "iptables" => only(Backend::Iptables(Variant::Plain)),
                other => Err(format!(
                    "'{other}' is none of auto, nft, iptables-nft, iptables-legacy, iptables"
                )),
            };
            return problems.take("backend", choice);
        }
        match (self.iptables_mode.as_str(), self.firewall_bin_path.as_str()) {
            ("", "") => Choice::Auto,
            ("legacy", _) | ("", "iptables-legacy") => Choice::Prefer(Variant::Legacy),
            ("nft", _) | ("", "iptables-nft") => Choice::Prefer(Variant::Nft),
            ("plain", _) | ("", "iptables") => Choice::Prefer(Variant::Plain),
            ("", other) => {
                let what = "is none of iptables-legacy, iptables-nft, iptables";
                problems.add("firewall-bin-path", format!("'{other}' {what}"));
                Choice::Auto
            }
            (other, _) => {
                problems.add("iptables-mode", format!("'{other}' is none of legacy, nft, plain"));
                Choice::Auto
            }
        }
    }
}

impl Init {
    /// The wanted life of CLOSE_WAIT entries.
    pub(crate) fn close_wait_seconds(&self, problems: &mut Problems) -> Option<u32> {
        let seconds = self.timeout_close_wait_secs.parse::<u32>();
        let seconds = seconds
            .map_err(|_| format!("'{}' is not a number of seconds", self.timeout_close_wait_secs));
        Some(problems.take("timeout-close-wait-secs", seconds)).filter(|seconds| *seconds > 0)
    }
}

impl Logging {
    /// How to log. Anything but "json" is plain, as it always was.
    pub(crate) fn settings(&self, problems: &mut Problems) -> (Format, Level) {
        let format = if self.log_format == "json" { Format::Json } else { Format::Plain };
        (format, problems.take("log-level", Level::parse(&self.log_level)))
    }
}

fn required_port(text: &str, flag: &str, problems: &mut Problems) -> Option<Port> {
    if text == "-1" {
        problems.add(flag, "is required");
        return None;
    }
    let port = text.parse::<Port>().ok();
    if port.is_none() {
        problems.add(flag, format!("'{text}' is not a port (1 to 65535)"));
    }
    port
}

/// Zero and negative numbers mean "not set".
fn id(text: &str) -> Result<Option<u32>, String> {
    let number: i64 = text.trim().parse().map_err(|_| format!("'{text}' is not a numeric id"))?;
    if number <= 0 {
        return Ok(None);
    }
    // The highest number is the kernel's "no id".
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .map(Some)
        .ok_or_else(|| format!("'{text}' is too large for an id"))
}

fn mark(text: &str) -> Result<Option<u32>, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let number = number.map_err(|_| format!("'{text}' is not a mark such as {PROXY_MARK:#x}"))?;
    Ok(Some(number).filter(|mark| *mark != 0))
}

fn generation(compat: Option<&str>, now: i64) -> Result<Generation, String> {
    match compat {
        None => Ok(Generation::Today),
        Some("2.7") => Ok(Generation::Linkerd27 { trace_id: now }),
        Some(other) => Err(format!("'{other}' is not known; 2.7 is")),
    }
}

/// What Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("'{other}' is neither true nor false")),
    }
}

#[cfg(test)]
mod tests;
