//! The lab's name server's sockets: UDP and TCP, port 53 of the gateway.
//!
//! What is answered is [`crate::dns`]'s business; here is only how questions come in and answers go
//! out. Connections are bounded in number and time, so no client can use the server up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hauberk_process::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use crate::dns::{Transport, Zone};

/// Connections at the same time; one more waits in the listener's queue.
const CONNECTIONS_MAX: usize = 256;
/// Time for the next question on a connection (RFC 7766 section 6.2.3 leaves it to the server).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest question; longer ones are cut by the kernel and then make no sense.
const QUESTION_BYTES_MAX: usize = 4096;

/// Starts to answer on an address, with the newest zone.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(
    address: SocketAddr,
    zones: watch::Receiver<Arc<Zone>>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let context = || format!("cannot answer DNS on {address}");
    let udp = UdpSocket::bind(address).await.with_context(context)?;
    let tcp = TcpListener::bind(address).await.with_context(context)?;
    tasks.spawn_essential("dns over udp", packets(udp, zones.clone(), tasks.clone()));
    tasks.spawn_essential("dns over tcp", connections(tcp, zones, tasks.clone()));
    Ok(())
}

async fn packets(socket: UdpSocket, zones: watch::Receiver<Arc<Zone>>, tasks: Tasks) {
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = tasks.shutdown().ended() => return,
        };
        // An error belongs to an earlier answer that nobody took.
        let Ok((length, from)) = received else { continue };
        let zone = Arc::clone(&zones.borrow());
        if let Some(answer) = zone.answer(&buffer[..length], Transport::Udp) {
            let _ = socket.send_to(&answer, from).await; // The client asks again.
        }
    }
}

async fn connections(listener: TcpListener, zones: watch::Receiver<Arc<Zone>>, tasks: Tasks) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let kind = tasks.kind("dns connection");
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.shutdown().ended() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (zones, shutdown) = (zones.clone(), tasks.shutdown().clone());
        kind.spawn(async move {
            tokio::select! {
                _ = connection(stream, zones) => {}
                () = shutdown.ended() => {}
            }
            drop(permit);
        });
    }
}

/// Answers questions until the client has none, or is silent for too long. Each has its length
/// before it (RFC 1035 section 4.2.2).
async fn connection(
    mut stream: TcpStream,
    zones: watch::Receiver<Arc<Zone>>,
) -> std::io::Result<()> {
    loop {
        let question = tokio::time::timeout(IDLE_TIMEOUT, async {
            let length = stream.read_u16().await?;
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await.map(|_| question)
        });
        let question = question.await??;
        let zone = Arc::clone(&zones.borrow());
        let Some(answer) = zone.answer(&question, Transport::Tcp) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        stream.write_all(&framed).await?;
    }
}
