use super::*;
use crate::logging;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LOCAL: &str = "127.0.0.1:5000";
const MAPPED_LOCAL: &str = "[::ffff:127.0.0.1]:5000";
const REMOTE: &str = "10.0.0.7:5000";

fn admin() -> Admin {
    let vars = [("LINKERD2_PROXY_LOG", "info"), ("SECRET", "xyzzy")];
    Admin::new(Readiness::new(), Metrics::new())
        .with_environment(vars.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

/// Asks as `peer` with `"METHOD /path"` and expects a status and body.
async fn check(admin: &Admin, peer: &str, ask: &str, status: u16, expect: &str) {
    let (method, target) = ask.split_once(' ').expect("method and path");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let request = Request {
        peer: Some(peer.parse().expect("an address")),
        method: method.parse().expect("a method"),
        path: path.to_owned(),
        query,
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let response = admin.handle(request).await;
    let got_status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    assert_eq!((got_status, body.as_str()), (status, expect), "{ask} from {peer}");
}

#[tokio::test]
async fn says_alive_and_ready() {
    let readiness = Readiness::new();
    let identity = readiness.condition("identity");
    let admin = Admin::new(readiness, Metrics::new());
    check(&admin, REMOTE, "GET /live", 200, "live\n").await;
    check(&admin, REMOTE, "GET /ready", 503, "not ready\nwaiting for: identity\n").await;
    identity.set_ready();
    check(&admin, REMOTE, "GET /ready", 200, "ready\n").await;
    check(&admin, REMOTE, "GET /metrics", 200, "# EOF\n").await;
    check(&admin, REMOTE, "GET /nothing", 404, "not found\n").await;
}

#[tokio::test]
async fn shuts_down_only_if_enabled_by_post_from_loopback() {
    let shutdown = Shutdown::new();
    let enabled = admin().with_shutdown(shutdown.clone());
    check(&admin(), LOCAL, "POST /shutdown", 404, "shutdown endpoint is not enabled\n").await;
    check(&enabled, LOCAL, "GET /shutdown", 405, "allowed: POST\n").await;
    check(&enabled, REMOTE, "POST /shutdown", 403, "only from loopback\n").await;
    assert!(!shutdown.is_draining());
    check(&enabled, MAPPED_LOCAL, "POST /shutdown", 200, "shutdown\n").await;
    assert_eq!(shutdown.cause(), Some(&Cause::Requested));
}

#[tokio::test]
async fn shows_strangers_only_the_proxys_settings() {
    let all = r#"{"LINKERD2_PROXY_LOG":"info","SECRET":"xyzzy"}"#;
    check(&admin(), LOCAL, "GET /env.json", 200, all).await;
    check(&admin(), REMOTE, "GET /env.json", 200, r#"{"LINKERD2_PROXY_LOG":"info"}"#).await;
    check(&admin(), LOCAL, "GET /env.json?SECRET&NO", 200, r#"{"SECRET":"xyzzy","NO":null}"#).await;
    check(&admin(), REMOTE, "GET /env.json?SECRET", 200, r#"{"SECRET":null}"#).await;
    check(&admin(), LOCAL, "GET /env.json?A=B", 400, "the query lists names: ?A&B\n").await;
    check(&admin(), LOCAL, "PUT /env.json", 405, "allowed: GET\n").await;
    check(&admin(), LOCAL, "GET /logs.json", 404, "logging is off\n").await;
}

#[tokio::test]
async fn finds_the_longest_route() {
    let admin = admin()
        .with_route("/api/", |request| async move { text(StatusCode::OK, request.path) })
        .with_route("/api/v1/", |_| async { text(StatusCode::OK, "v1") })
        .with_route("/live", |_| async { text(StatusCode::OK, "never asked") });
    check(&admin, LOCAL, "GET /api/x", 200, "/api/x").await;
    check(&admin, LOCAL, "GET /api/v1/y", 200, "v1").await;
    check(&admin, LOCAL, "GET /live", 200, "live\n").await;
}

/// Sends raw bytes and reads until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the server closes");
    answer
}

/// One test for the log level over a real socket, because logging is process-wide.
#[tokio::test]
async fn serves_sockets_until_the_end_and_changes_the_log_level() {
    let log = logging::init(&logging::Config {
        filter: "error".parse().expect("well-formed"),
        ..logging::Config::default()
    })
    .expect("no other test sets up logging");
    let tasks = Tasks::new(Shutdown::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("bound");
    admin().with_log_level(log.clone()).serve(listener, &tasks);

    let get = "GET /proxy-log-level HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let put = |filter: &str| {
        let length = filter.len();
        format!(
            "PUT /proxy-log-level HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{filter}"
        )
    };
    assert!(exchange(address, get).await.ends_with("\r\n\r\nerror"));
    assert!(exchange(address, &put("warn,hauberk=debug")).await.starts_with("HTTP/1.1 204"));
    assert_eq!(log.filter().to_string(), "warn,hauberk=debug");
    assert!(tracing::enabled!(target: "hauberk_proxy", tracing::Level::DEBUG));
    let refused = exchange(address, &put("hauberk=loud")).await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    assert!(refused.contains("\"loud\" is not one of"), "{refused}");

    // A stream has a filter of its own, and leaves the log's as it is.
    let mut lines = TcpStream::connect(address).await.expect("the server listens");
    let ask = "GET /logs.json?error,hauberk_test=trace HTTP/1.1\r\nhost: a\r\n\r\n";
    lines.write_all(ask.as_bytes()).await.expect("the server reads");
    let mut seen = String::new();
    while !seen.contains("\r\n\r\n") {
        seen.push(char::from(lines.read_u8().await.expect("the server answers")));
    }
    assert!(seen.starts_with("HTTP/1.1 200") && seen.contains("application/x-ndjson"), "{seen}");
    tracing::trace!(target: "hauberk_test", number = 7, "only for \"streams\"");
    tracing::debug!(target: "hauberk_other", "for nobody here");
    tracing::error!(target: "elsewhere", "for everybody");
    while !seen.contains("for everybody") {
        let mut piece = [0; 1024];
        let read = lines.read(&mut piece).await.expect("the server goes on");
        assert!(read > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&piece[..read]).expect("text"));
    }
    assert!(seen.contains(r#""fields":{"message":"only for \"streams\"","number":7}"#), "{seen}");
    assert!(seen.contains("\"level\":\"TRACE\"") && !seen.contains("for nobody"), "{seen}");
    assert_eq!(log.filter().to_string(), "warn,hauberk=debug");
    drop(lines);
    let refused =
        exchange(address, "GET /logs.json?a=loud HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(refused.await.starts_with("HTTP/1.1 400"));
    let streams: Vec<_> = (0..5).map(|_| log.stream(log.filter())).collect();
    assert!(streams.last().is_some_and(Option::is_none), "at most four");
    drop(streams);

    // Draining does not silence the server; the end does.
    let guard = tasks.shutdown().guard();
    tasks.shutdown().drain(Cause::Requested);
    assert!(exchange(address, get).await.starts_with("HTTP/1.1 200"));
    drop(guard);
    tasks.shutdown().finish(Duration::from_secs(5)).await;
    tasks.join(Duration::from_secs(5)).await.expect("the server ends");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn speaks_http2_by_prior_knowledge() {
    let tasks = Tasks::new(Shutdown::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("bound");
    admin().serve(listener, &tasks);

    let stream = TcpStream::connect(address).await.expect("the server listens");
    let executor = tasks.kind("client");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(executor.clone(), TokioIo::new(stream))
            .await
            .expect("both speak HTTP/2");
    executor.spawn(connection);
    let request = http::Request::get(format!("http://{address}/live"))
        .body(Full::<Bytes>::default())
        .expect("well-formed");
    let response = client.send_request(request).await.expect("answered");
    assert_eq!((response.status(), response.version()), (StatusCode::OK, http::Version::HTTP_2));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_nothing_holds_no_connection() {
    // Nothing, a part of a head, a part of HTTP/2's preface, all of it.
    for sent in ["", "GET /li", "PRI * HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let tasks = Tasks::new(Shutdown::new());
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(sent.as_bytes()).await.expect("there is room");
        let began = tokio::time::Instant::now();
        let executor = tasks.kind("admin connection");
        let serving = Arc::new(admin()).serve_connection(server, None, executor, tasks.shutdown());
        let limit = REQUEST_TIMEOUT + Duration::from_secs(1);
        tokio::time::timeout(limit, serving).await.expect(sent);
        assert!(began.elapsed() >= REQUEST_TIMEOUT, "{sent}: {:?}", began.elapsed());
    }
}
