//! HTTP/2 between an honest client and an honest application.

use crate::frames;
use crate::world::{PATIENCE, WAYS, Way, World, alone, port, world};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Request, Response};
use std::{net::TcpStream, time::Duration};

/// Runs tasks of one thread to the end of `act`, for at most [`PATIENCE`].
pub(crate) fn run<T>(act: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(PATIENCE, act).await.expect("within patience") };
    tokio::task::LocalSet::new().block_on(&runtime, limited)
}

/// Inside [`run`]: a client's connection.
pub(crate) async fn client(socket: TcpStream) -> SendRequest<Bytes> {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::TcpStream::from_std(socket).unwrap();
    // What one stream does not read must not fill this client's own window for all.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(16 * 1024 * 1024);
    let (sender, connection) = builder.handshake(socket).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    sender.ready().await.unwrap()
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://web{path}")).body(()).unwrap()
}

/// The rest of a body, and the trailers' `x-sum`.
pub(crate) async fn collect(mut body: RecvStream) -> Result<(Vec<u8>, Option<String>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?;
    let sum = trailers.and_then(|trailers| Some(trailers.get("x-sum")?.to_str().ok()?.to_owned()));
    Ok((bytes, sum))
}

/// Sends a whole body, as the window allows.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut body: &[u8]) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(16 * 1024));
        // Who has answered already may not want the rest.
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let (now, rest) = body.split_at(room.min(body.len()));
        body = rest;
        if stream.send_data(Bytes::copy_from_slice(now), false).is_err() {
            return;
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

/// One request over a connection of its own.
pub(crate) fn fetch(world: &World, way: Way, port: u16, path: &str) -> (u16, Vec<u8>) {
    fetch_over(world.connect(way, port), path)
}

/// The one request over a connection.
pub(crate) fn fetch_over(socket: TcpStream, path: &str) -> (u16, Vec<u8>) {
    run(async {
        let mut sender = client(socket).await;
        let (response, _) = sender.send_request(get(path), true).unwrap();
        let (head, body) = response.await.unwrap().into_parts();
        (head.status.as_u16(), collect(body).await.unwrap().0)
    })
}

/// An application; `answer` gets each request.
pub(crate) fn application<F>(
    world: &World,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
) -> u16
where
    F: Future<Output = ()> + 'static,
{
    world.serve(port(), move |socket| serve(socket, answer.clone()))
}

/// An application's side of one connection, to its end; `answer` gets each request.
pub(crate) fn serve<F>(
    socket: TcpStream,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::TcpStream::from_std(socket).unwrap();
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_reset_streams(100_000);
        builder.max_pending_accept_reset_streams(100_000);
        let Ok(mut connection) = builder.handshake(socket).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::task::spawn_local(answer(request, respond));
        }
    });
}

/// An application that answers `ok` to a request that has ended.
pub(crate) fn simple(world: &World) -> u16 {
    application(world, async |request, mut respond| {
        if collect(request.into_body()).await.is_err() {
            return;
        }
        if let Ok(mut body) = respond.send_response(Response::new(()), false) {
            let _ = body.send_data(Bytes::from_static(b"ok"), true);
        }
    })
}

/// A reset keeps its code in both directions.
#[test]
fn resets_keep_their_code() {
    let Some(world) = world("http2") else { return };
    let (codes, seen) = std::sync::mpsc::channel();
    let port = application(world, move |request, mut respond| {
        let codes = codes.clone();
        async move {
            if request.uri().path() == "/reset" {
                respond.send_reset(Reason::ENHANCE_YOUR_CALM);
                return;
            }
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            let code = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            let _ = codes.send(code.ok());
        }
    });
    for way in WAYS {
        let socket = world.connect(way, port);
        run(async {
            let mut sender = client(socket).await;
            let (response, _) = sender.send_request(get("/reset"), true).unwrap();
            let error = response.await.expect_err("it was reset");
            assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{way:?}: {error}");
            for code in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
                let mut sender = sender.clone().ready().await.unwrap();
                let (response, mut body) = sender.send_request(get("/wait"), false).unwrap();
                let response = response.await.unwrap();
                body.send_reset(code);
                drop(response);
                // The frame has to be sent before this client ends.
                let got = loop {
                    match seen.try_recv() {
                        Ok(got) => break got,
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                };
                // A proxy may call any end by the client CANCEL.
                assert!([Some(code), Some(Reason::CANCEL)].contains(&got), "{way:?}: {got:?}");
            }
        });
    }
}

/// Requests without `:authority` stay without; Host does not become one.
#[test]
fn an_authority_is_not_made_up() {
    let Some(world) = world("http2") else { return };
    let port = application(world, async |request, mut respond| {
        let authority = request.uri().authority().map_or("none", |authority| authority.as_str());
        let host = request.headers().get("host").map_or("none", |host| host.to_str().unwrap());
        let text = format!("{authority} {host}");
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(text.into(), true).unwrap();
    });
    for way in WAYS {
        for (host, text) in [(None, "none none"), (Some("web"), "none web")] {
            let mut socket = frames::open(world.connect(way, port), &[]);
            let mut head = frames::field(":method", "GET");
            head.extend(frames::field(":scheme", "http"));
            head.extend(frames::field(":path", "/"));
            if let Some(host) = host {
                head.extend(frames::field("host", host));
            }
            let flags = frames::END_HEADERS | frames::END_STREAM;
            let request = frames::frame(frames::HEADERS, flags, 1, &head);
            std::io::Write::write_all(&mut socket, &request).unwrap();
            let data = frames::read_until(&mut socket, |frame| frame.kind == frames::DATA).unwrap();
            assert_eq!(String::from_utf8_lossy(&data.payload), text, "{way:?}");
        }
    }
}

/// An application that says GOAWAY finishes what it has; later requests go over another
/// connection, and the client, whose own connection stays, loses none.
#[test]
fn a_goaway_of_the_application_loses_nothing() {
    let Some(world) = world("http2") else { return };
    let port = world.serve(port(), |socket| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let Ok(mut connection) = h2::server::handshake(socket).await else { return };
            let mut served = 0;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                    let _ = body.send_data(Bytes::from_static(b"ok"), true);
                }
                served += 1;
                if served == 3 {
                    connection.graceful_shutdown();
                }
            }
        });
    });
    for way in WAYS {
        let socket = world.connect(way, port);
        run(async {
            let mut sender = client(socket).await;
            for n in 0..20 {
                sender = sender.ready().await.unwrap();
                let (response, _) = sender.send_request(get("/"), true).unwrap();
                let response = response.await.unwrap();
                assert_eq!(response.status(), 200, "{way:?}: request {n}");
                assert_eq!(collect(response.into_body()).await.unwrap().0, b"ok");
            }
        });
    }
}

/// An application whose answers to `/endless` have no end; others are `ok`.
fn endless(world: &World) -> u16 {
    application(world, async |request, mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        if request.uri().path() == "/small" {
            body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            return;
        }
        let piece = [0; 16 * 1024];
        loop {
            body.reserve_capacity(piece.len());
            match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                Some(Ok(room)) if room > 0 => {
                    let piece = Bytes::copy_from_slice(&piece[..room.min(piece.len())]);
                    if body.send_data(piece, false).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    })
}

/// That many answers without end, of which nobody reads more than the head.
async fn stall(sender: &SendRequest<Bytes>, streams: usize) -> Vec<Response<RecvStream>> {
    let mut stalled = Vec::new();
    for _ in 0..streams {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, _) = sender.send_request(get("/endless"), true).unwrap();
        stalled.push(response.await.unwrap());
    }
    stalled
}

/// A stream nobody reads does not stop the others of its connection.
#[test]
fn a_stalled_stream_stops_no_other() {
    let Some(world) = world("http2") else { return };
    let port = endless(world);
    let _alone = alone();
    for way in WAYS {
        let before: u64 = world.proxies(way).iter().map(|proxy| proxy.memory()).sum();
        let socket = world.connect(way, port);
        run(async {
            let mut sender = client(socket).await;
            let _stalled = stall(&sender, 4).await;
            for _ in 0..50 {
                sender = sender.ready().await.unwrap();
                let (response, _) = sender.send_request(get("/small"), true).unwrap();
                let body = response.await.unwrap().into_body();
                assert_eq!(collect(body).await.unwrap().0, b"ok", "{way:?}");
            }
        });
        let after: u64 = world.proxies(way).iter().map(|proxy| proxy.memory()).sum();
        assert!(after < before + 64 * 1024 * 1024, "{way:?}: {before} bytes became {after}");
    }
}

/// Requests of several clients share a connection to an endpoint. Stalled streams that together fill
/// its window, sixteen of them, hold back the bodies of the others, as in linkerd2-proxy v2, until one
/// of them is let go; fewer hold back nobody.
#[test]
fn sixteen_stalled_streams_hold_back_a_shared_connection() {
    let Some(world) = world("http2") else { return };
    let port = endless(world);
    let _alone = alone();
    for way in WAYS {
        let hog = world.connect(way, port);
        run(async {
            let hog = client(hog).await;
            let few = stall(&hog, 8).await;
            // Long enough that their windows are full.
            for _ in 0..20 {
                assert!(small(world, way, port, PATIENCE / 2).await, "{way:?}: held back by few");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let many = stall(&hog, 16).await;
            let deadline = tokio::time::Instant::now() + PATIENCE / 4;
            let mut is_held = false;
            while !is_held && tokio::time::Instant::now() < deadline {
                is_held = !small(world, way, port, Duration::from_millis(500)).await;
            }
            // Another proxy may do better; ours does not yet, and its gaps say so.
            let is_ours = std::env::var_os("HAUBERK_PROXY_UNDER_TEST").is_none();
            assert!(
                is_held || !is_ours,
                "{way:?}: nobody is held back any more: mend docs/gaps.md"
            );
            drop((few, many));
            assert!(small(world, way, port, PATIENCE / 2).await, "{way:?}: held back by nobody");
        });
    }
}

/// Whether another client is answered in time, body and all.
async fn small(world: &World, way: Way, port: u16, limit: Duration) -> bool {
    let mut sender = client(world.connect(way, port)).await;
    let (response, _) = sender.send_request(get("/small"), true).unwrap();
    let answered = async { collect(response.await.unwrap().into_body()).await.unwrap().0 };
    match tokio::time::timeout(limit, answered).await {
        Ok(body) => body == b"ok",
        Err(_elapsed) => false,
    }
}

/// Trailers of both directions, and a body larger than every window.
#[test]
fn bodies_and_trailers_pass() {
    let Some(world) = world("http2") else { return };
    let port = application(world, async |request, mut respond| {
        let Ok((bytes, sum)) = collect(request.into_body()).await else { return };
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        let text = format!("{} {}", bytes.len(), sum.unwrap_or_default());
        body.send_data(text.into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "back".parse().unwrap());
        body.send_trailers(trailers).unwrap();
    });
    for way in WAYS {
        let socket = world.connect(way, port);
        run(async {
            let mut sender = client(socket).await;
            let request = Request::post("http://web/").body(()).unwrap();
            let (response, mut body) = sender.send_request(request, false).unwrap();
            let mut left: usize = 3_000_000;
            while left > 0 {
                body.reserve_capacity(left.min(16 * 1024));
                let room =
                    std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
                let size = room.min(left);
                body.send_data(Bytes::from(vec![1; size]), false).unwrap();
                left -= size;
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "there".parse().unwrap());
            body.send_trailers(trailers).unwrap();
            let (bytes, sum) = collect(response.await.unwrap().into_body()).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), "3000000 there", "{way:?}");
            assert_eq!(sum.as_deref(), Some("back"), "{way:?}");
        });
    }
}
