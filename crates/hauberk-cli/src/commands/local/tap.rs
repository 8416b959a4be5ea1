//! `hauberk local tap`: requests as they pass a workload's sidecars.
//!
//! Each sidecar's tap port is reached through the lab, by the pod's loopback address. A tap is opened
//! for a second's worth of requests and again when they have passed, so that a busy workload is
//! sampled and never held up. Lines are those of `linkerd viz tap`; with `-o json` one object a line.

use std::{
    cell::Cell,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use futures::future::join_all;
use hauberk_local::{
    api::{Answer, PodRow, Request, Target},
    client::{Client, StateDirectory},
};
use hauberk_model::tap::{self, TapDirection, TapEnd, TapEvent, TapMatch, TapMoment, TextMatch};
use hauberk_viz::tap::Watcher;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::fleet;

/// Port of a sidecar's tap server.
const TAP_PORT: u16 = 4190;

/// Time that the limit of requests is for.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub(super) struct Tap {
    /// A pod, or what owns it: web-7c9-x2x, web, deploy/web, or with its namespace before it
    #[arg(value_name = "[NAMESPACE/]WORKLOAD")]
    workload: String,
    /// Namespace; any by default
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests whose path begins so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only requests to this authority
    #[arg(long, value_name = "AUTHORITY")]
    authority: Option<String>,
    /// Requests a second at most, of all pods together
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_rps: u32,
    /// End when so many requests have ended; goes on until interrupted by default
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How to show them; json shows headers too
    #[arg(short, long, value_enum, default_value_t = Format::Line, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each event.
    Line,
    /// The same with all labels.
    Wide,
    /// An object for each event, one a line.
    Json,
}

/// Runs the command until it has shown enough, is interrupted, or every sidecar has gone.
pub(super) fn run(state: &StateDirectory, tap: &Tap) -> anyhow::Result<ExitCode> {
    let pods = match Client::connect(state)?.ask(&Request::Pods)? {
        Answer::Pods { pods } => pods,
        other => bail!("the lab answered {other:?}"),
    };
    let is_meant = |pod: &PodRow| fleet::means(pod, &tap.workload, tap.namespace.as_deref());
    let pods: Vec<_> = pods.into_iter().filter(is_meant).collect();
    if pods.is_empty() {
        bail!("no pod of {} in this lab; hint: `hauberk local ps` lists them", tap.workload);
    }
    let meshed: Vec<_> = pods.iter().filter(|pod| pod.meshed).collect();
    if meshed.is_empty() {
        bail!("no pod of {} has a sidecar, so nothing can be seen of its requests", tap.workload);
    }
    let wanted = tap.wanted(meshed.len())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let printer = Printer { format: tap.output, rest: Cell::new(tap.count), enough: Notify::new() };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = join_all(meshed.iter().map(|pod| follow(state, pod, &wanted, &printer))) => ended,
            () = printer.enough.notified() => Vec::new(),
        }
    });
    if ended.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for (pod, ended) in meshed.iter().zip(ended) {
        if let Err(why) = ended {
            eprintln!("{}/{}: {why:#}", pod.namespace, pod.name);
        }
    }
    Ok(ExitCode::FAILURE)
}

impl Tap {
    /// What each of so many sidecars is asked for.
    fn wanted(&self, sidecars: usize) -> anyhow::Result<tap::Tap> {
        let mut all = Vec::new();
        if let Some(method) = &self.method {
            let of = || format!("{method:?} is not a method");
            all.push(TapMatch::Method(method.to_uppercase().parse().with_context(of)?));
        }
        if let Some(prefix) = &self.path {
            all.push(TapMatch::Path(TextMatch::Prefix(prefix.as_str().into())));
        }
        if let Some(authority) = &self.authority {
            all.push(TapMatch::Authority(TextMatch::Exact(authority.as_str().into())));
        }
        let sidecars = u32::try_from(sidecars).unwrap_or(u32::MAX);
        Ok(tap::Tap {
            limit: (self.max_rps / sidecars).max(1),
            condition: TapMatch::All(all),
            with_headers: self.output == Format::Json,
        })
    }
}

/// Prints a sidecar's events until it has gone.
async fn follow(
    state: &StateDirectory,
    pod: &PodRow,
    wanted: &tap::Tap,
    printer: &Printer,
) -> anyhow::Result<()> {
    let target =
        Target { pod: pod.name.clone(), namespace: Some(pod.namespace.clone()), container: None };
    let socket = Client::connect(state)?.dial(target, TAP_PORT)?;
    socket.set_nonblocking(true)?;
    let mut watcher = Watcher::new(tokio::net::TcpStream::from_std(socket)?).await?;
    loop {
        let until = Instant::now() + WINDOW;
        let mut events = watcher.observe(wanted).await?;
        while let Some(event) = events.next().await? {
            printer.print(&event)?;
        }
        sleep_until(until).await;
    }
}

/// Shows events, of all sidecars.
struct Printer {
    format: Format,
    /// How many requests may still end, if somebody counts.
    rest: Cell<Option<u64>>,
    /// Told when none may.
    enough: Notify,
}

impl Printer {
    fn print(&self, event: &TapEvent) -> io::Result<()> {
        if self.rest.get() == Some(0) {
            return Ok(());
        }
        let line = match self.format {
            Format::Line => line(event),
            Format::Wide => format!("{}{}", line(event), labels(event)),
            Format::Json => object(event).to_string(),
        };
        writeln!(io::stdout(), "{line}")?;
        if matches!(event.moment, TapMoment::ResponseEnd { .. }) {
            self.rest.set(self.rest.get().map(|rest| rest - 1));
            if self.rest.get() == Some(0) {
                self.enough.notify_one();
            }
        }
        Ok(())
    }
}

/// As `linkerd viz tap` shows an event.
fn line(event: &TapEvent) -> String {
    let exchange = &event.exchange;
    let (proxy, peer) = match exchange.direction {
        TapDirection::Inbound => ("in ", &exchange.source_labels),
        TapDirection::Outbound => ("out", &exchange.destination_labels),
    };
    let (kind, what) = match &event.moment {
        TapMoment::RequestInit { method, authority, path, .. } => {
            ("req", format!(":method={method} :authority={authority} :path={path}"))
        }
        TapMoment::ResponseInit { since_request_init, status, .. } => {
            let latency = since_request_init.as_micros();
            ("rsp", format!(":status={} latency={latency}µs", status.as_u16()))
        }
        TapMoment::ResponseEnd { since_response_init, response_bytes, end, .. } => {
            let how = match end {
                Some(TapEnd::GrpcStatus(code)) => format!("grpc-status={code} "),
                Some(TapEnd::Reset(code)) => format!("reset-error={code} "),
                None => String::new(),
            };
            let duration = since_response_init.as_micros();
            ("end", format!("{how}duration={duration}µs response-length={response_bytes}B"))
        }
    };
    let tls = peer.get("tls").map_or("", |tls| &**tls);
    let (id, src, dst) = (event.stream, exchange.source, exchange.destination);
    format!(
        "{kind} id={}:{} proxy={proxy} src={src} dst={dst} tls={tls} {what}",
        id.base, id.stream
    )
}

fn labels(event: &TapEvent) -> String {
    let exchange = &event.exchange;
    let all = [
        ("src", &exchange.source_labels),
        ("dst", &exchange.destination_labels),
        ("rt", &exchange.route_labels),
    ];
    let all = all.iter().flat_map(|(of, labels)| labels.iter().map(move |(k, v)| (of, k, v)));
    all.map(|(of, key, value)| format!(" {of}_{key}={value}")).collect()
}

/// With the names of `linkerd viz tap -o json`.
fn object(event: &TapEvent) -> Value {
    let exchange = &event.exchange;
    let labels = |labels: &hauberk_model::endpoints::Labels| {
        labels.iter().map(|(key, value)| (key.to_string(), json!(**value))).collect::<Value>()
    };
    let id = json!({"base": event.stream.base, "stream": event.stream.stream});
    let since = |time: &Duration| json!({"seconds": time.as_secs(), "nanos": time.subsec_nanos()});
    let (name, moment) = match &event.moment {
        TapMoment::RequestInit { method, scheme, authority, path, headers } => (
            "requestInitEvent",
            json!({
                "id": id, "method": method.as_str(), "scheme": **scheme, "authority": authority,
                "path": path, "headers": pairs(headers.iter()),
            }),
        ),
        TapMoment::ResponseInit { since_request_init, status, headers } => (
            "responseInitEvent",
            json!({
                "id": id, "sinceRequestInit": since(since_request_init),
                "httpStatus": status.as_u16(), "headers": pairs(headers.iter()),
            }),
        ),
        TapMoment::ResponseEnd {
            since_request_init,
            since_response_init,
            response_bytes,
            end,
            trailers,
        } => {
            let (code, reset) = match end {
                Some(TapEnd::GrpcStatus(code)) => (Some(code), None),
                Some(TapEnd::Reset(code)) => (None, Some(code)),
                None => (None, None),
            };
            let end = json!({
                "id": id, "sinceRequestInit": since(since_request_init),
                "sinceResponseInit": since(since_response_init), "responseBytes": response_bytes,
                "grpcStatusCode": code, "resetErrorCode": reset, "trailers": pairs(trailers.iter()),
            });
            ("responseEndEvent", end)
        }
    };
    let direction = match exchange.direction {
        TapDirection::Inbound => "INBOUND",
        TapDirection::Outbound => "OUTBOUND",
    };
    let end = |address: std::net::SocketAddr, of: &hauberk_model::endpoints::Labels| json!({"ip": address.ip(), "port": address.port(), "metadata": labels(of)});
    let mut object = json!({
        "source": end(exchange.source, &exchange.source_labels),
        "destination": end(exchange.destination, &exchange.destination_labels),
        "routeMeta": labels(&exchange.route_labels),
        "proxyDirection": direction,
    });
    object[name] = moment;
    object
}

fn pairs<N: ToString, V: AsRef<[u8]>>(headers: impl Iterator<Item = (N, V)>) -> Value {
    let text = |value: V| String::from_utf8_lossy(value.as_ref()).into_owned();
    headers
        .map(|(name, value)| json!({"name": name.to_string(), "valueStr": text(value)}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_model::{
        endpoints::Labels,
        tap::{StreamId, TapExchange},
    };
    use std::sync::Arc;

    fn event(moment: TapMoment) -> TapEvent {
        let exchange = TapExchange {
            direction: TapDirection::Inbound,
            source: ([10, 1, 2, 3], 40_000).into(),
            source_labels: Labels::from([("tls".into(), "true".into())]),
            destination: ([10, 1, 2, 4], 8080).into(),
            destination_labels: Labels::new(),
            route_labels: Labels::from([("route_name".into(), "default".into())]),
        };
        let stream = StreamId { base: 0, stream: 1 };
        TapEvent { stream, exchange: Arc::new(exchange), moment }
    }

    fn end() -> TapEvent {
        event(TapMoment::ResponseEnd {
            since_request_init: Duration::from_micros(1754),
            since_response_init: Duration::from_micros(20),
            response_bytes: 512,
            end: Some(TapEnd::GrpcStatus(0)),
            trailers: Default::default(),
        })
    }

    #[test]
    fn shows_events_as_linkerd_does() {
        let request = event(TapMoment::RequestInit {
            method: Default::default(),
            scheme: "http".into(),
            authority: "cart:8080".into(),
            path: "/items".into(),
            headers: Default::default(),
        });
        let ends = "id=0:1 proxy=in  src=10.1.2.3:40000 dst=10.1.2.4:8080 tls=true";
        assert_eq!(
            line(&request),
            format!("req {ends} :method=GET :authority=cart:8080 :path=/items")
        );
        let response = event(TapMoment::ResponseInit {
            since_request_init: Duration::from_micros(1734),
            status: Default::default(),
            headers: Default::default(),
        });
        assert_eq!(line(&response), format!("rsp {ends} :status=200 latency=1734µs"));
        let wanted = format!("end {ends} grpc-status=0 duration=20µs response-length=512B");
        assert_eq!(line(&end()), wanted);
        assert_eq!(labels(&end()), " src_tls=true rt_route_name=default");
    }

    #[test]
    fn objects_have_linkerds_names() {
        let object = object(&end());
        assert_eq!(object["proxyDirection"], "INBOUND");
        assert_eq!(object["source"]["metadata"]["tls"], "true");
        assert_eq!(object["responseEndEvent"]["responseBytes"], 512);
        assert_eq!(object["responseEndEvent"]["sinceResponseInit"]["nanos"], 20_000);
    }

    #[test]
    fn finds_pods_by_name_owner_and_namespace() {
        let tap = |workload: &str| Tap {
            workload: workload.to_owned(),
            namespace: None,
            method: None,
            path: None,
            authority: None,
            max_rps: 10,
            count: None,
            output: Format::Line,
        };
        let pod = PodRow {
            namespace: "emojivoto".into(),
            name: "web-7c9-x2x".into(),
            owner: "deployment/web".into(),
            ips: Vec::new(),
            phase: "Running".into(),
            ready: true,
            meshed: true,
            network_namespace: None,
            message: None,
            containers: Vec::new(),
        };
        for means in [
            "web",
            "deploy/web",
            "deployment/web",
            "web-7c9-x2x",
            "emojivoto/web",
            "emojivoto/deploy/web",
        ] {
            assert!(fleet::means(&pod, means, None), "{means}");
        }
        for other in ["we", "other/web", "emojivoto/", "deployment/we", ""] {
            assert!(!fleet::means(&pod, other, None), "{other}");
        }
        assert_eq!(tap("web").wanted(3).unwrap().limit, 3);
        assert_eq!(tap("web").wanted(99).unwrap().limit, 1);
        assert!(Tap { method: Some("a b".into()), ..tap("web") }.wanted(1).is_err());
    }
}
