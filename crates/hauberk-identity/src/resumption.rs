//! Resuming TLS sessions: a second connection to a peer without a second proof of who both are.
//!
//! A full handshake costs each side about 0.4 ms: two signatures and two chains of certificates. A
//! resumed one (RFC 8446 section 2.2) proves instead that both know a secret of an earlier
//! connection, on which they did prove it. The keys are exchanged anew (`psk_dhe_ke`, the only mode
//! that rustls speaks), so what passes stays secret even if a ticket's key is found later; there is
//! no early data. What a resumed session may not do is outlive the proof:
//!
//! - **Our certificate or trust anchors changed:** [`Certified`](crate::Certified) is built anew
//!   for each certificate, with keys of its own for tickets, so tickets of an earlier one cannot be
//!   read; and rustls offers a session only under the certificate and verifier it was made with.
//! - **The peer's certificate has ended:** tickets live for [`LIFETIME`] at most, and after a resumed
//!   handshake the peer's chain, which is part of the session, must still be valid
//!   ([`Certified::still_holds`](crate::Certified::still_holds)).
//! - **It is another peer:** the expected identity is checked after every handshake, resumed or
//!   not, and [`Sessions`] belong to one address.
//!
//! The server keeps nothing: the session travels in the ticket, sealed with a key that lives in
//! memory only and is replaced every six hours. The client keeps at most [`TICKETS_MAX`] tickets for
//! one peer, about 3 KiB each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::ServerName;

/// How long a session may be resumed. Long enough for clients that connect again and again, short
/// beside the life of a leaf, which is a day.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// Tickets a client keeps for one peer. Each connection uses one and brings one, so this bounds
/// only how many of a burst can resume.
pub const TICKETS_MAX: usize = 16;

/// Whether a server lets its clients resume sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tickets {
    /// Every handshake is a full one, as with linkerd2-proxy.
    #[default]
    Off,
    /// Each connection gives its client one ticket.
    On,
}

/// Seals tickets with fresh keys; nothing if there is no randomness, which costs only time.
pub(crate) fn ticketer(time: &Arc<dyn TimeProvider>) -> Option<Arc<dyn ProducesTickets>> {
    let keys = Ticketer::new().ok()?;
    Some(Arc::new(Dated { keys, time: Arc::clone(time) }))
}

/// Tickets that say when they were made, because rustls lets them live as long as their key.
#[derive(Debug)]
struct Dated {
    keys: Arc<dyn ProducesTickets>,
    time: Arc<dyn TimeProvider>,
}

impl Dated {
    fn now(&self) -> Option<u64> {
        self.time.current_time().map(|now| now.as_secs())
    }
}

impl ProducesTickets for Dated {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs().try_into().unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let dated = [&self.now()?.to_be_bytes(), plain].concat();
        self.keys.encrypt(&dated)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let dated = self.keys.decrypt(cipher)?;
        let (made_at, plain) = dated.split_first_chunk()?;
        // A clock that was set back makes tickets of the future; they are refused too.
        let age = self.now()?.checked_sub(u64::from_be_bytes(*made_at))?;
        (age <= LIFETIME.as_secs()).then(|| plain.to_vec())
    }
}

/// The tickets of one peer, as a client keeps them. Each is used once.
#[derive(Debug, Default)]
pub struct Sessions {
    tickets: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl Sessions {
    /// Tickets held now, some of which may have ended.
    pub fn len(&self) -> usize {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is no ticket.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() >= TICKETS_MAX {
            tickets.pop_front();
        }
        tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).pop_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::UnixTime;

    #[derive(Clone, Debug)]
    struct Clock(Arc<Mutex<u64>>);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            let seconds = *self.0.lock().expect("no panic while held");
            Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        }
    }

    #[test]
    fn a_server_refuses_tickets_that_are_old_or_foreign_or_of_the_future() {
        let clock = Clock(Arc::new(Mutex::new(1_800_000_000)));
        let time: Arc<dyn TimeProvider> = Arc::new(clock.clone());
        let (own, other) = (ticketer(&time).expect("random"), ticketer(&time).expect("random"));
        let ticket = own.encrypt(b"a session").expect("sealed");
        let opened = |after: i64| {
            let seconds = 1_800_000_000_u64.saturating_add_signed(after);
            *clock.0.lock().expect("no panic while held") = seconds;
            own.decrypt(&ticket)
        };
        assert_eq!(opened(0).as_deref(), Some(&b"a session"[..]));
        assert!(opened(600).is_some());
        assert!(opened(601).is_none());
        assert!(opened(-1).is_none());
        assert!(opened(0).is_some() && other.decrypt(&ticket).is_none());
        assert!(own.decrypt(b"").is_none() && own.decrypt(&ticket[1..]).is_none());
    }
}
