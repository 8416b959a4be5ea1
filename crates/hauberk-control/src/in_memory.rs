//! A control plane without listeners, files and certificates: publisher and services as they are,
//! over events and connections that somebody hands in.
//!
//! Simulations start it, many in one process and on a paused clock; [`crate::run`] starts the one
//! that people run. Nothing here waits for the kernel.

use hauberk_index::ClusterConfig;
use hauberk_process::Tasks;
use hauberk_process::metrics::Metrics;
use hauberk_process::ready::Readiness;
use hauberk_resources::ResourceEvent;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::metrics::ServiceMetrics;
use crate::run::{Services, services};
use crate::server::serve_connection;

/// One of the control plane's ports that answer questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Endpoints and profiles.
    Destination,
    /// Inbound and outbound policy.
    Policy,
}

/// A control plane that is running; its tasks belong to the set it was started with.
#[derive(Debug)]
pub struct InMemory {
    destination: Routes,
    policy: Routes,
    tasks: Tasks,
}

impl InMemory {
    /// Starts to follow `events`, which must begin with a listing of every kind, as those of a
    /// source do; must be called on a tokio runtime.
    pub fn start(
        events: mpsc::Receiver<ResourceEvent>,
        cluster: ClusterConfig,
        tasks: &Tasks,
    ) -> Self {
        let listed = Readiness::new().condition("resources");
        let metrics = Metrics::new();
        let service_metrics = ServiceMetrics::register(&metrics);
        let Services { destination, policy, .. } =
            services(events, cluster, listed, service_metrics, tasks, &metrics);
        Self { destination: destination.prepare(), policy: policy.prepare(), tasks: tasks.clone() }
    }

    /// Serves a connection as the listener of that port does once it knows who is there, until it
    /// ends or the process drains.
    pub fn accept<I>(&self, port: Port, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = match port {
            Port::Destination => &self.destination,
            Port::Policy => &self.policy,
        };
        serve_connection(io, routes.clone(), &self.tasks);
    }
}
