//! To the application beside us.
//!
//! The application is dialled at the original destination, so it sees the pod's address and not loopback; the source
//! address is ours. Opaque connections are authorized before the first byte goes either way, and again whenever the
//! policy changes: an open connection that loses its authorization is ended (linkerd2-proxy does so).

use crate::{
    connection::{Direction, Facts, NoTls, Tls},
    copy, dial,
    http::failure::{Failure, What},
    inbound::policy::Policy,
    io::Io,
    telemetry::{
        labels::Labels,
        tcp::{PeerEnd, Sensor},
    },
    worker::Worker,
};
use hauberk_model::authorize::{Decision, authorize};
use std::{net::SocketAddr, rc::Rc};

/// Connects to the application.
///
/// # Errors
/// [`What::Loop`] for our own port, else as [`dial::dial_application`].
pub async fn connect(worker: &Worker, address: SocketAddr) -> Result<Io, Failure> {
    if address.port() == worker.config.inbound.listen.port() {
        return Err(Failure::client(What::Loop(address)));
    }
    let mut io = dial::dial_application(worker, address).await?;
    let labels = Labels::new()
        .direction(Direction::Inbound)
        .with("peer", PeerEnd::Destination.as_str())
        .tls_accepted(&Tls::None(NoTls::Loopback));
    io.observe(Sensor::open(&worker.metrics.tcp.transport(labels, None)));
    Ok(io)
}

/// Whether the client may have this connection, by the policy in force now. Counts nothing.
pub fn is_authorized(policy: &Policy, facts: &Facts) -> bool {
    let policy = policy.now();
    matches!(authorize(policy.authorizations.iter(), &facts.peer()), Decision::Allow(_))
}

/// Serves an opaque connection to its end; `early` is the application's side, if it was asked early.
pub async fn serve(
    worker: &Rc<Worker>,
    mut io: Io,
    facts: &Facts,
    policy: &Policy,
    early: Option<Io>,
) -> Result<(), Failure> {
    let copying = async {
        let mut application = match early {
            Some(application) => application,
            None => Box::pin(connect(worker, facts.original_dst)).await?,
        };
        let copied = copy::both_ways(&mut io, &mut application).await;
        copied.map_err(|error| Failure::peer(What::Io(error)))
    };
    // Pinned here, so that the connection's task holds it once.
    tokio::pin!(copying);
    while_authorized(worker, facts, policy, copying).await
}

/// Does `work` if the client may have the connection, as long as it may.
pub async fn while_authorized(
    worker: &Worker,
    facts: &Facts,
    policy: &Policy,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    // Watching begins before the first check, so that no change between the two is missed.
    let mut changes = policy.watch();
    check(worker, facts, policy)?;
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            changed = changes.changed() => {
                if changed.is_err() {
                    // Nobody will publish a change any more; what is known stays.
                    return work.await;
                }
            }
        }
        if !is_authorized(policy, facts) {
            let labels = labels(facts, policy);
            worker.metrics.inbound.tcp_terminate.get_or_create(&labels).inc();
            tracing::info!(client = %facts.client, target = %facts.original_dst, "connection ended: no longer authorized");
            return Err(Failure::client(What::Unauthorized));
        }
    }
}

/// Decides, counts and logs.
fn check(worker: &Worker, facts: &Facts, policy: &Policy) -> Result<(), Failure> {
    let now = policy.now();
    let inbound = &worker.metrics.inbound;
    match authorize(now.authorizations.iter(), &facts.peer()) {
        Decision::Allow(authorization) => {
            let labels = Labels::new()
                .target(facts.original_dst)
                .server(&now.server, policy.port().get())
                .authorization(authorization)
                .tls_accepted(&facts.tls);
            inbound.tcp_allow.get_or_create(&labels).inc();
            if authorization.is_audit() {
                tracing::info!(
                    client = %facts.client, target = %facts.original_dst, server = %now.server,
                    tls = ?facts.tls, "connection allowed: audit"
                );
            }
            Ok(())
        }
        Decision::Deny => {
            inbound.tcp_deny.get_or_create(&labels(facts, policy)).inc();
            tracing::info!(
                client = %facts.client,
                target = %facts.original_dst,
                server = %now.server,
                tls = ?facts.tls,
                "connection denied"
            );
            Err(Failure::client(What::Unauthorized))
        }
    }
}

fn labels(facts: &Facts, policy: &Policy) -> Labels {
    Labels::new()
        .target(facts.original_dst)
        .server(&policy.now().server, policy.port().get())
        .tls_accepted(&facts.tls)
}
