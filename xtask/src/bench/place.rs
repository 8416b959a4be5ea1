//! Two network namespaces, `client` and `server`, joined by a pair of virtual interfaces.
//!
//! Each is held by a process that does nothing, so dropping a [`Place`] removes both. Programs
//! enter through `nsenter`, which becomes the program itself: its process id is the program's.

use super::process::{Process, run};
use anyhow::Context;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Stdio},
};

/// User that proxies run as; what it sends is never captured.
pub(super) const PROXY_UID: &str = "2102";

/// Address of the client's side.
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 50, 0, 1));

/// Address of the server's side.
pub(super) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 50, 0, 2));

/// Address of an endpoint of the service. The first is the server's own; to the server's kernel all
/// of the network behind the others is local.
pub(super) fn endpoint(number: u32) -> IpAddr {
    match number {
        0 => SERVER,
        other => IpAddr::V4(Ipv4Addr::from_bits(ENDPOINTS.to_bits() + other)),
    }
}

/// The network that further endpoints are in, a /16.
const ENDPOINTS: Ipv4Addr = Ipv4Addr::new(10, 51, 0, 0);

/// Address of the service, which only exists for proxies that capture connections to it.
pub(super) const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// What every namespace needs. New connections in masses must not run out of ports, nor of room in
/// the table of tracked connections: both forget ended connections early.
const ADJUST: &str = "
set -e
ip link set lo up
ip link set eth0 up
cd /proc/sys/net
echo 16384 65535 > ipv4/ip_local_port_range
echo 1 > ipv4/tcp_tw_reuse
if [ -e netfilter/nf_conntrack_tcp_timeout_time_wait ]; then
  echo 1 > netfilter/nf_conntrack_tcp_timeout_time_wait
fi
";

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// The two network namespaces.
pub(super) struct Place {
    client: Process,
    server: Process,
}

impl Place {
    /// Makes both and joins them.
    pub(super) fn new() -> anyhow::Result<Self> {
        let place = Self { client: holder("client")?, server: holder("server")? };
        place.join().context("cannot join two network namespaces")?;
        Ok(place)
    }

    fn join(&self) -> anyhow::Result<()> {
        let (client, server) = (self.client.id().to_string(), self.server.id().to_string());
        run(Command::new("ip")
            .args(["link", "add", "eth0", "netns", &client, "type", "veth"])
            .args(["peer", "name", "eth0", "netns", &server]))?;
        for (side, address) in [(Side::Client, CLIENT), (Side::Server, SERVER)] {
            let address = format!("ip address add {address}/24 dev eth0\n");
            run(self.command(side, "sh").args(["-c", &format!("{address}{ADJUST}")]))?;
        }
        // Without a route a connection fails before it can be captured.
        let endpoints = format!("{ENDPOINTS}/16");
        for network in ["10.96.0.0/16", &endpoints] {
            let mut route = self.command(Side::Client, "ip");
            run(route.args(["route", "add", network, "via", &SERVER.to_string()]))?;
        }
        let mut route = self.command(Side::Server, "ip");
        run(route.args(["route", "add", "local", &endpoints, "dev", "lo"]))
    }

    /// A command that will run on this side, as root.
    pub(super) fn command(&self, side: Side, program: impl AsRef<Path>) -> Command {
        let mut command = self.nsenter(side);
        command.arg(program.as_ref());
        command
    }

    /// A command that will run on this side as the proxies' user, with nothing else's environment.
    pub(super) fn proxy(&self, side: Side, program: impl AsRef<Path>) -> Command {
        let mut command = self.nsenter(side);
        command.args(["setpriv", "--reuid", PROXY_UID, "--regid", PROXY_UID, "--clear-groups"]);
        command
            .arg(program.as_ref())
            .env_clear()
            .envs(std::env::var_os("PATH").map(|it| ("PATH", it)));
        command
    }

    /// The file that stands for the network namespace of a side.
    pub(super) fn file(&self, side: Side) -> String {
        let holder = match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        format!("/proc/{}/ns/net", holder.id())
    }

    fn nsenter(&self, side: Side) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file(side))).arg("--");
        command
    }
}

/// A process in a network namespace of its own. It is in it as soon as it has said so.
fn holder(name: &str) -> anyhow::Result<Process> {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "echo; exec sleep infinity"]);
    command.stdout(Stdio::piped());
    Process::start_and_hear(&format!("holder of the {name}'s namespace"), &mut command)
}
