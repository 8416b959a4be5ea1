//! The gRPC messages of package `emojivoto.v1`, and unary calls of either side.
//!
//! The voting service has one procedure for each emoji. They are found by name in the catalogue,
//! so there is no generated code: the procedure is the last part of the request path.

use crate::metrics::Metrics;
use http::{Request, Response, uri::PathAndQuery};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tonic::{Status, body::Body, server::NamedService, transport::Channel};
use tonic_prost::ProstCodec;

/// An empty request or response.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Empty {}

/// One emoji on the wire.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Emoji {
    #[prost(string, tag = "1")]
    pub(crate) unicode: String,
    #[prost(string, tag = "2")]
    pub(crate) shortcode: String,
}

/// Answer of `ListAll`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct EmojiList {
    #[prost(message, repeated, tag = "1")]
    pub(crate) list: Vec<Emoji>,
}

/// Question of `FindByShortcode`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Shortcode {
    #[prost(string, tag = "1")]
    pub(crate) shortcode: String,
}

/// Answer of `FindByShortcode`; nothing if there is no such emoji.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Found {
    #[prost(message, optional, tag = "1")]
    pub(crate) emoji: Option<Emoji>,
}

/// Votes of one emoji.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct VotingResult {
    #[prost(string, tag = "1")]
    pub(crate) shortcode: String,
    #[prost(int32, tag = "2")]
    pub(crate) votes: i32,
}

/// Answer of `Results`, most votes first.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Results {
    #[prost(message, repeated, tag = "1")]
    pub(crate) results: Vec<VotingResult>,
}

/// Calls `/{service}/{procedure}` with one message and waits for one.
pub(crate) async fn call<Q, A>(
    channel: &Channel,
    service: &str,
    procedure: &str,
    question: Q,
) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    let unready = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    client.ready().await.map_err(unready)?;
    let path = format!("/{service}/{procedure}");
    let path = PathAndQuery::try_from(path).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(tonic::Request::new(question), path, codec).await?;
    Ok(answer.into_inner())
}

/// A channel to `host:port` that connects when first used, and again when the connection ends.
pub(crate) fn channel(authority: &str) -> anyhow::Result<Channel> {
    Ok(Channel::from_shared(format!("http://{authority}"))?.connect_lazy())
}

/// Procedures of one service, dispatched by name.
pub(crate) trait Procedures: Send + Sync + 'static {
    /// Full name of the service.
    const SERVICE: &'static str;

    /// Answers one call; the request body still has to be read.
    fn call(
        service: Arc<Self>,
        procedure: String,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// A gRPC service over some [`Procedures`].
pub(crate) struct Service<P> {
    procedures: Arc<P>,
    metrics: Arc<Metrics>,
}

impl<P> Service<P> {
    /// Serves `procedures` and measures each call.
    pub(crate) fn new(procedures: P, metrics: Arc<Metrics>) -> Self {
        Self { procedures: Arc::new(procedures), metrics }
    }
}

impl<P> Clone for Service<P> {
    fn clone(&self) -> Self {
        Self { procedures: Arc::clone(&self.procedures), metrics: Arc::clone(&self.metrics) }
    }
}

impl<P: Procedures> NamedService for Service<P> {
    const NAME: &'static str = P::SERVICE;
}

impl<P: Procedures> tower::Service<Request<Body>> for Service<P> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        let procedure = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        Box::pin(async move {
            let began = Instant::now();
            let response = P::call(this.procedures, procedure.clone(), request).await;
            this.metrics.handled(P::SERVICE, &procedure, began.elapsed());
            Ok(response)
        })
    }
}

/// Answers a unary call with what `answer` makes of the message.
pub(crate) async fn unary<Q, A, F>(
    request: Request<Body>,
    answer: impl FnOnce(Q) -> F + Send + 'static,
) -> Response<Body>
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Send + Sync + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    struct Once<T>(Option<T>);
    impl<Q, A, F, T> tonic::server::UnaryService<Q> for Once<T>
    where
        A: prost::Message + Send + Sync + 'static,
        F: Future<Output = Result<A, Status>> + Send + 'static,
        T: FnOnce(Q) -> F,
    {
        type Response = A;
        type Future =
            Pin<Box<dyn Future<Output = Result<tonic::Response<A>, Status>> + Send + 'static>>;

        fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
            let answer = self.0.take().map(|answer| answer(request.into_inner()));
            Box::pin(async move {
                match answer {
                    Some(answer) => answer.await.map(tonic::Response::new),
                    None => Err(Status::internal("a unary call was made twice")),
                }
            })
        }
    }
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
    grpc.unary(Once(Some(answer)), request).await
}

/// The answer to a procedure that does not exist.
pub(crate) fn unimplemented(procedure: &str) -> Response<Body> {
    Status::unimplemented(format!("no procedure {procedure}")).into_http()
}
