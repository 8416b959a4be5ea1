//! Who may wait for an endpoint, and for how long.
//!
//! The common request never comes here: it is given an endpoint in the same breath. Only when no
//! endpoint is available a request parks, and then three bounds hold:
//!
//! - at most `capacity` requests wait; one more is refused with [`Refusal::Full`];
//! - once somebody has waited `failfast_timeout`, the gate shuts: all who wait, and all who come,
//!   are refused with [`Refusal::Failfast`] at once, and routing may prefer another backend;
//! - the gate opens again as soon as an endpoint is available, without a probe of its own.
//!
//! The gate is level-triggered: it holds no timer, the waiting requests bring the time. Pure; the
//! waiting itself is in [`crate::balance`].

use std::cell::Cell;

use hauberk_model::outbound::Queue;
use tokio::time::Instant;

/// Why no endpoint was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No endpoint became available in time, or none had been for so long that waiting is pointless.
    #[error("no endpoint available in time")]
    Failfast,
    /// Too many requests are waiting already.
    #[error("too many requests are waiting for an endpoint")]
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Somebody waits; at this time patience ends.
    Waiting(Instant),
    Shut,
}

/// The gate in front of one pool of endpoints.
#[derive(Debug)]
pub struct Gate {
    settings: Queue,
    state: Cell<State>,
    waiting: Cell<usize>,
    shut_count: Cell<u64>,
    open_count: Cell<u64>,
}

/// A place in the queue; given back when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    gate: &'a Gate,
    tries: bool,
    /// When waiting ends in a refusal.
    pub deadline: Instant,
}

impl Gate {
    /// A gate that is open.
    pub fn new(settings: Queue) -> Self {
        Self {
            settings,
            state: Cell::new(State::Open),
            waiting: Cell::new(0),
            shut_count: Cell::new(0),
            open_count: Cell::new(0),
        }
    }

    /// Asks to wait. Called only after a pick found nothing.
    pub fn enter(&self, now: Instant) -> Result<Place<'_>, Refusal> {
        if self.waiting.get() >= self.settings.capacity {
            return Err(Refusal::Full);
        }
        let deadline = match self.state.get() {
            State::Shut => return Err(Refusal::Failfast),
            State::Waiting(until) => until,
            State::Open => {
                let until = now + self.settings.failfast_timeout;
                self.state.set(State::Waiting(until));
                until
            }
        };
        self.waiting.set(self.waiting.get() + 1);
        Ok(Place { gate: self, tries: false, deadline })
    }

    /// A sound endpoint was found: opens the gate if it was shut and ends the common countdown.
    pub fn found(&self) {
        if self.state.replace(State::Open) == State::Shut {
            self.open_count.set(self.open_count.get() + 1);
        }
    }

    /// A waiting request reached its deadline.
    pub fn expire(&self, now: Instant) {
        if let State::Waiting(until) = self.state.get()
            && until <= now
        {
            self.state.set(State::Shut);
            self.shut_count.set(self.shut_count.get() + 1);
        }
    }

    /// Whether requests are being refused at once.
    pub fn is_shut(&self) -> bool {
        self.state.get() == State::Shut
    }

    /// Requests waiting at this moment.
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// How often the gate has shut and opened again.
    pub fn transitions(&self) -> (u64, u64) {
        (self.shut_count.get(), self.open_count.get())
    }
}

impl Place<'_> {
    /// The wait is over, with an endpoint that may well fail again: the countdown goes on.
    pub fn tries(mut self) {
        self.tries = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.gate.waiting.get() - 1;
        self.gate.waiting.set(left);
        // A countdown nobody waits for would make the next request expire early.
        if left == 0 && !self.tries && matches!(self.gate.state.get(), State::Waiting(_)) {
            self.gate.state.set(State::Open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn gate(capacity: usize) -> Gate {
        Gate::new(Queue { capacity, failfast_timeout: TIMEOUT })
    }

    #[test]
    fn refuses_one_more_than_the_capacity() {
        let now = Instant::now();
        let gate = gate(2);
        let _first = gate.enter(now).unwrap();
        let second = gate.enter(now).unwrap();
        assert_eq!(gate.enter(now).unwrap_err(), Refusal::Full);
        drop(second);
        assert!(gate.enter(now).is_ok());
    }

    #[test]
    fn all_who_wait_share_the_first_deadline() {
        let now = Instant::now();
        let gate = gate(10);
        let first = gate.enter(now).unwrap();
        let late = gate.enter(now + TIMEOUT / 2).unwrap();
        assert_eq!(first.deadline, late.deadline);
    }

    #[test]
    fn shuts_after_the_timeout_and_opens_with_the_first_find() {
        let now = Instant::now();
        let gate = gate(10);
        let place = gate.enter(now).unwrap();
        gate.expire(now + TIMEOUT / 2);
        assert!(!gate.is_shut());
        gate.expire(now + TIMEOUT);
        assert!(gate.is_shut());
        drop(place);
        assert_eq!(gate.enter(now + TIMEOUT * 9).unwrap_err(), Refusal::Failfast);
        gate.found();
        assert!(gate.enter(now + TIMEOUT * 9).is_ok());
        assert_eq!(gate.transitions(), (1, 1));
    }

    #[test]
    fn an_uncertain_endpoint_does_not_stop_the_countdown() {
        let now = Instant::now();
        let gate = gate(10);
        let place = gate.enter(now).unwrap();
        let deadline = place.deadline;
        place.tries();
        assert_eq!(gate.enter(now + TIMEOUT / 2).unwrap().deadline, deadline);
    }

    #[test]
    fn an_abandoned_wait_does_not_shorten_the_next_one() {
        let now = Instant::now();
        let gate = gate(10);
        drop(gate.enter(now).unwrap());
        let later = now + TIMEOUT * 2;
        assert_eq!(gate.enter(later).unwrap().deadline, later + TIMEOUT);
    }
}
