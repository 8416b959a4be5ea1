//! One request of the application beside us: clean, route, choose, send, hand back.
//!
//! [`serve`] takes a connection whose target is known and answers every request on it by
//! `Connection::answer`, which reads as the list of what happens. The newest policy of the
//! target counts for each request; a request keeps the snapshot it began with.
//!
//! Estimate per request and hop, besides reading and writing messages and the client's part: one
//! clock reading at the start and two at the end, a look at the policy's version (one atomic), a
//! header look-up each for the eight names that are removed or checked, no formatting, one
//! allocation (the boxed response body), a second if the request has a body, whose pieces are counted.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hauberk_model::balancing::AffinityKey;
use hauberk_model::filter::HeaderEdits;
use hauberk_model::route::http::PathMatch;
use hauberk_model::{OutboundPolicy, Profile, WorkloadId};
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version as HttpVersion};
use rand::Rng;
use tokio::time::{Instant, sleep_until};

use super::backend::{Backend, Rule, Table};
use super::discover::Target;
use super::mirror::Copies;
use super::persist::Work;
use super::retry::{Attempt, Sent, Unanswered};
use crate::balance::{Balancer, GivenCookie, Key, Refusal};
use crate::connection::{Direction, Facts, NoTls, Tls};
use crate::http::Version;
use crate::http::answer::{self, Manner};
use crate::http::body::{Body, Held};
use crate::http::classify::Break;
use crate::http::client::Client;
use crate::http::exchange::{End, Routes};
use crate::http::failure::{Failure, What};
use crate::http::filter::{self, Applied, Filter, Verdict};
use crate::http::headers::{
    self, L5D_DST_CANONICAL, L5D_HAUBERK_UNSENT, L5D_ORIG_PROTO, L5D_PROXY_ERROR, L5D_REQUIRE_ID,
};
use crate::http::incoming::{Incoming, StreamError};
use crate::http::limit::Permit;
use crate::http::limits::{Limit, Timer};
use crate::http::routes::host_of;
use crate::http::server::{self, Answered, Control, Serving};
use crate::io::Io;
use crate::telemetry::labels::Labels;
use crate::telemetry::route::RouteSeries;
use crate::telemetry::tap::Between;
use crate::telemetry::trace::Traced;
use crate::worker::Worker;

/// Compiled policies of one original destination, by the version clients speak.
#[derive(Debug, Default)]
pub struct Compiled {
    http1: Slot,
    http2: Slot,
}

/// A table beside the policy and the profile it was compiled from.
type Slot = RefCell<Option<Known>>;

/// What a table was compiled from, and the table.
#[derive(Debug)]
struct Known {
    policy: Arc<OutboundPolicy>,
    profile: Option<Arc<Profile>>,
    table: Rc<Table>,
}

/// Serves a connection of the application.
pub fn serve(
    worker: Rc<Worker>,
    io: Io,
    facts: &Facts,
    target: Rc<Target>,
    version: Version,
) -> Serving {
    let control = Rc::new(Control::default());
    let connection =
        Connection::new(Rc::clone(&worker), facts.client, target, version, Rc::clone(&control));
    let connection = Rc::new(connection);
    server::serve(worker, io, version, Direction::Outbound, control, move |request| {
        let connection = Rc::clone(&connection);
        async move { connection.answer(request).await }
    })
}

/// What the requests of one connection share.
pub struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) client: std::net::SocketAddr,
    target: Rc<Target>,
    version: Version,
    control: Rc<Control>,
}

/// Why a request is not answered by its backend.
pub enum Refused {
    /// By a response made up for the failure.
    Failed(Rc<Failure>),
    /// By a response a filter made up.
    Answered(Box<Response<Body>>),
    /// The endpoint reset the stream; so do we.
    Reset(StreamError),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused::Failed(Rc::new(failure))
    }
}

/// What is done to a response because of what its request was.
pub enum Edit {
    /// A filter wants it.
    Headers(HeaderEdits),
    /// The client had no cookie.
    GiveCookie(GivenCookie),
}

/// A response with what it came by.
pub(super) struct Arrived {
    pub(super) sent: Sent,
    /// Frames of its body that were read already.
    pub(super) held: Held,
    pub(super) routes: Routes,
    /// What filters want of it because of what the request was.
    pub(super) edits: Vec<Edit>,
    /// When the request arrived, and when the attempt began that this answers.
    pub(super) began: Instant,
    pub(super) attempted: Instant,
    pub(super) timer: Option<Timer>,
    pub(super) permit: Permit,
    /// Its endpoint is the only one there is.
    pub(super) is_forward: bool,
}

impl Connection {
    /// For requests of `client` to `target`, on a connection that `control` is of.
    pub fn new(
        worker: Rc<Worker>,
        client: std::net::SocketAddr,
        target: Rc<Target>,
        version: Version,
        control: Rc<Control>,
    ) -> Self {
        Self { worker, client, target, version, control }
    }

    /// Answers a request of the application, come what may.
    pub(super) async fn answer(&self, mut request: Request<Incoming>) -> Answered {
        let began = Instant::now();
        let http_version = request.version();
        if self.version == Version::Http1
            && let Err(why) = headers::check_http1(&request)
        {
            tracing::debug!(client = %self.client, %why, "malformed request");
            return Ok(answer::bad_request(http_version));
        }
        if self.version == Version::Http2 && *request.method() == Method::CONNECT {
            return Ok(answer::no_tunnel());
        }
        let manner = Manner {
            grpc: headers::is_grpc(&request),
            version: http_version,
            informs: !self.worker.config.outbound.hide_informational_headers,
        };
        let mut traced = self.worker.tracer.as_ref().and_then(|tracer| {
            let random = || self.worker.random.borrow_mut().random();
            tracer.begin(&mut request, Direction::Outbound, self.client, random)
        });
        let mut edits = Vec::new();
        let sent = self.pass_on(request, manner, began, traced.as_deref_mut(), &mut edits).await;
        let mut response = match sent {
            Ok(response) => response,
            Err(Refused::Answered(response)) => *response,
            Err(Refused::Reset(error)) if self.version == Version::Http2 => return Err(error),
            Err(Refused::Reset(error)) => {
                let failure = Failure::peer(What::Io(std::io::Error::other(error)));
                self.refuse(&failure, manner)
            }
            Err(Refused::Failed(failure)) => self.refuse(&failure, manner),
        };
        // Taken by a response that came; left for one that was made up.
        for edit in edits {
            match edit {
                Edit::Headers(edits) => edits.apply(response.headers_mut()),
                // It leads to an endpoint, and there was none.
                Edit::GiveCookie(_) => {}
            }
        }
        if let Some(traced) = traced {
            traced.end(response.status());
        }
        Ok(response)
    }

    /// Sends a request to where its route leads. What filters want of the response because of what the
    /// request is stands in `edits` if there is none.
    pub async fn pass_on(
        &self,
        request: Request<Incoming>,
        manner: Manner,
        began: Instant,
        traced: Option<&mut Traced>,
        edits: &mut Vec<Edit>,
    ) -> Result<Response<Body>, Refused> {
        let worker = &self.worker;
        let max = worker.config.outbound.side.in_flight_max;
        let permit = worker.http.outbound.enter(max).ok_or(Failure::us(What::Shed))?;
        let table = self.table()?;

        let (mut parts, body) = request.into_parts();
        let required = clean(&mut parts)?;
        let host = host_of(host(&parts));
        let (rule, matched) = table.find(host, &parts).ok_or(Failure::client(What::NoRoute))?;
        let series = &rule.series(host);
        series.request();
        if let Some(canonical) = &table.canonical {
            parts.headers.insert(L5D_DST_CANONICAL, canonical.clone());
        }
        let plan = rule.plan(&mut parts.headers);
        let deadline = plan.as_ref().and_then(|plan| plan.deadline(began));
        let held = Hold { series, began, deadline };
        self.filter(&rule.filters, &mut parts, (matched, manner), held, edits).await?;
        let copies = rule.mirrors_somewhere().then(|| Copies::of(&body));
        if let Some(copies) = &copies {
            copies.begin(self, (&rule.mirrors, &rule.meta), &parts);
        }
        if let Some(plan) = plan {
            let work = Work {
                table: &table,
                rule,
                series,
                plan,
                parts,
                body,
                copies,
                edits,
                required,
                matched,
                manner,
                began,
                traced,
            };
            return Box::pin(self.persist(work, permit)).await;
        }
        let backend = rule.backend(worker)?;
        self.filter(&backend.filters, &mut parts, (matched, manner), held, edits).await?;
        let body = match copies {
            None => Body::counted(body, series.request_frames(), false).0,
            Some(copies) => {
                copies.begin(self, (&backend.mirrors, &rule.meta), &parts);
                let body = copies.original(body).counted(series.request_frames());
                Body::Original(Box::new(body))
            }
        };
        backend.series.request();

        let (balancer, is_forward) = backend.balancer()?;
        let key = self.key(balancer, &parts.headers, edits);
        let patience = backend.patience();
        let required = required.as_ref();
        let between = self.between(rule);
        let attempt = Attempt {
            balancer,
            key,
            series: None,
            required,
            between,
            began,
            patience,
            limits: None,
        };
        let request = Box::new(Request::from_parts(parts, body));
        let routes = [Some(Rc::clone(series)), Some(Rc::clone(&backend.series))];
        if let Some(traced) = traced {
            traced.send();
        }
        let sent = attempt.send(worker, request).await;
        let sent = sent.inspect_err(|why| {
            for route in routes.iter().flatten() {
                route.failed(why.name(), why.broke(), began.elapsed());
            }
        });
        let sent = sent.map_err(|why| refused(why, &table))?;
        let (held, timer, attempted) = (Held::new(), None, began);
        let edits = std::mem::take(edits);
        let arrived =
            Arrived { sent, held, routes, edits, began, attempted, timer, permit, is_forward };
        Ok(self.deliver(arrived, manner, rule, backend))
    }

    /// Whose endpoint a request wants, where the backend has affinity. Adds to `edits` if the client is to be given a
    /// cookie.
    pub(super) fn key(
        &self,
        balancer: &Balancer<Client>,
        headers: &HeaderMap,
        edits: &mut Vec<Edit>,
    ) -> Option<Key> {
        let affinity = balancer.settings().affinity.as_ref()?;
        let key = Key::of_request(affinity, headers, self.client.ip());
        match (key, &affinity.key) {
            (None, AffinityKey::Cookie(cookie)) => {
                let cookie = GivenCookie::new(cookie, self.worker.random.borrow_mut().random())?;
                let key = cookie.key();
                edits.push(Edit::GiveCookie(cookie));
                Some(key)
            }
            (key, AffinityKey::Source | AffinityKey::Header(_) | AffinityKey::Cookie(_)) => key,
        }
    }

    /// What a tap is told about a request of that rule.
    pub(super) fn between<'r>(&self, rule: &'r Rule) -> Between<'r> {
        let tls = const { &Tls::None(NoTls::Loopback) };
        Between { direction: Direction::Outbound, client: self.client, tls, route: &rule.meta }
    }

    /// The response as the application sees it, with the filters of its route.
    pub(super) fn deliver(
        &self,
        mut arrived: Arrived,
        manner: Manner,
        rule: &Rule,
        backend: &Backend,
    ) -> Response<Body> {
        let edits = std::mem::take(&mut arrived.edits);
        let mut response = self.response(arrived, manner, rule);
        filter::apply_to_response(&backend.filters, response.headers_mut());
        filter::apply_to_response(&rule.filters, response.headers_mut());
        for edit in edits {
            match edit {
                Edit::Headers(edits) => edits.apply(response.headers_mut()),
                Edit::GiveCookie(cookie) => cookie.give(response.headers_mut()),
            }
        }
        response
    }

    /// Applies filters to a request, and holds it back if they say so. Adds to `edits` how the response
    /// is to be edited because of what the request is.
    pub(super) async fn filter(
        &self,
        filters: &[Filter],
        parts: &mut Parts,
        (matched, manner): (Option<&PathMatch>, Manner),
        hold: Hold<'_>,
        edits: &mut Vec<Edit>,
    ) -> Result<(), Refused> {
        if filters.is_empty() {
            return Ok(());
        }
        let random = || self.worker.random.borrow_mut().random();
        let Applied { delay, verdict, response } =
            filter::apply(filters, parts, matched, manner, random);
        edits.extend(response.into_iter().map(Edit::Headers));
        if !delay.is_zero() {
            // Boxed, since it is rare.
            Box::pin(hold.back(delay)).await?;
        }
        match verdict {
            Verdict::Pass => Ok(()),
            Verdict::Answer(response) => Err(Refused::Answered(response)),
            Verdict::Fail(failure) => Err(failure.into()),
        }
    }

    /// The endpoint's response as the application sees it.
    fn response(&self, arrived: Arrived, manner: Manner, rule: &Rule) -> Response<Body> {
        let Arrived { sent, held, routes, edits: _, began, attempted, timer, permit, is_forward } =
            arrived;
        let Sent { lease, series, answer, tapped } = sent;
        let (mut parts, body) = answer.response.into_parts();
        if self.version == Version::Http1 {
            // Each hop speaks its own version (RFC 9110 section 6.2); the body is framed by it.
            parts.version = manner.version;
        }
        let is_meshed = lease.source().tls.is_some();
        let wants_close = headers::has_mesh_headers(&parts.headers) && {
            if let Some(error) = parts.headers.get(L5D_PROXY_ERROR) {
                let endpoint = lease.source().address;
                tracing::debug!(%endpoint, ?error, "the endpoint's proxy answered by itself");
            }
            parts.headers.remove(L5D_ORIG_PROTO);
            parts.headers.remove(L5D_HAUBERK_UNSENT);
            headers::strip_proxy_headers(&mut parts.headers)
        };
        if wants_close && is_forward && is_meshed {
            // Behind a balancer other endpoints may be well; here there is only this one.
            if manner.version == HttpVersion::HTTP_11 {
                parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            self.control.close();
        }
        if let Some(endpoint) = answer.upgrade {
            self.control.upgrade(endpoint);
        }
        let end = End {
            began,
            attempted,
            status: parts.status,
            pending: rule.pending(manner.grpc, parts.status, &parts.headers),
            series,
            routes,
            lease,
            keep: answer.keep,
            permit: Some(permit),
            tapped,
            upload: None,
            under_way: None,
        };
        Response::from_parts(parts, Body::observed(body, held, end, timer))
    }

    /// The compiled policy in force now.
    fn table(&self) -> Result<Rc<Table>, Failure> {
        let slot = match self.version {
            Version::Http1 => &self.target.http.compiled.http1,
            Version::Http2 => &self.target.http.compiled.http2,
        };
        let policy = self.target.policy();
        let same = |known: &Known| {
            Arc::ptr_eq(&known.policy, &policy) && self.target.is_profile(known.profile.as_ref())
        };
        if let Some(known) = slot.borrow().as_ref().filter(|known| same(known)) {
            return Ok(Rc::clone(&known.table));
        }
        let profile = self.target.profile();
        let port = self.target.key.port();
        let of_profile = profile
            .as_ref()
            .filter(|profile| self.target.goes_by(profile))
            .and_then(|profile| Table::of_profile(&self.worker, &policy, profile, port));
        match of_profile.or_else(|| Table::new(&self.worker, &policy, self.version)) {
            Some(table) => {
                let table = Rc::new(table);
                *slot.borrow_mut() = Some(Known { policy, profile, table: Rc::clone(&table) });
                Ok(table)
            }
            // The policy no longer speaks of HTTP; connections that do keep what they had
            // (linkerd2-proxy v2), new ones do not come here.
            None => {
                let known = slot.borrow().as_ref().map(|known| Rc::clone(&known.table));
                known.ok_or(Failure::client(What::NoRoute))
            }
        }
    }

    pub(super) fn refuse(&self, failure: &Failure, manner: Manner) -> Response<Body> {
        let row = answer::row(failure);
        tracing::debug!(
            client = %self.client, target = %self.target.key.question(), error = %failure,
            "request answered by the proxy"
        );
        if let Some(label) = row.label {
            let labels = Labels::new().with("error", label);
            self.worker.metrics.http.outbound_errors.get_or_create(&labels).inc();
        }
        if row.closes {
            self.control.close();
        }
        answer::failure(failure, manner)
    }
}

/// For how long a request may be held back.
#[derive(Clone, Copy)]
pub(super) struct Hold<'r> {
    /// Counters of the route.
    pub(super) series: &'r RouteSeries,
    pub(super) began: Instant,
    /// When the request must be over.
    pub(super) deadline: Option<Instant>,
}

impl Hold<'_> {
    /// Waits; the time counts against the request's limit. The client that goes away ends it.
    async fn back(self, delay: Duration) -> Result<(), Refused> {
        let until = Instant::now() + delay;
        match self.deadline.filter(|deadline| *deadline <= until) {
            None => {
                sleep_until(until).await;
                Ok(())
            }
            Some(deadline) => {
                sleep_until(deadline).await;
                let limit = Limit::Request;
                self.series.failed(limit.name(), Break::Timeout(limit), self.began.elapsed());
                Err(Failure::peer(What::Timeout(limit.text())).into())
            }
        }
    }
}

/// Removes what belongs to the application's hop, and what only proxies may say. Returns the
/// server identity the application demands.
fn clean(parts: &mut Parts) -> Result<Option<WorkloadId>, Failure> {
    if !headers::wants_upgrade(parts.version, &parts.method, &parts.headers) {
        headers::strip_connection_headers(&mut parts.headers);
    }
    if !headers::has_mesh_headers(&parts.headers) {
        return Ok(None);
    }
    // Between proxies this header decides how a request is read; an application does not get to
    // say it.
    parts.headers.remove(L5D_ORIG_PROTO);
    let Some(required) = parts.headers.remove(L5D_REQUIRE_ID) else { return Ok(None) };
    let text = required.to_str().unwrap_or("(not text)");
    match text.parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err(Failure::us(What::IdentityRequired { required: text.to_owned() })),
    }
}

/// How a request without a response is answered.
pub(super) fn refused(unanswered: Unanswered, table: &Table) -> Refused {
    match unanswered {
        Unanswered::Refused(Refusal::Failfast) => {
            Failure::us(What::FailFast(table.parent.to_string().into())).into()
        }
        Unanswered::Refused(Refusal::Full) => Failure::us(What::Shed).into(),
        Unanswered::Failed(failure) => Refused::Failed(failure),
        Unanswered::Reset(error) => Refused::Reset(error),
        Unanswered::Late(Limit::Head) => Failure::peer(What::ProfileTimeout).into(),
        Unanswered::Late(limit) => Failure::peer(What::Timeout(limit.text())).into(),
    }
}

/// The authority whose host routes are found by.
fn host(parts: &Parts) -> &str {
    let header = || parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str()).or_else(header);
    authority.unwrap_or("")
}
