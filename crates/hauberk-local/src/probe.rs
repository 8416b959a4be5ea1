//! Doing what a probe or hook asks for, once, within its time.

use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::plan::Action;

/// Runs a program in a container and tells its exit code.
pub(crate) trait Execute {
    /// # Errors
    /// When it cannot be started, or ends with another code than 0.
    async fn execute(&self, command: &[String]) -> Result<(), String>;
}

/// Does it. Cancel-safe: a program that was started is killed with its pod at the latest.
///
/// # Errors
/// Why it did not go well, for people.
pub(crate) async fn act(
    action: &Action,
    timeout: Duration,
    container: &impl Execute,
) -> Result<(), String> {
    match tokio::time::timeout(timeout, attempt(action, container)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

async fn attempt(action: &Action, container: &impl Execute) -> Result<(), String> {
    match action {
        Action::Exec(command) => container.execute(command).await,
        Action::Tcp { host, port } => connect(host, *port).await.map(drop),
        Action::Http { host, port, path, headers } => get(host, *port, path, headers).await,
        Action::Sleep(duration) => {
            tokio::time::sleep(*duration).await;
            Ok(())
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
}

async fn get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let stream = connect(host, port).await?;
    let failed =
        |error: &dyn std::fmt::Display| format!("cannot get {path} from {host}:{port}: {error}");
    let mut request = http::Request::get(path)
        .header(http::header::HOST, format!("{host}:{port}"))
        .header(http::header::USER_AGENT, "kube-probe/hauberk")
        .header(http::header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| failed(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let answered = sender.send_request(request);
    tokio::pin!(answered, connection);
    let mut is_driven = true;
    // The connection must be driven for the answer to come. It may end first: the answer is there then.
    let response = loop {
        tokio::select! {
            response = &mut answered => break response.map_err(|error| failed(&error))?,
            _ = &mut connection, if is_driven => is_driven = false,
        }
    };
    let status = response.status().as_u16();
    if (200..400).contains(&status) { Ok(()) } else { Err(failed(&format!("status {status}"))) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Nothing;

    impl Execute for Nothing {
        async fn execute(&self, command: &[String]) -> Result<(), String> {
            if command == ["good"] { Ok(()) } else { Err("exit code 1".to_owned()) }
        }
    }

    async fn check(action: Action, expect: bool) {
        let result = act(&action, Duration::from_secs(5), &Nothing).await;
        assert_eq!(result.is_ok(), expect, "{action:?}: {result:?}");
    }

    #[tokio::test]
    async fn a_status_below_400_is_good() {
        for (status, good) in [("200 OK", true), ("302 Found", true), ("404 Not Found", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let host = "127.0.0.1".to_owned();
            let headers = vec![("x-probe".to_owned(), "yes".to_owned())];
            let action = Action::Http { host, port, path: "/ready?x=1".into(), headers };
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let length = stream.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                text
            };
            let (text, ()) = tokio::join!(server, check(action, good));
            assert!(text.starts_with("GET /ready?x=1 HTTP/1.1\r\n"), "{text}");
            assert!(text.contains("x-probe: yes"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_port_that_listens_is_good_and_a_closed_one_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let action = Action::Tcp { host: "127.0.0.1".into(), port };
        check(action.clone(), true).await;
        drop(listener);
        check(action, false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_bad() {
        check(Action::Exec(vec!["good".into()]), true).await;
        check(Action::Sleep(Duration::from_secs(4)), true).await;
        check(Action::Sleep(Duration::from_secs(6)), false).await;
    }
}
