//! A policy that changes while several HTTP/2 streams of one connection are under way: those that it no longer allows
//! end, each in its own way, and the others go on.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hauberk_model::inbound::{
    Authentication, Authorization, HttpRoute, HttpServer, InboundPolicy, InboundProtocol,
};
use hauberk_model::route::http::{HttpMatch, PathMatch};
use hauberk_model::{Meta, Network};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use mesh::{LocalExecutor, Mesh, TestBody, TestError, body, full, http2_application, until};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// Whom everything is for, whom only `/kept` is for, whom nothing is for.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Everything,
    Kept,
    Nothing,
}

/// A policy for strangers: a route for `/kept`, and one for the rest.
fn policy(is: For) -> InboundPolicy {
    let route = |name: &str, prefix: &str, is_for: bool| {
        let authentication = match is_for {
            true => Authentication::Unauthenticated,
            false => Authentication::any_identity(),
        };
        let meta = Meta::default("test");
        let who = Authorization { meta, networks: Network::all(), authentication };
        let mut route = HttpRoute::catch_all(Meta::default(name), Arc::new([who]));
        let path = Some(PathMatch::Prefix(prefix.into()));
        route.route.rules[0].matches = vec![HttpMatch { path, ..HttpMatch::default() }];
        route
    };
    let routes =
        [route("kept", "/kept", is != For::Nothing), route("ended", "/", is == For::Everything)];
    InboundPolicy {
        server: Meta::resource("policy.linkerd.io", "server", "default", "web"),
        protocol: InboundProtocol::Detect {
            timeout: Duration::from_secs(10),
            http: HttpServer { routes: Arc::new(routes), rate_limit: None },
        },
        authorizations: Arc::new([]),
    }
}

/// An application whose answers begin and then say what it is told to; what asks for silence gets no answer.
struct Talker {
    address: SocketAddr,
    say: broadcast::Sender<&'static str>,
    /// How request bodies ended, by their path.
    uploads: Rc<RefCell<Vec<(String, bool)>>>,
}

impl Talker {
    async fn start() -> Self {
        let (say, _) = broadcast::channel::<&'static str>(8);
        let uploads = Rc::new(RefCell::new(Vec::new()));
        let (told, ends) = (say.clone(), Rc::clone(&uploads));
        let address = http2_application(move |request: Request<Incoming>| {
            let (told, ends) = (told.subscribe(), Rc::clone(&ends));
            async move {
                let path = request.uri().path().to_owned();
                let is_silent = path.contains("silent");
                tokio::task::spawn_local(async move {
                    let is_whole = request.into_body().collect().await.is_ok();
                    ends.borrow_mut().push((path, is_whole));
                });
                if is_silent {
                    return std::future::pending().await;
                }
                let first = futures::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
                let rest = futures::stream::unfold(told, async |mut told| {
                    let word = told.recv().await.ok()?;
                    Some((Ok::<_, TestError>(Frame::data(Bytes::from(word))), told))
                });
                let talk = futures::StreamExt::chain(first, Box::pin(rest));
                Ok(Response::new(body(StreamBody::new(talk))))
            }
        })
        .await;
        Self { address, say, uploads }
    }
}

/// A client's connection through the server's proxy.
async fn client(mesh: &Mesh, application: SocketAddr) -> SendRequest<TestBody> {
    let socket = TcpStream::connect(mesh.proxied(application).await).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(LocalExecutor);
    builder.initial_stream_window_size(64 * 1024);
    let (client, driver) = builder.handshake(TokioIo::new(socket)).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = driver.await;
    });
    client
}

fn get(path: &str) -> Request<TestBody> {
    Request::get(format!("http://web{path}")).body(full("")).unwrap()
}

/// A call of gRPC whose request does not end.
fn call(path: &str) -> Request<TestBody> {
    let first = futures::stream::iter([Ok::<_, TestError>(Frame::data(Bytes::from("part")))]);
    let endless = futures::StreamExt::chain(first, futures::stream::pending());
    let request = Request::post(format!("http://web{path}"));
    let request = request.header("content-type", "application/grpc");
    request.body(body(StreamBody::new(endless))).unwrap()
}

async fn word(response: &mut Response<Incoming>) -> Bytes {
    response.frame().await.unwrap().unwrap().into_data().unwrap()
}

fn reason(error: hyper::Error) -> h2::Reason {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().expect("a reset has a reason");
        }
        cause = error.source();
    }
    panic!("no reset: {error}")
}

fn counted(mesh: &Mesh, start: &str, label: &str) -> u64 {
    let text = mesh.server.registry.render();
    let lines = text.lines().filter(|line| line.starts_with(start) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn only_the_streams_end_that_are_no_longer_allowed() {
    mesh::run(async |mesh| {
        let talker = Talker::start().await;
        mesh.inbound_policy(talker.address, policy(For::Everything));
        let mut client = client(&mesh, talker.address).await;
        let mut kept = client.send_request(get("/kept")).await.unwrap();
        let mut plain = client.send_request(get("/plain")).await.unwrap();
        let mut grpc = client.send_request(call("/a.B/Talk")).await.unwrap();
        let silent = tokio::task::spawn_local(client.send_request(get("/silent")));
        let silent_grpc = tokio::task::spawn_local(client.send_request(call("/a.B/silent")));
        for response in [&mut kept, &mut plain, &mut grpc] {
            assert_eq!(word(response).await, "first");
        }
        until(|| mesh.server.worker.http.inbound.in_flight() == 5).await;

        // A change that allows it all changes nothing.
        mesh.inbound_policy(talker.address, policy(For::Everything));
        talker.say.send("second").unwrap();
        for response in [&mut kept, &mut plain, &mut grpc] {
            assert_eq!(word(response).await, "second");
        }

        mesh.inbound_policy(talker.address, policy(For::Kept));
        let reset = plain.frame().await.unwrap().unwrap_err();
        assert_eq!(reason(reset), h2::Reason::CANCEL);
        let trailers = grpc.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        let refused = silent.await.unwrap().unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        let refused = silent_grpc.await.unwrap().unwrap();
        assert_eq!(refused.status(), StatusCode::OK);
        assert_eq!(refused.headers()["grpc-status"], "7");
        // The application is told as well, also of requests that were not over.
        let ended = |path: &str| talker.uploads.borrow().contains(&(path.to_owned(), false));
        until(|| ended("/a.B/Talk") && ended("/a.B/silent")).await;
        until(|| mesh.server.worker.http.inbound.in_flight() == 1).await;

        talker.say.send("third").unwrap();
        assert_eq!(word(&mut kept).await, "third");
        let more = client.send_request(get("/kept/more")).await.unwrap();
        assert_eq!(more.status(), StatusCode::OK);
        let denied = client.send_request(get("/plain")).await.unwrap();
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
        assert_eq!(counted(&mesh, "response_total{", "error=\"unauthorized\""), 2);
        assert_eq!(counted(&mesh, "inbound_http_authz_deny_total{", "route_name=\"ended\""), 3);
        assert_eq!(counted(&mesh, "inbound_tcp_authz_terminate_total{", ""), 0);

        // What is allowed again begins anew on the same connection.
        mesh.inbound_policy(talker.address, policy(For::Everything));
        let mut again = client.send_request(get("/plain")).await.unwrap();
        assert_eq!(word(&mut again).await, "first");
        talker.say.send("fourth").unwrap();
        assert_eq!(word(&mut again).await, "fourth");
        assert_eq!(word(&mut kept).await, "fourth");
    });
}

#[test]
fn the_connection_ends_when_nothing_is_allowed_any_more() {
    mesh::run(async |mesh| {
        let talker = Talker::start().await;
        mesh.inbound_policy(talker.address, policy(For::Everything));
        let mut client = client(&mesh, talker.address).await;
        let mut kept = client.send_request(get("/kept")).await.unwrap();
        let mut grpc = client.send_request(call("/a.B/Talk")).await.unwrap();
        for response in [&mut kept, &mut grpc] {
            assert_eq!(word(response).await, "first");
        }
        mesh.inbound_policy(talker.address, policy(For::Nothing));
        let reset = kept.frame().await.unwrap().unwrap_err();
        assert_eq!(reason(reset), h2::Reason::CANCEL);
        let trailers = grpc.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        until(|| client.is_closed()).await;
        assert_eq!(counted(&mesh, "inbound_tcp_authz_terminate_total{", ""), 1);
        assert_eq!(mesh.server.worker.http.inbound.in_flight(), 0);
    });
}

#[test]
fn a_stream_ends_whose_reader_has_stalled() {
    let much: &'static str = "much".repeat(16 * 1024).leak();
    mesh::run(async |mesh| {
        let talker = Talker::start().await;
        mesh.inbound_policy(talker.address, policy(For::Everything));
        let mut client = client(&mesh, talker.address).await;
        let mut kept = client.send_request(get("/kept")).await.unwrap();
        let mut stalled = client.send_request(get("/stalled")).await.unwrap();
        assert_eq!(word(&mut kept).await, "first");
        assert_eq!(word(&mut stalled).await, "first");
        let mut read = 0;
        for _ in 0..4 {
            talker.say.send(much).unwrap();
            // Only one of the two reads.
            while read < much.len() {
                read += word(&mut kept).await.len();
            }
            read = 0;
        }
        mesh.inbound_policy(talker.address, policy(For::Kept));
        until(|| mesh.server.worker.http.inbound.in_flight() == 1).await;
        let reset = loop {
            match stalled.frame().await.unwrap() {
                Ok(_) => {}
                Err(error) => break reason(error),
            }
        };
        assert_eq!(reset, h2::Reason::CANCEL);
        talker.say.send("on").unwrap();
        assert_eq!(word(&mut kept).await, "on");
    });
}
