//! The end of an exchange: who wants to know how a response ended.
//!
//! Built by the inbound and outbound request paths when a response head has arrived, carried by
//! the response [`Body`](super::body::Body), told exactly once. Holds what must stay alive until
//! then: the lease of the endpoint, the pooled connection, the place among requests under way.

use std::cell::Cell;
use std::rc::Rc;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::classify::{Break, Class, Pending, Verdict};
use super::client::{Client, Keep};
use super::leave::UnderWay;
use super::limit::Permit;
use crate::balance::{Lease, Outcome};
use crate::telemetry::http::Series;
use crate::telemetry::route::RouteSeries;
use crate::telemetry::tap::Tapped;

/// Counters of a route and of its backend, as far as there are any.
pub type Routes = [Option<Rc<RouteSeries>>; 2];

/// What waits for the end of one response.
#[derive(Debug)]
pub struct End {
    /// When the request's headers arrived.
    pub began: Instant,
    /// When the attempt began that this is the response of.
    pub attempted: Instant,
    /// The response's status.
    pub status: StatusCode,
    /// What the head said about success.
    pub pending: Pending,
    /// Counters to increment.
    pub series: Rc<Series>,
    /// Counters of the route, and of its backend.
    pub routes: Routes,
    /// The endpoint in use.
    pub lease: Lease<Client>,
    /// The connection in use, if it can be used again.
    pub keep: Keep,
    /// The request's place among those under way; none if another attempt follows.
    pub permit: Option<Permit>,
    /// Who watches.
    pub tapped: Option<Box<Tapped>>,
    /// When the request's body ended, where that matters.
    pub upload: Option<Rc<Upload>>,
    /// That the request is under way, where somebody may end it.
    pub under_way: Option<UnderWay>,
}

/// Tells when a request's body has ended.
#[derive(Debug, Default)]
pub struct Upload {
    ended: Cell<Option<Instant>>,
}

impl Upload {
    /// It has ended now.
    pub fn end(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
        }
    }
}

impl End {
    /// Whether the exchange is gRPC.
    pub fn is_grpc(&self) -> bool {
        matches!(self.pending, Pending::Grpc(_))
    }

    /// The first frame of the body is here.
    pub fn first_frame(&mut self) {
        self.lease.responded(Instant::now());
    }

    /// A piece of the body is here.
    pub fn piece(&mut self, bytes: usize) {
        if let Some(tapped) = &mut self.tapped {
            tapped.count(bytes);
        }
        for route in self.routes.iter().flatten() {
            route.response_frame(bytes);
        }
    }

    /// The response has ended as it should.
    pub fn finish(mut self, trailers: Option<&HeaderMap>) {
        let keep = std::mem::take(&mut self.keep);
        self.told(self.pending.end(trailers), trailers);
        keep.reuse();
    }

    /// The response broke off.
    pub fn broke(mut self, how: Break) {
        self.told(Class::Broken(how), None);
    }

    /// The client went away before the end; what is known so far counts.
    pub fn abandon(mut self) {
        self.told(self.pending.end(None), None);
    }

    fn told(&mut self, class: Class, trailers: Option<&HeaderMap>) {
        if let Some(tapped) = self.tapped.take() {
            tapped.end(class, trailers);
        }
        let now = Instant::now();
        self.lease.responded(now);
        // That a request is ended says nothing about its endpoint.
        let judged = match class {
            Class::Broken(Break::Withdrawn) => self.pending.end(None),
            Class::Http(_) | Class::Grpc(..) | Class::Broken(_) => class,
        };
        self.lease.judge(outcome(judged, self.status), now);
        let of_attempt = now.saturating_duration_since(self.attempted);
        self.series.response(Some(self.status), class, of_attempt);
        let [route, backend] = &self.routes;
        if let Some(route) = route {
            let of_request = now.saturating_duration_since(self.began);
            route.response(self.status, class, of_request);
            if route.wants_request_end() {
                // A request without a body ended with its head.
                let ended =
                    self.upload.as_ref().map_or(Some(self.began), |upload| upload.ended.get());
                route.answered(now.saturating_duration_since(ended.unwrap_or(now)));
            }
        }
        if let Some(backend) = backend {
            backend.response(self.status, class, of_attempt);
        }
    }
}

/// gRPC's code for a limit that is reached.
const RESOURCE_EXHAUSTED: u16 = 8;

/// What a class means to the circuit breaker.
pub fn outcome(class: Class, status: StatusCode) -> Outcome {
    let is_limited = status == StatusCode::TOO_MANY_REQUESTS
        || matches!(class, Class::Grpc(_, code) if code == RESOURCE_EXHAUSTED);
    match class.verdict() {
        Verdict::Success if is_limited => Outcome::Limited,
        Verdict::Success => Outcome::Success,
        Verdict::Failure => Outcome::Failure,
    }
}
