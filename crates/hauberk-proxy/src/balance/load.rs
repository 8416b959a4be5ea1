//! How loaded an endpoint is: peak-sensitive moving average of response time, times requests under way.
//!
//! Called by the balancer at each pick (reading) and by a lease when a response begins or a
//! request is given up (writing). Pure: the time is an argument.
//!
//! The estimate rises at once to a worse sample and sinks slowly towards better ones, so a slow
//! endpoint is avoided quickly and tried again carefully. With no traffic the estimate fades
//! towards zero, which is what brings a once slow endpoint back into play. This is "peak EWMA"
//! as Finagle described it and as linkerd2-proxy v2 uses it with the same defaults (30 ms for an endpoint
//! nobody has measured, 10 s of memory).
//!
//! Cost: one `exp` per read; no allocation, no lock (one worker owns each value).

use std::cell::Cell;
use std::time::Duration;

use hauberk_model::outbound::PeakEwma;
use tokio::time::Instant;

/// Smallest accepted time constant and initial value; keeps the arithmetic away from zero.
const FLOOR: Duration = Duration::from_millis(1);

/// The running estimate of one endpoint, as one worker sees it.
#[derive(Debug)]
pub struct Load {
    estimate_ns: Cell<f64>,
    updated: Cell<Instant>,
    pending: Cell<u32>,
    decay_ns: f64,
}

impl Load {
    /// An endpoint nobody has used yet.
    pub fn new(settings: PeakEwma, now: Instant) -> Self {
        Self {
            estimate_ns: Cell::new(settings.default_rtt.max(FLOOR).as_nanos() as f64),
            updated: Cell::new(now),
            pending: Cell::new(0),
            decay_ns: settings.decay.max(FLOOR).as_nanos() as f64,
        }
    }

    /// What one more request would cost here; only comparable with other endpoints of the same pool.
    pub fn cost(&self, now: Instant) -> f64 {
        self.estimate_ns.get() * self.remains(now) * f64::from(self.pending.get() + 1)
    }

    /// A request was handed to the endpoint.
    pub fn begin(&self) {
        self.pending.set(self.pending.get() + 1);
    }

    /// The request answered, or was given up, `rtt` after it began.
    pub fn finish(&self, rtt: Duration, now: Instant) {
        self.abandon();
        self.sample(rtt, now);
    }

    /// The endpoint took `rtt` to answer; what was asked goes on.
    pub fn sample(&self, rtt: Duration, now: Instant) {
        let sample = rtt.as_nanos() as f64;
        let estimate = self.estimate_ns.get();
        let next = if sample > estimate {
            sample
        } else {
            let remains = self.remains(now);
            estimate * remains + sample * (1.0 - remains)
        };
        self.estimate_ns.set(next);
        self.updated.set(now);
    }

    /// A request ended without saying anything about the endpoint's speed.
    pub fn abandon(&self) {
        self.pending.set(self.pending.get().saturating_sub(1));
    }

    /// Requests handed over and not yet answered.
    pub fn pending(&self) -> u32 {
        self.pending.get()
    }

    /// Share of the old estimate still believed at `now`, between 0 and 1.
    fn remains(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated.get());
        (-(elapsed.as_nanos() as f64) / self.decay_ns).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1_000_000.0;

    fn settings(initial_ms: u64, decay_ms: u64) -> PeakEwma {
        PeakEwma {
            default_rtt: Duration::from_millis(initial_ms),
            decay: Duration::from_millis(decay_ms),
        }
    }

    #[test]
    fn starts_at_the_initial_round_trip() {
        let now = Instant::now();
        assert_eq!(Load::new(PeakEwma::default(), now).cost(now), 30.0 * MS);
        assert_eq!(Load::new(settings(0, 0), now).cost(now), MS, "floored at one millisecond");
    }

    #[test]
    fn grows_with_pending_requests() {
        let now = Instant::now();
        let load = Load::new(settings(10, 10_000), now);
        load.begin();
        load.begin();
        assert_eq!(load.cost(now), 30.0 * MS);
        assert_eq!(load.pending(), 2);
    }

    #[test]
    fn a_worse_sample_replaces_the_estimate_at_once() {
        let now = Instant::now();
        let load = Load::new(settings(10, 10_000), now);
        load.begin();
        load.finish(Duration::from_millis(500), now);
        assert_eq!(load.cost(now), 500.0 * MS);
    }

    #[test]
    fn better_samples_sink_in_slowly_and_silence_fades() {
        let now = Instant::now();
        let load = Load::new(settings(100, 10_000), now);
        load.begin();
        let later = now + Duration::from_secs(1);
        load.finish(Duration::from_millis(1), later);
        let cost = load.cost(later) / MS;
        let expected = 100.0 * (-0.1f64).exp() + (1.0 - (-0.1f64).exp());
        assert!((cost - expected).abs() < 0.001, "{cost} instead of {expected}");
        assert!(load.cost(later + Duration::from_secs(60)) < cost * MS / 100.0);
    }
}
