//! The kinds of question that can be asked, each with how its stream is opened and what its messages mean.

use super::calls::Channel;
use super::streams::{Question, Shared};
use super::{Lookup, Target};
use hauberk_model::{Authority, Endpoint, Endpoints, Port, endpoints::Labels};
use hauberk_wire::{
    self as wire, Invalid,
    api::{
        destination::destination_client::DestinationClient,
        inbound::inbound_server_policies_client::InboundServerPoliciesClient,
        outbound::outbound_policies_client::OutboundPoliciesClient,
    },
};
use std::sync::Arc;
use tonic::{Code, Status, Streaming};

/// Largest message we read: a set of 2,000 endpoints takes about 1 MB.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) struct OutboundPolicyOf {
    client: OutboundPoliciesClient<Channel>,
    target: Target,
}

impl Question for OutboundPolicyOf {
    type Message = wire::api::outbound::OutboundPolicy;
    type Answer = hauberk_model::OutboundPolicy;
    const SERVICE: &'static str = "outbound-policy";

    async fn open(&mut self, shared: &Shared) -> Result<Streaming<Self::Message>, Status> {
        let target = match &self.target {
            Target::Address(address) => wire::outbound::Target::Address(*address),
            Target::Name(name) => wire::outbound::Target::Authority(name.clone()),
        };
        let request = wire::outbound::request(&shared.workload, &target);
        Ok(self.client.watch(request).await?.into_inner())
    }

    fn take(
        &mut self,
        message: Self::Message,
    ) -> Result<(Lookup<Arc<Self::Answer>>, Vec<Invalid>), Invalid> {
        let policy = wire::outbound::from_wire(message)?;
        Ok((Lookup::Known(Arc::new(policy)), Vec::new()))
    }
}

pub(super) struct InboundPolicyOf {
    client: InboundServerPoliciesClient<Channel>,
    port: Port,
}

impl Question for InboundPolicyOf {
    type Message = wire::api::inbound::Server;
    type Answer = hauberk_model::InboundPolicy;
    const SERVICE: &'static str = "inbound-policy";

    async fn open(&mut self, shared: &Shared) -> Result<Streaming<Self::Message>, Status> {
        let request = wire::inbound::request(&shared.workload, self.port);
        Ok(self.client.watch_port(request).await?.into_inner())
    }

    fn take(
        &mut self,
        message: Self::Message,
    ) -> Result<(Lookup<Arc<Self::Answer>>, Vec<Invalid>), Invalid> {
        let policy = wire::inbound::from_wire(message)?;
        Ok((Lookup::Known(Arc::new(policy)), Vec::new()))
    }
}

pub(super) struct ProfileOf {
    client: DestinationClient<Channel>,
    target: Target,
}

impl Question for ProfileOf {
    type Message = wire::api::destination::DestinationProfile;
    type Answer = hauberk_model::Profile;
    const SERVICE: &'static str = "profile";

    async fn open(&mut self, shared: &Shared) -> Result<Streaming<Self::Message>, Status> {
        let authority = match &self.target {
            Target::Address(address) => {
                let port =
                    Port::new(address.port()).ok_or_else(|| Status::not_found("port zero"))?;
                Authority::new(&address.ip().to_string(), port)
            }
            Target::Name(name) => name.clone(),
        };
        let request = wire::destination::request(&authority, &shared.context);
        let response = self.client.get_profile(request).await.map_err(invalid_as_absent)?;
        Ok(response.into_inner())
    }

    fn take(
        &mut self,
        message: Self::Message,
    ) -> Result<(Lookup<Arc<Self::Answer>>, Vec<Invalid>), Invalid> {
        let (profile, problems) = wire::profile::from_wire(message)?;
        Ok((Lookup::Known(Arc::new(profile)), problems))
    }
}

pub(super) struct EndpointsOf {
    client: DestinationClient<Channel>,
    authority: Authority,
    /// What the stream has said so far.
    known: Endpoints,
    /// The same, with the labels of the set beside the endpoint's own: what is answered.
    labelled: Endpoints,
}

impl EndpointsOf {
    /// Gives every endpoint the labels of the set, so that whoever dials one needs nothing else for its metrics.
    /// Endpoints that have not changed stay the same `Arc`. Cost: linear in the set; allocates only for changes.
    fn label(&mut self, before: &Endpoints) {
        let is_relabelled = before.labels != self.known.labels;
        let labelled = self.known.by_address.iter().map(|(address, endpoint)| {
            let known = self.labelled.by_address.get(address);
            let is_same =
                before.by_address.get(address).is_some_and(|old| Arc::ptr_eq(old, endpoint));
            match known {
                Some(known) if is_same && !is_relabelled => (*address, Arc::clone(known)),
                _ => (*address, with_labels(endpoint, &self.known.labels, known)),
            }
        });
        let by_address = labelled.collect();
        self.labelled = Endpoints { labels: Arc::clone(&self.known.labels), by_address };
    }
}

/// The endpoint with the set's labels where it has none of its own; `known` itself if that is equal.
fn with_labels(
    endpoint: &Arc<Endpoint>,
    set: &Labels,
    known: Option<&Arc<Endpoint>>,
) -> Arc<Endpoint> {
    let mut labelled = Endpoint::clone(endpoint);
    for (name, value) in set {
        labelled.labels.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(value));
    }
    match known {
        Some(known) if **known == labelled => Arc::clone(known),
        _ => Arc::new(labelled),
    }
}

impl Question for EndpointsOf {
    type Message = wire::api::destination::Update;
    type Answer = Endpoints;
    const SERVICE: &'static str = "endpoints";

    async fn open(&mut self, shared: &Shared) -> Result<Streaming<Self::Message>, Status> {
        // A new stream tells everything from the beginning. What was answered stays until it does.
        self.known = Endpoints::default();
        let request = wire::destination::request(&self.authority, &shared.context);
        let response = self.client.get(request).await.map_err(invalid_as_absent)?;
        Ok(response.into_inner())
    }

    fn take(
        &mut self,
        message: Self::Message,
    ) -> Result<(Lookup<Arc<Self::Answer>>, Vec<Invalid>), Invalid> {
        let (update, problems) = wire::destination::from_wire(message)?;
        let exists = !matches!(update, wire::destination::Update::NoEndpoints { exists: false });
        let before = self.known.clone();
        update.apply(&mut self.known);
        self.label(&before);
        let answer = Lookup::Known(Arc::new(self.labelled.clone()));
        Ok((if exists { answer } else { Lookup::Absent }, problems))
    }
}

impl OutboundPolicyOf {
    pub(super) fn new(channel: &Channel, target: &Target) -> Self {
        let client = OutboundPoliciesClient::new(channel.clone());
        let client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, target: target.clone() }
    }
}

impl InboundPolicyOf {
    pub(super) fn new(channel: &Channel, port: Port) -> Self {
        let client = InboundServerPoliciesClient::new(channel.clone());
        Self { client: client.max_decoding_message_size(MESSAGE_BYTES_MAX), port }
    }
}

impl ProfileOf {
    pub(super) fn new(channel: &Channel, target: &Target) -> Self {
        Self { client: destination(channel), target: target.clone() }
    }
}

impl EndpointsOf {
    pub(super) fn new(channel: &Channel, authority: &Authority) -> Self {
        Self {
            client: destination(channel),
            authority: authority.clone(),
            known: Endpoints::default(),
            labelled: Endpoints::default(),
        }
    }
}

/// Discovery says "invalid" also of what exists and has no endpoints or profile by its nature: a service that is an
/// alias of an outside name. That may end, and until then nothing known from before holds.
fn invalid_as_absent(status: Status) -> Status {
    match status.code() {
        Code::InvalidArgument => Status::not_found(status.message()),
        _ => status,
    }
}

fn destination(channel: &Channel) -> DestinationClient<Channel> {
    DestinationClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hauberk_wire::destination::{Update, to_wire};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn endpoint(address: &str, pod: &str) -> Arc<Endpoint> {
        let address = address.parse().unwrap();
        Arc::new(Endpoint { labels: labels(&[("pod", pod)]), ..Endpoint::bare(address) })
    }

    #[tokio::test]
    async fn endpoints_carry_the_labels_of_their_set_and_stay_the_same_while_unchanged() {
        let channel = tonic::transport::Endpoint::from_static("http://unused").connect_lazy();
        let channel = Channel::new(channel, Default::default(), Default::default());
        let authority = Authority::new("a", Port::new(80).unwrap());
        let mut question = EndpointsOf::new(&channel, &authority);
        let mut take = |update: &Update| match question.take(to_wire(update)).unwrap().0 {
            Lookup::Known(answer) => answer,
            other => panic!("{other:?}"),
        };
        let set = Arc::new(labels(&[("service", "web"), ("pod", "never")]));
        let (one, two) = (endpoint("10.0.0.1:80", "a"), endpoint("10.0.0.2:80", "b"));
        let first = take(&Update::Add { labels: set.clone(), endpoints: vec![one.clone()] });
        let second = take(&Update::Add { labels: set.clone(), endpoints: vec![two] });
        assert_eq!(second.by_address.len(), 2);
        let of_one = &second.by_address[&one.address];
        assert_eq!(of_one.labels, labels(&[("pod", "a"), ("service", "web")]));
        assert!(Arc::ptr_eq(of_one, &first.by_address[&one.address]));

        // As after a reconnection: everything is told again.
        question.known = Endpoints::default();
        let update = Update::Add { labels: set, endpoints: vec![endpoint("10.0.0.1:80", "a")] };
        let Lookup::Known(third) = question.take(to_wire(&update)).unwrap().0 else { panic!() };
        assert_eq!(third.by_address.len(), 1);
        assert!(Arc::ptr_eq(&third.by_address[&one.address], of_one));
    }
}
