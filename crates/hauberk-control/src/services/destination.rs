//! `io.linkerd.proxy.destination.Destination`: endpoints, and (by way of [`profile`]) profiles.
//!
//! | situation | status |
//! |---|---|
//! | authority or name malformed, or an IP address for `Get` | `InvalidArgument` |
//! | service does not exist, or is an `ExternalName` | `NotFound`, `InvalidArgument` |
//! | several objects claim the address (`GetProfile`) | `FailedPrecondition` |
//! | service is deleted while the stream is open | everything is removed, the stream stays |
//!
//! A service without endpoints is answered at once with `no_endpoints{exists}`, which every version
//! of linkerd2-proxy takes. Linkerd's own control plane stays silent, and proxies then wait for
//! their three seconds, close the stream and ask again.

use std::sync::Arc;

use hauberk_index::{Answer, Question};
use hauberk_model::Endpoints;
use hauberk_wire::api::destination::destination_server::Destination;
use hauberk_wire::api::destination::{DestinationProfile, GetDestination, Update};
use hauberk_wire::destination::{to_wire, updates};
use tonic::{Request, Response, Status};

use super::{Desk, Edge, Messages, Said, profile, refused};

/// Answers discovery.
#[derive(Clone, Debug)]
pub(crate) struct DestinationService {
    pub(crate) desk: Desk,
}

#[tonic::async_trait]
impl Destination for DestinationService {
    type GetStream = Messages<Update>;
    type GetProfileStream = Messages<DestinationProfile>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let GetDestination { path, context_token, .. } = request.into_inner();
        let question = Question::new(&self.desk.config);
        let key = question.endpoints(&path, &context_token).map_err(|refusal| refused(&refusal))?;
        self.desk.stream("Get", key, EndpointsEdge::default()).await
    }

    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        let GetDestination { path, context_token, .. } = request.into_inner();
        let question = Question::new(&self.desk.config);
        let key = question.profile(&path, &context_token).map_err(|refusal| refused(&refusal))?;
        self.desk.stream("GetProfile", key, profile::ProfileEdge).await
    }
}

/// Tells differences to what was told last.
#[derive(Debug, Default)]
struct EndpointsEdge {
    told: Option<Arc<Endpoints>>,
}

impl Edge for EndpointsEdge {
    type Message = Update;

    fn say(&mut self, answer: &Answer) -> Said<Update> {
        let newest = match answer {
            Answer::Endpoints(endpoints) => Arc::clone(endpoints),
            // The service is gone. It may come back, and its clients with it.
            Answer::Refused(_) => Arc::default(),
            Answer::Inbound(_) | Answer::Outbound(_) | Answer::Profile(_) | Answer::Status(_) => {
                return Said::End;
            }
        };
        let updates = updates(self.told.as_deref(), &newest, true);
        self.told = Some(newest);
        Said::Messages(updates.iter().map(to_wire).collect())
    }
}
