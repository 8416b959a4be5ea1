//! The systems that are compared, and how a pair of each is set up.
//!
//! All have the same application, the same certificates and the same two network namespaces. What
//! differs is how the client's connections get to its proxy: Envoy and Hauberk capture connections
//! to the service's address, with the rules of `hauberk-init`; the others cannot tell what the
//! client wanted to reach, so their client connects to the proxy. That spares them the kernel's
//! work of capturing.

mod application;
pub(super) mod envoy;
mod haproxy;
mod hauberk;
mod nginx;
mod relay;

use super::{
    enclosure::Workshop,
    machine,
    options::Options,
    place::{Place, SERVER, SERVICE, Side},
    process::{self, Process, Usage, run},
    record::Measured,
    scenario::{Scenario, Shape, Unit},
    shares::{Held, Shares},
};
use anyhow::Context;
use clap::ValueEnum;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// What carries the loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum System {
    /// No proxy
    Direct,
    /// A pair of plain relays that copy bytes: the least that two hops cost
    Relay,
    /// The same with `splice`, for the scenarios that gain from it
    Splice,
    /// HAProxy: HTTP/2 with mutual TLS between the pair
    Haproxy,
    /// nginx: HTTP/1.1 with mutual TLS between the pair (HTTP/2 for gRPC only)
    Nginx,
    /// Envoy: HTTP/2 with mutual TLS between the pair
    Envoy,
    /// Envoy: HTTP/1.1 with mutual TLS between the pair
    #[value(name = "envoy-http1")]
    EnvoyHttp1,
    /// Envoy with two worker threads in each proxy
    #[value(name = "envoy-2")]
    Envoy2,
    /// Hauberk: two proxies and a control plane for each
    Hauberk,
    /// Hauberk with two worker threads in each proxy
    #[value(name = "hauberk-2")]
    Hauberk2,
}

impl System {
    /// The name on the command line and in results.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    /// One line for people.
    pub(super) fn text(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|it| it.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    pub(super) fn is_envoy(self) -> bool {
        matches!(self, Self::Envoy | Self::EnvoyHttp1 | Self::Envoy2)
    }

    pub(super) fn is_hauberk(self) -> bool {
        matches!(self, Self::Hauberk | Self::Hauberk2)
    }

    /// Worker threads or processes of each proxy, if the others have so many.
    fn workers(self, usually: u32) -> u32 {
        match self {
            Self::Envoy2 | Self::Hauberk2 => 2,
            _ => usually,
        }
    }

    /// How the names of its worker threads begin.
    fn worker_threads(self) -> Option<&'static str> {
        match self {
            Self::Hauberk | Self::Hauberk2 => Some("worker-"),
            Self::Envoy | Self::EnvoyHttp1 | Self::Envoy2 => Some("wrk:worker_"),
            Self::Direct | Self::Relay | Self::Splice | Self::Haproxy | Self::Nginx => None,
        }
    }

    /// Whether measuring it would tell anything.
    pub(super) fn takes_part_in(self, scenario: Scenario) -> bool {
        use Scenario::{ConnectHttp, Grpc, Http1On1, Http1On32, Http1On128, Http2On4, Http2On32};
        use Scenario::{Opaque, Rate, RateMany};
        // What one worker does in its share and what two do.
        if scenario.shape().share_percent.is_some() {
            return matches!(self, Self::Envoy | Self::Envoy2 | Self::Hauberk | Self::Hauberk2);
        }
        // Only these two can be told of many routes and endpoints, or to resume nothing, in the same way.
        if scenario.shape() != Shape::PLAIN {
            return matches!(self, Self::Envoy | Self::Hauberk);
        }
        match self {
            Self::Direct => scenario.unit() != Unit::Memory,
            Self::Splice => scenario.unit() == Unit::Bytes || scenario == Opaque,
            // With other protocols it is the same as `envoy`.
            Self::EnvoyHttp1 => {
                let http1 = [Http1On1, Http1On32, Http1On128, Rate, RateMany, ConnectHttp];
                http1.contains(&scenario) || scenario == Scenario::BulkHttp
            }
            // What more workers are there for, if they have something to run on.
            Self::Envoy2 | Self::Hauberk2 => {
                let scenarios = [Http1On32, Http1On128, Http2On4, Http2On32, Grpc, Opaque];
                machine::cpus() >= CPUS_FOR_TWO_WORKERS && scenarios.contains(&scenario)
            }
            Self::Relay | Self::Haproxy | Self::Nginx | Self::Envoy | Self::Hauberk => true,
        }
    }

    /// Whether its system calls are counted. Variants do not differ in that.
    pub(super) fn is_counted(self) -> bool {
        matches!(self, Self::Relay | Self::Haproxy | Self::Nginx | Self::Envoy | Self::Hauberk)
    }

    /// Packages of this workspace that it needs.
    pub(super) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Hauberk | Self::Hauberk2 => {
                &["hauberk-proxy", "hauberk-control", "hauberk-capture"]
            }
            Self::Envoy | Self::EnvoyHttp1 | Self::Envoy2 => &["hauberk-capture"],
            Self::Direct | Self::Relay | Self::Splice | Self::Haproxy | Self::Nginx => &[],
        }
    }

    /// Programs or files that it needs, and the Debian packages they come from.
    pub(super) fn tools(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Haproxy => &[("haproxy", "haproxy")],
            Self::Nginx => &[(nginx::STREAM_MODULE, "libnginx-mod-stream")],
            Self::Envoy | Self::EnvoyHttp1 | Self::Envoy2 => {
                &[("nft", "nftables"), ("python3", "python3-venv")]
            }
            Self::Hauberk | Self::Hauberk2 => &[("nft", "nftables")],
            Self::Direct | Self::Relay | Self::Splice => &[],
        }
    }
}

/// CPUs that two proxies of two workers, a load and the application have for themselves.
const CPUS_FOR_TWO_WORKERS: usize = 6;

/// What a client may ask for. The number is the application's, and the service's too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// HTTP/1.1.
    Http1 = 8080,
    /// HTTP/2 in the clear, by prior knowledge; gRPC as well.
    Http2 = 8081,
    /// HTTP/1.1 that proxies are told nothing about.
    Opaque = 8082,
    /// HTTP/2 like the other, for gRPC streams.
    Stream = 8083,
}

impl Port {
    pub(super) const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Opaque, Self::Stream];

    pub(super) fn number(self) -> u16 {
        self as u16
    }

    /// Where the server's proxy listens if connections are not captured.
    fn between(self) -> u16 {
        self.number() + 6_000
    }
}

/// A system that is running.
///
/// Fields are dropped in their order: programs end before their namespaces do.
pub(super) struct Setup {
    system: System,
    /// The client's proxy and the server's.
    proxies: Option<[Process; 2]>,
    /// What their workers are held to.
    pub(super) shares: Option<Shares>,
    /// The application, and control planes.
    others: Vec<Process>,
    pub(super) place: Place,
    /// Where the client connects to.
    entrance: IpAddr,
    /// From starting the proxies to the first good response through both.
    pub(super) start: Duration,
}

impl Setup {
    /// Where a client reaches this port.
    pub(super) fn address(&self, port: Port) -> SocketAddr {
        SocketAddr::new(self.entrance, port.number())
    }

    /// The process ids of all programs of the client's proxy and of the server's.
    pub(super) fn ids(&self) -> anyhow::Result<Option<[Vec<u32>; 2]>> {
        let Some([outbound, inbound]) = &self.proxies else { return Ok(None) };
        Ok(Some([outbound.ids()?, inbound.ids()?]))
    }

    /// Forgets how much memory the proxies needed at most until now.
    pub(super) fn forget_peak(&self) -> anyhow::Result<()> {
        self.proxies.iter().flatten().try_for_each(Process::forget_peak)
    }

    /// What both proxies have allocated so far, where that is counted.
    pub(super) fn allocations(&self, workshop: &Workshop) -> anyhow::Result<Option<[f64; 2]>> {
        if !self.system.is_hauberk() {
            return Ok(None);
        }
        let of = |side| hauberk::allocations(&self.place, workshop, side);
        Ok(Some([of(Side::Client)?, of(Side::Server)?]))
    }

    /// What the proxies have used; `None` if there are none.
    pub(super) fn usage(&self) -> anyhow::Result<Option<[Usage; 2]>> {
        let Some([outbound, inbound]) = &self.proxies else { return Ok(None) };
        Ok(Some([outbound.usage()?, inbound.usage()?]))
    }

    /// Adds what the programs have logged last to an error.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let all = self.proxies.iter().flatten().chain(&self.others);
        let words: Vec<_> = all.map(Process::last_words).filter(|it| !it.is_empty()).collect();
        if words.is_empty() { error } else { error.context(words.join(" | ")) }
    }

    /// An error if a proxy has let anything pass in the clear. Peers need no look: those with TLS
    /// accept nothing else on their ports.
    pub(super) fn check_secured(&self, workshop: &Workshop) -> anyhow::Result<()> {
        if self.system.is_hauberk() {
            return hauberk::check_secured(&self.place, workshop);
        }
        Ok(())
    }

    /// An error if a program has ended.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.proxies.iter_mut().flatten().chain(&mut self.others).try_for_each(Process::check_alive)
    }
}

/// The path of a route that requests have to pass by.
fn passed_by(number: u32) -> String {
    format!("/elsewhere/{number:04}")
}

/// How a system is to be set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    pub(super) shape: Shape,
    /// Allocations are to be counted, where there is a program that can.
    pub(super) counts: bool,
}

/// Sets a system up and waits until all its ports answer.
pub(super) fn start(
    system: System,
    workshop: &Workshop,
    options: &Options,
    purpose: Purpose,
    place: Place,
) -> anyhow::Result<Setup> {
    let workers = system.workers(options.workers);
    let starting = Starting { workshop, place: &place, workers, purpose };
    let mut others = vec![application::start(&starting)?, application::start_echo(&starting)?];
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (entrance, proxies) = match system {
        System::Direct => (SERVER, None),
        System::Relay => (localhost, Some(relay::start(&starting, relay::Means::Copy)?)),
        System::Splice => (localhost, Some(relay::start(&starting, relay::Means::Splice)?)),
        System::Haproxy => (localhost, Some(haproxy::start(&starting)?)),
        System::Nginx => (localhost, Some(nginx::start(&starting)?)),
        System::Envoy | System::Envoy2 => {
            (SERVICE, Some(envoy::start(&starting, envoy::Between::Http2)?))
        }
        System::EnvoyHttp1 => (SERVICE, Some(envoy::start(&starting, envoy::Between::Http1)?)),
        System::Hauberk | System::Hauberk2 => {
            others.extend(hauberk::control_planes(&starting)?);
            (SERVICE, Some(hauberk::start(&starting)?))
        }
    };
    let start = Duration::ZERO;
    let mut setup = Setup { system, proxies, shares: None, others, place, entrance, start };
    setup.start = answers(workshop, &mut setup)?;
    setup.check_secured(workshop)?;
    if let Some(percent) = purpose.shape.share_percent {
        let held = Held {
            name: &options.groups,
            processes: setup.ids()?.context("there is no proxy")?,
            prefix: system.worker_threads().context("its workers are not known by name")?,
            workers,
            percent,
        };
        setup.shares = Some(Shares::hold(&held)?);
    }
    Ok(setup)
}

/// Waits for the first good response on both HTTP/1.1 ports; the time is that of the first.
fn answers(workshop: &Workshop, setup: &mut Setup) -> anyhow::Result<Duration> {
    let mut first = None;
    for port in [Port::Http1, Port::Opaque] {
        let mut command = setup.place.command(Side::Client, workshop.tool());
        command.args(["probe", &setup.address(port).to_string()]);
        let log = workshop.scratch.join("probe.out");
        let limit = Duration::from_secs(30);
        let output = process::output("waiting for the first response", &mut command, &log, limit);
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                // That a proxy has died says more than that it does not answer.
                setup.check_alive()?;
                return Err(setup.explain(error));
            }
        };
        let seconds = Measured::parse(&output)?.get("seconds").context("the probe has no time")?;
        first.get_or_insert(Duration::from_secs_f64(seconds));
    }
    Ok(first.unwrap_or_default())
}

/// What the start of a system has to work with.
struct Starting<'a> {
    workshop: &'a Workshop,
    place: &'a Place,
    workers: u32,
    purpose: Purpose,
}

impl Starting<'_> {
    /// Puts the capture rules into both namespaces.
    fn capture(&self) -> anyhow::Result<()> {
        for side in [Side::Client, Side::Server] {
            let mut init = self.place.command(side, self.workshop.program("hauberk-init"));
            init.args(["--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140"]);
            init.args(["--proxy-uid", super::place::PROXY_UID]);
            init.args(["--inbound-ports-to-ignore", "4190,4191,4567,4568"]);
            run(&mut init).context("cannot put the capture rules in place")?;
        }
        Ok(())
    }

    /// A credential's path as text for a configuration file.
    fn credential(&self, name: &str) -> String {
        self.workshop.credentials(name).display().to_string()
    }
}
