//! A control plane that says what a case wants, when it wants.
//!
//! It answers the destination and policy services of one pod's proxy, over loopback and in
//! plaintext. What no case has a plan for is not found. Cases have targets of their own, so that
//! they do not meet.

use crate::world::PATIENCE;
use hauberk_model::{Authority, Endpoint, Meta, OutboundPolicy, Port, Profile, outbound::Queue};
use hauberk_testkit::{
    control::{self, Answer},
    policy,
};
use hauberk_wire::{
    self as wire,
    api::{destination as api, inbound as api_inbound, outbound as api_outbound},
    destination::Update,
};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
        mpsc as threads,
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, WatchStream},
};
use tonic::{Code, Status};

/// Where it listens inside the pod.
pub(crate) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8899);

/// How long a service of [`Script::service`] waits for an endpoint.
pub(crate) const FAILFAST: Duration = Duration::from_secs(1);

/// What the proxy is told.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// By name and port.
    pub(crate) endpoints: Book<api::Update>,
    /// By address and port, or name and port.
    pub(crate) profiles: Book<api::DestinationProfile>,
    /// By address and port.
    pub(crate) outbound: Book<api_outbound::OutboundPolicy>,
    /// By port.
    pub(crate) inbound: Book<api_inbound::Server>,
}

/// A target that exists in one case only.
pub(crate) struct Service {
    /// What applications dial.
    pub(crate) address: SocketAddr,
    /// What its endpoints are asked for by.
    pub(crate) authority: Authority,
}

impl Script {
    /// Serves what comes to `listener` until the process ends.
    pub(crate) fn serve(listener: TcpListener) -> Self {
        let script = Self::default();
        let routes = control::routes(script.clone());
        std::thread::spawn(move || control::serve(listener, routes, std::future::pending::<()>()));
        script
    }

    /// A new service: its policy balances over its endpoints, which are not told yet.
    pub(crate) fn service(&self) -> Service {
        let service = self.unknown_service();
        self.profiles.always(service.address, wire::profile::to_wire(&service.profile()));
        self.outbound.always(service.address, wire::outbound::to_wire(&service.policy()));
        service
    }

    /// A new service about which nothing is told yet.
    pub(crate) fn unknown_service(&self) -> Service {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = SocketAddr::from(([10, 97, high, low], 80));
        let host = format!("s{high}-{low}.scripted.svc.cluster.local");
        Service { address, authority: Authority::new(&host, Port::new(80).unwrap()) }
    }

    /// The service has these endpoints, from now on and whenever it is asked.
    pub(crate) fn serve_at(&self, service: &Service, endpoints: &[Endpoint]) -> Live<api::Update> {
        self.endpoints.always(&service.authority, add(endpoints))
    }
}

impl Service {
    /// A profile that says no more than the name.
    pub(crate) fn profile(&self) -> Profile {
        Profile { name: Some(self.authority.host().into()), ..Profile::default() }
    }

    /// A policy of one route and one backend that waits [`FAILFAST`] for endpoints.
    pub(crate) fn policy(&self) -> OutboundPolicy {
        let meta = Meta::service("scripted", self.authority.host(), Some(self.authority.port()));
        let mut backend = policy::balanced(meta.clone(), self.authority.clone());
        let queue = Queue { failfast_timeout: FAILFAST, ..Queue::default() };
        Arc::get_mut(&mut backend).expect("it is new").queue = queue;
        policy::detected(meta, &backend)
    }
}

/// These endpoints are there.
pub(crate) fn add(endpoints: &[Endpoint]) -> api::Update {
    let endpoints = endpoints.iter().cloned().map(Arc::new).collect();
    wire::destination::to_wire(&Update::Add { labels: Arc::default(), endpoints })
}

/// There are none.
pub(crate) fn none(exists: bool) -> api::Update {
    wire::destination::to_wire(&Update::NoEndpoints { exists })
}

/// What is answered to one kind of question.
pub(crate) struct Book<T>(Arc<Mutex<HashMap<String, Plan<T>>>>);

enum Plan<T> {
    Always(watch::Receiver<T>),
    Ask(threads::Sender<Asked<T>>),
}

/// An answer that can be changed; it stays in force when this is dropped.
pub(crate) struct Live<T>(watch::Sender<T>);

impl<T> Live<T> {
    /// From now on.
    pub(crate) fn set(&self, value: T) {
        self.0.send_replace(value);
    }
}

/// Questions as they come.
pub(crate) struct Questions<T>(threads::Receiver<Asked<T>>);

impl<T> Questions<T> {
    /// The next one.
    pub(crate) fn next(&self) -> Asked<T> {
        self.0.recv_timeout(PATIENCE).expect("the proxy asks in time")
    }

    /// Whether one has come that nobody has taken.
    pub(crate) fn have_come(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

/// A stream that the proxy has opened. Dropped, it ends without an error.
pub(crate) struct Asked<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Asked<T> {
    /// Says something on the stream.
    pub(crate) fn say(&self, message: T) {
        assert!(self.0.try_send(Ok(message)).is_ok(), "the proxy has left");
    }

    /// Ends the stream with that code; as the first word, it is the whole answer.
    pub(crate) fn fail(self, code: Code) {
        let _ = self.0.try_send(Err(Status::new(code, "as the script says")));
    }
}

impl<T: Clone + Send + Sync + 'static> Book<T> {
    /// Whoever asks is told this.
    pub(crate) fn always(&self, key: impl ToString, value: T) -> Live<T> {
        let (sender, receiver) = watch::channel(value);
        self.plans().insert(key.to_string(), Plan::Always(receiver));
        Live(sender)
    }

    /// Whoever asks waits for what the case says.
    pub(crate) fn ask(&self, key: impl ToString) -> Questions<T> {
        let (sender, receiver) = threads::channel();
        self.plans().insert(key.to_string(), Plan::Ask(sender));
        Questions(receiver)
    }

    fn plans(&self) -> MutexGuard<'_, HashMap<String, Plan<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, key: &str) -> Answer<T> {
        let not_found = || Status::not_found(format!("no case has a plan for {key}"));
        let mut told = match self.plans().get(key) {
            None => return Err(not_found()),
            Some(Plan::Always(value)) => {
                // It goes on when nobody can change it any more.
                let values = WatchStream::new(value.clone()).map(Ok);
                return Ok(Box::pin(values.chain(tokio_stream::pending())));
            }
            Some(Plan::Ask(asked)) => {
                let (tell, told) = mpsc::channel(64);
                asked.send(Asked(tell)).map_err(|_| not_found())?;
                told
            }
        };
        match told.recv().await {
            Some(Err(status)) => Err(status),
            first => {
                let rest = ReceiverStream::new(told);
                Ok(Box::pin(tokio_stream::iter(first).chain(rest)))
            }
        }
    }
}

impl<T> Clone for Book<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Book<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl control::Script for Script {
    async fn endpoints(&self, name: &str) -> Answer<api::Update> {
        self.endpoints.answer(name).await
    }

    async fn profile(&self, name: &str) -> Answer<api::DestinationProfile> {
        self.profiles.answer(name).await
    }

    async fn outbound(
        &self,
        target: wire::outbound::Target,
    ) -> Answer<api_outbound::OutboundPolicy> {
        let key = match target {
            wire::outbound::Target::Address(address) => address.to_string(),
            wire::outbound::Target::Authority(name) => name.to_string(),
        };
        self.outbound.answer(&key).await
    }

    async fn inbound(&self, port: Port) -> Answer<api_inbound::Server> {
        self.inbound.answer(&port.to_string()).await
    }
}
