//! A pod and its node, with servers that say who they are.
//!
//! ```text
//!   node namespace                         pod namespace
//!   10.77.1.1, fd77:1::1  <--- veth --->   10.77.1.2, fd77:1::2 (default route to the node)
//!   "outside": 10.88.0.9, fd88::9          app, and the proxy's inbound and outbound listeners
//!   service 10.96.0.10, fd96::10: ports 80 and 4567 go to the pod's 8080 and 4567
//! ```

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hauberk_capture::rules::Family;
use hauberk_capture::{
    Applied, Backend, CaptureConfig, Choice, HostNamespace, PodNetwork, Tools, Variant, plan,
};
use hauberk_linux::link::{Batch, End, Mac, Route};
use hauberk_linux::namespace::{Kind, Namespace, inside};
use hauberk_linux::original_dst::original_dst;
use hauberk_linux::socket::{ListenOptions, listen, set_mark};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, SockRef, Socket, Type};

/// Every backend that shall behave the same.
pub(crate) const BACKENDS: [Backend; 3] =
    [Backend::Nft, Backend::Iptables(Variant::Nft), Backend::Iptables(Variant::Legacy)];

/// No answer within this time is no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a server looks whether the lab is gone.
const LOOK: Duration = Duration::from_millis(50);

/// Number of the pod's interface, far from those the kernel makes by itself.
const INTERFACE: u32 = 77;

/// Where connections start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Node,
    Pod,
}

/// Who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) from: From,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mark: u32,
}

impl Caller {
    pub(crate) const NODE: Self = Self { from: From::Node, uid: 0, gid: 0, mark: 0 };
    pub(crate) const APP: Self = Self { from: From::Pod, uid: 5001, gid: 5001, mark: 0 };
    pub(crate) const PROXY: Self = Self { from: From::Pod, uid: 2102, gid: 2102, mark: 0 };
    pub(crate) const ROOT: Self = Self { from: From::Pod, uid: 0, gid: 0, mark: 0 };
}

/// What a server says about itself and the connection; a refused one has no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// "inbound", "outbound", "app" or "remote".
    pub(crate) who: String,
    /// The original destination that the server found.
    pub(crate) original: SocketAddr,
    /// The server's own address.
    pub(crate) local: SocketAddr,
    /// The client's address as the server saw it.
    pub(crate) peer: SocketAddr,
}

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) pod: IpAddr,
    pub(crate) node: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) service: IpAddr,
    pub(crate) loopback: IpAddr,
}

pub(crate) fn addresses(family: Family) -> Addresses {
    let ip = |text: &str| text.parse().expect("an address");
    match family {
        Family::V4 => Addresses {
            pod: ip("10.77.1.2"),
            node: ip("10.77.1.1"),
            remote: ip("10.88.0.9"),
            service: ip("10.96.0.10"),
            loopback: ip("127.0.0.1"),
        },
        Family::V6 => Addresses {
            pod: ip("fd77:1::2"),
            node: ip("fd77:1::1"),
            remote: ip("fd88::9"),
            service: ip("fd96::10"),
            loopback: ip("::1"),
        },
    }
}

/// The node's part of a service, as kube-proxy would write it.
const SERVICE_RULES: &str = "
table inet service {
    chain pre {
        type nat hook prerouting priority -100; policy accept;
        ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.77.1.2:8080
        ip daddr 10.96.0.10 tcp dport 4567 dnat ip to 10.77.1.2:4567
        ip6 daddr fd96::10 tcp dport 80 dnat ip6 to [fd77:1::2]:8080
        ip6 daddr fd96::10 tcp dport 4567 dnat ip6 to [fd77:1::2]:4567
    }
    chain post {
        type nat hook postrouting priority 100; policy accept;
        ip saddr 10.77.1.2 ip daddr 10.77.1.2 masquerade
        ip6 saddr fd77:1::2 ip6 daddr fd77:1::2 masquerade
    }
}
";

pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) pod: Namespace,
    stop: Arc<AtomicBool>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Lab {
    /// A lab with all servers, unless this machine forbids it.
    pub(crate) fn new() -> Option<Self> {
        match Self::build() {
            Ok(lab) => Some(lab),
            Err(reason) => skip(&format!("cannot make a lab of network namespaces: {reason}")),
        }
    }

    fn build() -> io::Result<Self> {
        let lab = Self { node: fresh()?, pod: fresh()?, stop: Arc::default() };
        inside(&[&lab.node], || plug_in_node(&lab.pod))??;
        inside(&[&lab.pod], plug_in_pod)??;
        let said = lab.run_in(From::Node, "nft", &["-f", "-"], SERVICE_RULES)?;
        if !said.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&said.stderr).into_owned()));
        }
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        for port in [8080, 4190, 4191, 4567] {
            lab.serve(From::Pod, "app", SocketAddr::new(everywhere, port))?;
        }
        for port in [9000, 4567, 4568] {
            lab.serve(From::Node, "remote", SocketAddr::new(everywhere, port))?;
        }
        lab.serve(From::Pod, "inbound", SocketAddr::new(everywhere, 4143))?;
        lab.serve(From::Pod, "outbound", (Ipv4Addr::LOCALHOST, 4140).into())?;
        lab.serve(From::Pod, "outbound", (Ipv6Addr::LOCALHOST, 4140).into())?;
        Ok(lab)
    }

    pub(crate) fn namespace(&self, from: From) -> &Namespace {
        match from {
            From::Node => &self.node,
            From::Pod => &self.pod,
        }
    }

    /// Runs a program inside and returns what it said.
    pub(crate) fn run_in(
        &self,
        at: From,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> io::Result<Output> {
        inside(&[self.namespace(at)], || {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes())?;
            child.wait_with_output()
        })?
    }

    /// The standard output of a program run in the pod, which must succeed.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        let said = self.run_in(From::Pod, program, arguments, "").expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(said.status.success(), "{program} {arguments:?}: {}", text(&said.stderr));
        text(&said.stdout)
    }

    /// Does `work` with the pod's capture pod.
    pub(crate) fn in_pod<T: Send>(&self, work: impl FnOnce(&PodNetwork) -> T + Send) -> T {
        inside(&[&self.pod], || {
            let pod = PodNetwork::current(tools(), HostNamespace::Refuse);
            work(&pod.expect("a fresh namespace is not the machine's"))
        })
        .expect("the pod's namespace can be entered")
    }

    /// Applies the rules, and checks that they are what is there afterwards.
    pub(crate) fn capture(&self, config: &CaptureConfig, backend: Backend) -> Applied {
        let rules = plan(config);
        let choice = Choice::Only(backend);
        self.in_pod(|pod| {
            let applied = pod.apply(&rules, choice).expect("the rules are taken");
            let verified = hauberk_capture::verify(pod, &rules, choice).expect("readable");
            assert_eq!(verified.differences, [""; 0], "{backend} shows other rules than given");
            applied
        })
    }

    /// Opens a connection and reads what the other end says.
    pub(crate) fn call(&self, caller: Caller, to: SocketAddr) -> io::Result<Reply> {
        inside(&[self.namespace(caller.from)], || call_here(caller, to).map(|(reply, _)| reply))?
    }

    fn serve(&self, at: From, who: &'static str, address: SocketAddr) -> io::Result<()> {
        let listener =
            inside(&[self.namespace(at)], || listen(address, &ListenOptions::default()))??;
        // Accepting gives up now and then, so that the thread sees the end of the lab.
        SockRef::from(&listener).set_read_timeout(Some(LOOK))?;
        let stop = Arc::clone(&self.stop);
        thread::spawn(move || accept(&listener, who, &stop));
        Ok(())
    }
}

/// Says why a test did not run, or fails where it must.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    let must_run = std::env::var_os("HAUBERK_REQUIRE_NAMESPACES").is_some_and(|value| value == "1");
    assert!(!must_run, "{reason}");
    println!("SKIPPED: {reason}");
    None
}

pub(crate) fn tools() -> Tools {
    Tools::new(&std::env::var_os("PATH").unwrap_or_default())
}

/// Opens a connection from the calling thread's namespace. The thread keeps the caller's ids, so it
/// must be one of its own; a socket belongs to whom its thread was when it was made.
pub(crate) fn call_here(caller: Caller, to: SocketAddr) -> io::Result<(Reply, TcpStream)> {
    setfsgid(Gid::from_raw(caller.gid));
    setfsuid(Uid::from_raw(caller.uid));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if caller.mark != 0 {
        set_mark(&socket, caller.mark)?;
    }
    // Closing resets the connection, or a long run would use up the ports.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::with_capacity(256, &stream).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [who, original, local, peer] = words[..] else {
        return Err(io::Error::other(format!("the server said '{line}'")));
    };
    let address = |text: &str| text.parse().map_err(io::Error::other);
    let reply = Reply {
        who: who.to_owned(),
        original: address(original)?,
        local: address(local)?,
        peer: address(peer)?,
    };
    Ok((reply, stream))
}

fn fresh() -> io::Result<Namespace> {
    let made = thread::spawn(|| -> io::Result<Namespace> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        // A rule about a user is worth nothing where the user cannot be played.
        setfsuid(Uid::from_raw(2102));
        if setfsuid(Uid::from_raw(0)) != Uid::from_raw(2102) {
            return Err(io::Error::other("user 2102 does not exist in this user namespace"));
        }
        Namespace::current(Kind::Network)
    });
    made.join().expect("the thread does not panic")
}

fn plug_in_node(pod: &Namespace) -> io::Result<()> {
    let mut links = Batch::new();
    let here = End { name: "pod", index: INTERFACE, mac: Mac([2, 0, 0, 0, 0, 1]) };
    let there = End { name: "eth0", index: INTERFACE, mac: Mac([2, 0, 0, 0, 0, 2]) };
    links.up(1).veth(here, there, pod);
    for (family, prefix, host) in [(Family::V4, 24, 32), (Family::V6, 64, 128)] {
        let addresses = addresses(family);
        links.address(INTERFACE, addresses.node, prefix).address(1, addresses.remote, host);
    }
    links.apply().map_err(io::Error::other)?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}

fn plug_in_pod() -> io::Result<()> {
    let mut links = Batch::new();
    links.up(1).up(INTERFACE);
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let addresses = addresses(family);
        links.address(INTERFACE, addresses.pod, prefix);
        let destination = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let via = Some(addresses.node);
        links.route(Route { destination, prefix: 0, via, interface: INTERFACE, source: None });
    }
    links.apply().map_err(io::Error::other)
}

fn accept(listener: &TcpListener, who: &'static str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, peer)) = listener.accept() {
            // A client that goes away early is its own business.
            thread::spawn(move || drop(answer(stream, peer, who)));
        }
    }
}

/// Says who is here, then echoes until the client closes.
fn answer(mut stream: TcpStream, peer: SocketAddr, who: &str) -> io::Result<()> {
    let found = original_dst(&stream)?;
    let peer = hauberk_linux::original_dst::canonical(peer);
    stream.write_all(format!("{who} {} {} {peer}\n", found.address, found.local).as_bytes())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            length => stream.write_all(&bytes[..length])?,
        }
    }
}
