//! Getting one request to one endpoint, trying another where that is safe.
//!
//! Called by the outbound and the inbound request path (whose only endpoint is the application).
//! A request of which nothing was sent (the endpoint could not be reached, or a kept connection
//! turned out dead) goes to another endpoint, or to the same one after its back-off, while the
//! queue's failfast time lasts. A request that was sent, even in part, is not repeated here: that is
//! for [`persist`](super::persist), where the route wants it.
//!
//! One kind of request that was sent goes elsewhere too: while the control plane is away nobody tells
//! that a pod is ending, and its proxy, which outlives its application, says that the application has
//! seen nothing ([`L5D_HAUBERK_UNSENT`], decision 0028). Requests without a body are kept for that,
//! but only then: it costs three allocations.

use std::rc::Rc;
use std::time::Duration;

use hauberk_model::WorkloadId;
use http::Request;
use tokio::time::{Instant, timeout_at};

use crate::balance::{Balancer, Key, Lease, Outcome, Refusal};
use crate::http::body::Body;
use crate::http::classify::{Break, Class};
use crate::http::client::{Answer, Client, SendError};
use crate::http::failure::{Failure, What};
use crate::http::headers::{self, L5D_HAUBERK_UNSENT};
use crate::http::health::Health;
use crate::http::incoming::StreamError;
use crate::http::limits::{Limit, Limits, Progress};
use crate::telemetry::http::Series;
use crate::telemetry::route::error_name;
use crate::telemetry::tap::{Between, Tapped};
use crate::worker::Worker;

/// Endpoints tried for one request. The failfast time bounds the waiting; this bounds the work
/// when many endpoints refuse at once.
const ATTEMPTS_MAX: usize = 16;

/// What one request needs to be sent.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The endpoints.
    pub balancer: &'a Balancer<Client>,
    /// Whose endpoint is wanted, if it matters.
    pub key: Option<Key>,
    /// Counters, unless the endpoint has its own.
    pub series: Option<&'a Rc<Series>>,
    /// The identity the endpoint must have.
    pub required: Option<&'a WorkloadId>,
    /// What a tap is told.
    pub between: Between<'a>,
    /// When the request arrived.
    pub began: Instant,
    /// How long after that another attempt may begin.
    pub patience: Duration,
    /// Limits of time, with what they are measured by.
    pub limits: Option<(&'a Limits, &'a Progress)>,
}

/// A response with what it came by.
#[derive(Debug)]
pub struct Sent {
    /// The endpoint.
    pub lease: Lease<Client>,
    /// Counters of the endpoint.
    pub series: Rc<Series>,
    /// The response.
    pub answer: Answer,
    /// Who watches.
    pub tapped: Option<Box<Tapped>>,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Unanswered {
    /// Nobody was there.
    Refused(Refusal),
    /// It failed.
    Failed(Rc<Failure>),
    /// The endpoint reset the stream.
    Reset(StreamError),
    /// A limit of time came.
    Late(Limit),
}

impl Unanswered {
    /// How it broke.
    pub fn broke(&self) -> Break {
        match self {
            Unanswered::Refused(_) | Unanswered::Failed(_) => Break::Unclassified,
            Unanswered::Reset(error) => error.how(),
            Unanswered::Late(limit) => Break::Timeout(*limit),
        }
    }

    /// Value of the label `error` of route metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Unanswered::Refused(Refusal::Failfast) => "FAIL_FAST",
            Unanswered::Refused(Refusal::Full) => "LOAD_SHED",
            Unanswered::Failed(_) => "IO",
            Unanswered::Reset(error) => error_name(error.how()),
            Unanswered::Late(limit) => limit.name(),
        }
    }
}

impl Attempt<'_> {
    /// Sends `request`, until somebody answers or there is no sense in going on. The request is
    /// boxed, since it would otherwise be stored once for each call on the way down.
    pub async fn send(
        &self,
        worker: &Rc<Worker>,
        mut request: Box<Request<Body>>,
    ) -> Result<Sent, Unanswered> {
        let mut failed: Option<Rc<Failure>> = None;
        for _ in 0..ATTEMPTS_MAX {
            let lease = match (&failed, self.limits) {
                (None, None) => {
                    self.balancer.acquire_for(self.key).await.map_err(Unanswered::Refused)?
                }
                // Boxed, since it is rare.
                (failed, _) => Box::pin(self.acquire(failed.as_ref())).await?,
            };
            if let Some(required) = self.required
                && lease.source().tls.as_ref().is_none_or(|tls| tls.identity != *required)
            {
                let required = required.to_string();
                let failure = Failure::us(What::IdentityRequired { required });
                return Err(Unanswered::Failed(Rc::new(failure)));
            }
            match self.once(worker, lease, request).await {
                Ok(sent) => return Ok(sent),
                Err(Once::Over(unanswered)) => return Err(unanswered),
                Err(Once::Again(unsent, failure)) => {
                    request = unsent;
                    failed = Some(failure);
                }
            }
        }
        Err(Unanswered::Failed(failed.expect("every round but the last returned has failed")))
    }

    /// The next endpoint, within the limits of time.
    async fn acquire(&self, failed: Option<&Rc<Failure>>) -> Result<Lease<Client>, Unanswered> {
        let acquire = async {
            let Some(failure) = failed else {
                return self.balancer.acquire_for(self.key).await.map_err(Unanswered::Refused);
            };
            // The time of earlier attempts counts, so that a dead endpoint does not hold a request
            // for longer than a missing one.
            match timeout_at(self.began + self.patience, self.balancer.acquire_for(self.key)).await
            {
                Ok(Ok(lease)) => Ok(lease),
                Ok(Err(_)) | Err(_) => Err(Unanswered::Failed(Rc::clone(failure))),
            }
        };
        match self.limits {
            None => acquire.await,
            Some((limits, progress)) => {
                let acquired = limits.wait(progress, acquire).await;
                acquired.unwrap_or_else(|limit| Err(Unanswered::Late(limit)))
            }
        }
    }

    async fn once(
        &self,
        worker: &Rc<Worker>,
        mut lease: Lease<Client>,
        request: Box<Request<Body>>,
    ) -> Result<Sent, Once> {
        let client = lease.endpoint().clone();
        let series = client.series().or(self.series).map(Rc::clone);
        let series = series.expect("endpoints have counters, and so has the inbound caller");
        series.request();
        let copy = copy_while_away(worker, &lease, &request);
        let mut tapped = worker.taps.begin(&self.between, lease.source(), &request);
        let sent = match self.limits {
            None => Ok(client.send(worker, request).await),
            Some((limits, progress)) => {
                Box::pin(limits.wait(progress, client.send(worker, request))).await
            }
        };
        let error = match (sent, copy) {
            (Ok(Ok(answer)), Some(copy))
                if answer.response.headers().contains_key(L5D_HAUBERK_UNSENT) =>
            {
                let error = std::io::Error::other("the endpoint cannot reach its application");
                Ok(SendError::Unsent(copy, Rc::new(Failure::peer(What::Io(error)))))
            }
            (Ok(Ok(answer)), _) => {
                lease.connected();
                if lease.listens() {
                    lease.heard(Health::new(answer.response.status(), answer.response.headers()));
                }
                if let Some(tapped) = &mut tapped {
                    tapped.respond(&answer.response);
                }
                return Ok(Sent { lease, series, answer, tapped });
            }
            (Ok(Err(error)), _) => Ok(error),
            (Err(limit), _) => Err(limit),
        };
        let now = Instant::now();
        let count = |how| {
            let latency = now.saturating_duration_since(self.began);
            series.response(None, Class::Broken(how), latency);
            if let Some(tapped) = tapped {
                tapped.end(Class::Broken(how), None);
            }
        };
        let error = match error {
            Ok(error) => error,
            Err(limit) => {
                // An endpoint that hangs is as bad as one that fails.
                count(Break::Timeout(limit));
                lease.judge(Outcome::Failure, now);
                return Err(Once::Over(Unanswered::Late(limit)));
            }
        };
        Err(match error {
            SendError::Unsent(request, failure) => {
                count(Break::Unclassified);
                if failure.retryable {
                    lease.unreachable(now);
                    Once::Again(request, failure)
                } else {
                    Once::Over(Unanswered::Failed(failure))
                }
            }
            SendError::Broken(failure) => {
                count(Break::Unclassified);
                lease.judge(Outcome::Failure, now);
                Once::Over(Unanswered::Failed(Rc::new(failure)))
            }
            SendError::Reset(error) => {
                count(error.how());
                lease.connected();
                lease.judge(Outcome::Failure, now);
                Once::Over(Unanswered::Reset(error))
            }
        })
    }
}

/// The request once more, if the endpoint's proxy may find that its application is gone and nobody
/// can have told us: it has no body, asks for no other protocol, and the control plane is away.
fn copy_while_away(
    worker: &Worker,
    lease: &Lease<Client>,
    request: &Request<Body>,
) -> Option<Box<Request<Body>>> {
    if lease.source().tls.is_none() || worker.directory.is_reachable() {
        return None;
    }
    let (method, version) = (request.method(), request.version());
    let body = request.body();
    let is_plain = matches!(body, Body::Incoming(_) | Body::Empty);
    let is_empty = is_plain && http_body::Body::is_end_stream(body);
    if !is_empty || headers::wants_upgrade(version, method, request.headers()) {
        return None;
    }
    let mut copy = Request::new(Body::Empty);
    *copy.method_mut() = method.clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = version;
    *copy.headers_mut() = request.headers().clone();
    Some(Box::new(copy))
}

/// What came of one attempt that has no response.
enum Once {
    Again(Box<Request<Body>>, Rc<Failure>),
    Over(Unanswered),
}
