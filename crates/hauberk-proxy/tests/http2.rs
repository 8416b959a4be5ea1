//! HTTP/2 and gRPC through one proxy and through two.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hauberk_model::Endpoint;
use hauberk_model::endpoints::ProtocolHint;
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use mesh::{Mesh, Way, full, http2_application, http2_client};

fn post(path: &str) -> http::request::Builder {
    Request::post(format!("http://web:80{path}"))
}

fn grpc(path: &str) -> http::request::Builder {
    post(path).header("content-type", "application/grpc+proto").header("te", "trailers")
}

fn trailers(code: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers.insert("x-trailer", "yes".parse().unwrap());
    trailers
}

/// An application that speaks a little gRPC.
async fn grpc_service(request: Request<Incoming>) -> Result<Response<mesh::TestBody>, h2::Error> {
    assert_eq!(request.version(), Version::HTTP_2);
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(match request.uri().path() {
        "/echo" => {
            let frames = request.into_body().into_data_stream();
            let frames = frames.map(|data| Ok::<_, mesh::TestError>(Frame::data(data?)));
            let end = futures::stream::iter([Ok(Frame::trailers(trailers("0")))]);
            response.body(mesh::body(StreamBody::new(frames.chain(end))))
        }
        "/only" => response.header("grpc-status", "5").body(full("")),
        "/headers" => {
            let text = format!("{:?}", request.headers());
            response.body(full(text))
        }
        "/reset" => return Err(h2::Reason::REFUSED_STREAM.into()),
        "/break" => {
            let frame = Ok(Frame::data(Bytes::from_static(b"part")));
            let broken = futures::stream::once(async {
                // Lets the first frame go out on its own.
                tokio::task::yield_now().await;
                Err(mesh::TestError::from("broken"))
            });
            let frames = futures::stream::iter([frame]).chain(broken);
            response.body(mesh::body(StreamBody::new(frames)))
        }
        _ => response.status(404).body(full("")),
    }
    .unwrap())
}

async fn served(mesh: &Mesh, way: Way) {
    let application = http2_application(grpc_service).await;
    mesh.serve(application, way).await;
}

#[test]
fn streams_calls_and_passes_trailers() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            served(&mesh, way).await;
            let mut client = http2_client(mesh.connect()).await;
            let (mut send, messages) = futures::channel::mpsc::channel::<Bytes>(1);
            let body = messages.map(|data| Ok::<_, mesh::TestError>(Frame::data(data)));
            let body = mesh::body(StreamBody::new(body));
            let response = client.send_request(grpc("/echo").body(body).unwrap()).await.unwrap();
            let mut body = response.into_body();
            // Each message comes back before the next is sent: nothing waits for an end.
            for message in ["one", "two", "three"] {
                send.start_send(Bytes::from(message)).unwrap();
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), message, "{way:?}");
                futures::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
            }
            drop(send);
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_trailers().unwrap(), trailers("0"), "{way:?}");
            assert!(body.frame().await.is_none());
        }
    });
}

#[test]
fn passes_trailers_only_answers() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            served(&mesh, way).await;
            let mut client = http2_client(mesh.connect()).await;
            let request = grpc("/only").body(full("x")).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.headers()["grpc-status"], "5", "{way:?}");
            assert!(response.into_body().frame().await.is_none());
        }
    });
}

#[test]
fn many_streams_share_a_connection_and_metrics_count_them() {
    mesh::run(async |mesh| {
        served(&mesh, Way::Meshed).await;
        let client = http2_client(mesh.connect()).await;
        let calls = (0..50).map(|n| {
            let mut client = client.clone();
            async move {
                let request = grpc("/echo").body(full(n.to_string())).unwrap();
                let response = client.send_request(request).await.unwrap();
                let body = response.into_body().collect().await.unwrap();
                assert_eq!(body.to_bytes(), n.to_string());
            }
        });
        futures::future::join_all(calls).await;
        for (registry, direction, tls) in [
            (&mesh.client.registry, "outbound", "server_id=\"server.default."),
            (&mesh.server.registry, "inbound", "client_id=\"client.default."),
        ] {
            let text = registry.render();
            let line = |name: &str, more: &str| {
                let mut lines = text.lines();
                let start = format!("{name}{{direction=\"{direction}\"");
                lines
                    .find(|l| l.starts_with(&start) && l.contains(more))
                    .unwrap_or_else(|| panic!("no {name} {more} in\n{text}"))
                    .to_owned()
            };
            let requests = line("request_total", "tls=\"true\"");
            assert!(requests.ends_with(" 50") && requests.contains(tls), "{requests}");
            let responses = line(
                "response_total",
                "status_code=\"200\",classification=\"success\",grpc_status=\"0\",error=\"\"",
            );
            assert!(responses.ends_with(" 50"), "{responses}");
            assert!(line("response_latency_ms_count", "status_code=\"200\"").ends_with(" 50"));
        }
        let opened = mesh.client.registry.render();
        let opened = opened
            .lines()
            .find(|line| line.starts_with("tcp_open_total{direction=\"outbound\",peer=\"dst\""));
        assert!(opened.unwrap().ends_with(" 1"), "one connection between the proxies: {opened:?}");
    });
}

#[test]
fn resets_keep_their_code_in_http2_and_are_502_in_http1() {
    mesh::run(async |mesh| {
        for way in [Way::Meshed, Way::Unmeshed] {
            served(&mesh, way).await;
            let mut client = http2_client(mesh.connect()).await;
            let request = post("/reset").body(full("")).unwrap();
            let error = client.send_request(request).await.unwrap_err();
            let reset =
                std::error::Error::source(&error).and_then(|e| e.downcast_ref::<h2::Error>());
            assert_eq!(reset.unwrap().reason(), Some(h2::Reason::REFUSED_STREAM), "{way:?}");
        }
        // HTTP/1 that is carried inside HTTP/2 knows no resets.
        let application = http2_application(grpc_service).await;
        mesh.publish([Endpoint { hint: ProtocolHint::Http2, ..Endpoint::bare(application) }]);
        let head =
            "POST /reset HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = mesh::exchange(mesh.connect(), head).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(!answer.contains("l5d-orig-proto"), "{answer}");
    });
}

#[test]
fn a_stream_that_breaks_ends_in_a_status_for_grpc() {
    mesh::run(async |mesh| {
        for way in mesh::WAYS {
            served(&mesh, way).await;
            let mut client = http2_client(mesh.connect()).await;
            let request = grpc("/break").body(full("")).unwrap();
            let response = client.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.expect("no reset");
            let status = body.trailers().expect("trailers").get("grpc-status").cloned();
            assert!(status.is_some_and(|code| code != "0"), "{way:?}");
        }
    });
}

#[test]
fn a_client_that_goes_away_frees_what_its_call_held() {
    mesh::run(async |mesh| {
        let alive = Rc::new(Cell::new(0));
        let counted = Rc::clone(&alive);
        let application = http2_application(move |_| {
            let alive = Rc::clone(&counted);
            async move {
                alive.set(alive.get() + 1);
                let _leave = Leave(alive);
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(Response::new(full("")))
            }
        })
        .await;
        mesh.serve(application, Way::Meshed).await;
        let mut client = http2_client(mesh.connect()).await;
        let call = client.send_request(post("/").body(full("")).unwrap());
        let call = tokio::task::spawn_local(call);
        mesh::until(|| alive.get() == 1).await;
        assert_eq!(mesh.client.worker.http.outbound.in_flight(), 1);
        call.abort();
        mesh::until(|| alive.get() == 0).await;
        mesh::until(|| mesh.client.worker.http.outbound.in_flight() == 0).await;
        mesh::until(|| mesh.server.worker.http.inbound.in_flight() == 0).await;
    });
}

struct Leave(Rc<Cell<i32>>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[test]
fn marks_of_proxies_are_neither_believed_nor_passed_on() {
    mesh::run(async |mesh| {
        let application = http2_application(grpc_service).await;
        mesh.serve(application, Way::Meshed).await;
        for connection in [mesh.connect(), mesh.connect_inbound(application)] {
            let mut client = http2_client(connection).await;
            let request = post("/headers")
                .header("l5d-orig-proto", "HTTP/1.0; absolute-form")
                .header("l5d-client-id", "forged");
            let response = client.send_request(request.body(full("")).unwrap()).await.unwrap();
            assert!(!response.headers().contains_key("l5d-orig-proto"));
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("forged") && !text.contains("orig-proto"), "{text}");
        }
    });
}

#[test]
fn requests_without_an_authority_pass() {
    mesh::run(async |mesh| {
        let application = http2_application(async |request: Request<Incoming>| {
            assert!(request.uri().authority().is_none(), "{}", request.uri());
            Ok(Response::new(full("bare")))
        })
        .await;
        for way in mesh::WAYS {
            mesh.serve(application, way).await;
            let (mut client, connection) = h2::client::handshake(mesh.connect()).await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            // h2 sends no `:authority` for a path of a request that began as HTTP/1.
            let request = Request::get("/bare").version(Version::HTTP_11).body(()).unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200, "{way:?}");
        }
    });
}
