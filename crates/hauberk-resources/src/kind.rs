//! The closed list of kinds, and one object of any of them.
//!
//! A new kind is one line in the table below, one parser, and whatever in the index reads it.

use crate::{
    core::{Namespace, Node, Service, ServiceAccount},
    external_workload::ExternalWorkload,
    gateway::{GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute},
    invalid::{Invalid, ObjectName},
    metadata::Metadata,
    pod::Pod,
    policy::{
        AuthorizationPolicy, EgressNetwork, HttpLocalRateLimitPolicy, MeshTlsAuthentication,
        NetworkAuthentication, Server, ServerAuthorization,
    },
    profile::ServiceProfile,
    rules::{self, Broken},
    slice::EndpointSlice,
    workload::Workload,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{fmt, sync::Arc};

macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident($view:ty) = $group:literal $kind:literal $scope:ident; )*) => {
        /// A kind of object that the mesh reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $( $(#[$doc])* $variant, )* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$( Self::$variant, )*];

            /// The API group; empty for the core group.
            pub fn group(self) -> &'static str {
                match self { $( Self::$variant => $group, )* }
            }

            /// The kind's name in manifests.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $kind, )* }
            }

            fn scope(self) -> Scope {
                match self { $( Self::$variant => Scope::$scope, )* }
            }
        }

        /// One object of a kind that the mesh reads.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Resource { $( $(#[$doc])* $variant($view), )* }

        impl Resource {
            /// The object's kind.
            pub fn kind(&self) -> Kind {
                match self { $( Self::$variant(_) => Kind::$variant, )* }
            }

            /// What the object has in common with all others.
            pub fn metadata(&self) -> &Metadata {
                match self { $( Self::$variant(view) => &view.metadata, )* }
            }

            fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $( Self::$variant(view) => &mut view.metadata, )* }
            }

            fn read(
                kind: Kind,
                value: Value,
                object: &ObjectName,
                unread: Option<&mut Vec<String>>,
            ) -> Result<Self, Invalid> {
                match kind {
                    $( Kind::$variant => Ok(Self::$variant(view(value, object, unread)?)), )*
                }
            }
        }
    };
}

kinds! {
    /// A namespace, read for its annotations and labels.
    Namespace(Namespace) = "" "Namespace" Cluster;
    /// A node, read for its zone.
    Node(Node) = "" "Node" Cluster;
    /// A pod.
    Pod(Pod) = "" "Pod" Namespaced;
    /// A service.
    Service(Service) = "" "Service" Namespaced;
    /// A service account.
    ServiceAccount(ServiceAccount) = "" "ServiceAccount" Namespaced;
    /// A part of a service's endpoints.
    EndpointSlice(EndpointSlice) = "discovery.k8s.io" "EndpointSlice" Namespaced;
    /// A deployment.
    Deployment(Workload) = "apps" "Deployment" Namespaced;
    /// A stateful set.
    StatefulSet(Workload) = "apps" "StatefulSet" Namespaced;
    /// A daemon set.
    DaemonSet(Workload) = "apps" "DaemonSet" Namespaced;
    /// A replica set, usually owned by a deployment.
    ReplicaSet(Workload) = "apps" "ReplicaSet" Namespaced;
    /// A job.
    Job(Workload) = "batch" "Job" Namespaced;
    /// A machine outside of the cluster that is part of the mesh.
    ExternalWorkload(ExternalWorkload) = "workload.linkerd.io" "ExternalWorkload" Namespaced;
    /// What a port of some pods accepts.
    Server(Server) = "policy.linkerd.io" "Server" Namespaced;
    /// Who may talk to servers (the older form).
    ServerAuthorization(ServerAuthorization) = "policy.linkerd.io" "ServerAuthorization" Namespaced;
    /// Who may talk to a server, a route or a namespace.
    AuthorizationPolicy(AuthorizationPolicy) = "policy.linkerd.io" "AuthorizationPolicy" Namespaced;
    /// A set of mesh identities.
    MeshTlsAuthentication(MeshTlsAuthentication) = "policy.linkerd.io" "MeshTLSAuthentication" Namespaced;
    /// A set of networks.
    NetworkAuthentication(NetworkAuthentication) = "policy.linkerd.io" "NetworkAuthentication" Namespaced;
    /// Limits of requests per second for a server.
    HttpLocalRateLimitPolicy(HttpLocalRateLimitPolicy) = "policy.linkerd.io" "HTTPLocalRateLimitPolicy" Namespaced;
    /// Networks outside of the cluster.
    EgressNetwork(EgressNetwork) = "policy.linkerd.io" "EgressNetwork" Namespaced;
    /// An HTTP route of Linkerd's own group.
    PolicyHttpRoute(HttpRoute) = "policy.linkerd.io" "HTTPRoute" Namespaced;
    /// An HTTP route of the Gateway API.
    GatewayHttpRoute(HttpRoute) = "gateway.networking.k8s.io" "HTTPRoute" Namespaced;
    /// A gRPC route.
    GrpcRoute(GrpcRoute) = "gateway.networking.k8s.io" "GRPCRoute" Namespaced;
    /// A TLS route.
    TlsRoute(TlsRoute) = "gateway.networking.k8s.io" "TLSRoute" Namespaced;
    /// A TCP route.
    TcpRoute(TcpRoute) = "gateway.networking.k8s.io" "TCPRoute" Namespaced;
    /// A permission for references from other namespaces.
    ReferenceGrant(ReferenceGrant) = "gateway.networking.k8s.io" "ReferenceGrant" Namespaced;
    /// Routes, retries and traffic splits of a service (the older form).
    ServiceProfile(ServiceProfile) = "linkerd.io" "ServiceProfile" Namespaced;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Namespaced,
}

impl Kind {
    /// The kind with this `apiVersion` and `kind`, whatever the version within the group.
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _version)| group);
        Self::ALL.iter().copied().find(|known| known.name() == kind && known.group() == group)
    }

    /// Whether objects of the kind live in namespaces.
    pub fn is_namespaced(self) -> bool {
        self.scope() == Scope::Namespaced
    }

    /// Whether the kind was made for the mesh, and nobody else reads its objects.
    pub fn is_own(self) -> bool {
        self.group() == "linkerd.io" || self.group().ends_with(".linkerd.io")
    }

    /// Whether fields that are not read are told: objects of other groups are full of what is none
    /// of the mesh's business.
    fn tells_unread(self) -> bool {
        self.is_own() || self.group() == "gateway.networking.k8s.io"
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if self.group().is_empty() { Ok(()) } else { write!(f, ".{}", self.group()) }
    }
}

/// The name of one object among all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ResourceKey {
    /// Names an object; the namespace of a cluster-wide kind is dropped.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        let namespace = if kind.is_namespaced() { namespace.into() } else { Arc::default() };
        Self { kind, namespace, name: name.into() }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Resource {
    /// Reads one object.
    ///
    /// A namespaced object without a namespace is put into `default`, as `kubectl apply` does.
    ///
    /// # Errors
    ///
    /// [`Invalid::Unrecognised`] if the mesh does not read the kind, [`Invalid::Malformed`] if a
    /// field cannot be understood.
    pub fn parse(value: Value) -> Result<Self, Invalid> {
        Self::parse_noting(value).map(|(resource, _unread)| resource)
    }

    /// The same, and which fields of the object nobody reads, such as `spec.rules[0].retry`; at
    /// most [`UNREAD_MAX`] of them, and only for kinds of the mesh and of the Gateway API.
    ///
    /// # Errors
    ///
    /// As [`Resource::parse`].
    pub fn parse_noting(value: Value) -> Result<(Self, Vec<String>), Invalid> {
        let object = ObjectName::of(&value);
        let Some(kind) = Kind::find(&object.api_version, &object.kind) else {
            return Err(Invalid::Unrecognised { object });
        };
        let mut unread = Vec::new();
        let notes = kind.tells_unread().then_some(&mut unread);
        let mut resource = Self::read(kind, value, &object, notes)?;
        resource.settle(&object)?;
        rules::check(&resource).map_err(|Broken { field, reason }| Invalid::Malformed {
            object,
            field,
            reason,
        })?;
        Ok((resource, unread))
    }

    /// The name of the object among all.
    pub fn key(&self) -> ResourceKey {
        let metadata = self.metadata();
        ResourceKey {
            kind: self.kind(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        }
    }

    /// Fills in what the API server would have filled in.
    fn settle(&mut self, object: &ObjectName) -> Result<(), Invalid> {
        let is_namespaced = self.kind().is_namespaced();
        let metadata = self.metadata_mut();
        if metadata.name.is_empty() {
            return Err(Invalid::Malformed {
                object: Box::new(object.clone()),
                field: "metadata.name".to_owned(),
                reason: "must not be empty".to_owned(),
            });
        }
        if !is_namespaced {
            metadata.namespace = Arc::default();
        } else if metadata.namespace.is_empty() {
            metadata.namespace = "default".into();
        }
        Ok(())
    }
}

/// Most fields that [`Resource::parse_noting`] names.
pub const UNREAD_MAX: usize = 16;

fn view<T: DeserializeOwned>(
    value: Value,
    object: &ObjectName,
    mut unread: Option<&mut Vec<String>>,
) -> Result<T, Invalid> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let view = serde_ignored::deserialize(tracked, |path| {
        if let Some(unread) = &mut unread
            && unread.len() < UNREAD_MAX
        {
            unread.extend(unread_field(&path));
        }
    });
    view.map_err(|error| Invalid::Malformed {
        object: Box::new(object.clone()),
        field: track.path().to_string(),
        reason: error.to_string(),
    })
}

/// The field as people write it, if the mesh should have read it: what stands in the metadata and
/// in the status is for others too, and so is the name of a route's rule.
fn unread_field(path: &serde_ignored::Path<'_>) -> Option<String> {
    let field = field(path);
    let others = ["apiVersion", "kind", "metadata", "status"];
    let top = field.split(['.', '[']).next().unwrap_or_default();
    let is_name_of_rule = field.starts_with("spec.rules[") && field.ends_with("].name");
    (!others.contains(&top) && !is_name_of_rule).then_some(field)
}

fn field(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field(parent)),
        Path::Map { parent, key } => match field(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field(parent),
    }
}
