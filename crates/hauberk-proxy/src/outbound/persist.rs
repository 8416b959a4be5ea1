//! Requests of routes that limit time or retry: attempt, look, perhaps again.
//!
//! Called by [`request`](super::request) for rules that have a [`Plan`]; its future is boxed there, so that
//! other requests do not pay for it. What is decided lives in [`limits`](crate::http::limits) and
//! [`retries`](crate::http::retries); the request body is kept by [`replay`](crate::http::replay).
//!
//! Each attempt chooses backend and endpoint anew. A response counts as bad by its status, or by its gRPC
//! code in head or trailers; for the trailers the head is held back until the first frame is here.
//! A response that came before the request had been sent is the answer. The last attempt has
//! no limit for its head but those of the request. A response that is not the answer is read to its
//! end during the pause before the next attempt, so that its connection can be used again.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::FutureExt;
use hauberk_model::WorkloadId;
use hauberk_model::route::http::PathMatch;
use http::request::Parts;
use http::{Request, Response};
use rand::Rng;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::backend::{Backend, Care, Plan, Rule, Table};
use super::mirror::Copies;
use super::request::{Arrived, Connection, Edit, Hold, Refused, refused};
use super::retry::{Attempt, Sent, Unanswered};
use crate::balance::Refusal;
use crate::http::answer::{self, Manner};
use crate::http::body::{Body, Held, Source, Tracked};
use crate::http::classify::{Break, Verdict, grpc_code};
use crate::http::exchange::End;
use crate::http::headers;
use crate::http::incoming::{Incoming, StreamError};
use crate::http::limit::Permit;
use crate::http::limits::{Limit, Limits, Progress, Timer};
use crate::http::replay::Replay;
use crate::http::retries::{By, Course, Next, Result as Judged, Rules, Why};
use crate::http::tee::Original;
use crate::telemetry::route::RouteSeries;
use crate::telemetry::trace::Traced;

/// A request with what was decided about it.
pub(super) struct Work<'t> {
    pub(super) table: &'t Table,
    pub(super) rule: &'t Rule,
    /// Counters of the route.
    pub(super) series: &'t Rc<RouteSeries>,
    pub(super) plan: Plan,
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    pub(super) copies: Option<Copies>,
    /// What filters want of the response; left there if there is none.
    pub(super) edits: &'t mut Vec<Edit>,
    pub(super) required: Option<WorkloadId>,
    pub(super) matched: Option<&'t PathMatch>,
    pub(super) manner: Manner,
    pub(super) began: Instant,
    pub(super) traced: Option<&'t mut Traced>,
}

impl Connection {
    /// Sends a request as its plan says, and gives the answer.
    pub(super) async fn persist(
        &self,
        work: Work<'_>,
        permit: Permit,
    ) -> Result<Response<Body>, Refused> {
        let Work {
            table,
            rule,
            series,
            plan,
            mut parts,
            body,
            mut copies,
            edits,
            required,
            matched,
            manner,
            began,
            mut traced,
        } = work;
        let care = rule.care.as_ref().expect("only rules with care make plans");
        // An upgrade makes the connection the request; it cannot be repeated.
        let is_upgrade = headers::wants_upgrade(parts.version, &parts.method, &parts.headers);
        let rules = plan.retries.as_deref().filter(|_| !is_upgrade);
        let hold = Hold { series, began, deadline: plan.deadline(began) };
        let body = match &copies {
            None => Original::new(body, None),
            Some(copies) => copies.original(body),
        };
        let body = body.counted(series.request_frames());
        let mut upload = Upload::new(body, rules.map(|rules| rules.max_request_bytes));
        let mut course = Course::default();
        if rules.is_some_and(|rules| rules.by == By::Conditions) {
            care.budget.borrow_mut().deposit(began);
        }
        let mut limits = Limits {
            request: plan.timeouts.request.map(|limit| began + limit),
            head: plan.head.map(|limit| began + limit),
            headers: None,
            response: plan.timeouts.response,
            idle: plan.timeouts.idle,
        };
        loop {
            let attempted = if course.done == 0 { began } else { Instant::now() };
            let may_repeat =
                rules.is_some_and(|rules| course.may_repeat(rules)) && upload.is_repeatable();
            limits.headers = rules.filter(|_| may_repeat).and_then(|rules| rules.timeout);
            let progress = Rc::new(Progress::new(attempted));
            let mut head =
                if may_repeat { parts.clone() } else { std::mem::replace(&mut parts, no_head()) };

            let backend = rule.backend(&self.worker)?;
            let mut of_backend = Vec::new();
            let facts = (matched, manner);
            let filtered =
                self.filter(&backend.filters, &mut head, facts, hold, &mut of_backend).await;
            if let Err(refused) = filtered {
                edits.append(&mut of_backend);
                return Err(refused);
            }
            // A backend mirrors what it is asked first; later attempts are the same request.
            if let Some(copies) = copies.take() {
                copies.begin(self, (&backend.mirrors, &rule.meta), &head);
            }
            let (balancer, is_forward) = backend.balancer()?;
            backend.series.request();
            if let Some(traced) = &mut traced {
                if course.done == 0 {
                    traced.send();
                } else {
                    let random = self.worker.random.borrow_mut().random();
                    traced.send_again(&mut head.headers, random);
                }
            }
            let key = self.key(balancer, &head.headers, &mut of_backend);
            let request = Box::new(Request::from_parts(head, upload.body(&progress)));
            let attempt = Attempt {
                balancer,
                key,
                series: None,
                required: required.as_ref(),
                between: self.between(rule),
                began: attempted,
                patience: backend.patience(),
                limits: Some((&limits, &progress)),
            };
            let sent = attempt.send(&self.worker, request).await;
            let peeks = manner.grpc && upload.has_ended() && rules.is_some_and(Rules::has_codes);
            let result = match sent {
                Ok(sent) => look(sent, peeks, &limits, &progress).await,
                Err(why) => Err(why),
            };

            let next = rules.map_or(Next::Deliver(Why::Final), |rules| {
                let judged = Judged {
                    is_wanted: is_wanted(rules, rule, &result, manner),
                    is_repeatable: upload.is_repeatable()
                        && (result.is_err() || upload.has_ended()),
                };
                let random = self.worker.random.borrow_mut().random();
                let times = (Instant::now(), limits.request);
                course.next(rules, judged, &mut care.budget.borrow_mut(), times, random)
            });
            count(care, next, &course);
            let succeeds = next == Next::Deliver(Why::Final) && result.is_ok();
            if succeeds && rules.is_some_and(|rules| rules.by == By::Class) {
                care.budget.borrow_mut().deposit(Instant::now());
            }
            match next {
                Next::Again(wait) => {
                    if let Some(traced) = &mut traced {
                        let answered = result.as_ref().ok();
                        traced.failed(answered.map(|(sent, _)| sent.answer.response.status()));
                    }
                    discard(result, (rule, backend), manner, attempted, wait).await
                }
                Next::Deliver(_) => {
                    edits.append(&mut of_backend);
                    let (sent, held) = result
                        .inspect_err(|why| {
                            series.failed(why.name(), why.broke(), began.elapsed());
                            backend.series.failed(why.name(), why.broke(), attempted.elapsed());
                        })
                        .map_err(|why| refused(why, table))?;
                    let timer = Timer::new(limits, Some(progress), Instant::now());
                    let routes = [Some(Rc::clone(series)), Some(Rc::clone(&backend.series))];
                    let edits = std::mem::take(edits);
                    let arrived = Arrived {
                        sent,
                        held,
                        routes,
                        edits,
                        began,
                        attempted,
                        timer,
                        permit,
                        is_forward,
                    };
                    return Ok(self.deliver(arrived, manner, rule, backend));
                }
            }
        }
    }
}

fn no_head() -> Parts {
    Request::new(()).into_parts().0
}

/// The request body, as often as it is needed.
enum Upload {
    /// There is none.
    Empty,
    /// It can be sent once.
    Once(Option<Original>),
    /// It is kept while it is sent.
    Replay(Replay<Original>),
}

impl Upload {
    fn new(body: Original, bytes_max: Option<usize>) -> Self {
        if http_body::Body::is_end_stream(&body) {
            return Upload::Empty;
        }
        match bytes_max {
            None => Upload::Once(Some(body)),
            Some(max) => match Replay::new(body, max) {
                Ok(replay) => Upload::Replay(replay),
                Err(body) => Upload::Once(Some(body)),
            },
        }
    }

    /// The body of the next attempt.
    fn body(&mut self, progress: &Rc<Progress>) -> Body {
        let source = match self {
            Upload::Replay(replay) => Some(Source::Replay(replay.reader())),
            Upload::Once(body) => body.take().map(Source::Original),
            Upload::Empty => None,
        };
        match source {
            Some(source) => {
                Body::Tracked(Box::new(Tracked { source, progress: Rc::clone(progress) }))
            }
            None => {
                progress.sent(Instant::now());
                Body::Empty
            }
        }
    }

    fn is_repeatable(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Once(_) => false,
            Upload::Replay(replay) => replay.is_repeatable(),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Once(_) => false,
            Upload::Replay(replay) => replay.has_ended(),
        }
    }
}

/// Reads as much of a response as its judgement needs.
async fn look(
    mut sent: Sent,
    peeks: bool,
    limits: &Limits,
    progress: &Progress,
) -> Result<(Sent, Held), Unanswered> {
    let mut held = Held::new();
    if peeks && grpc_code(sent.answer.response.headers()).is_none() {
        let limits = Limits { headers: None, ..*limits };
        let body = sent.answer.response.body_mut();
        let first = limits.wait(progress, std::future::poll_fn(|cx| poll_frame(body, cx))).await;
        let is_data = match first.map_err(Unanswered::Late)? {
            Some(frame) => {
                let is_data = frame.as_ref().is_ok_and(http_body::Frame::is_data);
                held.push_back(frame);
                is_data
            }
            None => false,
        };
        if is_data
            && let Some(Some(second)) =
                std::future::poll_fn(|cx| poll_frame(body, cx)).now_or_never()
        {
            held.push_back(second);
        }
    }
    Ok((sent, held))
}

type Frame = http_body::Frame<bytes::Bytes>;

fn poll_frame(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame, StreamError>>> {
    http_body::Body::poll_frame(Pin::new(body), cx)
}

/// Whether the rules want another attempt after this result.
fn is_wanted(
    rules: &Rules,
    rule: &Rule,
    result: &Result<(Sent, Held), Unanswered>,
    manner: Manner,
) -> bool {
    match result {
        Ok((sent, held)) if rules.by == By::Class => {
            let response = &sent.answer.response;
            let pending = rule.pending(manner.grpc, response.status(), response.headers());
            let trailers = held.iter().flatten().find_map(|frame| frame.trailers_ref());
            pending.end(trailers).verdict() == Verdict::Failure
        }
        Err(_) if rules.by == By::Class => false,
        Ok((sent, held)) => {
            let response = &sent.answer.response;
            let in_trailers = |frame: &Frame| grpc_code(frame.trailers_ref()?);
            let code = || {
                grpc_code(response.headers())
                    .or_else(|| held.iter().flatten().find_map(in_trailers))
            };
            rules.wants(response.status().as_u16(), manner.grpc.then(code).flatten())
        }
        Err(Unanswered::Refused(Refusal::Failfast) | Unanswered::Late(Limit::Headers)) => true,
        Err(Unanswered::Refused(Refusal::Full) | Unanswered::Late(_)) => false,
        Err(Unanswered::Reset(error)) => error.how() == Break::Reset(h2::Reason::REFUSED_STREAM),
        Err(Unanswered::Failed(failure)) => {
            let row = answer::row(failure);
            let code = manner.grpc.then_some(row.code);
            failure.retryable && rules.wants(row.status.as_u16(), code)
        }
    }
}

fn count(care: &Care, next: Next, course: &Course) {
    match next {
        Next::Again(_) => care.series.requests.inc(),
        Next::Deliver(Why::Limit) => care.series.limit_exceeded.inc(),
        Next::Deliver(Why::Budget) => care.series.overflow.inc(),
        Next::Deliver(Why::Final) if course.done > 0 => care.series.successes.inc(),
        Next::Deliver(Why::Final | Why::Unrepeatable) => {}
    }
}

/// Counts a result that is not the answer, and waits. Its body is read meanwhile, so that the connection
/// can be used again.
async fn discard(
    result: Result<(Sent, Held), Unanswered>,
    (rule, backend): (&Rule, &Backend),
    manner: Manner,
    attempted: Instant,
    wait: Duration,
) {
    let until = Instant::now() + wait;
    match result {
        Err(why) => backend.series.failed(why.name(), why.broke(), attempted.elapsed()),
        Ok((sent, held)) => {
            let Sent { lease, series, answer, tapped } = sent;
            let (parts, body) = answer.response.into_parts();
            let end = End {
                began: attempted,
                attempted,
                status: parts.status,
                pending: rule.pending(manner.grpc, parts.status, &parts.headers),
                series,
                routes: [None, Some(Rc::clone(&backend.series))],
                lease,
                keep: answer.keep,
                permit: None,
                tapped,
                upload: None,
                under_way: None,
            };
            let mut body = Body::observed(body, held, end, None);
            let rest = std::future::poll_fn(|cx| {
                while let Poll::Ready(frame) = http_body::Body::poll_frame(Pin::new(&mut body), cx)
                {
                    if !matches!(frame, Some(Ok(_))) {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending
            });
            // Polled once also when there is no wait, which is enough for what is here already.
            let _ = timeout_at(until, rest).await;
        }
    }
    if until > Instant::now() {
        sleep_until(until).await;
    }
}
