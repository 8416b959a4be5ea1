//! One request to the application beside us: clean, route, authorize, limit, send, hand back.
//!
//! [`serve`] takes a connection whose client is known and answers every request on it by
//! `Connection::answer`, which reads as the list of what happens. The newest policy of the port
//! counts for each request. The order is part of the behaviour (linkerd2-proxy v2): a request
//! without a route or without leave is refused before filters see it and before it uses up a rate
//! limit, and never reaches `request_total`.
//!
//! What a client says about itself is not believed: `l5d-client-id` is what the client proved, and
//! HTTP/1 inside HTTP/2 is only unpacked for meshed clients.
//!
//! Estimate per request and hop: as outbound, with one authorization check instead of the balancer
//! and one look-up of resolved counters (a scan of the few routes this client has used); a request
//! with a body costs one more allocation, to know when it ended.
//!
//! When a new policy does not permit a request that is under way, that request ends: on HTTP/1 with its connection, on
//! HTTP/2 alone, unless nothing is permitted any more; see `Connection::no_longer_permitted`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hauberk_model::authorize::{Decision, authorize};
use hauberk_model::inbound::{Authorization, InboundPolicy, InboundProtocol};
use hauberk_model::outbound::Queue;
use hauberk_model::rate_limit::RateLimit;
use hauberk_model::route::grpc::GrpcMatch;
use hauberk_model::route::http::{HttpMatch, PathMatch};
use hauberk_model::route::{Found, Match, Route, Rule};
use hauberk_model::{Endpoint, Endpoints, Meta};
use hauberk_process::metrics::Counter;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use rand::Rng;
use tokio::time::Instant;

use super::gateway::Gateway;
use super::policy::Policy;
use super::rate_limit::{Limiter, Scope};
use crate::balance::{self, Balancer};
use crate::connection::{Direction, Facts};
use crate::control::Live;
use crate::http::Version;
use crate::http::answer::{self, Manner};
use crate::http::body::{Body, Held};
use crate::http::classify::{Break, Pending};
use crate::http::client::Client;
use crate::http::exchange::End;
use crate::http::failure::{Failure, What};
use crate::http::filter::{self, Filter, Verdict};
use crate::http::headers::{self, L5D_HAUBERK_UNSENT};
use crate::http::incoming::Incoming;
use crate::http::leave::{Ends, Leave, UnderWay};
use crate::http::orig_proto;
use crate::http::routes::{Routes, host_of};
use crate::http::server::{self, Answered, Control, Serving};
use crate::io::Io;
use crate::outbound::request::Refused;
use crate::outbound::retry::{Attempt, Unanswered};
use crate::telemetry::access_log::Entry;
use crate::telemetry::http::Series;
use crate::telemetry::labels::Labels;
use crate::telemetry::route::{RouteSeries, error_name};
use crate::telemetry::tap::Between;
use crate::telemetry::trace::Traced;
use crate::worker::Worker;

/// Applications in use on a worker, by their address.
#[derive(Debug, Default)]
pub struct Applications {
    by_address: RefCell<HashMap<SocketAddr, Rc<Application>>>,
    tables: RefCell<HashMap<u16, Rc<Table>>>,
}

/// The application on one port: an endpoint set of one.
#[derive(Debug)]
pub struct Application {
    balancer: Balancer<Client>,
    used: Cell<Instant>,
}

/// Counters that a connection keeps at hand; more are looked up for each request.
const COUNTERS_MAX: usize = 32;

/// How long a client of HTTP/2 may take to see the ends of its streams, before its connection is cut.
const FAREWELL: Duration = Duration::from_secs(1);

/// A compiled inbound policy.
#[derive(Debug)]
pub(crate) struct Table {
    policy: Arc<InboundPolicy>,
    routes: Kind,
    limit: Option<(Arc<RateLimit>, Rc<Limiter>)>,
}

#[derive(Debug)]
enum Kind {
    Http(Routes<HttpMatch, Vec<Filter>>),
    Grpc(Routes<GrpcMatch, Vec<Filter>>),
    /// The port is no longer HTTP.
    None,
}

/// Where requests go once they are let in.
pub enum Onward {
    /// To the application beside us.
    Application(Rc<Application>),
    /// To another service, because we are its gateway.
    Gateway(Box<Gateway>),
}

/// Serves a connection to the application.
pub fn serve(
    worker: Rc<Worker>,
    io: Io,
    facts: Facts,
    policy: Policy,
    version: Version,
) -> Serving {
    let onward = Onward::Application(Applications::get(&worker, facts.original_dst));
    serve_onward(worker, io, facts, policy, version, onward)
}

/// Serves a connection whose requests go `onward`.
pub fn serve_onward(
    worker: Rc<Worker>,
    io: Io,
    facts: Facts,
    policy: Policy,
    version: Version,
    onward: Onward,
) -> Serving {
    let control = Rc::new(Control::default());
    let client_id = facts.client_id().and_then(|id| HeaderValue::from_str(id.as_str()).ok());
    let connection = Rc::new(Connection {
        onward,
        worker: Rc::clone(&worker),
        is_meshed: facts.client_id().is_some(),
        client_id,
        facts,
        policy,
        version,
        control: Rc::clone(&control),
        resolved: RefCell::default(),
        used: RefCell::default(),
        tunnel: RefCell::default(),
    });
    let answering = Rc::clone(&connection);
    let serving = server::serve(worker, io, version, Direction::Inbound, control, move |request| {
        let connection = Rc::clone(&answering);
        async move { connection.answer(request).await }
    });
    // Before the first request, so that no change after that is missed.
    let changes = connection.policy.watch();
    Box::pin(async move {
        let mut serving = serving;
        tokio::select! {
            () = &mut serving => return,
            () = connection.no_longer_permitted(changes) => {}
        }
        match version {
            // The connection is cut: what is under way on it may not go on for one more byte.
            Version::Http1 => {}
            // Nothing is under way any more; streams are told why, as far as they listen.
            Version::Http2 => {
                connection.control.close();
                let _ = Box::pin(tokio::time::timeout(FAREWELL, serving)).await;
            }
        }
    })
}

/// What the requests of one connection share.
struct Connection {
    worker: Rc<Worker>,
    facts: Facts,
    policy: Policy,
    version: Version,
    control: Rc<Control>,
    onward: Onward,
    is_meshed: bool,
    client_id: Option<HeaderValue>,
    /// Counters by route and authorization under the policy seen last.
    resolved: RefCell<Resolved>,
    /// The same under every policy that has requests under way.
    used: RefCell<Vec<Weak<Counters>>>,
    /// What an upgrade has made of the connection is under way as long as that lasts.
    tunnel: RefCell<Option<UnderWay>>,
}

#[derive(Debug, Default)]
struct Resolved {
    table: Option<Rc<Table>>,
    counters: Vec<Rc<Counters>>,
}

/// Counters of this client's requests by one route under one authorization.
#[derive(Debug)]
struct Counters {
    route: usize,
    /// The authorization's place among those of the table that is kept beside.
    authorization: usize,
    /// Whom the request asked, where metrics say so.
    authority: Option<Box<str>>,
    /// The name of the route, by which it is found again in another policy.
    meta: Meta,
    /// Permitted only so that it is known who is (default policy `audit`).
    is_audited: bool,
    /// What those requests are under way by.
    leave: Rc<Leave>,
    allow: Counter,
    of_route: Rc<RouteSeries>,
    series: Rc<Series>,
}

impl Connection {
    async fn answer(&self, mut request: Request<Incoming>) -> Answered {
        let began = Instant::now();
        let version = request.version();
        if self.version == Version::Http1
            && let Err(why) = headers::check_http1(&request)
        {
            tracing::debug!(client = %self.facts.client, %why, "malformed request");
            return Ok(answer::bad_request(version));
        }
        if self.version == Version::Http2 && *request.method() == Method::CONNECT {
            return Ok(answer::no_tunnel());
        }
        let mut log = self.worker.config.inbound.access_log.map(|format| {
            let id = self.facts.client_id();
            // Boxed, since most proxies write none.
            Box::new(Entry::new(format, self.facts.client, id, SystemTime::now(), &request))
        });
        let manner = Manner { grpc: headers::is_grpc(&request), version, informs: self.is_meshed };
        // Before the request is unpacked, so that spans tell how it came.
        let mut traced = self.worker.tracer.as_ref().and_then(|tracer| {
            let random = || self.worker.random.borrow_mut().random();
            tracer.begin(&mut request, Direction::Inbound, self.facts.client, random)
        });
        // Removed in any case, believed only when it comes from a proxy of the mesh.
        let carried = orig_proto::take(request.headers_mut())
            .filter(|_| self.is_meshed && self.version == Version::Http2);
        if let Some(carried) = carried {
            orig_proto::downgrade(&mut request, carried);
        }
        let sent = {
            let mut passing = pin!(self.pass_on(request, manner, began, traced.as_deref_mut()));
            poll_fn(|cx| Entry::while_processing(log.as_deref_mut(), || passing.as_mut().poll(cx)))
                .await
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(Refused::Answered(response)) => *response,
            Err(Refused::Reset(error)) if self.version == Version::Http2 && carried.is_none() => {
                return Err(error);
            }
            Err(Refused::Reset(error)) => {
                let failure = Failure::peer(What::Io(std::io::Error::other(error)));
                self.refuse(&failure, manner)
            }
            Err(Refused::Failed(failure)) => self.refuse(&failure, manner),
        };
        if let Some(traced) = traced {
            traced.end(response.status());
        }
        if carried.is_some() {
            orig_proto::mark_response(&mut response);
        }
        if let Some(log) = log {
            log.write(response.status(), response.headers(), began.elapsed());
        }
        Ok(response)
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        manner: Manner,
        began: Instant,
        traced: Option<&mut Traced>,
    ) -> Result<Response<Body>, Refused> {
        let worker = &self.worker;
        let max = worker.config.inbound.side.in_flight_max;
        let permit = worker.http.inbound.enter(max).ok_or(Failure::us(What::Shed))?;
        let table = self.table();

        let (mut parts, mut body) = request.into_parts();
        self.clean(&mut parts);
        let found = table.find(&parts).ok_or_else(|| self.no_route(&table))?;
        let counters = self.authorize(&table, found, &parts)?;
        counters.allow.inc();
        if counters.is_audited {
            tracing::info!(
                client = %self.facts.client, tls = ?self.facts.tls, server = %table.policy.server,
                route = %counters.meta, "request allowed: audit"
            );
        }
        let filters = table.filters(found);
        let random = || worker.random.borrow_mut().random();
        // A server's routes hold nothing back and know no origins.
        let filter::Applied { verdict, delay: _, response: _ } =
            filter::apply(filters, &mut parts, table.path(found), manner, random);
        match verdict {
            Verdict::Pass => {}
            Verdict::Answer(response) => return Err(Refused::Answered(response)),
            Verdict::Fail(failure) => return Err(failure.into()),
        }
        self.limit(&table, began)?;
        let mut under_way = counters.leave.begin();
        body.end_with(&under_way);
        let application = match &self.onward {
            Onward::Application(application) => application,
            Onward::Gateway(gateway) => {
                // The outbound side counts it from here on, and holds a place of its own.
                drop(permit);
                let request = Request::from_parts(parts, body);
                let (facts, control) = (&self.facts, &self.control);
                let mut passing =
                    Box::pin(gateway.pass_on(worker, facts, request, manner, control));
                let passed = under_way.unless_withdrawn(passing.as_mut()).await;
                let mut response = passed.ok_or_else(|| self.withdrawn(&counters))??;
                filter::apply_to_response(filters, response.headers_mut());
                if self.control.is_upgrading() {
                    *self.tunnel.borrow_mut() = Some(under_way.also());
                }
                response.body_mut().hold(under_way);
                return Ok(response);
            }
        };
        counters.of_route.request();

        let balancer = &application.balancer;
        application.used.set(began);
        let series = Some(&counters.series);
        let patience = balancer.settings().queue.failfast_timeout;
        let between = Between {
            direction: Direction::Inbound,
            client: self.facts.client,
            tls: &self.facts.tls,
            route: table.route(found.route),
        };
        let (required, limits) = (None, None);
        let key = None;
        let attempt = Attempt { balancer, key, series, required, between, began, patience, limits };
        let (frames, wants_end) = (counters.of_route.request_frames(), true);
        let (body, upload) = Body::counted(body, frames, wants_end);
        let request = Box::new(Request::from_parts(parts, body));
        if let Some(traced) = traced {
            traced.send();
        }
        let sent = {
            let mut sending = pin!(attempt.send(worker, request));
            under_way.unless_withdrawn(sending.as_mut()).await
        };
        let sent = sent.ok_or_else(|| {
            let broken = Break::Withdrawn;
            counters.of_route.failed(error_name(broken), broken, began.elapsed());
            self.withdrawn(&counters)
        })?;
        let sent = sent
            .inspect_err(|why| counters.of_route.failed(why.name(), why.broke(), began.elapsed()));
        let sent = sent.map_err(|unanswered| match unanswered {
            Unanswered::Refused(balance::Refusal::Failfast) => {
                let name = self.facts.original_dst.to_string().into();
                Refused::from(Failure::us(What::FailFast(name)))
            }
            Unanswered::Refused(balance::Refusal::Full) => Failure::us(What::Shed).into(),
            Unanswered::Failed(failure) => Refused::Failed(failure),
            Unanswered::Reset(error) => Refused::Reset(error),
            Unanswered::Late(limit) => Failure::peer(What::Timeout(limit.text())).into(),
        })?;

        let (mut parts, body) = sent.answer.response.into_parts();
        // That the application has seen nothing is not for it to say.
        parts.headers.remove(L5D_HAUBERK_UNSENT);
        if self.version == Version::Http1 {
            parts.version = manner.version;
        }
        filter::apply_to_response(filters, &mut parts.headers);
        if let Some(endpoint) = sent.answer.upgrade {
            self.control.upgrade(endpoint);
            *self.tunnel.borrow_mut() = Some(under_way.also());
        }
        let end = End {
            began,
            attempted: began,
            status: parts.status,
            pending: Pending::new(manner.grpc, parts.status, &parts.headers),
            series: sent.series,
            routes: [Some(Rc::clone(&counters.of_route)), None],
            lease: sent.lease,
            keep: sent.answer.keep,
            permit: Some(permit),
            tapped: sent.tapped,
            upload,
            under_way: Some(under_way),
        };
        Ok(Response::from_parts(parts, Body::observed(body, Held::new(), end, None)))
    }

    /// Ends what is under way when a policy comes that does not permit it: a stream of answers, an upgrade, a long
    /// upload. Requests that begin later are checked one by one.
    ///
    /// Completes when the connection has to end as well: one of HTTP/1, because its request is to end, and one of
    /// HTTP/2 whose client may do nothing any more. Streams that are still permitted go on.
    async fn no_longer_permitted(&self, mut changes: Live<InboundPolicy>) {
        while changes.changed().await.is_ok() {
            let policy = self.policy.now();
            let denied = self.withdraw(&policy);
            if denied > 0 && (self.version == Version::Http1 || !self.permits_something(&policy)) {
                let labels = self.server_labels(&policy.server).tls_accepted(&self.facts.tls);
                self.worker.metrics.inbound.tcp_terminate.get_or_create(&labels).inc();
                return;
            }
        }
        // Nobody will publish a change any more; what is known stays.
        std::future::pending().await
    }

    /// Ends what `policy` does not permit; of how many kinds that was.
    fn withdraw(&self, policy: &InboundPolicy) -> usize {
        let used = self.used.borrow();
        let under_way = used.iter().filter_map(Weak::upgrade).filter(|c| c.leave.is_used());
        let mut kinds = 0;
        for counters in under_way.filter(|c| !self.permits(policy, &c.meta)) {
            tracing::info!(
                client = %self.facts.client, tls = ?self.facts.tls, target = %self.facts.original_dst,
                server = %policy.server, route = %counters.meta, "requests under way ended: no longer authorized"
            );
            counters.leave.withdraw();
            kinds += 1;
        }
        if kinds > 0 {
            // Requests under a policy that permits them again begin with leave of their own.
            *self.resolved.borrow_mut() = Resolved::default();
        }
        kinds
    }

    /// Whether a policy lets the client use the route of that name, if it has one.
    fn permits(&self, policy: &InboundPolicy, route: &Meta) -> bool {
        match of_routes(policy).into_iter().find(|(meta, _)| *meta == route) {
            Some((_, own)) => self.may_use(policy, own),
            // The routes are others now, or there are none; the request might have taken any of them.
            None => self.permits_something(policy),
        }
    }

    /// Whether a policy lets the client do anything.
    fn permits_something(&self, policy: &InboundPolicy) -> bool {
        self.may_use(policy, &[])
            || of_routes(policy).iter().any(|(_, own)| self.may_use(policy, own))
    }

    fn may_use(&self, policy: &InboundPolicy, own: &[Authorization]) -> bool {
        let permitted = policy.authorizations.iter().chain(own);
        matches!(authorize(permitted, &self.facts.peer()), Decision::Allow(_))
    }

    /// A request whose leave was withdrawn before it had an answer is refused as one that never had any.
    fn withdrawn(&self, counters: &Counters) -> Failure {
        let policy = self.policy.now();
        self.denied(&policy.server, &counters.meta)
    }

    /// The compiled policy in force now; usually the one of the last request.
    fn table(&self) -> Rc<Table> {
        let policy = self.policy.now();
        if let Some(table) = &self.resolved.borrow().table
            && Arc::ptr_eq(&table.policy, &policy)
        {
            return Rc::clone(table);
        }
        Applications::table(&self.worker, self.facts.original_dst.port(), policy)
    }

    /// Removes what belongs to the client's hop and says who the client is.
    fn clean(&self, parts: &mut Parts) {
        // An upgrade needs a connection of its own all the way, so it never comes inside HTTP/2.
        let is_upgrade = self.version == Version::Http1
            && headers::wants_upgrade(parts.version, &parts.method, &parts.headers);
        if !is_upgrade {
            headers::strip_connection_headers(&mut parts.headers);
        }
        headers::set_client_id(&mut parts.headers, self.client_id.as_ref());
    }

    fn no_route(&self, table: &Table) -> Failure {
        let labels = self.server_labels(&table.policy.server).tls_accepted(&self.facts.tls);
        self.worker.metrics.http.inbound_no_route.get_or_create(&labels).inc();
        tracing::info!(
            client = %self.facts.client, tls = ?self.facts.tls, server = %table.policy.server,
            "request denied: no route is for it"
        );
        let text = format!("{} has none for this request", table.policy.server);
        Failure::client(What::NoRouteOf(text.into()))
    }

    /// The counters of the authorization that permits the request.
    fn authorize(
        &self,
        table: &Rc<Table>,
        found: Found,
        parts: &Parts,
    ) -> Result<Rc<Counters>, Failure> {
        let permitted = table.authorizations(found.route);
        let Decision::Allow(allowed) = authorize(permitted, &self.facts.peer()) else {
            return Err(self.denied(&table.policy.server, table.route(found.route)));
        };
        let authorization = std::ptr::from_ref(allowed).addr();
        let mut resolved = self.resolved.borrow_mut();
        if resolved.table.as_ref().is_none_or(|known| !Rc::ptr_eq(known, table)) {
            *resolved = Resolved { table: Some(Rc::clone(table)), counters: Vec::new() };
        }
        // Anybody can make up authorities, so the label is there only for who wants it all the same.
        let wants_authority = self.worker.config.inbound.authority_labels;
        let authority = wants_authority.then(|| authority(parts)).flatten();
        let is_known = |c: &&Rc<Counters>| {
            c.route == found.route
                && c.authorization == authorization
                && c.authority.as_deref() == authority
        };
        if let Some(counters) = resolved.counters.iter().find(is_known) {
            return Ok(Rc::clone(counters));
        }
        let counters = Rc::new(self.counters(table, found.route, allowed, authority));
        if resolved.counters.len() >= COUNTERS_MAX {
            resolved.counters.clear();
        }
        resolved.counters.push(Rc::clone(&counters));
        let mut used = self.used.borrow_mut();
        used.retain(|counters| counters.strong_count() > 0);
        used.push(Rc::downgrade(&counters));
        Ok(counters)
    }

    /// Counts, logs and says that a route does not permit the client.
    fn denied(&self, server: &Meta, route: &Meta) -> Failure {
        let labels = self.server_labels(server).inbound_route(route).tls_accepted(&self.facts.tls);
        self.worker.metrics.http.inbound_deny.get_or_create(&labels).inc();
        tracing::info!(
            client = %self.facts.client, tls = ?self.facts.tls, %server, %route, "request denied"
        );
        let text = format!("{route} of {server} does not permit this client");
        Failure::client(What::Denied(text.into()))
    }

    fn counters(
        &self,
        table: &Table,
        route: usize,
        allowed: &Authorization,
        authority: Option<&str>,
    ) -> Counters {
        let families = &self.worker.metrics.http;
        let server = &table.policy.server;
        let meta = table.route(route);
        let allow = self
            .server_labels(server)
            .inbound_route(meta)
            .authorization(allowed)
            .tls_accepted(&self.facts.tls);
        let of_route = match &table.routes {
            Kind::Grpc(_) => &families.route.grpc_inbound,
            Kind::Http(_) | Kind::None => &families.route.http_inbound,
        };
        let port = self.facts.original_dst.port();
        let parent = Labels::new()
            .with("parent_group", server.group().to_owned())
            .with("parent_kind", server.kind().to_owned())
            .with("parent_name", server.name().to_owned())
            .with("parent_port", port.to_string())
            .inbound_route(meta);
        let mut series = Labels::new().direction(Direction::Inbound);
        if let Some(authority) = authority {
            series = series.with("authority", authority.to_owned());
        }
        let series = series
            .target(self.facts.original_dst)
            .tls_accepted(&self.facts.tls)
            .server(server, port)
            .inbound_route(meta)
            .authorization(allowed);
        Counters {
            route,
            authorization: std::ptr::from_ref(allowed).addr(),
            authority: authority.map(Into::into),
            meta: meta.clone(),
            is_audited: allowed.is_audit(),
            leave: Leave::new(match self.version {
                Version::Http1 => Ends::WithConnection,
                Version::Http2 => Ends::Alone,
            }),
            allow: families.inbound_allow.get_or_create(&allow),
            of_route: Rc::new(of_route.series(parent)),
            series: Rc::new(families.series(series)),
        }
    }

    fn limit(&self, table: &Table, now: Instant) -> Result<(), Failure> {
        let Some((limit, limiter)) = &table.limit else { return Ok(()) };
        let Err(scope) = limiter.admit(self.facts.client_id(), now) else { return Ok(()) };
        self.count_limited(table, &limit.meta, scope);
        let (server, scope) = (&table.policy.server, scope.as_str());
        // One line a second is enough to know; the counter knows how many.
        if limiter.is_worth_a_line(now) {
            tracing::info!(
                client = %self.facts.client, tls = ?self.facts.tls, %server,
                limit = %limit.meta, scope, "requests denied: rate limit exceeded"
            );
        }
        let text = format!("{} of {server}, {scope}", limit.meta);
        Err(Failure::client(What::RateLimited(text.into())))
    }

    fn count_limited(&self, table: &Table, limit: &Meta, scope: Scope) {
        let labels = self
            .server_labels(&table.policy.server)
            .with("ratelimit_group", limit.group().to_owned())
            .with("ratelimit_kind", limit.kind().to_owned())
            .with("ratelimit_name", limit.name().to_owned())
            .with("ratelimit_scope", scope.as_str())
            .tls_accepted(&self.facts.tls);
        self.worker.metrics.http.inbound_rate_limit.get_or_create(&labels).inc();
    }

    fn server_labels(&self, server: &Meta) -> Labels {
        let target = self.facts.original_dst;
        Labels::new().target(target).server(server, target.port())
    }

    fn refuse(&self, failure: &Failure, manner: Manner) -> Response<Body> {
        let row = answer::row(failure);
        if let Some(label) = row.label {
            tracing::debug!(client = %self.facts.client, error = %failure, "request failed");
            let policy = self.policy.now();
            let target = self.facts.original_dst;
            let labels = Labels::new().with("error", label).target(target);
            let labels = labels.server(&policy.server, target.port());
            self.worker.metrics.http.inbound_errors.get_or_create(&labels).inc();
        }
        if row.closes {
            self.control.close();
        }
        let mut response = answer::failure(failure, manner);
        // What a gateway's outbound half gives up may have been tried before.
        let is_ours = matches!(self.onward, Onward::Application(_));
        if manner.informs && is_ours && is_unsent(failure) {
            let yes = HeaderValue::from_static("true");
            response.headers_mut().insert(L5D_HAUBERK_UNSENT, yes);
        }
        response
    }
}

/// The names of a policy's routes and who may use each, besides those who may use the server.
fn of_routes(policy: &InboundPolicy) -> Vec<(&Meta, &[Authorization])> {
    match &policy.protocol {
        InboundProtocol::Detect { http, .. }
        | InboundProtocol::Http1(http)
        | InboundProtocol::Http2(http) => {
            http.routes.iter().map(|r| (&r.meta, &*r.authorizations)).collect()
        }
        InboundProtocol::Grpc(routes) => {
            routes.iter().map(|r| (&r.meta, &*r.authorizations)).collect()
        }
        InboundProtocol::Opaque | InboundProtocol::Tls => Vec::new(),
    }
}

/// Whether the application has seen nothing of the request: it was not connected to. Others that
/// fail before are refused by us on purpose, and would be elsewhere too.
fn is_unsent(failure: &Failure) -> bool {
    matches!(failure.what, What::Connect { .. } | What::ConnectTimeout { .. } | What::FailFast(_))
}

/// Whom a request asks, by its target or else its `host`.
fn authority(parts: &Parts) -> Option<&str> {
    let header = || parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    parts.uri.authority().map(|authority| authority.as_str()).or_else(header)
}

impl Table {
    /// Compiles `policy`; what has been used of a rate limit that `known` had too is kept.
    pub(crate) fn new(policy: Arc<InboundPolicy>, known: Option<&Table>, workers: usize) -> Self {
        let http = |routes: &[hauberk_model::inbound::HttpRoute]| {
            let routes = routes.iter();
            Kind::Http(Routes::new(
                routes.map(|r| convert(&r.route, |f| Filter::from(f))).collect(),
            ))
        };
        let (routes, limit) = match &policy.protocol {
            InboundProtocol::Detect { http: server, .. }
            | InboundProtocol::Http1(server)
            | InboundProtocol::Http2(server) => (http(&server.routes), server.rate_limit.clone()),
            InboundProtocol::Grpc(routes) => {
                let routes = routes.iter();
                let routes = routes.map(|r| convert(&r.route, |f| Filter::from(f)));
                (Kind::Grpc(Routes::new(routes.collect())), None)
            }
            InboundProtocol::Opaque | InboundProtocol::Tls => (Kind::None, None),
        };
        let limit = limit.map(|limit| {
            // An unchanged limit keeps what has been used of it.
            let known = known.and_then(|known| known.limit.clone());
            known.filter(|(old, _)| *old == limit).unwrap_or_else(|| {
                let limiter = Rc::new(Limiter::new(&limit, workers));
                (limit, limiter)
            })
        });
        Self { policy, routes, limit }
    }

    /// The best rule for a request.
    pub(crate) fn find(&self, parts: &Parts) -> Option<Found> {
        let host = host_of(authority(parts).unwrap_or(""));
        match &self.routes {
            Kind::Http(routes) => routes.find(host, parts),
            Kind::Grpc(routes) => routes.find(host, parts),
            Kind::None => None,
        }
    }

    fn filters(&self, found: Found) -> &[Filter] {
        match &self.routes {
            Kind::Http(routes) => routes.rule(found),
            Kind::Grpc(routes) => routes.rule(found),
            Kind::None => &[],
        }
    }

    fn path(&self, found: Found) -> Option<&PathMatch> {
        match &self.routes {
            Kind::Http(routes) => routes.matched(found).and_then(|matched| matched.path.as_ref()),
            Kind::Grpc(_) | Kind::None => None,
        }
    }

    fn of_route(&self, at: usize) -> Option<(&Meta, &[Authorization])> {
        match &self.policy.protocol {
            InboundProtocol::Detect { http, .. }
            | InboundProtocol::Http1(http)
            | InboundProtocol::Http2(http) => {
                http.routes.get(at).map(|route| (&route.meta, &*route.authorizations))
            }
            InboundProtocol::Grpc(routes) => {
                routes.get(at).map(|route| (&route.meta, &*route.authorizations))
            }
            InboundProtocol::Opaque | InboundProtocol::Tls => None,
        }
    }

    /// The name of a route.
    pub(crate) fn route(&self, at: usize) -> &Meta {
        self.of_route(at).map_or(&self.policy.server, |(meta, _)| meta)
    }

    /// Who may use a route: who may use the server, and who may use the route.
    pub(crate) fn authorizations(&self, route: usize) -> impl Iterator<Item = &Authorization> {
        let own = self.of_route(route).map_or(&[][..], |(_, authorizations)| authorizations);
        self.policy.authorizations.iter().chain(own)
    }
}

fn convert<M: Match + Clone, F>(
    route: &Route<M, Vec<F>>,
    filter: impl Fn(&F) -> Filter,
) -> Route<M, Vec<Filter>> {
    let rules = route.rules.iter().map(|rule| Rule {
        matches: rule.matches.clone(),
        action: rule.action.iter().map(&filter).collect(),
    });
    Route { hosts: route.hosts.clone(), rules: rules.collect() }
}

impl Applications {
    /// The compiled policy of `port`; compiled anew when the policy is another one.
    fn table(worker: &Worker, port: u16, policy: Arc<InboundPolicy>) -> Rc<Table> {
        let mut tables = worker.http.applications.tables.borrow_mut();
        let known = tables.get(&port);
        if let Some(table) = known
            && Arc::ptr_eq(&table.policy, &policy)
        {
            return Rc::clone(table);
        }
        let known = known.map(Rc::as_ref);
        let table = Rc::new(Table::new(policy, known, worker.config.workers));
        tables.insert(port, Rc::clone(&table));
        table
    }

    /// The application on `address`. Applications that nobody has used for the discovery idle time
    /// are forgotten here, so their number stays near that of the ports in use.
    fn get(worker: &Rc<Worker>, address: SocketAddr) -> Rc<Application> {
        let now = Instant::now();
        let side = &worker.config.inbound.side;
        let mut by_address = worker.http.applications.by_address.borrow_mut();
        if let Some(application) = by_address.get(&address) {
            application.used.set(now);
            return Rc::clone(application);
        }
        by_address.retain(|_, application| {
            Rc::strong_count(application) > 1
                || application.used.get() + side.discovery_idle_timeout > now
        });
        let queue =
            Queue { capacity: side.queue_capacity, failfast_timeout: side.failfast_timeout };
        let settings = balance::forward_settings(queue, None, side);
        let balancer = Balancer::new(settings, worker.random.borrow_mut().random());
        let mut set = Endpoints::default();
        set.by_address.insert(address, Arc::new(Endpoint::bare(address)));
        balancer.update(&set, now, |_| Client::application(worker, address));
        let application = Rc::new(Application { balancer, used: Cell::new(now) });
        by_address.insert(address, Rc::clone(&application));
        application
    }
}
