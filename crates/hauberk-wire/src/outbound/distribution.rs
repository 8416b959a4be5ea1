//! How requests are spread over backends, each way.
//!
//! The four kinds of routes have the same shape on the wire, in four sets of types without a trait
//! in common, so one macro writes the four translations.
//!
//! A backend that cannot be used has no kind on the wire and a filter before it that fails each
//! request with the reason (linkerd2's policy controller).

macro_rules! distribution {
    ($name:ident, $wire:ident, $filter:ty, $to:path, $from:path, $message:path) => {
        pub(super) mod $name {
            use std::sync::Arc;

            use hauberk_model::outbound::{Backend, BackendTarget, Distribution, RouteBackend};

            use crate::api::outbound::$wire as wire;
            use crate::invalid::{Invalid, Required};
            use crate::outbound::backend;

            pub(in crate::outbound) fn to_wire(from: &Distribution<$filter>) -> wire::Distribution {
                use wire::distribution::{Empty, FirstAvailable, Kind, RandomAvailable};
                let weighted =
                    |(backend, weight): &(RouteBackend<$filter>, u32)| wire::WeightedRouteBackend {
                        backend: Some(backend_to_wire(backend)),
                        weight: *weight,
                    };
                let kind = match from {
                    Distribution::Empty => Kind::Empty(Empty {}),
                    Distribution::FirstAvailable(backends) => {
                        Kind::FirstAvailable(FirstAvailable {
                            backends: backends.iter().map(backend_to_wire).collect(),
                        })
                    }
                    Distribution::Random(backends) => Kind::RandomAvailable(RandomAvailable {
                        backends: backends.iter().map(weighted).collect(),
                    }),
                };
                wire::Distribution { kind: Some(kind) }
            }

            pub(in crate::outbound) fn from_wire(
                wire: Option<wire::Distribution>,
            ) -> Result<Distribution<$filter>, Invalid> {
                use wire::distribution::Kind;
                let kind = wire.and_then(|distribution| distribution.kind);
                Ok(match kind.required("Rule.backends")? {
                    Kind::Empty(_) => Distribution::Empty,
                    Kind::FirstAvailable(first) => {
                        let backends = first.backends.into_iter().map(backend_from_wire);
                        Distribution::FirstAvailable(backends.collect::<Result<_, _>>()?)
                    }
                    Kind::RandomAvailable(random) => {
                        let weighted = |weighted: wire::WeightedRouteBackend| {
                            let backend =
                                weighted.backend.required("WeightedRouteBackend.backend")?;
                            Ok((backend_from_wire(backend)?, weighted.weight))
                        };
                        let backends = random.backends.into_iter().map(weighted);
                        Distribution::Random(backends.collect::<Result<_, Invalid>>()?)
                    }
                })
            }

            #[allow(clippy::field_reassign_with_default, reason = "see the comment inside")]
            fn backend_to_wire(from: &RouteBackend<$filter>) -> wire::RouteBackend {
                let reason = match &from.backend.target {
                    BackendTarget::Invalid(message) => Some(<$filter>::Invalid(message.clone())),
                    BackendTarget::Forward(_) | BackendTarget::Balance { .. } => None,
                };
                // Filled in afterwards: two of the four types have a deprecated field besides.
                let mut backend = wire::RouteBackend::default();
                backend.backend = Some(backend::to_wire(&from.backend));
                backend.filters = reason.iter().chain(&from.filters).map($to).collect();
                backend
            }

            fn backend_from_wire(
                wire: wire::RouteBackend,
            ) -> Result<RouteBackend<$filter>, Invalid> {
                let mut filters: Vec<$filter> =
                    wire.filters.into_iter().map($from).collect::<Result<_, _>>()?;
                let mut backend =
                    backend::from_wire(wire.backend.required("RouteBackend.backend")?)?;
                if let BackendTarget::Invalid(message) = &mut backend.target
                    && let Some(reason) = filters.first().and_then($message)
                {
                    *message = reason;
                    filters.remove(0);
                }
                Ok(RouteBackend { filters, backend: Arc::<Backend>::new(backend) })
            }
        }
    };
}

distribution!(
    http,
    http_route,
    hauberk_model::filter::HttpFilter,
    crate::outbound::http_filter_to_wire,
    crate::outbound::http_filter_from_wire,
    crate::outbound::message_of_http
);
distribution!(
    grpc,
    grpc_route,
    hauberk_model::filter::GrpcFilter,
    crate::outbound::grpc_filter_to_wire,
    crate::outbound::grpc_filter_from_wire,
    crate::outbound::message_of_grpc
);
distribution!(
    opaque,
    opaque_route,
    hauberk_model::filter::TcpFilter,
    crate::outbound::opaque_filter_to_wire,
    crate::outbound::opaque_filter_from_wire,
    crate::outbound::message_of_tcp
);
distribution!(
    tls,
    tls_route,
    hauberk_model::filter::TcpFilter,
    crate::outbound::tls_filter_to_wire,
    crate::outbound::tls_filter_from_wire,
    crate::outbound::message_of_tcp
);
