//! HTTP/1 connections at their edges: slow heads, pauses, early answers, requests sent ahead.

#![allow(clippy::unwrap_used, reason = "helpers of tests are part of the tests")]

mod mesh;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use mesh::{exchange, full, http1_application, read_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n";
/// What the proxy itself answers where there is no route.
const NO_ROUTE: &str = "HTTP/1.1 404 Not Found\r\n";

#[test]
fn a_head_has_its_time_from_its_first_byte_on() {
    mesh::run_paused(async |mesh| {
        mesh.publish_policy(Vec::new(), None);
        let mut connection = mesh.connect();
        for _ in 0..2 {
            connection.write_all(REQUEST).await.unwrap();
            let answer = read_until(&mut connection, "\r\n\r\n").await;
            assert!(answer.starts_with(NO_ROUTE), "{answer}");
            // A pause between two requests has no end.
            sleep(Duration::from_secs(3600)).await;
        }
        let began = Instant::now();
        let (mut read, mut write) = tokio::io::split(connection);
        let dripping = async {
            for byte in b"GET / HTTP/1.1\r\nhost: web\r\nx: ".iter().cycle() {
                if write.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let reading = async {
            let mut answer = String::new();
            read.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::select! {
            () = dripping => panic!("it drips for as long as it may"),
            answer = reading => answer,
        };
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(35), "{took:?}");
    });
}

#[test]
fn a_first_head_has_its_time_too() {
    mesh::run_paused(async |mesh| {
        mesh.publish_policy(Vec::new(), None);
        let mut connection = mesh.connect();
        connection.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    });
}

#[test]
fn a_short_body_that_nobody_wants_does_not_end_the_connection() {
    mesh::run(async |mesh| {
        mesh.publish_policy(Vec::new(), None);
        for framing in [
            "content-length: 7\r\n\r\nunasked",
            "transfer-encoding: chunked\r\n\r\n7\r\nunasked\r\n0\r\n\r\n",
        ] {
            let first = format!("POST / HTTP/1.1\r\nhost: web\r\n{framing}");
            let last = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
            let answer = exchange(mesh.connect(), &(first + last)).await;
            assert_eq!(answer.matches(NO_ROUTE).count(), 2, "{answer}");
        }
    });
}

#[test]
fn who_waits_for_100_and_is_refused_is_not_left_in_doubt() {
    mesh::run(async |mesh| {
        mesh.publish_policy(Vec::new(), None);
        let head =
            "POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        let answer = exchange(mesh.connect(), head).await;
        assert!(answer.starts_with(NO_ROUTE), "{answer}");
        // Whether the body follows is not known, so nothing more is read.
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    });
}

#[test]
fn an_early_answer_is_not_cut_off_by_the_rest_of_the_request() {
    // More than is read and thrown away for the sake of the connection.
    const SIZE: usize = 900 * 1024;
    mesh::run(async |mesh| {
        let application =
            http1_application(async |_| Response::builder().status(413).body(full("no")).unwrap());
        let address = mesh.proxied(application.await).await;
        for _ in 0..3 {
            let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
            let head = format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            let sending = async {
                for _ in 0..SIZE / 1024 {
                    write.write_all(&[7; 1024]).await?;
                }
                Ok::<_, std::io::Error>(())
            };
            let reading = async {
                // A client that has nothing to read until it has sent everything.
                sleep(Duration::from_millis(20)).await;
                let mut answer = String::new();
                read.read_to_string(&mut answer).await.map(|_| answer)
            };
            let (_sent, answer) = tokio::join!(sending, reading);
            let answer = answer.expect("the connection ends in order");
            assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("no"), "{answer}");
        }
    });
}

#[test]
fn a_head_and_its_short_body_arrive_together() {
    mesh::run(async |mesh| {
        let application = http1_application(async |_| Response::new(full("hello"))).await;
        mesh.serve(application, mesh::Way::Unmeshed).await;
        let mut connection = mesh.connect();
        for _ in 0..3 {
            connection.write_all(REQUEST).await.unwrap();
            let mut buffer = [0; 1024];
            let count = connection.read(&mut buffer).await.unwrap();
            let answer = String::from_utf8_lossy(&buffer[..count]);
            assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        }
    });
}

#[test]
fn a_reason_of_its_own_passes() {
    mesh::run(async |mesh| {
        let application = mesh::application(async |mut socket| {
            let _ = socket.read(&mut [0; 1024]).await;
            let answer = b"HTTP/1.1 404 Nobody Here\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
        })
        .await;
        mesh.serve(application, mesh::Way::Unmeshed).await;
        let text = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
        let answer = exchange(mesh.connect(), text).await;
        assert!(answer.starts_with("HTTP/1.1 404 Nobody Here\r\n"), "{answer}");
    });
}

#[test]
fn a_server_that_closes_an_idle_connection_is_let_go_at_once() {
    mesh::run(async |mesh| {
        let ended = Rc::new(Cell::new(0));
        let count = Rc::clone(&ended);
        let application = mesh::application(move |mut socket| {
            let count = Rc::clone(&count);
            async move {
                let _ = socket.read(&mut [0; 1024]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                socket.write_all(answer).await.unwrap();
                socket.shutdown().await.unwrap();
                // Until the proxy has closed its side too.
                assert_eq!(socket.read(&mut [0; 16]).await.unwrap(), 0);
                count.set(count.get() + 1);
            }
        })
        .await;
        mesh.serve(application, mesh::Way::Unmeshed).await;
        let mut connection = mesh.connect();
        let began = Instant::now();
        for round in 1..=3 {
            connection.write_all(REQUEST).await.unwrap();
            read_until(&mut connection, "ok").await;
            while ended.get() < round {
                // Less than the three seconds after which it would be closed for its age.
                assert!(began.elapsed() < Duration::from_millis(2500), "round {round}");
                sleep(Duration::from_millis(2)).await;
            }
        }
    });
}

#[test]
fn a_draining_proxy_answers_what_has_begun_and_closes() {
    mesh::run(async |mesh| {
        let application = http1_application(async |_| {
            sleep(Duration::from_millis(100)).await;
            Response::new(full("hello"))
        });
        mesh.serve(application.await, mesh::Way::Unmeshed).await;
        let (mut idle, mut busy) = (mesh.connect(), mesh.connect());
        for connection in [&mut idle, &mut busy] {
            connection.write_all(REQUEST).await.unwrap();
            read_until(connection, "hello").await;
        }
        busy.write_all(REQUEST).await.unwrap();
        sleep(Duration::from_millis(20)).await;
        mesh.client.worker.shutdown.drain(hauberk_process::shutdown::Cause::Requested);
        let mut answer = String::new();
        idle.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "", "an idle connection is closed");
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("hello"), "{answer}");
    });
}
