//! How many requests may be under way.
//!
//! One counter per worker and direction, against `*_MAX_IN_FLIGHT`. A request beyond the limit, or
//! while memory is short ([`memory`]), is shed at once with 503; a [`Permit`] is held until the
//! response has ended.

use std::cell::Cell;
use std::rc::Rc;

use crate::memory;

/// Counts requests under way.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    now: Rc<Cell<usize>>,
}

/// A request's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    now: Rc<Cell<usize>>,
}

impl Limit {
    /// A place, unless `max` requests are under way or memory is short.
    pub fn enter(&self, max: usize) -> Option<Permit> {
        let now = self.now.get();
        (now < max && !memory::is_short()).then(|| {
            self.now.set(now + 1);
            Permit { now: Rc::clone(&self.now) }
        })
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.now.get()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.now.set(self.now.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheds_beyond_the_limit_and_recovers() {
        let limit = Limit::default();
        let first = limit.enter(1);
        assert!(first.is_some());
        assert!(limit.enter(1).is_none());
        drop(first);
        assert_eq!(limit.in_flight(), 0);
        assert!(limit.enter(1).is_some());
    }
}
