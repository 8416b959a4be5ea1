//! The lab's socket: what the command line asks, and what it gets.
//!
//! Questions about the state go to the lab's writer ([`crate::lab`]). What takes time (following a
//! log, running a program, opening a connection) is done here, on the task of the connection, with
//! the pod that the writer found.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hauberk_process::Tasks;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::api::{Answer, PROXY_CONTAINER, Request, Target};
use crate::container::Machine;
use crate::lab::Event;
use crate::pod::{Pod, execute};
use crate::wire::{Incoming, Outgoing};

/// Conversations at the same time.
const CONNECTIONS_MAX: usize = 512;
/// Time to open a connection inside a pod, which is on this machine.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that a new sidecar gets until it serves.
const UPGRADE_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What conversations need.
#[derive(Clone, Debug)]
pub struct Server {
    /// To the writer.
    pub events: mpsc::Sender<Event>,
    /// To start programs.
    pub machine: Arc<Machine>,
    /// Where tasks are started.
    pub tasks: Tasks,
}

impl Server {
    /// Accepts until the process ends.
    pub async fn run(self, listener: UnixListener) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let kind = self.tasks.kind("conversation");
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.tasks.shutdown().ended() => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            let server = self.clone();
            kind.spawn(async move {
                tokio::select! {
                    result = server.converse(stream) => {
                        if let Err(error) = result {
                            tracing::debug!(%error, "a conversation broke off");
                        }
                    }
                    () = server.tasks.shutdown().ended() => {}
                }
                drop(permit);
            });
        }
    }

    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        let (request, descriptors, _) = receive::<Request>(&stream).await?;
        match request {
            Request::Logs { target, follow } => self.logs(&mut stream, target, follow).await,
            Request::Exec { target, command } => {
                self.exec(&mut stream, target, &command, descriptors).await
            }
            Request::Dial { target, port } => self.dial(&stream, target, port).await,
            Request::Upgrade { target, program, timeout_seconds } => {
                let timeout = Duration::from_secs(timeout_seconds).min(UPGRADE_TIMEOUT_MAX);
                let upgraded = match self.find(&target, None).await {
                    Ok((pod, _)) => pod.upgrade(PROXY_CONTAINER, program, timeout).await,
                    Err(error) => Err(error),
                };
                let failed = |error| Answer::Failed { error };
                send(&stream, &upgraded.map_or_else(failed, Answer::Upgraded), &[]).await
            }
            Request::Stop => {
                let answer = self.ask(Request::Stop).await;
                send(&stream, &answer, &[]).await?;
                // The end of the process is the end of the conversation.
                std::future::pending().await
            }
            other => {
                let answer = self.ask(other).await;
                send(&stream, &answer, &[]).await
            }
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ending = || Answer::Failed { error: "the lab is ending".to_owned() };
        if self.events.send(Event::Asked(request, answer)).await.is_err() {
            return ending();
        }
        answered.await.unwrap_or_else(|_| ending())
    }

    async fn find(&self, target: &Target, port: Option<u16>) -> Result<(Arc<Pod>, u16), String> {
        let (answer, answered) = oneshot::channel();
        let asked = self.events.send(Event::Find(target.clone(), port, answer)).await;
        let ending = || "the lab is ending".to_owned();
        asked.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }

    async fn logs(&self, stream: &mut UnixStream, target: Target, follow: bool) -> io::Result<()> {
        let found = self.find(&target, None).await.and_then(|(pod, _)| {
            let name = container_name(&pod, &target)?;
            let log = pod.log(&name).cloned();
            log.ok_or_else(|| format!("pod {} has no container {name}", pod.plan.name))
        });
        let log = match found {
            Ok(log) => log,
            Err(error) => return send(stream, &Answer::Failed { error }, &[]).await,
        };
        send(stream, &Answer::Ready, &[]).await?;
        let mut offset = 0;
        let mut nothing = [0; 16];
        loop {
            let (bytes, end) = log.read(offset);
            stream.write_all(&bytes).await?;
            offset = end;
            if !follow {
                return Ok(());
            }
            tokio::select! {
                () = log.more_than(offset) => {}
                // The other side sends nothing more, so this is its end.
                _ = stream.read(&mut nothing) => return Ok(()),
            }
        }
    }

    async fn exec(
        &self,
        stream: &mut UnixStream,
        target: Target,
        command: &[String],
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let started = async {
            let stdio = <[OwnedFd; 3]>::try_from(descriptors)
                .map_err(|_| "standard input, output and error did not come along".to_owned())?;
            let (pod, _) = self.find(&target, None).await?;
            let name = container_name(&pod, &target)?;
            let child = execute(&pod, &self.machine, &name, command, stdio).await;
            child.map_err(|error| format!("{error:#}"))
        };
        let child = match started.await {
            Ok(child) => child,
            Err(error) => return send(stream, &Answer::Failed { error }, &[]).await,
        };
        send(stream, &Answer::Ready, &[]).await?;
        let mut nothing = [0; 16];
        let ended = tokio::select! {
            ended = child.wait() => ended,
            _ = stream.read(&mut nothing) => {
                // Whoever wanted it has gone.
                child.signal(Signal::KILL);
                child.wait().await
            }
        };
        send(stream, &Answer::Exit { code: ended.exit_code() }, &[]).await
    }

    async fn dial(&self, stream: &UnixStream, target: Target, port: u16) -> io::Result<()> {
        let connected = match self.find(&target, Some(port)).await {
            Ok((pod, port)) => {
                let connect = move || connect_inside(&pod, port);
                tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)?
            }
            Err(error) => Err(error),
        };
        match connected {
            Ok(socket) => send(stream, &Answer::Ready, &[socket.as_fd()]).await,
            Err(error) => send(stream, &Answer::Failed { error }, &[]).await,
        }
    }
}

fn container_name(pod: &Pod, target: &Target) -> Result<String, String> {
    let name = target.container.as_deref().or(pod.main_container());
    name.map(str::to_owned).ok_or_else(|| format!("pod {} has no container", pod.plan.name))
}

/// Connects to the pod's own loopback address, as `kubectl port-forward` does: what listens there
/// only is reached as well, and the pod's sidecar is not asked.
fn connect_inside(pod: &Pod, port: u16) -> Result<TcpStream, String> {
    let home = pod.home().ok_or_else(|| format!("pod {} has no network yet", pod.plan.name))?;
    let connect = || {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&v4, DIAL_TIMEOUT)
            .or_else(|error| TcpStream::connect_timeout(&v6, DIAL_TIMEOUT).map_err(|_| error))
    };
    home.inside_network(connect)
        .and_then(|connected| connected)
        .map_err(|error| format!("cannot connect to port {port} of {}: {error}", pod.plan.name))
}

async fn receive<T: serde::de::DeserializeOwned>(
    stream: &UnixStream,
) -> io::Result<(T, Vec<OwnedFd>, Vec<u8>)> {
    let mut incoming = Incoming::default();
    while !stream.async_io(Interest::READABLE, || incoming.receive(stream)).await? {}
    incoming.parse()
}

async fn send(
    stream: &UnixStream,
    answer: &Answer,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut outgoing = Outgoing::new(answer)?;
    while !stream.async_io(Interest::WRITABLE, || outgoing.send(stream, descriptors)).await? {}
    Ok(())
}
