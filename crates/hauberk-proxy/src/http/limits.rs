//! Limits of time on an exchange, and which of them comes first.
//!
//! Used by the outbound request path while it waits for a response's head, and by the response
//! body afterwards. [`Limits::next`] is pure; [`Progress`] is what has happened so far, told by the
//! request body and the response body. A limit is looked at again when it has come, so a frame
//! costs one reading of the clock and no timer.
//!
//! | limit | from | to |
//! |---|---|---|
//! | request | the route was found | the response has ended, all attempts together |
//! | head | the route was found (service profiles) | the response's head, all attempts together |
//! | headers | the request body has been sent | the response's head, of one attempt |
//! | response | the request body has been sent, or the head is here if that is earlier | the response has ended |
//! | idle | the last frame of either body | the next one |
//!
//! As linkerd2-proxy v2 understands them. Before the head a limit is answered by 504 and the
//! connection goes on; afterwards the body breaks off.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// Limits of one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// When the whole request must be over.
    pub request: Option<Instant>,
    /// When the head must be here, all attempts together.
    pub head: Option<Instant>,
    /// Longest wait for the head, from the end of the request body.
    pub headers: Option<Duration>,
    /// Longest time to the end of the response, from the end of the request body.
    pub response: Option<Duration>,
    /// Longest time without a frame in either direction.
    pub idle: Option<Duration>,
}

/// Which limit it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The whole request.
    Request,
    /// The head of any attempt's response.
    Head,
    /// The head of one attempt's response.
    Headers,
    /// The response.
    Response,
    /// Silence.
    Idle,
}

impl Limit {
    /// What is said to the client.
    pub fn text(self) -> &'static str {
        match self {
            Limit::Request | Limit::Head => "request timed out",
            Limit::Headers => "timed out waiting for response headers",
            Limit::Response => "timed out waiting for response stream",
            Limit::Idle => "stream timed out due to idleness",
        }
    }

    /// Value of the label `error` of route metrics.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Request => "REQUEST_TIMEOUT",
            Limit::Head | Limit::Headers => "RESPONSE_HEADERS_TIMEOUT",
            Limit::Response => "RESPONSE_STREAM_TIMEOUT",
            Limit::Idle => "IDLE_TIMEOUT",
        }
    }
}

/// What of an exchange has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The request body has been sent.
    pub sent: Option<Instant>,
    /// The response's head is here.
    pub head: Option<Instant>,
    /// The last frame of either body, or the beginning.
    pub moved: Instant,
}

impl Limits {
    /// The next moment at which the exchange must be given up, unless something happens before.
    pub fn next(&self, seen: Seen) -> Option<(Instant, Limit)> {
        let until_head = seen.sent.filter(|_| seen.head.is_none());
        let answered = match (seen.sent, seen.head) {
            (Some(sent), Some(head)) => Some(sent.min(head)),
            (sent, head) => sent.or(head),
        };
        let after = |from: Option<Instant>, limit: Option<Duration>| Some(from? + limit?);
        let all = [
            (self.request, Limit::Request),
            (self.head.filter(|_| seen.head.is_none()), Limit::Head),
            (after(until_head, self.headers), Limit::Headers),
            (after(answered, self.response), Limit::Response),
            (after(Some(seen.moved), self.idle), Limit::Idle),
        ];
        // The first of equals, so that the total limit is named rather than a part of it.
        all.into_iter().filter_map(|(at, limit)| Some((at?, limit))).min_by_key(|(at, _)| *at)
    }

    /// Waits for `head`, at most as long as the limits allow. Cancel-safe if `head` is.
    pub async fn wait<T>(
        &self,
        progress: &Progress,
        head: impl Future<Output = T>,
    ) -> Result<T, Limit> {
        let mut head = pin!(head);
        loop {
            let next = self.next(progress.seen(None));
            if let Some((at, limit)) = next
                && at <= Instant::now()
            {
                return Err(limit);
            }
            let came = async {
                match next {
                    Some((at, _)) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Biased: what is here counts, even if its time is over.
                biased;
                done = &mut head => return Ok(done),
                () = progress.all_sent.notified(), if progress.sent.get().is_none() => {}
                () = came => {}
            }
        }
    }
}

/// How far an exchange has come; shared by its two bodies.
#[derive(Debug)]
pub struct Progress {
    sent: Cell<Option<Instant>>,
    moved: Cell<Instant>,
    all_sent: Notify,
}

impl Progress {
    /// An exchange that begins.
    pub fn new(now: Instant) -> Self {
        Self { sent: Cell::new(None), moved: Cell::new(now), all_sent: Notify::new() }
    }

    /// A frame has passed.
    pub fn moved(&self, now: Instant) {
        self.moved.set(now);
    }

    /// The request body has ended.
    pub fn sent(&self, now: Instant) {
        if self.sent.get().is_none() {
            self.sent.set(Some(now));
            self.all_sent.notify_one();
        }
    }

    fn seen(&self, head: Option<Instant>) -> Seen {
        Seen { sent: self.sent.get(), head, moved: self.moved.get() }
    }
}

/// The limits of a response body.
#[derive(Debug)]
pub struct Timer {
    limits: Limits,
    progress: Option<Rc<Progress>>,
    head: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    /// From the response's head on; none if nothing limits it. `progress` is needed by limits
    /// other than that of the whole request.
    pub fn new(limits: Limits, progress: Option<Rc<Progress>>, head: Instant) -> Option<Self> {
        if let Some(progress) = &progress {
            progress.moved(head);
        }
        let mut timer = Self { limits, progress, head, sleep: Box::pin(sleep_until(head)) };
        let (at, _) = timer.next()?;
        timer.sleep.as_mut().reset(at);
        Some(timer)
    }

    fn next(&self) -> Option<(Instant, Limit)> {
        let begin = || Seen { sent: None, head: Some(self.head), moved: self.head };
        let seen = self.progress.as_ref().map_or_else(begin, |p| p.seen(Some(self.head)));
        self.limits.next(seen)
    }

    /// A frame of the response has passed.
    pub fn moved(&self) {
        if let (Some(progress), Some(_)) = (&self.progress, self.limits.idle) {
            progress.moved(Instant::now());
        }
    }

    /// Ready when a limit has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Limit> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let Some((at, limit)) = self.next() else { return Poll::Pending };
            if at <= Instant::now() {
                return Poll::Ready(limit);
            }
            self.sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_limit_begins_where_it_should() {
        let start = Instant::now();
        let all = Limits {
            request: Some(start + 60 * SECOND),
            head: None,
            headers: Some(2 * SECOND),
            response: Some(5 * SECOND),
            idle: Some(30 * SECOND),
        };
        let at = |seconds: u32| start + seconds * SECOND;
        let check = |sent: Option<u32>, head: Option<u32>, moved, expect, limit| {
            let seen = Seen { sent: sent.map(at), head: head.map(at), moved: at(moved) };
            assert_eq!(all.next(seen), Some((at(expect), limit)), "{seen:?}");
        };
        check(None, None, 0, 30, Limit::Idle);
        check(None, None, 40, 60, Limit::Request);
        check(Some(1), None, 1, 3, Limit::Headers);
        check(Some(1), Some(2), 2, 6, Limit::Response);
        // The response is measured from its head if the request goes on.
        check(None, Some(2), 2, 7, Limit::Response);
        check(Some(9), Some(2), 9, 7, Limit::Response);
        assert_eq!(Limits::default().next(Seen { sent: None, head: None, moved: start }), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_begins_anew_when_the_request_has_been_sent() {
        let start = Instant::now();
        let progress = Progress::new(start);
        let limits = Limits { headers: Some(SECOND), ..Limits::default() };
        let waiting = limits.wait(&progress, std::future::pending::<()>());
        let sending = async {
            tokio::time::sleep(10 * SECOND).await;
            progress.sent(Instant::now());
        };
        let (waited, ()) = tokio::join!(waiting, sending);
        assert_eq!((waited, start.elapsed()), (Err(Limit::Headers), 11 * SECOND));
        assert_eq!(limits.wait(&progress, async { 7 }).await, Err(Limit::Headers), "it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn frames_put_silence_off() {
        let start = Instant::now();
        let progress = Rc::new(Progress::new(start));
        let limits = Limits { idle: Some(SECOND), ..Limits::default() };
        let mut timer = Timer::new(limits, Some(Rc::clone(&progress)), start).expect("limited");
        for _ in 0..5 {
            tokio::time::sleep(SECOND / 2).await;
            timer.moved();
        }
        let limit = std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!((limit, start.elapsed()), (Limit::Idle, SECOND * 7 / 2));
        assert!(Timer::new(Limits::default(), None, start).is_none());
    }
}
