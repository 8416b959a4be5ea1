//! Pings of an HTTP/2 connection: whether the peer is still there, and how large the window should be.
//!
//! Owned and polled by the connection's own task. Costs nothing per frame: the connection's stream counts what it has
//! read ([`Corked::received`](super::corked::Corked::received)), and this looks at that count when its timer fires.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

/// When a peer is asked whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// It is asked when nothing has come from it for so long; the moment is found to within another such interval.
    pub interval: Duration,
    /// It is gone when it does not answer within this.
    pub timeout: Duration,
    /// It is asked although no stream is open.
    pub while_idle: bool,
}

/// What the connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Grant the peer this many bytes, on the connection and on each stream.
    Window(u32),
    /// The peer is gone.
    Gone,
}

/// The pings of one connection.
#[derive(Debug)]
pub struct Keeper {
    pings: PingPong,
    alive: Option<Alive>,
    window: Option<Window>,
    /// When the ping was sent that has not come back.
    sent: Option<Instant>,
}

#[derive(Debug)]
struct Alive {
    settings: KeepAlive,
    timer: Pin<Box<Sleep>>,
    received: u64,
    /// The timer tells when the peer is gone, not when to ask it.
    asked: bool,
}

impl Keeper {
    /// None if there is nothing to do. `window` is the initial one, where it is to follow the measured bandwidth.
    pub fn new(
        pings: impl FnOnce() -> Option<PingPong>,
        alive: Option<KeepAlive>,
        window: Option<u32>,
    ) -> Option<Self> {
        if alive.is_none() && window.is_none() {
            return None;
        }
        let alive = alive.map(|settings| Alive {
            settings,
            timer: Box::pin(sleep_until(Instant::now() + settings.interval)),
            received: 0,
            asked: false,
        });
        Some(Self { pings: pings()?, alive, window: window.map(Window::new), sent: None })
    }

    /// Looks after the connection; `received` counts the bytes that have come, `is_idle` says that no stream is open.
    pub fn poll(&mut self, cx: &mut Context<'_>, received: u64, is_idle: bool) -> Poll<Advice> {
        if let Some(window) = &mut self.window
            && self.sent.is_none()
        {
            let now = Instant::now();
            if window.begins(received, now) {
                self.sent = self.pings.send_ping(Ping::opaque()).is_ok().then_some(now);
            }
        }
        if self.sent.is_some()
            && let Poll::Ready(pong) = self.pings.poll_pong(cx)
        {
            let now = Instant::now();
            let sent = self.sent.take();
            if let Some(alive) = &mut self.alive
                && alive.asked
            {
                alive.rest(now);
            }
            if let (Ok(_), Some(window), Some(sent)) = (pong, &mut self.window, sent)
                && let Some(bytes) = window.ends(received, sent, now)
            {
                return Poll::Ready(Advice::Window(bytes));
            }
        }
        let Some(alive) = &mut self.alive else { return Poll::Pending };
        while alive.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let has_spoken = received != alive.received;
            alive.received = received;
            match (has_spoken, alive.asked) {
                (false, true) => {
                    self.alive = None;
                    return Poll::Ready(Advice::Gone);
                }
                (true, _) => alive.rest(now),
                (false, false) if is_idle && !alive.settings.while_idle => alive.rest(now),
                (false, false) => {
                    if self.sent.is_none() {
                        self.sent = self.pings.send_ping(Ping::opaque()).is_ok().then_some(now);
                    }
                    alive.asked = true;
                    alive.timer.as_mut().reset(now + alive.settings.timeout);
                    // So that the answer wakes this task.
                    if self.pings.poll_pong(cx).is_ready() {
                        self.sent = None;
                        alive.rest(now);
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl Alive {
    fn rest(&mut self, now: Instant) {
        self.asked = false;
        self.timer.as_mut().reset(now + self.settings.interval);
    }
}

/// Largest window; beyond this the buffers of TCP decide.
const WINDOW_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Time between two measurements: short while the window grows, long when it has found its size.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A window that follows what arrives in a round trip, doubled.
#[derive(Debug)]
struct Window {
    bytes: u32,
    round_trip: Option<Duration>,
    best: f64,
    pause: Duration,
    not_before: Option<Instant>,
    /// Bytes received when the measurement began.
    from: u64,
    last: u64,
}

impl Window {
    fn new(bytes: u32) -> Self {
        let (pause, _) = PAUSE;
        Self { bytes, round_trip: None, best: 0.0, pause, not_before: None, from: 0, last: 0 }
    }

    /// Whether to measure now: something has arrived, and the pause is over.
    fn begins(&mut self, received: u64, now: Instant) -> bool {
        let has_arrived = received != self.last;
        self.last = received;
        let begins = has_arrived
            && self.bytes < WINDOW_BYTES_MAX
            && self.not_before.is_none_or(|at| at <= now);
        if begins {
            self.from = received;
        }
        begins
    }

    /// The measurement is over; the new window if there is one.
    fn ends(&mut self, received: u64, sent: Instant, now: Instant) -> Option<u32> {
        let took = now.saturating_duration_since(sent);
        let round_trip = match self.round_trip {
            // An eighth of the newest: one slow answer does not make a slow network.
            Some(known) => (known * 7 + took) / 8,
            None => took,
        };
        self.round_trip = Some(round_trip);
        let arrived = received - self.from;
        let bandwidth = arrived as f64 / (round_trip.as_secs_f64() * 1.5).max(1e-9);
        let grows = bandwidth >= self.best && arrived >= u64::from(self.bytes) * 2 / 3;
        self.best = self.best.max(bandwidth);
        let (shortest, longest) = PAUSE;
        self.pause = if grows { shortest } else { (self.pause * 4).min(longest) };
        self.not_before = Some(now + self.pause);
        if !grows {
            return None;
        }
        let bytes = (arrived * 2).min(u64::from(WINDOW_BYTES_MAX));
        self.bytes = u32::try_from(bytes).unwrap_or(WINDOW_BYTES_MAX);
        Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client of a connection whose server answers only while `answers`; what its keeper says within a minute.
    async fn kept(answers: bool, while_idle: bool) -> Option<(Advice, Duration)> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (client, server) =
            tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let (_sender, mut connection) = client.unwrap();
        let mut server = server.unwrap();
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(3));
        let alive = KeepAlive { interval, timeout, while_idle };
        let mut keeper = Keeper::new(|| connection.ping_pong(), Some(alive), None).unwrap();
        let began = Instant::now();
        // What has come is told by a stream in the real connection; here nothing but pongs comes.
        let keeping = std::future::poll_fn(|cx| {
            let _ = Pin::new(&mut connection).poll(cx);
            let advice = keeper.poll(cx, 0, true);
            let _ = Pin::new(&mut connection).poll(cx);
            advice
        });
        let serving = async {
            if !answers {
                std::future::pending::<()>().await;
            }
            // Polled until the connection ends, which it does with this test.
            while std::future::poll_fn(|cx| server.poll_accept(cx)).await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            advice = tokio::time::timeout(Duration::from_secs(60), keeping) => {
                advice.ok().map(|advice| (advice, began.elapsed()))
            }
            () = serving => unreachable!("it waits for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_asked_and_given_up() {
        assert_eq!(kept(false, true).await, Some((Advice::Gone, Duration::from_secs(13))));
        assert_eq!(kept(true, true).await, None, "it answers");
        assert_eq!(kept(false, false).await, None, "nobody asks an idle peer unless told to");
    }

    #[test]
    fn a_window_follows_what_arrives_in_a_round_trip() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(65_535);
        assert!(!window.begins(0, at(0)), "nothing has arrived");
        assert!(window.begins(1_000, at(0)));
        assert_eq!(window.ends(101_000, at(0), at(10)), Some(200_000));
        assert!(!window.begins(102_000, at(20)), "the pause is not over");
        assert!(window.begins(200_000, at(111)));
        assert_eq!(window.ends(210_000, at(111), at(121)), None, "slower than before");
        assert!(window.begins(300_000, at(600)));
        assert_eq!(window.ends(600_000_000, at(600), at(610)), Some(WINDOW_BYTES_MAX));
        assert!(!window.begins(700_000_000, at(60_000)), "it cannot grow further");
    }
}
