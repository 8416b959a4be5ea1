//! The service that knows which emoji there are.

use crate::{
    Stop, catalogue, http_server,
    metrics::Metrics,
    rpc::{self, Empty, Procedures},
};
use clap::Args;
use http::{Request, Response, StatusCode};
use std::sync::Arc;
use tonic::body::Body;

/// Settings of the role.
#[derive(Args)]
pub(crate) struct Config {
    /// Port of the gRPC service.
    #[arg(long, env = "GRPC_PORT", default_value_t = 8080)]
    grpc_port: u16,
    /// Port of the metrics.
    #[arg(long, env = "PROM_PORT", default_value_t = 8801)]
    prom_port: u16,
}

pub(crate) async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let service = rpc::Service::new(EmojiService, Arc::clone(&metrics));
    serve(config.grpc_port, config.prom_port, service, metrics, stop).await
}

/// Serves `service` over gRPC and `metrics` over HTTP until asked to stop.
pub(crate) async fn serve<P: Procedures>(
    grpc_port: u16,
    prom_port: u16,
    service: rpc::Service<P>,
    metrics: Arc<Metrics>,
    mut stop: Stop,
) -> anyhow::Result<()> {
    let incoming = tonic::transport::server::TcpIncoming::from(crate::listen(grpc_port).await?);
    let metrics_server = http_server::serve(prom_port, stop.clone(), move |_| {
        let text = metrics.text();
        async move { http_server::text(StatusCode::OK, text) }
    });
    let grpc_server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming.with_nodelay(Some(true)), async move {
            stop.asked().await;
        });
    let (grpc, metrics) = tokio::join!(grpc_server, metrics_server);
    grpc?;
    metrics
}

struct EmojiService;

impl Procedures for EmojiService {
    const SERVICE: &'static str = "emojivoto.v1.EmojiService";

    async fn call(_: Arc<Self>, procedure: String, request: Request<Body>) -> Response<Body> {
        match procedure.as_str() {
            "ListAll" => rpc::unary(request, |_: Empty| async { Ok(list()) }).await,
            "FindByShortcode" => {
                let find = |question: rpc::Shortcode| async move {
                    let emoji = catalogue::find(&question.shortcode).map(on_the_wire);
                    Ok(rpc::Found { emoji })
                };
                rpc::unary(request, find).await
            }
            other => rpc::unimplemented(other),
        }
    }
}

fn list() -> rpc::EmojiList {
    rpc::EmojiList { list: catalogue::all().map(on_the_wire).collect() }
}

fn on_the_wire(emoji: catalogue::Emoji) -> rpc::Emoji {
    rpc::Emoji { unicode: emoji.unicode.to_owned(), shortcode: emoji.shortcode.to_owned() }
}
