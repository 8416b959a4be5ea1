//! gRPC streaming: messages back and forth on streams that stay open.
//!
//! Both ends speak HTTP/2 with the `h2` crate and put a gRPC prefix before each message; the
//! messages are bytes that nobody looks into, so that as little as possible is spent outside of
//! what is measured. A message is answered by an equal one, and the next is sent when that has
//! arrived whole. Nothing packaged does this: h2load knows unary calls only, ghz has no server.
//!
//! One thread and one runtime each.

use crate::latency::Percentiles;
use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What every message is: a prefix that announces 32 bytes, and those.
const MESSAGE: &[u8; 37] = b"\0\0\0\0\x20\x0a\x1eaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Path of the method.
const PATH: &str = "http://bench/bench.Echo/Chat";

/// Streams that a client may have open at once on one connection.
const STREAMS_MAX: u32 = 1_024;

/// Longest wait for anything.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How much is to be open, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) connections: u32,
    /// Streams on each connection.
    pub(crate) streams: u32,
    pub(crate) lasts: Duration,
}

/// Answers every message with itself, until the process is ended.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    // A client that has gone again, or no descriptors left: others go on.
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(answer_connection(stream));
                    }
                }
                // Whatever ended it, it was that client's connection alone.
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

async fn answer_connection(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(STREAMS_MAX);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    let mut streams = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let head = Response::builder().header("content-type", "application/grpc").body(())?;
        let send = respond.send_response(head, false)?;
        streams.spawn(echo(request.into_body(), send));
        while streams.try_join_next().is_some() {}
    }
    Ok(())
}

async fn echo(mut body: RecvStream, mut send: SendStream<Bytes>) -> anyhow::Result<()> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        // The client waits for this answer before it sends more, so little is ever kept. What only
        // carries the end of the stream is no message.
        if !data.is_empty() {
            send.send_data(data, false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(send.send_trailers(trailers)?)
}

/// Opens everything, sends messages for that time, and prints what came of it.
pub(crate) fn run(address: SocketAddr, plan: Plan) -> anyhow::Result<()> {
    let (latencies, seconds) = runtime()?.block_on(converse(address, plan))?;
    println!(
        "RESULT requests={} seconds={seconds} errors=0 {}",
        latencies.len(),
        Percentiles::new(latencies)
    );
    Ok(())
}

/// Any failure ends the load: a stream that broke would only be missing from the count.
async fn converse(address: SocketAddr, plan: Plan) -> anyhow::Result<(Vec<Duration>, f64)> {
    let (mut connections, mut streams) = (JoinSet::new(), JoinSet::new());
    let began = Instant::now();
    let ends = began + plan.lasts;
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let mut builder = client::Builder::new();
        builder.initial_max_send_streams(STREAMS_MAX as usize).enable_push(false);
        let (send, connection) = builder.handshake::<_, Bytes>(stream).await?;
        connections.spawn(connection);
        for _ in 0..plan.streams {
            streams.spawn(chat(send.clone(), ends));
        }
    }
    let mut latencies = Vec::new();
    while let Some(of_stream) = streams.join_next().await {
        latencies.extend(of_stream.context("a stream does not panic")??);
    }
    Ok((latencies, began.elapsed().as_secs_f64()))
}

/// One stream, from its head to its trailers.
async fn chat(send: client::SendRequest<Bytes>, ends: Instant) -> anyhow::Result<Vec<Duration>> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut send = in_time("a free stream", send.ready()).await??;
    let (response, mut send) = send.send_request(request, false)?;
    // The first message goes before the response's head arrives, as clients may do.
    let mut sent = Instant::now();
    send.send_data(Bytes::from_static(MESSAGE), false)?;
    let response = in_time("the head of a response", response).await??;
    ensure!(response.status() == StatusCode::OK, "the server answered {}", response.status());
    let mut body = response.into_body();
    let mut latencies = Vec::new();
    loop {
        let mut received = 0;
        while received < MESSAGE.len() {
            let data = in_time("a message", body.data()).await?;
            let data = data.context("the stream ended early")??;
            body.flow_control().release_capacity(data.len())?;
            received += data.len();
        }
        ensure!(received == MESSAGE.len(), "{received} bytes came back for {}", MESSAGE.len());
        latencies.push(sent.elapsed());
        if Instant::now() >= ends {
            break;
        }
        sent = Instant::now();
        send.send_data(Bytes::from_static(MESSAGE), false)?;
    }
    send.send_data(Bytes::new(), true)?;
    while let Some(data) = in_time("the end", body.data()).await? {
        ensure!(data?.is_empty(), "bytes follow the last message");
    }
    let trailers = in_time("trailers", body.trailers()).await??.context("no trailers")?;
    let status = trailers.get("grpc-status").context("no grpc-status")?;
    ensure!(status == "0", "grpc-status is {status:?}");
    Ok(latencies)
}

async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(SILENCE_MAX, wait).await.with_context(|| format!("waited long for {what}"))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a runtime")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn messages_go_back_and_forth_on_every_stream() {
        runtime().unwrap().block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut servers = JoinSet::new();
            servers.spawn(async move {
                let mut answered = JoinSet::new();
                for _ in 0..2 {
                    let (stream, _) = listener.accept().await.unwrap();
                    answered.spawn(answer_connection(stream));
                }
                while answered.join_next().await.is_some() {}
            });
            // Every stream carries at least the message that it begins with.
            let plan = Plan { connections: 2, streams: 8, lasts: Duration::ZERO };
            let (latencies, _) = converse(address, plan).await.unwrap();
            assert_eq!(latencies.len(), 16);
        });
    }
}
