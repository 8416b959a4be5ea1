//! `hauberk local port-forward`: ports of this machine that lead to a pod or service of the lab.
//!
//! Also used by `hauberk local up --forward`. Each accepted connection asks the lab anew for one of
//! its own, because the pod behind the place may have been replaced.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, bail};
use clap::Args;
use hauberk_local::{
    api::Target,
    client::{Client, StateDirectory},
};

use super::Place;

#[derive(Args, Debug)]
pub(super) struct PortForward {
    #[command(flatten)]
    place: Place,
    /// LOCAL:REMOTE, or one number for both; LOCAL may be 0 for any free port
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<Ports>,
    /// Address of this machine to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    address: IpAddr,
}

/// A port here and the port there that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    local: u16,
    remote: u16,
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| {
            text.parse::<u16>().map_err(|_| format!("{text:?} is not a port; hint: 8080:80"))
        };
        let ports = Self { local: number(local)?, remote: number(remote)? };
        if ports.remote == 0 { Err("port 0 leads nowhere".to_owned()) } else { Ok(ports) }
    }
}

/// What `up --forward` takes: `PLACE=[LOCAL:]REMOTE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    place: String,
    ports: Ports,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected PLACE=[LOCAL:]REMOTE, as svc/web=8080:80";
        let (place, ports) = text.split_once('=').ok_or(expected)?;
        Ok(Self { place: place.to_owned(), ports: ports.parse()? })
    }
}

impl Forward {
    /// Begins to listen on this machine alone; says where and where to.
    pub(super) fn start(&self, state: &StateDirectory) -> anyhow::Result<(SocketAddr, &str)> {
        let target = Target { pod: self.place.clone(), namespace: None, container: None };
        let (at, _) = listen(state, &target, Ipv4Addr::LOCALHOST.into(), self.ports)?;
        Ok((at, &self.place))
    }
}

pub(super) fn run(forward: &PortForward, state: &StateDirectory) -> anyhow::Result<ExitCode> {
    let mut threads = Vec::new();
    for &ports in &forward.ports {
        let target = forward.place.target();
        let (at, thread) = listen(state, &target, forward.address, ports)?;
        eprintln!("forwarding {at} to port {} of {}", ports.remote, target.pod);
        threads.push(thread);
    }
    for thread in threads {
        let ended = thread.join();
        ended.unwrap_or_else(|_| bail!("a forwarding thread panicked"))?;
    }
    Ok(ExitCode::SUCCESS)
}

type Forwarding = JoinHandle<anyhow::Result<()>>;

/// Listens, and accepts on a thread that lives as long as the process.
fn listen(
    state: &StateDirectory,
    target: &Target,
    address: IpAddr,
    ports: Ports,
) -> anyhow::Result<(SocketAddr, Forwarding)> {
    let listener = TcpListener::bind(SocketAddr::new(address, ports.local))
        .with_context(|| format!("cannot listen on {address}:{}", ports.local))?;
    let at = listener.local_addr()?;
    let (state, target) = (state.clone(), target.clone());
    Ok((at, thread::spawn(move || accept(&listener, &state, &target, ports.remote))))
}

fn accept(
    listener: &TcpListener,
    state: &StateDirectory,
    target: &Target,
    remote: u16,
) -> anyhow::Result<()> {
    loop {
        let (here, _) = listener.accept()?;
        match Client::connect(state).and_then(|lab| lab.dial(target.clone(), remote)) {
            Ok(there) => {
                thread::spawn(move || copy_both(&here, &there));
            }
            Err(error) => eprintln!("error: {error:#}"),
        }
    }
}

fn copy_both(here: &TcpStream, there: &TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        // Either side may end the connection at any time; that is not our error.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(here, there));
        copy(there, here);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports_and_places() {
        let ports = |text: &str| text.parse::<Ports>().map(|ports| (ports.local, ports.remote));
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        assert_eq!(ports("80"), Ok((80, 80)));
        assert_eq!(ports("0:80"), Ok((0, 80)));
        assert!(ports("80:0").is_err() && ports("x:80").is_err() && ports("").is_err());
        let forward: Forward = "svc/web-svc=8080:80".parse().expect("valid");
        assert_eq!(forward.place, "svc/web-svc");
        assert!("web".parse::<Forward>().is_err());
    }
}
