//! The admin port: the shared server's routes, in plaintext or inside mesh TLS, for those whom policy lets in.
//!
//! Kubelets probe in plaintext; a meshed scraper dials the port with mesh TLS, because discovery told it our identity.
//! The port is exempt from capture, so connections arrive here directly.
//!
//! The inbound policy of the port decides about each request, as for any other port (linkerd2-proxy v2): no route is
//! 404, no authorization 403. The control plane lets kubelets probe whatever it asks of others. Whoever is in the pod
//! may ask for everything. Filters and rate limits of routes do not apply here.

use crate::{
    connection::{Direction, Facts, NoTls, Tls},
    control::{Directory, Live},
    detect::Sniffed,
    inbound::{policy, request::Table},
    io::Io,
    settings::Config,
    telemetry::{labels::Labels, metrics::Metrics},
    tls::{
        Identity,
        accept::{self, Offer},
    },
};
use hauberk_identity::Alpn;
use hauberk_linux::original_dst::canonical;
use hauberk_model::{
    InboundPolicy, Port,
    authorize::{Decision, authorize},
};
use hauberk_process::{Shutdown, Tasks, admin::Admin};
use http::{StatusCode, request::Parts};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore, time::Instant};

/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 128;

/// For the first bytes and the TLS handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Who may ask for what, by the policy of the port.
#[derive(Clone, Debug)]
pub struct Door {
    address: SocketAddr,
    default: Arc<InboundPolicy>,
    live: Live<InboundPolicy>,
    metrics: Arc<Metrics>,
}

impl Door {
    /// The door of the admin port at `address`. Begins to watch the policy.
    pub fn new(
        config: &Config,
        directory: &Directory,
        metrics: Arc<Metrics>,
        address: SocketAddr,
    ) -> Self {
        let port = Port::new(address.port()).expect("a bound port is not zero");
        let default = Arc::new(policy::until_known(config, port));
        Self { address, default, live: directory.inbound_policy(port), metrics }
    }

    /// Decides about a request and counts the decision.
    fn check(&self, facts: &Facts, request: &Parts) -> Result<(), (StatusCode, &'static str)> {
        // linkerd2-proxy v2 puts an authorization of these two before those of every policy.
        let own = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        if own.contains(&facts.client.ip()) {
            return Ok(());
        }
        let policy = self.live.borrow().as_known().unwrap_or(&self.default).clone();
        let server = policy.server.clone();
        // Compiled for each request: there are a few in a second at most.
        let table = Table::new(policy, None, 1);
        let http = &self.metrics.http;
        let labels = || Labels::new().target(self.address).server(&server, self.address.port());
        let Some(found) = table.find(request) else {
            http.inbound_no_route.get_or_create(&labels().tls_accepted(&facts.tls)).inc();
            return Err((StatusCode::NOT_FOUND, "no route of this port's policy fits\n"));
        };
        let route = table.route(found.route);
        match authorize(table.authorizations(found.route), &facts.peer()) {
            Decision::Allow(authorization) => {
                let labels = labels().inbound_route(route).authorization(authorization);
                http.inbound_allow.get_or_create(&labels.tls_accepted(&facts.tls)).inc();
                Ok(())
            }
            Decision::Deny => {
                let labels = labels().inbound_route(route).tls_accepted(&facts.tls);
                http.inbound_deny.get_or_create(&labels).inc();
                tracing::info!(
                    client = %facts.client, tls = ?facts.tls, %server, %route,
                    path = request.uri.path(), "admin request denied"
                );
                Err((StatusCode::FORBIDDEN, "this port's policy does not let you in\n"))
            }
        }
    }
}

/// Serves the admin port until the process has ended, or a successor serves it.
pub async fn serve(
    listener: TcpListener,
    admin: Arc<Admin>,
    door: Door,
    identity: Identity,
    tasks: Tasks,
) {
    let connections = tasks.kind("admin-connection");
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shutdown = tasks.shutdown().clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.ended_or_replaced() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept admin connections");
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let (admin, identity, shutdown) = (Arc::clone(&admin), identity.clone(), shutdown.clone());
        let (executor, door) = (connections.clone(), door.clone());
        connections.spawn(async move {
            let peer = canonical(peer);
            match tokio::time::timeout(OPEN_TIMEOUT, open(Io::plain(socket), &identity)).await {
                Ok(Ok((io, tls))) => {
                    let facts = Facts {
                        direction: Direction::Inbound,
                        client: peer,
                        original_dst: door.address,
                        tls,
                        accepted_at: Instant::now(),
                    };
                    let gate = move |request: &Parts| door.check(&facts, request);
                    admin.serve_gated(io, Some(peer), executor, &shutdown, gate).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "admin connection failed"),
                Err(_elapsed) => {}
            }
            drop(permit);
        });
    }
}

/// Ends mesh TLS if the client speaks it.
async fn open(mut io: Io, identity: &Identity) -> io::Result<(Io, Tls)> {
    let mut sniffed = Sniffed::default();
    let offer = accept::offer(&mut io, &mut sniffed, &identity.server_name).await?;
    sniffed.give_back(&mut io);
    match (offer, identity.certified()) {
        (Offer::Ours, Some(certified)) => {
            let accepted = accept::accept(io, &certified, Alpn::None).await?;
            Ok((accepted.io, Tls::Established { client_id: accepted.client_id }))
        }
        (Offer::Ours | Offer::Foreign(_) | Offer::None, _) => {
            Ok((io, Tls::None(NoTls::NotFromRemote)))
        }
    }
}

/// The routes of the shared server that need a shutdown handle only when the settings allow it.
pub fn with_shutdown(admin: Admin, is_enabled: bool, shutdown: &Shutdown) -> Admin {
    if is_enabled { admin.with_shutdown(shutdown.clone()) } else { admin }
}
