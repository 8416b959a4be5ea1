//! HTTP over real sockets: an application that says what it was asked, and clients.

use super::{Control, within};
use bytes::Bytes;
use hauberk_model::{Authority, Meta, OutboundPolicy, Port};
use hauberk_process::{Shutdown, Tasks};
use hauberk_testkit::policy;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A name under the cluster's domain, with a port.
pub fn name(service: &str, port: u16) -> Authority {
    Authority::new(&format!("{service}.test.svc.cluster.local"), Port::new(port).unwrap())
}

/// Requests, in either version, and opaque bytes, balanced over an authority.
pub fn to(authority: Authority) -> OutboundPolicy {
    let parent = Meta::service("test", authority.host(), Some(authority.port()));
    let backend = policy::balanced(parent.clone(), authority);
    policy::detected(parent, &backend)
}

/// An application that answers each request, in either version, with its name and the request's head.
pub async fn echo(called: &'static str) -> SocketAddr {
    echo_at("127.0.0.1:0", called).await
}

/// The same at another address.
pub async fn echo_at(address: &str, called: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Tasks::new(Shutdown::new()).kind("echo");
    let executor = connections.clone();
    connections.clone().spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let executor = executor.clone();
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (head, _) = request.into_parts();
                    let mut text =
                        format!("{called} {} {} {:?}\n", head.method, head.uri, head.version);
                    for (name, value) in &head.headers {
                        text += &format!("{name}: {}\n", value.to_str().unwrap());
                    }
                    async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(executor);
                // The proxy may close at any time.
                let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}

/// One HTTP/1.1 exchange on a connection of its own: everything that came back.
pub async fn get(at: SocketAddr, headers: &[&str]) -> String {
    let mut socket = within(TcpStream::connect(at)).await.unwrap();
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request =
        format!("GET /path HTTP/1.1\r\nhost: asked\r\nconnection: close\r\n{headers}\r\n");
    within(socket.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// One HTTP/2 exchange on a connection of its own: status and body.
pub async fn get2(at: SocketAddr, headers: &[(&str, &str)]) -> (u16, String) {
    let socket = within(TcpStream::connect(at)).await.unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let builder = hyper::client::conn::http2::Builder::new(tasks.kind("http2"));
    let (mut sender, driver) = within(builder.handshake(TokioIo::new(socket))).await.unwrap();
    tasks.spawn("driver", async move {
        let _ = driver.await;
    });
    let mut request = Request::get("http://asked/path");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let status = response.status().as_u16();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Asks until the answer holds `wanted`, because what the control plane says takes a moment to arrive.
pub async fn get_until(at: SocketAddr, headers: &[&str], wanted: &str) -> String {
    let begin = tokio::time::Instant::now();
    loop {
        let answer = get(at, headers).await;
        if answer.contains(wanted) {
            return answer;
        }
        assert!(begin.elapsed() < super::PATIENCE, "no {wanted:?} in\n{answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The control plane knows `authority` to be served at these addresses.
pub fn serve(control: &Control, authority: &Authority, all: Vec<hauberk_model::Endpoint>) {
    control.know(|knowledge| {
        knowledge.endpoints.insert(authority.clone(), super::endpoints(all));
    });
}
