//! `io.linkerd.proxy.outbound.OutboundPolicies`: what a client should do with traffic.
//!
//! | situation | status |
//! |---|---|
//! | workload, address, authority or port malformed | `InvalidArgument` |
//! | authority outside of the cluster, or an address inside that nothing claims | `NotFound` |
//! | there is no answer any more while the stream is open | the stream ends well |

use hauberk_index::{Answer, Key, Question};
use hauberk_wire::api::outbound::outbound_policies_server::OutboundPolicies;
use hauberk_wire::api::outbound::{OutboundPolicy, TrafficSpec};
use hauberk_wire::outbound::{Target, target, to_wire};
use tonic::{Request, Response, Status};

use super::{Desk, Edge, Messages, Said, mismatch, not_understood, refused};

/// Answers clients.
#[derive(Clone, Debug)]
pub(crate) struct OutboundPolicyService {
    pub(crate) desk: Desk,
}

impl OutboundPolicyService {
    fn key(&self, spec: &TrafficSpec) -> Result<Key, Status> {
        let question = Question::new(&self.desk.config);
        let key = match target(spec).map_err(|invalid| not_understood(&invalid))? {
            Target::Address(address) => {
                question.outbound_to_address(&spec.source_workload, address)
            }
            Target::Authority(authority) => {
                question.outbound_to_authority(&spec.source_workload, &authority.to_string())
            }
        };
        key.map_err(|refusal| refused(&refusal))
    }
}

#[tonic::async_trait]
impl OutboundPolicies for OutboundPolicyService {
    type WatchStream = Messages<OutboundPolicy>;

    async fn get(&self, request: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        let key = self.key(request.get_ref())?;
        match self.desk.answer(key).await? {
            Answer::Outbound(policy) => Ok(Response::new(to_wire(&policy))),
            _ => Err(mismatch()),
        }
    }

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let key = self.key(request.get_ref())?;
        self.desk.stream("Watch", key, OutboundEdge).await
    }
}

/// Tells each policy as a whole.
#[derive(Debug)]
struct OutboundEdge;

impl Edge for OutboundEdge {
    type Message = OutboundPolicy;

    fn say(&mut self, answer: &Answer) -> Said<OutboundPolicy> {
        match answer {
            Answer::Outbound(policy) => Said::Messages(vec![to_wire(policy)]),
            Answer::Refused(_) => Said::End,
            Answer::Inbound(_) | Answer::Endpoints(_) | Answer::Profile(_) | Answer::Status(_) => {
                Said::End
            }
        }
    }
}
