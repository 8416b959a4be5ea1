//! One history: what happens, in which order, and what must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hauberk_control::in_memory::InMemory;
use hauberk_index::{Answer, ClusterConfig, Index, Key};
use hauberk_process::shutdown::Cause;
use hauberk_process::{Shutdown, Tasks};
use hauberk_resources::{Kind, Resource, ResourceEvent};
use hauberk_testkit::clusters::Universe;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::SETTLE_MAX;
use crate::faults::Fault;
use crate::network::{Network, Pace};
use crate::proxy::{Asked, END_MAX, Known, Proxy, agrees};

/// Proxies at a time.
const PROXIES: usize = 10;
/// Questions that a proxy begins with; some are drawn twice.
const QUESTIONS: usize = 14;
/// Things that happen, and how many of them where something is wrong and should be noticed.
const STEPS: usize = 120;
const FAULTY_STEPS: usize = 50;
/// Objects of a kind that are changed in the end until one of them changes an answer.
const LAST_CHANGES: usize = 25;
/// Events that a source may be ahead of the publisher; few, so that it is held back.
const EVENTS_AHEAD: usize = 16;
/// How long connections that broke before may still be given up: keep-alives take 15 seconds.
const AFTERMATH: Duration = Duration::from_secs(20);
/// How long it must stay quiet in the end.
const QUIET: Duration = Duration::from_secs(120);

/// What happened in a history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    events: usize,
    restarts: usize,
    crashes: usize,
    cuts: usize,
    forgotten: usize,
    proxies: usize,
    slow_proxies: usize,
    /// Kinds of objects whose last change was one of an answer.
    mattered: BTreeSet<&'static str>,
    /// Answers in the end, by kind.
    answers: BTreeMap<&'static str, usize>,
    /// How long the last proxy took to know the truth.
    settled: Duration,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.restarts += other.restarts;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.forgotten += other.forgotten;
        self.proxies += other.proxies;
        self.slow_proxies += other.slow_proxies;
        self.mattered.extend(&other.mattered);
        for (what, count) in &other.answers {
            *self.answers.entry(what).or_default() += count;
        }
    }

    /// Fails if some kind of thing hardly happened at all.
    pub(crate) fn assert_rich(&self) {
        let least = [self.restarts, self.crashes, self.cuts, self.forgotten, self.slow_proxies];
        assert!(self.events > 1000 && least.iter().all(|count| *count > 5), "{self:?}");
        assert!(self.mattered.len() >= 15, "only changes of these kinds mattered: {self:?}");
        assert!(self.answers.len() == 6 && self.answers.values().all(|n| *n > 5), "{self:?}");
    }
}

/// A control plane that runs.
struct Control {
    events: mpsc::Sender<ResourceEvent>,
    tasks: Tasks,
}

pub(crate) struct World {
    rng: SmallRng,
    /// What is wrong here, if anything.
    fault: Option<Fault>,
    /// The cluster as it is.
    truth: Index,
    /// All that happened to it.
    history: Vec<ResourceEvent>,
    network: Network,
    control: Option<Control>,
    proxies: Vec<Proxy>,
    /// What is on its way out.
    ending: Vec<Tasks>,
    counts: Counts,
}

impl World {
    pub(crate) fn new(seed: u64, fault: Option<Fault>) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            fault,
            truth: Index::new(ClusterConfig::default()),
            history: Vec::new(),
            network: Network::new(seed, fault),
            control: None,
            proxies: Vec::new(),
            ending: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Runs the history to its end.
    pub(crate) async fn run(mut self) -> Counts {
        for _ in 0..self.rng.random_range(0..60) {
            self.happen().await;
        }
        self.start_control().await;
        for _ in 0..PROXIES {
            self.add_proxy();
        }
        for _ in 0..self.fault.map_or(STEPS, |_| FAULTY_STEPS) {
            self.step().await;
            let pause = self.rng.random_range(0..1500);
            sleep(Duration::from_millis(pause)).await;
        }
        self.change_every_kind().await;
        self.network.calm();
        let answers = self.final_answers();
        self.settle(&answers).await;
        self.stay_quiet(&answers).await;
        self.end().await
    }

    /// Something happens.
    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..=34 => {
                for _ in 0..self.rng.random_range(1..8) {
                    self.happen().await;
                    let pause = self.rng.random_range(0..200);
                    sleep(Duration::from_millis(pause)).await;
                }
            }
            35..=59 => self.burst().await,
            60..=73 => {
                // In the middle of a burst, so that answers are under way.
                self.burst().await;
                let proxy = self.rng.random_range(0..self.proxies.len());
                self.network.cut(self.proxies[proxy].number);
                self.counts.cuts += 1;
                self.burst().await;
            }
            74..=77 => {
                self.network.cut_all();
                self.counts.cuts += 1;
            }
            78..=84 => self.restart_control().await,
            85..=93 => {
                let proxy = self.rng.random_range(0..self.proxies.len());
                for _ in 0..self.rng.random_range(1..5) {
                    self.proxies[proxy].forget_something(&mut self.rng);
                    self.counts.forgotten += 1;
                    if self.rng.random_bool(0.5) {
                        tokio::task::yield_now().await;
                    }
                    self.proxies[proxy].ask_something(&mut self.rng);
                }
            }
            94..=97 => {
                let proxy = self.rng.random_range(0..self.proxies.len());
                let old = self.proxies.swap_remove(proxy);
                old.assert_understood_everything();
                self.ending.push(old.end().await);
                self.add_proxy();
            }
            _ => {
                let pause = self.rng.random_range(0..60);
                sleep(Duration::from_secs(pause)).await;
            }
        }
    }

    /// Of each kind something changes in the end that somebody has asked for: nothing that comes later, and no
    /// listing, makes up for an event that is lost.
    async fn change_every_kind(&mut self) {
        let keys: BTreeSet<Key> =
            self.questions().map(|(proxy, asked)| proxy.key(&asked.ask)).collect();
        let answers =
            |truth: &Index| keys.iter().map(|key| truth.answer(key).answer).collect::<Vec<_>>();
        let mut known = answers(&self.truth);
        for kind in Kind::ALL {
            for _ in 0..LAST_CHANGES {
                let object = Universe.resource_of(&mut self.rng, *kind);
                self.happen_so(ResourceEvent::Applied(object)).await;
                let now = answers(&self.truth);
                if now != known {
                    known = now;
                    self.counts.mattered.insert(kind.name());
                    break;
                }
            }
        }
    }

    /// One event of the cluster.
    async fn happen(&mut self) {
        let event = Universe.event(&mut self.rng, &self.truth);
        self.happen_so(event).await;
    }

    /// That event, told to the control plane if there is one.
    async fn happen_so(&mut self, event: ResourceEvent) {
        self.truth.apply(event.clone());
        self.history.push(event.clone());
        self.counts.events += 1;
        let is_kept = |fault: Fault| fault.keeps_from(&event, &mut self.rng);
        if self.fault.is_some_and(is_kept) {
            return;
        }
        if let Some(control) = &self.control {
            tell(control, event).await;
        }
    }

    async fn burst(&mut self) {
        for _ in 0..self.rng.random_range(2..40) {
            self.happen().await;
        }
    }

    fn add_proxy(&mut self) {
        let mut proxy = Proxy::start(self.counts.proxies, &mut self.rng, &self.network);
        for _ in 0..QUESTIONS {
            proxy.ask_something(&mut self.rng);
        }
        self.counts.proxies += 1;
        self.counts.slow_proxies += usize::from(proxy.pace != Pace::Quick);
        self.proxies.push(proxy);
    }

    /// A new control plane that knows nothing and lists the cluster. It is asked before it has.
    async fn start_control(&mut self) {
        let (events, receiver) = mpsc::channel(EVENTS_AHEAD);
        let tasks = Tasks::new(Shutdown::new());
        let in_memory = InMemory::start(receiver, self.truth.config().clone(), &tasks);
        if self.fault == Some(Fault::Lingers) {
            tasks.spawn("lingers", std::future::pending::<()>());
        }
        if self.fault == Some(Fault::Panics) {
            tasks.spawn("panics", async { panic!("on purpose") });
        }
        self.network.route_to(Some(Arc::new(in_memory)));
        let control = Control { events, tasks };
        // At once, within some seconds, or longer than questions wait for it.
        let pause_max = [1, 200, 1000][self.rng.random_range(0..3)];
        for kind in Kind::ALL {
            let of_kind = self.truth.resources().filter(|resource| resource.kind() == *kind);
            let all: Vec<Arc<Resource>> = of_kind.cloned().collect();
            tell(&control, ResourceEvent::Relisted { kind: *kind, all }).await;
            let pause = self.rng.random_range(0..pause_max);
            sleep(Duration::from_millis(pause)).await;
        }
        self.control = Some(control);
    }

    /// The control plane goes, things happen without it, and another one comes.
    async fn restart_control(&mut self) {
        let control = self.control.take().expect("there is one");
        self.network.route_to(None);
        if self.rng.random_bool(0.5) {
            self.counts.restarts += 1;
            control.tasks.shutdown().drain(Cause::Requested);
            let grace = self.rng.random_range(0..5000);
            sleep(Duration::from_millis(grace)).await;
            self.network.cut_all();
        } else {
            self.counts.crashes += 1;
            self.network.cut_all();
            control.tasks.shutdown().drain(Cause::Requested);
        }
        self.ending.push(control.tasks);
        for _ in 0..self.rng.random_range(0..30) {
            self.happen().await;
        }
        let away = [100, 5_000, 60_000][self.rng.random_range(0..3)];
        let away = self.rng.random_range(0..away);
        sleep(Duration::from_millis(away)).await;
        self.start_control().await;
    }

    /// What an index says that has seen nothing but the final objects.
    fn final_answers(&mut self) -> BTreeMap<Key, Answer> {
        let mut fresh = Index::new(self.truth.config().clone());
        for resource in self.truth.resources() {
            fresh.apply(ResourceEvent::Applied(Arc::clone(resource)));
        }
        let mut answers = BTreeMap::new();
        for proxy in &self.proxies {
            for asked in &proxy.asked {
                let key = proxy.key(&asked.ask);
                let answer = fresh.answer(&key).answer;
                let what = match answer {
                    Answer::Inbound(_) => "inbound",
                    Answer::Outbound(_) => "outbound",
                    Answer::Endpoints(_) => "endpoints",
                    Answer::Profile(_) => "profile",
                    Answer::Status(_) => unreachable!("proxies do not ask for statuses"),
                    Answer::Refused(hauberk_index::Refusal::Contradiction(_)) => "contradiction",
                    Answer::Refused(_) => "refusal",
                };
                *self.counts.answers.entry(what).or_default() += 1;
                answers.insert(key, answer);
            }
        }
        answers
    }

    /// Waits until every proxy knows the truth.
    async fn settle(&mut self, answers: &BTreeMap<Key, Answer>) {
        let began = Instant::now();
        loop {
            let wrong = self.wrong(answers);
            let Some((proxy, asked)) = wrong.first() else { break };
            assert!(
                began.elapsed() < SETTLE_MAX,
                "{} of the views are wrong; the first is that of proxy {} ({:?}):\nasked  {:?}\nknows  {:?}\ntruth  {:?}",
                wrong.len(),
                proxy.number,
                proxy.pace,
                asked.ask,
                asked.known(),
                answers[&proxy.key(&asked.ask)],
            );
            sleep(Duration::from_millis(250)).await;
        }
        self.counts.settled = began.elapsed();
    }

    /// The questions whose live answers are not the truth. Where the cluster contradicts itself there is none.
    fn wrong(&self, answers: &BTreeMap<Key, Answer>) -> Vec<(&Proxy, &Asked)> {
        let is_wrong = |(proxy, asked): &(&Proxy, &Asked)| {
            agrees(&answers[&proxy.key(&asked.ask)], &asked.known()) == Some(false)
        };
        self.questions().filter(is_wrong).collect()
    }

    /// The questions to which there is no answer and whose live answers never were one. One walk through the history
    /// serves all of them.
    fn lies(&self, answers: &BTreeMap<Key, Answer>) -> Vec<(&Proxy, &Asked)> {
        let has_none = |(proxy, asked): &(&Proxy, &Asked)| {
            agrees(&answers[&proxy.key(&asked.ask)], &asked.known()).is_none()
        };
        let mut open: Vec<_> = self.questions().filter(has_none).collect();
        // Nothing at all is no lie.
        open.retain(|(_, asked)| asked.known() != Known::Pending);
        let mut then = Index::new(self.truth.config().clone());
        let mut events = self.history.iter();
        loop {
            open.retain(|(proxy, asked)| {
                let answer = then.answer(&proxy.key(&asked.ask)).answer;
                agrees(&answer, &asked.known()) != Some(true)
            });
            let Some(event) = events.next() else { return open };
            then.apply(event.clone());
        }
    }

    fn questions(&self) -> impl Iterator<Item = (&Proxy, &Asked)> {
        self.proxies.iter().flat_map(|proxy| proxy.asked.iter().map(move |asked| (proxy, asked)))
    }

    /// Nothing happens, and nobody makes a noise about it.
    async fn stay_quiet(&self, answers: &BTreeMap<Key, Answer>) {
        const BROKEN: [&str; 4] = ["Unavailable", "Unknown", "Cancelled", "DeadlineExceeded"];
        let ends = |codes: &[&'static str]| -> Vec<u64> {
            self.proxies.iter().map(|proxy| proxy.ends(codes)).collect()
        };
        sleep(AFTERMATH).await;
        let (absent, broken) = (ends(&["NotFound"]), ends(&BROKEN));
        sleep(QUIET).await;
        let wrong = self.wrong(answers);
        assert!(wrong.is_empty(), "{} of the views have become wrong again", wrong.len());
        if let Some((proxy, asked)) = self.lies(answers).first() {
            let (ask, known) = (&asked.ask, asked.known());
            panic!("proxy {} was never told so:\nasked  {ask:?}\nknows  {known:?}", proxy.number);
        }
        assert_eq!(broken, ends(&BROKEN), "streams ended though nothing happened");
        for (n, proxy) in self.proxies.iter().enumerate() {
            let asks = ends(&["NotFound"])[n] - absent[n];
            let refused =
                |asked: &&Asked| matches!(answers[&proxy.key(&asked.ask)], Answer::Refused(_));
            // Each is asked for again after 30 seconds.
            let most = proxy.asked.iter().filter(refused).count() as u64 * 5;
            assert!(asks <= most, "proxy {n} asked {asks} times for what is not there, not {most}");
        }
    }

    /// Everything ends, and nothing went wrong on the way.
    async fn end(mut self) -> Counts {
        for proxy in self.proxies.drain(..) {
            proxy.assert_understood_everything();
            self.ending.push(proxy.end().await);
        }
        let control = self.control.take().expect("there is one");
        self.network.route_to(None);
        control.tasks.shutdown().drain(Cause::Requested);
        self.ending.push(control.tasks);
        self.network.cut_all();
        self.ending.push(self.network.tasks().clone());
        for tasks in self.ending.drain(..) {
            tasks.join(END_MAX).await.unwrap_or_else(|unfinished| panic!("{unfinished}"));
            let panicked: Vec<_> = tasks.states().into_iter().filter(|s| s.panics > 0).collect();
            assert_eq!(panicked, [], "tasks panicked");
        }
        self.counts
    }
}

/// Tells the control plane; the publisher must be ready to hear it.
async fn tell(control: &Control, event: ResourceEvent) {
    let told = timeout(Duration::from_secs(60), control.events.send(event)).await;
    told.expect("the publisher takes events").expect("the publisher runs");
}
