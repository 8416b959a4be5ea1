//! `io.linkerd.proxy.inbound.InboundServerPolicies`: what a port of a workload accepts.
//!
//! | situation | status |
//! |---|---|
//! | workload or port malformed | `InvalidArgument` |
//! | pod unknown; a new pod may ask before its object has arrived, and asks again | `NotFound` |
//! | pod is deleted while the stream is open | the stream ends well |

use hauberk_index::{Answer, Question};
use hauberk_wire::api::inbound::inbound_server_policies_server::InboundServerPolicies;
use hauberk_wire::api::inbound::{PortSpec, Server};
use hauberk_wire::inbound::to_wire;
use tonic::{Request, Response, Status};

use super::{Desk, Edge, Messages, Said, mismatch, refused};

/// Answers servers.
#[derive(Clone, Debug)]
pub(crate) struct InboundPolicyService {
    pub(crate) desk: Desk,
}

#[tonic::async_trait]
impl InboundServerPolicies for InboundPolicyService {
    type WatchPortStream = Messages<Server>;

    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<Server>, Status> {
        let PortSpec { workload, port } = request.into_inner();
        let question = Question::new(&self.desk.config);
        let key = question.inbound(&workload, port).map_err(|refusal| refused(&refusal))?;
        match self.desk.answer(key).await? {
            Answer::Inbound(policy) => Ok(Response::new(to_wire(&policy))),
            _ => Err(mismatch()),
        }
    }

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let PortSpec { workload, port } = request.into_inner();
        let question = Question::new(&self.desk.config);
        let key = question.inbound(&workload, port).map_err(|refusal| refused(&refusal))?;
        self.desk.stream("WatchPort", key, InboundEdge).await
    }
}

/// Tells each policy as a whole.
#[derive(Debug)]
struct InboundEdge;

impl Edge for InboundEdge {
    type Message = Server;

    fn say(&mut self, answer: &Answer) -> Said<Server> {
        match answer {
            Answer::Inbound(policy) => Said::Messages(vec![to_wire(policy)]),
            Answer::Refused(_) => Said::End,
            Answer::Outbound(_) | Answer::Endpoints(_) | Answer::Profile(_) | Answer::Status(_) => {
                Said::End
            }
        }
    }
}
