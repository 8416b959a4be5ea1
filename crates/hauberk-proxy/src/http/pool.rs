//! Idle HTTP/1 connections of one endpoint on one worker.
//!
//! Used by the HTTP client only. The newest connection is used first, so that the rest can grow
//! old; one that has been idle for longer than the limit is closed by a task that exists only
//! while connections are idle. At most `max` are kept; one more is closed at once.
//!
//! A connection is put back when its response has ended; it is given out again only when hyper
//! says that it is ready, that is when the request has been sent completely too.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use hauberk_process::Shutdown;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::body::Body;
use crate::worker::Worker;

/// Idle connections, oldest first.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<VecDeque<Idle>>,
    max: usize,
    timeout: Duration,
    swept: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
}

impl Pool {
    /// An empty pool.
    pub fn new(max: usize, timeout: Duration) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), max, timeout, swept: Cell::new(false) })
    }

    /// A connection that can take a request now, if there is one, and since when it has been idle.
    /// Looks from the newest on, and drops those that turn out to be closed.
    pub fn take(&self) -> Option<(SendRequest<Body>, Instant)> {
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].sender.is_ready() {
                return idle.remove(at).map(|idle| (idle.sender, idle.since));
            }
            if idle[at].sender.is_closed() {
                idle.remove(at);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(self: &Rc<Self>, worker: &Rc<Worker>, sender: SendRequest<Body>) {
        if sender.is_closed() || worker.shutdown.is_draining() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.max {
            idle.pop_front();
        }
        idle.push_back(Idle { sender, since: Instant::now() });
        drop(idle);
        if !self.swept.replace(true) {
            worker
                .tasks
                .spawn_local("http1 pool", sweep(Rc::downgrade(self), worker.shutdown.clone()));
        }
    }

    /// Connections kept now.
    pub fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether no connection is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes what has been idle for too long; when the oldest of the rest will be.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| idle.since + self.timeout > now && !idle.sender.is_closed());
        let next = idle.front().map(|idle| idle.since + self.timeout);
        if next.is_none() {
            self.swept.set(false);
        }
        next
    }
}

/// Closes idle connections in time, and all of them when draining begins; ends with the last of
/// them, or with the pool.
async fn sweep(pool: Weak<Pool>, shutdown: Shutdown) {
    loop {
        let Some(next) = pool.upgrade().and_then(|pool| pool.expire(Instant::now())) else {
            return;
        };
        if tokio::time::timeout_at(next, shutdown.draining()).await.is_ok() {
            if let Some(pool) = pool.upgrade() {
                pool.idle.borrow_mut().clear();
            }
            return;
        }
    }
}
