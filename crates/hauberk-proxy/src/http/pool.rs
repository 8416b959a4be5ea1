//! Idle HTTP/1 connections of one endpoint on one worker.
//!
//! Used by the HTTP client only. The newest connection is used first, so that the rest can grow
//! old; one that has been idle for longer than the limit is closed by a task that exists only
//! while connections are idle. At most `max` are kept; one more is closed at once.
//!
//! A connection is put back when its response has ended, and holds no buffer here. The task is woken
//! when a server closes a connection that waits, or says something unasked, and lets go of it; so does
//! [`Pool::take`], which looks at what it gives out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hauberk_process::Shutdown;
use tokio::time::{Instant, sleep_until};

use super::http1::Connection;
use crate::worker::Worker;

/// Idle connections, oldest first.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<VecDeque<Idle>>,
    max: usize,
    timeout: Duration,
    swept: Cell<bool>,
    /// Of the task that sweeps.
    sweeper: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Idle {
    connection: Rc<Connection>,
    since: Instant,
}

impl Idle {
    fn is_unusable(&self, waker: &Waker) -> bool {
        self.connection.poll_unusable(&mut Context::from_waker(waker)).is_ready()
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(max: usize, timeout: Duration) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            max,
            timeout,
            swept: Cell::new(false),
            sweeper: RefCell::default(),
        })
    }

    /// A connection that can take a request now, if there is one, and since when it has been idle.
    /// Looks from the newest on, and drops those that turn out to be closed.
    pub fn take(&self) -> Option<(Rc<Connection>, Instant)> {
        let mut idle = self.idle.borrow_mut();
        while let Some(newest) = idle.pop_back() {
            if !newest.is_unusable(Waker::noop()) {
                return Some((newest.connection, newest.since));
            }
            newest.connection.say_goodbye();
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put(self: &Rc<Self>, worker: &Rc<Worker>, connection: Rc<Connection>) {
        if worker.shutdown.is_draining() {
            connection.say_goodbye();
            return;
        }
        let newest = Idle { connection, since: Instant::now() };
        {
            let sweeper = self.sweeper.borrow();
            if newest.is_unusable(sweeper.as_ref().unwrap_or(Waker::noop())) {
                newest.connection.say_goodbye();
                return;
            }
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.max
            && let Some(oldest) = idle.pop_front()
        {
            oldest.connection.say_goodbye();
        }
        idle.push_back(newest);
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

    /// Closes what has been idle for too long or is closed already; when the oldest of the rest will be. The waker is
    /// woken when one of them is closed.
    fn expire(&self, now: Instant, waker: &Waker) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| {
            let is_kept = idle.since + self.timeout > now && !idle.is_unusable(waker);
            if !is_kept {
                idle.connection.say_goodbye();
            }
            is_kept
        });
        let next = idle.front().map(|idle| idle.since + self.timeout);
        let is_last = next.is_none();
        *self.sweeper.borrow_mut() = (!is_last).then(|| waker.clone());
        if is_last {
            self.swept.set(false);
        }
        next
    }
}

/// Closes idle connections in time, and all of them when draining begins; ends with the last of
/// them, or with the pool.
async fn sweep(pool: Weak<Pool>, shutdown: Shutdown) {
    let mut draining = pin!(shutdown.draining());
    let mut timer = pin!(sleep_until(Instant::now()));
    poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
        if draining.as_mut().poll(cx).is_ready() {
            for idle in pool.idle.borrow_mut().drain(..) {
                idle.connection.say_goodbye();
            }
            return Poll::Ready(());
        }
        loop {
            let Some(next) = pool.expire(Instant::now(), cx.waker()) else {
                return Poll::Ready(());
            };
            timer.as_mut().reset(next);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Io;
    use tokio::io::AsyncWriteExt;

    fn connection() -> (Rc<Connection>, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        (Rc::new(Connection::new(Io::memory(near))), far)
    }

    fn keep(pool: &Pool, connection: Rc<Connection>) {
        pool.idle.borrow_mut().push_back(Idle { connection, since: Instant::now() });
    }

    #[tokio::test(start_paused = true)]
    async fn gives_out_the_newest_that_is_open_and_silent() {
        let pool = Pool::new(10, Duration::from_secs(3));
        let ends: Vec<_> = (0..3)
            .map(|_| {
                let (connection, far) = connection();
                keep(&pool, Rc::clone(&connection));
                (connection, far)
            })
            .collect();
        let [(oldest, _open), (_, closed), (_, mut speaks)] =
            <[_; 3]>::try_from(ends).expect("three were made");
        drop(closed);
        speaks.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        let (taken, _) = pool.take().expect("the oldest is well");
        assert!(Rc::ptr_eq(&taken, &oldest));
        assert!(pool.is_empty() && pool.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn lets_go_of_what_is_closed_at_once_and_of_what_is_old_in_time() {
        let pool = Pool::new(10, Duration::from_secs(3));
        let (first, closes) = connection();
        let (second, _stays) = connection();
        keep(&pool, first);
        keep(&pool, second);
        let mut sweeping = pin!(sweep(Rc::downgrade(&pool), Shutdown::new()));
        let begun = Instant::now();
        let within = Duration::from_millis(1);
        assert!(tokio::time::timeout(within, sweeping.as_mut()).await.is_err());
        assert_eq!(pool.len(), 2);
        drop(closes);
        assert!(tokio::time::timeout(within, sweeping.as_mut()).await.is_err());
        assert_eq!(pool.len(), 1, "a closed connection is not kept until its time is over");
        sweeping.await;
        assert_eq!((pool.len(), begun.elapsed()), (0, Duration::from_secs(3)));
    }
}
