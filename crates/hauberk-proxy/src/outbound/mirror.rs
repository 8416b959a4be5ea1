//! Copies of requests, sent somewhere else.
//!
//! Begun by the outbound request path when the filters that a mirror stands among have let the
//! request pass, so a copy looks as the request did then. A copy is a task of its own: what comes of
//! it is counted and thrown away, and the request never waits for it. Bounds: a number of copies
//! under way on each worker, a time for each, and what may wait of its body ([`tee`](crate::http::tee)). Beyond them
//! copies are left out, and counted as that.
//!
//! Copies go to endpoints as other requests do (mTLS, balancing, metrics of endpoints), once.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use hauberk_model::Meta;
use hauberk_model::filter::Ratio;
use http::request::Parts;
use http::{Extensions, Request};
use http_body::{Body as _, SizeHint};

use hauberk_process::metrics::Counter;
use rand::Rng;
use tokio::time::{Instant, timeout_at};

use super::request::Connection;
use super::retry::Attempt;
use crate::balance::Pool;
use crate::connection::{Direction, NoTls, Tls};
use crate::http::body::{Body, Held};
use crate::http::classify::Pending;
use crate::http::client::Client;
use crate::http::exchange::End;
use crate::http::headers;
use crate::http::incoming::Incoming;
use crate::http::limit::Permit;
use crate::http::tee::{Original, Tee};
use crate::telemetry::labels::Labels;
use crate::telemetry::tap::Between;
use crate::worker::Worker;

/// Copies under way on one worker.
const COPIES_MAX: usize = 64;

/// Time for a copy, from its beginning to the end of its response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where copies of some requests go.
#[derive(Debug)]
pub struct Mirror {
    /// The endpoints.
    pub pool: Rc<Pool<Client>>,
    /// Share of requests.
    pub ratio: Ratio,
    /// Counters.
    pub series: Series,
}

/// What came of copies.
#[derive(Clone, Debug)]
pub struct Series {
    answered: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Series {
    /// The counters for a mirror with these labels.
    pub fn new(worker: &Worker, labels: &Labels) -> Self {
        let counter = |result: &'static str| {
            let labels = labels.clone().with("result", result);
            worker.metrics.http.mirrors.get_or_create(&labels)
        };
        Self {
            answered: counter("answered"),
            failed: counter("failed"),
            dropped: counter("dropped"),
        }
    }
}

/// The copies of one request, which wait for its body.
#[derive(Debug)]
pub(super) struct Copies {
    tee: Rc<Tee>,
    is_empty: bool,
    hint: SizeHint,
}

impl Copies {
    /// Of a request with this body, none yet.
    pub(super) fn of(body: &Incoming) -> Self {
        let (is_empty, hint) = (body.is_end_stream(), body.size_hint());
        Self { tee: Rc::default(), is_empty, hint }
    }

    /// Begins a copy at each mirror whose share the request falls into. Nothing of its body may
    /// have been read yet.
    pub(super) fn begin(
        &self,
        connection: &Connection,
        (mirrors, route): (&[Rc<Mirror>], &Meta),
        parts: &Parts,
    ) {
        // An upgrade makes the connection the request.
        if headers::wants_upgrade(parts.version, &parts.method, &parts.headers) {
            return;
        }
        let worker = &connection.worker;
        for mirror in mirrors {
            if !mirror.ratio.hits(worker.random.borrow_mut().random()) {
                continue;
            }
            let Some(permit) = worker.http.mirrors.enter(COPIES_MAX) else {
                mirror.series.dropped.inc();
                continue;
            };
            let body = match self.is_empty {
                true => Body::Empty,
                false => Body::Copy(Box::new(self.tee.copy(self.hint))),
            };
            let mut head = parts.clone();
            // What belongs to the application's connection stays with it.
            head.extensions = Extensions::new();
            let request = Box::new(Request::from_parts(head, body));
            let (mirror, route) = (Rc::clone(mirror), route.clone());
            let sending =
                send(Rc::clone(worker), mirror, route, connection.client, request, permit);
            worker.tasks.spawn_local("mirror", sending);
        }
    }

    /// The body of the request itself, for its copies to follow.
    pub(super) fn original(&self, body: Incoming) -> Original {
        Original::new(body, Some(Rc::clone(&self.tee)))
    }
}

/// Sends a copy and counts what came of it.
async fn send(
    worker: Rc<Worker>,
    mirror: Rc<Mirror>,
    route: Meta,
    client: std::net::SocketAddr,
    request: Box<Request<Body>>,
    permit: Permit,
) {
    let is_grpc = headers::is_grpc(&request);
    let began = Instant::now();
    let exchange = async {
        let tls = const { &Tls::None(NoTls::Loopback) };
        let balancer = &mirror.pool.balancer;
        let attempt = Attempt {
            balancer,
            key: None,
            series: None,
            required: None,
            between: Between { direction: Direction::Outbound, client, tls, route: &route },
            began,
            patience: balancer.settings().queue.failfast_timeout,
            limits: None,
        };
        let sent = attempt.send(&worker, request).await.ok()?;
        let (parts, body) = sent.answer.response.into_parts();
        let end = End {
            began,
            attempted: began,
            status: parts.status,
            pending: Pending::new(is_grpc, parts.status, &parts.headers),
            series: sent.series,
            routes: [None, None],
            lease: sent.lease,
            keep: sent.answer.keep,
            permit: None,
            tapped: sent.tapped,
            upload: None,
            under_way: None,
        };
        let mut body = Body::observed(body, Held::new(), end, None);
        let frame = |body: &mut Body, cx: &mut Context<'_>| Pin::new(body).poll_frame(cx);
        while let Some(frame) = std::future::poll_fn(|cx| frame(&mut body, cx)).await {
            frame.ok()?;
        }
        Some(())
    };
    let answered = tokio::select! {
        answered = timeout_at(began + TIMEOUT, exchange) => answered.ok().flatten().is_some(),
        // Nobody waits for it.
        () = worker.shutdown.ended() => false,
    };
    drop(permit);
    if answered {
        mirror.series.answered.inc();
    } else {
        mirror.series.failed.inc();
    }
}
