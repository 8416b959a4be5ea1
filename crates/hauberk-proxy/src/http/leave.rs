//! Leave to be under way: given to requests when they are let in, withdrawn when a policy no longer lets them in.
//!
//! Made by the inbound request path, one [`Leave`] for what a client does by one route under one authorization; each
//! request holds an [`UnderWay`] of it until it is over, in its response's [`End`](super::exchange::End), and its body
//! another in [`Incoming`](super::incoming::Incoming), since that may go on when the response is over. When leave is
//! withdrawn whoever waits on behalf of such a request is woken and ends it; nobody looks before, and no clock runs.
//!
//! Requests of an HTTP/1 connection end with it, so nothing is woken for them.
//!
//! Estimate per request: two counts, and where streams share a connection one waker, kept in a list whose places are
//! used again (no allocation).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What requests are under way by.
#[derive(Debug)]
pub struct Leave {
    /// Whether each request can be ended by itself.
    ends: Ends,
    requests: Cell<usize>,
    is_withdrawn: Cell<bool>,
    waiting: RefCell<Waiting>,
}

/// How requests end whose leave is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Each by itself; others of the connection go on.
    Alone,
    /// With the connection that they are on.
    WithConnection,
}

/// Wakers by place, and the places that are free. As many as there ever were at once.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Leave {
    /// For requests that end so.
    pub fn new(ends: Ends) -> Rc<Self> {
        Rc::new(Self {
            ends,
            requests: Cell::default(),
            is_withdrawn: Cell::default(),
            waiting: RefCell::default(),
        })
    }

    /// Whether a request is under way by it that has not been told to end.
    pub fn is_used(&self) -> bool {
        self.requests.get() > 0 && !self.is_withdrawn.get()
    }

    /// A request begins.
    pub fn begin(self: &Rc<Self>) -> UnderWay {
        self.requests.set(self.requests.get() + 1);
        UnderWay { leave: Rc::clone(self), place: None }
    }

    /// Ends what is under way by it.
    pub fn withdraw(&self) {
        self.is_withdrawn.set(true);
        let wakers = std::mem::take(&mut *self.waiting.borrow_mut()).places;
        // Those who hold places of the list that was find out when they are woken, and give none back.
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A request that is not over, or its body.
#[derive(Debug)]
pub struct UnderWay {
    leave: Rc<Leave>,
    /// Where its waker is.
    place: Option<u32>,
}

impl UnderWay {
    /// Another part of the same request.
    pub fn also(&self) -> Self {
        self.leave.begin()
    }

    /// Whether it has to end; if not, the context is woken when it has.
    pub fn poll_withdrawn(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.leave.is_withdrawn.get() {
            return Poll::Ready(());
        }
        if self.leave.ends == Ends::WithConnection {
            return Poll::Pending;
        }
        let mut waiting = self.leave.waiting.borrow_mut();
        match self.place {
            Some(place) => match &mut waiting.places[place as usize] {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            None => self.place = waiting.add(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Does `work` as long as there is leave; none if that ended first.
    pub async fn unless_withdrawn<F: Future>(
        &mut self,
        mut work: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|cx| {
            // First, since work fails where the request's body has ended already.
            if self.leave.is_withdrawn.get() {
                return Poll::Ready(None);
            }
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => self.poll_withdrawn(cx).map(|()| None),
            }
        })
        .await
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.leave.requests.set(self.leave.requests.get() - 1);
        if let Some(place) = self.place
            && !self.leave.is_withdrawn.get()
        {
            self.leave.waiting.borrow_mut().remove(place);
        }
    }
}

impl Waiting {
    /// None if there are more than anybody can count, which then end when they move next.
    fn add(&mut self, waker: Waker) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(waker);
            return Some(place);
        }
        let place = u32::try_from(self.places.len()).ok()?;
        self.places.push(Some(waker));
        Some(place)
    }

    fn remove(&mut self, place: u32) {
        self.places[place as usize] = None;
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn all_who_wait_are_woken_once_and_places_are_used_again() {
        let leave = Leave::new(Ends::Alone);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        for _ in 0..3 {
            let mut over = leave.begin();
            assert!(over.poll_withdrawn(&cx).is_pending());
        }
        assert!(!leave.is_used());
        let mut both = [leave.begin(), leave.begin()];
        for turn in 0..4 {
            assert!(both[turn % 2].poll_withdrawn(&cx).is_pending());
        }
        assert_eq!(leave.waiting.borrow().places.len(), 2);
        let body = both[0].also();
        leave.withdraw();
        assert_eq!(count.0.load(Relaxed), 2);
        assert!(both.iter_mut().all(|under_way| under_way.poll_withdrawn(&cx).is_ready()));
        assert!(!leave.is_used(), "it is told once");
        drop((both, body));
        assert_eq!(leave.requests.get(), 0);
        assert_eq!(Arc::strong_count(&count), 2, "no waker is kept");
    }

    #[test]
    fn nobody_waits_where_the_connection_ends() {
        let leave = Leave::new(Ends::WithConnection);
        let mut under_way = leave.begin();
        let cx = Context::from_waker(Waker::noop());
        assert!(under_way.poll_withdrawn(&cx).is_pending());
        assert!(leave.waiting.borrow().places.is_empty() && leave.is_used());
    }
}
