//! A proxy without its data plane: the real client of the control plane, and questions it keeps open.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use hauberk_control::in_memory::Port as ControlPort;
use hauberk_index::{Answer, ClusterConfig, Key, Question, Refusal};
use hauberk_model::{
    Authority, Endpoint, Endpoints, InboundPolicy, OutboundPolicy, Port, Profile,
    settings::value::Address,
};
use hauberk_process::metrics::Registry;
use hauberk_process::shutdown::Cause;
use hauberk_process::{Shutdown, Tasks};
use hauberk_proxy::control::client::Connector;
use hauberk_proxy::control::{Directory, Live, Lookup, Target};
use hauberk_proxy::settings::{self, Config};
use hauberk_proxy::telemetry::{labels::Labels, metrics::Control as ControlMetrics};
use hauberk_testkit::ca::TestCa;
use hauberk_testkit::clusters::{
    HOST_IPS, NAMESPACES, OUTSIDE, POD_IPS, PODS, PORTS, SERVICE_IPS, SERVICES,
};
use hauberk_wire as wire;
use rand::{Rng, rngs::SmallRng};

use crate::faults::{self, Fault};
use crate::network::{Network, Pace};

/// How far the control plane may be ahead of a slow reader, in bytes a stream: less than one policy, so that it has to
/// skip what came between.
const WINDOW_BYTES: u32 = 256;

/// Where the control plane's services are, as the proxies' settings say.
const DESTINATION: &str = "10.255.0.1:8086";
const POLICY: &str = "10.255.0.1:8090";

/// A question that a proxy keeps open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Endpoints(Authority),
    Profile(Target),
    Outbound(Target),
    Inbound(Port),
}

/// The live answer to a question.
enum View {
    Endpoints(Live<Endpoints>),
    Profile(Live<Profile>),
    Outbound(Live<OutboundPolicy>),
    Inbound(Live<InboundPolicy>),
}

/// What a proxy knows, or should know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    Pending,
    Absent,
    Endpoints(BTreeMap<SocketAddr, Endpoint>),
    Profile(Profile),
    Outbound(OutboundPolicy),
    Inbound(InboundPolicy),
}

/// A question and its live answer.
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    view: View,
}

pub(crate) struct Proxy {
    pub(crate) number: usize,
    pub(crate) pace: Pace,
    workload: String,
    context: String,
    directory: Directory,
    metrics: ControlMetrics,
    pub(crate) tasks: Tasks,
    pub(crate) asked: Vec<Asked>,
}

/// The settings that all proxies share.
fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let anchors = TestCa::new(SystemTime::now()).anchors().to_pem();
        let settings = [
            ("DESTINATION_SVC_ADDR", DESTINATION),
            ("DESTINATION_SVC_NAME", "destination.example"),
            ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8"),
            ("POLICY_SVC_ADDR", POLICY),
            ("POLICY_SVC_NAME", "policy.example"),
            ("POLICY_WORKLOAD", "one:a"),
            ("IDENTITY_SVC_ADDR", "127.0.0.1:1"),
            ("IDENTITY_LOCAL_NAME", "x.one.serviceaccount.identity.linkerd.cluster.local"),
            ("IDENTITY_TRUST_ANCHORS", &anchors),
            ("IDENTITY_TOKEN_FILE", "/dev/null"),
        ];
        let settings = settings.iter();
        let environment: BTreeMap<String, String> = settings
            .map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), (*value).to_owned()))
            .collect();
        settings::read(&environment, 1).expect("settings")
    })
}

impl Proxy {
    /// A proxy somewhere in the cluster that has asked nothing yet.
    pub(crate) fn start(number: usize, rng: &mut SmallRng, network: &Network) -> Self {
        let namespace = NAMESPACES[rng.random_range(0..NAMESPACES.len())];
        let workload = match rng.random_range(0..5) {
            0 => format!(r#"{{"ns":"{namespace}","external_workload":"machine"}}"#),
            1 => format!("{namespace}:{}", PODS[1]),
            _ => {
                let pod = PODS[rng.random_range(0..PODS.len())];
                format!(r#"{{"ns":"{namespace}","pod":"{pod}"}}"#)
            }
        };
        let node = ["node-a", "node-b", ""][rng.random_range(0..3)];
        let context = format!(r#"{{"ns":"{namespace}","nodeName":"{node}"}}"#);
        let pace = match rng.random_range(0..4) {
            0 => Pace::Slow,
            1 => Pace::Stalling,
            _ => Pace::Quick,
        };

        let mut config = config().clone();
        config.policy_workload = workload.as_str().into();
        config.destination_context = context.as_str().into();
        let (tasks, metrics) = (Tasks::new(Shutdown::new()), ControlMetrics::default());
        let tampers = network.fault().is_some_and(Fault::tampers);
        let window_bytes = if tampers { faults::WINDOW_BYTES } else { WINDOW_BYTES };
        let network = network.clone();
        let dial = move |address: &Address| {
            let port = match address {
                Address::Socket(address) if address.to_string() == POLICY => ControlPort::Policy,
                Address::Socket(_) | Address::Name { .. } => ControlPort::Destination,
            };
            network.dial(number, pace, port)
        };
        let connector = Connector::in_memory(window_bytes, Arc::new(dial), &tasks);
        let directory = Directory::connect(&config, &connector, &metrics, &tasks);
        Self { number, pace, workload, context, directory, metrics, tasks, asked: Vec::new() }
    }

    /// Asks something at random, if it is not asked already.
    pub(crate) fn ask_something(&mut self, rng: &mut SmallRng) {
        let ask = random_ask(rng);
        if self.asked.iter().any(|asked| asked.ask == ask) {
            return;
        }
        let view = match &ask {
            Ask::Endpoints(authority) => View::Endpoints(self.directory.endpoints(authority)),
            Ask::Profile(target) => View::Profile(self.directory.profile(target)),
            Ask::Outbound(target) => View::Outbound(self.directory.outbound_policy(target)),
            Ask::Inbound(port) => View::Inbound(self.directory.inbound_policy(*port)),
        };
        self.asked.push(Asked { ask, view });
    }

    /// Stops caring for some question.
    pub(crate) fn forget_something(&mut self, rng: &mut SmallRng) {
        if !self.asked.is_empty() {
            self.asked.swap_remove(rng.random_range(0..self.asked.len()));
        }
    }

    /// The key of one of its questions in the index.
    pub(crate) fn key(&self, ask: &Ask) -> Key {
        let config = ClusterConfig::default();
        let question = Question::new(&config);
        let key = match ask {
            Ask::Endpoints(authority) => question.endpoints(&authority.to_string(), &self.context),
            Ask::Profile(target) => question.profile(&target.to_string(), &self.context),
            Ask::Outbound(Target::Address(address)) => {
                question.outbound_to_address(&self.workload, *address)
            }
            Ask::Outbound(Target::Name(name)) => {
                question.outbound_to_authority(&self.workload, &name.to_string())
            }
            Ask::Inbound(port) => question.inbound(&self.workload, port.get().into()),
        };
        key.expect("a question that can be asked")
    }

    /// Streams that ended so far with one of these codes.
    pub(crate) fn ends(&self, codes: &[&'static str]) -> u64 {
        let mut sum = 0;
        for service in ["outbound-policy", "inbound-policy", "profile", "endpoints"] {
            for code in codes {
                let labels = Labels::new().with("service", service).with("code", *code);
                sum += self.metrics.stream_ends.get_or_create(&labels).get();
            }
        }
        sum
    }

    /// Fails if anything that was received could not be understood.
    pub(crate) fn assert_understood_everything(&self) {
        let mut registry = Registry::default();
        registry.register("invalid", "invalid", self.metrics.invalid_messages.clone());
        let text = registry.text();
        assert!(!text.contains("invalid_total"), "{text}");
    }

    /// Ends it; its tasks are on their way out.
    pub(crate) async fn end(self) -> Tasks {
        self.tasks.shutdown().drain(Cause::Requested);
        self.tasks.shutdown().finish(Duration::ZERO).await;
        self.tasks
    }
}

impl Asked {
    /// What the proxy knows now.
    pub(crate) fn known(&self) -> Known {
        match &self.view {
            View::Endpoints(live) => known(live, |set: &Endpoints| {
                let endpoint = |endpoint: &Arc<Endpoint>| Endpoint::clone(endpoint);
                let all = set.by_address.iter();
                Known::Endpoints(all.map(|(address, e)| (*address, endpoint(e))).collect())
            }),
            View::Profile(live) => known(live, |profile: &Profile| Known::Profile(profile.clone())),
            View::Outbound(live) => {
                known(live, |policy: &OutboundPolicy| Known::Outbound(policy.clone()))
            }
            View::Inbound(live) => {
                known(live, |policy: &InboundPolicy| Known::Inbound(policy.clone()))
            }
        }
    }
}

fn known<T>(live: &Live<T>, value: impl FnOnce(&T) -> Known) -> Known {
    match &*live.borrow() {
        Lookup::Pending => Known::Pending,
        Lookup::Absent => Known::Absent,
        Lookup::Known(answer) => value(answer),
    }
}

/// Whether a proxy that knows `known` knows the truth; `None` if the truth leaves it as it was.
pub(crate) fn agrees(answer: &Answer, known: &Known) -> Option<bool> {
    let no_endpoints = |known: &Known| matches!(known, Known::Endpoints(set) if set.is_empty());
    Some(match answer {
        Answer::Endpoints(endpoints) => *known == Known::Endpoints(as_told(endpoints)),
        Answer::Profile(profile) => {
            let message = wire::profile::to_wire(profile);
            let (told, problems) = wire::profile::from_wire(message).expect("valid");
            assert_eq!(problems, []);
            *known == Known::Profile(told)
        }
        Answer::Outbound(policy) => {
            let told = wire::outbound::from_wire(wire::outbound::to_wire(policy));
            *known == Known::Outbound(told.expect("valid"))
        }
        Answer::Inbound(policy) => {
            let told = wire::inbound::from_wire(wire::inbound::to_wire(policy));
            *known == Known::Inbound(told.expect("valid"))
        }
        // A stream of endpoints stays open when its service goes, and says that there are none.
        Answer::Refused(Refusal::NotFound(_) | Refusal::Invalid(_)) => {
            *known == Known::Absent || no_endpoints(known)
        }
        Answer::Refused(Refusal::Contradiction(_)) => return None,
        Answer::Status(_) => unreachable!("proxies do not ask for statuses"),
    })
}

/// Endpoints as the wire carries them, each with the labels of the set.
fn as_told(endpoints: &Endpoints) -> BTreeMap<SocketAddr, Endpoint> {
    let mut told = Endpoints::default();
    for update in wire::destination::updates(None, endpoints, true) {
        let message = wire::destination::to_wire(&update);
        let (update, problems) = wire::destination::from_wire(message).expect("valid");
        assert_eq!(problems, []);
        update.apply(&mut told);
    }
    let labelled = told.by_address.iter().map(|(address, endpoint)| {
        let mut endpoint = Endpoint::clone(endpoint);
        for (name, value) in &*told.labels {
            endpoint.labels.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(value));
        }
        (*address, endpoint)
    });
    labelled.collect()
}

fn random_ask(rng: &mut SmallRng) -> Ask {
    match rng.random_range(0..8) {
        0 | 1 => Ask::Endpoints(random_authority(rng)),
        2 | 3 => Ask::Profile(random_target(rng)),
        4 | 5 => Ask::Outbound(random_target(rng)),
        _ => Ask::Inbound(random_port(rng)),
    }
}

fn random_port(rng: &mut SmallRng) -> Port {
    Port::new(PORTS[rng.random_range(0..PORTS.len())]).expect("not zero")
}

/// A service, or one of its endpoints by its host name.
fn random_authority(rng: &mut SmallRng) -> Authority {
    let service = SERVICES[rng.random_range(0..SERVICES.len())];
    let namespace = NAMESPACES[rng.random_range(0..NAMESPACES.len())];
    let instance = if rng.random_bool(0.2) { "a." } else { "" };
    let host = format!("{instance}{service}.{namespace}.svc.cluster.local");
    Authority::new(&host, random_port(rng))
}

fn random_target(rng: &mut SmallRng) -> Target {
    if rng.random_bool(0.4) {
        let service = SERVICES[rng.random_range(0..SERVICES.len())];
        let namespace = NAMESPACES[rng.random_range(0..NAMESPACES.len())];
        let host = format!("{service}.{namespace}.svc.cluster.local");
        return Target::Name(Authority::new(&host, random_port(rng)));
    }
    let all: Vec<&str> =
        [&POD_IPS[..], &SERVICE_IPS, &HOST_IPS, &OUTSIDE].into_iter().flatten().copied().collect();
    let ip = all[rng.random_range(0..all.len())].parse().expect("an address");
    Target::Address(SocketAddr::new(ip, random_port(rng).get()))
}

/// How long a proxy may take to end.
pub(crate) const END_MAX: Duration = Duration::from_secs(30);
