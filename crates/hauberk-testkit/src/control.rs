//! The gRPC services of a control plane whose answers a test writes.
//!
//! A test implements [`Script`]; [`routes`] makes services of it, for discovery and policy, and
//! [`serve`] serves them, over plaintext. What is asked for once only (`Get` of policies) is not
//! there: no proxy asks so.

use hauberk_model::Port;
use hauberk_wire::{
    api::{
        destination::{self as api, destination_server},
        inbound::{self as api_inbound, inbound_server_policies_server},
        outbound::{self as api_outbound, outbound_policies_server},
    },
    outbound::{self, Target},
};
use std::{net::TcpListener, pin::Pin, sync::Arc};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, service::Routes, transport::Server};

/// What is told on one stream, or that there will be none.
pub type Answer<T> = Result<Streamed<T>, Status>;
/// Messages as they come; it ends the gRPC stream when it ends.
pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What is answered to whom. Names are as proxies send them, `host:port`.
pub trait Script: Send + Sync + 'static {
    /// The endpoints of a name.
    fn endpoints(&self, name: &str) -> impl Future<Output = Answer<api::Update>> + Send;

    /// The profile of a name or address.
    fn profile(&self, name: &str) -> impl Future<Output = Answer<api::DestinationProfile>> + Send;

    /// The policy of clients of a target.
    fn outbound(
        &self,
        target: Target,
    ) -> impl Future<Output = Answer<api_outbound::OutboundPolicy>> + Send;

    /// The policy of a port of the pod that asks.
    fn inbound(&self, port: Port) -> impl Future<Output = Answer<api_inbound::Server>> + Send;
}

/// The services that answer as the script says.
pub fn routes(script: impl Script) -> Routes {
    let services = Services(Arc::new(script));
    Routes::new(destination_server::DestinationServer::new(services.clone()))
        .add_service(outbound_policies_server::OutboundPoliciesServer::new(services.clone()))
        .add_service(inbound_server_policies_server::InboundServerPoliciesServer::new(services))
}

/// Serves what comes to `listener`, in this thread, until `stopped`. Then all connections break.
///
/// # Panics
/// When it cannot.
pub fn serve(listener: TcpListener, routes: Routes, stopped: impl Future) {
    listener.set_nonblocking(true).expect("a socket that does not block");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime").block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let incoming = TcpListenerStream::new(listener);
        tokio::select! {
            result = Server::builder().add_routes(routes).serve_with_incoming(incoming) => {
                result.expect("serve gRPC");
            }
            _ = stopped => {}
        }
    });
}

struct Services<S>(Arc<S>);

impl<S> Clone for Services<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn invalid(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl<S: Script> destination_server::Destination for Services<S> {
    type GetStream = Streamed<api::Update>;
    type GetProfileStream = Streamed<api::DestinationProfile>;

    async fn get(
        &self,
        request: Request<api::GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        self.0.endpoints(&request.get_ref().path).await.map(Response::new)
    }

    async fn get_profile(
        &self,
        request: Request<api::GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        self.0.profile(&request.get_ref().path).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl<S: Script> outbound_policies_server::OutboundPolicies for Services<S> {
    type WatchStream = Streamed<api_outbound::OutboundPolicy>;

    async fn get(
        &self,
        _: Request<api_outbound::TrafficSpec>,
    ) -> Result<Response<api_outbound::OutboundPolicy>, Status> {
        Err(Status::unimplemented("only watched"))
    }

    async fn watch(
        &self,
        request: Request<api_outbound::TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let target = outbound::target(request.get_ref()).map_err(invalid)?;
        self.0.outbound(target).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl<S: Script> inbound_server_policies_server::InboundServerPolicies for Services<S> {
    type WatchPortStream = Streamed<api_inbound::Server>;

    async fn get_port(
        &self,
        _: Request<api_inbound::PortSpec>,
    ) -> Result<Response<api_inbound::Server>, Status> {
        Err(Status::unimplemented("only watched"))
    }

    async fn watch_port(
        &self,
        request: Request<api_inbound::PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let port = Port::try_from(request.get_ref().port).map_err(invalid)?;
        self.0.inbound(port).await.map(Response::new)
    }
}
