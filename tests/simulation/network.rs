//! Connections in memory, with the weather of a network: slow ones, ones that stand still, and cuts.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hauberk_control::in_memory::{InMemory, Port};
use hauberk_process::{Shutdown, Tasks};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use crate::faults::{Fault, tamper};

/// What a connection holds in each direction, in bytes; beyond that its writer waits.
const BUFFER_BYTES: usize = 1024;

/// How long a connection lasts under [`Fault::Cuts`].
const CUT_AFTER: Duration = Duration::from_secs(30);

/// How a connection carries bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Quick,
    /// A few bytes at a time, with a pause after each: some 10 kB/s.
    Slow,
    /// At once, but now and then nothing moves, at times for longer than keep-alives allow.
    Stalling,
}

/// All connections between proxies and the control plane. Cloning copies one `Arc`.
#[derive(Clone)]
pub(crate) struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    fault: Option<Fault>,
    tasks: Tasks,
    /// Who answers at the control plane's address.
    control: Mutex<Option<Arc<InMemory>>>,
    /// Connections made so far by each proxy, and the signal that cuts the present ones.
    links: Mutex<HashMap<usize, Links>>,
    /// Whether the weather is fine from now on.
    is_calm: watch::Sender<bool>,
}

struct Links {
    made: u64,
    cut: watch::Sender<()>,
}

impl Network {
    pub(crate) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let shared = Shared {
            seed,
            fault,
            tasks: Tasks::new(Shutdown::new()),
            control: Mutex::default(),
            links: Mutex::default(),
            is_calm: watch::channel(false).0,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.shared.fault
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    /// From now on this one answers, or nobody.
    pub(crate) fn route_to(&self, control: Option<Arc<InMemory>>) {
        *self.shared.control.lock().expect("not poisoned") = control;
    }

    /// Breaks the present connections of a proxy.
    pub(crate) fn cut(&self, proxy: usize) {
        if let Some(links) = self.shared.links.lock().expect("not poisoned").get(&proxy) {
            links.cut.send_replace(());
        }
    }

    /// Breaks all present connections.
    pub(crate) fn cut_all(&self) {
        for links in self.shared.links.lock().expect("not poisoned").values() {
            links.cut.send_replace(());
        }
    }

    /// Ends pauses, for good.
    pub(crate) fn calm(&self) {
        self.shared.is_calm.send_replace(true);
    }

    /// Connects a proxy with a port of the control plane.
    pub(crate) fn dial(&self, proxy: usize, pace: Pace, port: Port) -> io::Result<DuplexStream> {
        let control = self.shared.control.lock().expect("not poisoned").clone();
        let control = control.ok_or(io::ErrorKind::ConnectionRefused)?;
        let mut links = self.shared.links.lock().expect("not poisoned");
        let links =
            links.entry(proxy).or_insert_with(|| Links { made: 0, cut: watch::channel(()).0 });
        links.made += 1;
        // The same weather for the same connection, whoever connects before it.
        let seed = self.shared.seed ^ ((proxy as u64) << 32) ^ links.made;
        let (near, far) = (tokio::io::duplex(BUFFER_BYTES), tokio::io::duplex(BUFFER_BYTES));
        let mut cut = links.cut.subscribe();
        let weather = Weather { pace, is_calm: self.shared.is_calm.subscribe() };
        let fault = self.shared.fault;
        let rng = move |salt: u64| SmallRng::seed_from_u64(seed ^ (salt << 60));
        if let Some(fault) = fault.filter(|fault| fault.tampers()) {
            self.shared.tasks.spawn("link", async move {
                tokio::select! {
                    // However it ends, both ends notice.
                    _ = tamper(near.1, far.1, fault, rng(3)) => {}
                    _ = cut.changed() => {}
                }
            });
        } else {
            self.shared.tasks.spawn("link", async move {
                let (from_proxy, to_proxy) = tokio::io::split(near.1);
                let (from_control, to_control) = tokio::io::split(far.1);
                tokio::select! {
                    () = weather.clone().carry(from_proxy, to_control, rng(1)) => {}
                    () = weather.clone().carry(from_control, to_proxy, rng(2)) => {}
                    _ = cut.changed() => {}
                    () = tokio::time::sleep(CUT_AFTER), if fault == Some(Fault::Cuts) => {}
                }
            });
        }
        control.accept(port, far.0);
        Ok(near.0)
    }
}

#[derive(Clone)]
struct Weather {
    pace: Pace,
    is_calm: watch::Receiver<bool>,
}

impl Weather {
    /// Carries bytes one way until either end is gone.
    async fn carry(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut rng: SmallRng,
    ) {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let most = match self.pace {
                Pace::Slow => rng.random_range(16..=256),
                Pace::Quick | Pace::Stalling => BUFFER_BYTES,
            };
            let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { return };
            let pause = match self.pace {
                Pace::Quick => Duration::ZERO,
                Pace::Slow => Duration::from_millis(rng.random_range(1..30)),
                Pace::Stalling if rng.random_bool(0.03) => {
                    Duration::from_millis(rng.random_range(500..40_000))
                }
                Pace::Stalling => Duration::ZERO,
            };
            if !pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = self.is_calm.wait_for(|calm| *calm) => {}
                }
            }
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }
}
