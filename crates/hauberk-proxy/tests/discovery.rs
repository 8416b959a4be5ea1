//! Connections whose target is not known, or known to be none of ours; on a paused clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use hauberk_proxy::{connection::Direction, io::Io, outbound};
use std::time::Duration;
use support::{facts, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::LocalSet,
};

/// What the application hears after it has said `question`, and after how long.
async fn answer(
    question: &'static [u8],
    facts: hauberk_proxy::connection::Facts,
) -> (String, Duration) {
    let begin = tokio::time::Instant::now();
    let local = LocalSet::new();
    let heard = local.run_until(async {
        let (worker, _publisher) = worker();
        let (mut application, near) = tokio::io::duplex(4096);
        let serving = outbound::serve(worker, Io::memory(near), facts);
        let asking = async {
            // The proxy may have hung up already.
            let _ = application.write_all(question).await;
            let mut heard = String::new();
            application.read_to_string(&mut heard).await.unwrap();
            heard
        };
        tokio::join!(serving, asking).1
    });
    (heard.await, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn http_to_a_target_that_nobody_knows_is_answered() {
    let question = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let (heard, waited) = answer(question, facts(Direction::Outbound)).await;
    assert!(heard.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{heard}");
    assert!(
        heard.contains("l5d-proxy-error: nothing is known about 10.99.99.99:7000 yet\r\n"),
        "{heard}"
    );
    assert_eq!(waited, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn bytes_to_a_target_that_nobody_knows_are_not_sent_in_plaintext() {
    let (heard, _) = answer(b"\x01\x02", facts(Direction::Outbound)).await;
    assert_eq!(heard, "");
}

#[tokio::test(start_paused = true)]
async fn connections_to_loopback_are_refused_at_once() {
    let mut facts = facts(Direction::Outbound);
    facts.original_dst = "127.0.0.1:80".parse().unwrap();
    let (heard, waited) = answer(b"GET / HTTP/1.1\r\n\r\n", facts).await;
    assert_eq!((heard.as_str(), waited), ("", Duration::ZERO));
}
