//! Kubernetes objects as the mesh understands them.
//!
//! Each kind the mesh reads has a small struct here that names only the fields the mesh looks at.
//! [`Resource::parse`] turns one JSON value into one of them; everything else in the object is
//! ignored, and a field of the wrong type is an [`Invalid`] that names the object and the field, so
//! a broken object harms nobody but itself.
//!
//! Callers: sources (directory, Kubernetes) parse and send [`ResourceEvent`]s; the index stores the
//! parsed values; the injector, the CLI and the admission webhook use the same parsers, so what is
//! admitted is what is understood.
//!
//! Deliberately not here: any IO, any clock, what objects mean *together* (that is the index), and
//! round trips (a parsed view cannot be written back, because it forgot what it does not read).

pub mod annotations;
mod core;
mod duration;
mod event;
mod external_workload;
mod gateway;
mod invalid;
mod kind;
mod metadata;
mod pod;
pub mod policy;
mod port_list;
mod profile;
mod rules;
mod selector;
mod slice;
mod verdict;
mod view;
mod workload;
pub mod yaml;

pub use crate::{
    core::{Namespace, Node, Service, ServiceAccount, ServicePort, ServiceType, TrafficScope},
    duration::{BadDuration, parse_annotation, parse_gateway, parse_go},
    event::ResourceEvent,
    external_workload::{ExternalWorkload, ExternalWorkloadPort},
    gateway::{
        BackendRef, CorsRules, Fraction, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule,
        HeaderModifier, HeaderValue, HttpRoute, HttpRouteMatch, HttpRouteRule, ObjectRef,
        ParentRef, ParentStatus, PathMatch, PathMatchKind, PathModifier, Redirect, ReferenceGrant,
        ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo, RequestMirror, RouteFilter,
        RouteTimeouts, TcpRoute, TcpRouteRule, TlsRoute, UrlRewrite, ValueMatch, ValueMatchKind,
    },
    invalid::{Invalid, ObjectName},
    kind::{Kind, Resource, ResourceKey, UNREAD_MAX},
    metadata::{Metadata, OwnerReference, Timestamp},
    pod::{Container, ContainerPort, EnvVar, HttpGet, Pod, PodPhase, PodSpec, Probe},
    port_list::{BadPort, PortList},
    profile::{DstOverride, ServiceProfile},
    selector::{LabelSelector, Requirement, SelectorOperator},
    slice::{AddressType, EndpointSlice, SliceEndpoint, SlicePort, TargetRef},
    verdict::Verdict,
    view::{Condition, IntOrString, Protocol},
    workload::{PodTemplate, TemplateMetadata, Workload, WorkloadSpec},
};
