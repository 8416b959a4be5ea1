//! Routes of the Gateway API, and Linkerd's own HTTP route, which has nearly the same form.
//!
//! These are views of what was written. Whether a route can be used (filters we know, patterns
//! that compile) is decided where it becomes policy, because the rules differ by direction.
//! Specification: <https://gateway-api.sigs.k8s.io/reference/spec/>.

use crate::{
    metadata::Metadata,
    view::{Condition, nullable},
};
use serde::Deserialize;
use std::sync::Arc;

macro_rules! route {
    ($(#[$doc:meta])* $name:ident, $rule:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            api_version: Arc<str>,
            /// Name, labels, annotations.
            pub metadata: Metadata,
            spec: RouteSpec<$rule>,
            #[serde(default, deserialize_with = "nullable")]
            status: RouteStatus,
        }

        impl $name {
            /// What the route wants to be attached to.
            pub fn parents(&self) -> &[ParentRef] {
                &self.spec.parent_refs
            }

            /// Host names (server names for TLS) the route is for; empty means all.
            pub fn hostnames(&self) -> &[Arc<str>] {
                &self.spec.hostnames
            }

            /// The rules, in order.
            pub fn rules(&self) -> &[$rule] {
                &self.spec.rules
            }

            /// What controllers said about each attachment.
            pub fn parent_statuses(&self) -> &[ParentStatus] {
                &self.status.parents
            }

            /// The API group that absent groups of parents stand for.
            pub fn group(&self) -> &str {
                self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
            }
        }
    };
}

route!(
    /// An HTTP route of either group.
    HttpRoute, HttpRouteRule
);
route!(
    /// A gRPC route.
    GrpcRoute, GrpcRouteRule
);
route!(
    /// A route for TLS that is not ended by the mesh.
    TlsRoute, TcpRouteRule
);
route!(
    /// A route for any TCP connection.
    TcpRoute, TcpRouteRule
);

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "R: Deserialize<'de>"))]
struct RouteSpec<R> {
    #[serde(default, deserialize_with = "nullable")]
    parent_refs: Vec<ParentRef>,
    #[serde(default, deserialize_with = "nullable")]
    hostnames: Vec<Arc<str>>,
    #[serde(default, deserialize_with = "nullable")]
    rules: Vec<R>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct RouteStatus {
    #[serde(default, deserialize_with = "nullable")]
    parents: Vec<ParentStatus>,
}

/// What a route wants to be attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group; none stands for the route's own group, the empty text for the core group.
    #[serde(default)]
    pub group: Option<Arc<str>>,
    /// Kind; none stands for `Gateway`.
    #[serde(default)]
    pub kind: Option<Arc<str>>,
    /// Namespace; none stands for the route's own.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
    /// Section of the parent.
    #[serde(default)]
    pub section_name: Option<Arc<str>>,
    /// Port of the parent; none stands for all.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What a controller said about one attachment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent meant.
    pub parent_ref: ParentRef,
    /// The controller that said so.
    #[serde(default, deserialize_with = "nullable")]
    pub controller_name: Arc<str>,
    #[serde(default, deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

impl ParentStatus {
    /// Whether the attachment was accepted.
    pub fn is_accepted(&self) -> bool {
        Condition::is_true(&self.conditions, "Accepted")
    }
}

/// An object that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ObjectRef {
    /// API group; none and the empty text stand for the core group.
    #[serde(default)]
    pub group: Option<Arc<str>>,
    /// Kind; none stands for `Service`.
    #[serde(default)]
    pub kind: Option<Arc<str>>,
    /// Namespace; none stands for the route's own.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
    /// Port.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Where a rule sends requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BackendRef {
    /// API group; none and the empty text stand for the core group.
    #[serde(default)]
    pub group: Option<Arc<str>>,
    /// Kind; none stands for `Service`.
    #[serde(default)]
    pub kind: Option<Arc<str>>,
    /// Namespace; none stands for the route's own.
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
    /// Port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share of the requests; none stands for 1.
    #[serde(default)]
    pub weight: Option<u32>,
    /// What happens to requests that go there.
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<RouteFilter>,
}

impl BackendRef {
    /// What it refers to.
    pub fn object(&self) -> ObjectRef {
        let Self { group, kind, namespace, name, port, weight: _, filters: _ } = self.clone();
        ObjectRef { group, kind, namespace, name, port }
    }
}

/// One rule of an HTTP route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Requests it is for, by any of these; empty means all.
    #[serde(default, deserialize_with = "nullable")]
    pub matches: Vec<HttpRouteMatch>,
    /// What happens to requests.
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<RouteFilter>,
    /// Where requests go.
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: Vec<BackendRef>,
    /// Limits of time.
    #[serde(default)]
    pub timeouts: Option<RouteTimeouts>,
}

/// One rule of a gRPC route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteRule {
    /// Calls it is for, by any of these; empty means all.
    #[serde(default, deserialize_with = "nullable")]
    pub matches: Vec<GrpcRouteMatch>,
    /// What happens to calls.
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<RouteFilter>,
    /// Where calls go.
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: Vec<BackendRef>,
}

/// One rule of a TLS or TCP route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteRule {
    /// Where connections go.
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: Vec<BackendRef>,
}

/// Limits of time of a rule, as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// Of the whole request.
    #[serde(default)]
    pub request: Option<Arc<str>>,
    /// Of one attempt.
    #[serde(default)]
    pub backend_request: Option<Arc<str>>,
}

/// Conditions on a request, all of which must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// On the path.
    #[serde(default)]
    pub path: Option<PathMatch>,
    /// On headers.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<ValueMatch>,
    /// On parameters of the query.
    #[serde(default, deserialize_with = "nullable")]
    pub query_params: Vec<ValueMatch>,
    /// On the method.
    #[serde(default)]
    pub method: Option<Arc<str>>,
}

/// Condition on a path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: PathMatchKind,
    /// With what; `/` if absent.
    #[serde(default)]
    pub value: Option<Arc<str>>,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PathMatchKind {
    /// The whole path.
    Exact,
    /// Whole segments at its beginning.
    #[default]
    PathPrefix,
    /// By pattern.
    RegularExpression,
}

/// Condition on a header or a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ValueMatch {
    /// How it is compared.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: ValueMatchKind,
    /// Name of the header or parameter.
    pub name: Arc<str>,
    /// With what.
    pub value: Arc<str>,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValueMatchKind {
    /// The whole value.
    #[default]
    Exact,
    /// By pattern.
    RegularExpression,
}

/// Conditions on a gRPC call, all of which must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcRouteMatch {
    /// On service and method.
    #[serde(default)]
    pub method: Option<GrpcMethodMatch>,
    /// On headers.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<ValueMatch>,
}

/// Condition on the service and method of a call.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcMethodMatch {
    /// How they are compared.
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: ValueMatchKind,
    /// The service; none means any.
    #[serde(default)]
    pub service: Option<Arc<str>>,
    /// The method; none means any.
    #[serde(default)]
    pub method: Option<Arc<str>>,
}

/// What happens to a request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum RouteFilter {
    /// Edit headers of the request.
    RequestHeaderModifier {
        /// How.
        #[serde(rename = "requestHeaderModifier")]
        edits: HeaderModifier,
    },
    /// Edit headers of the response.
    ResponseHeaderModifier {
        /// How.
        #[serde(rename = "responseHeaderModifier")]
        edits: HeaderModifier,
    },
    /// Answer with a redirect.
    RequestRedirect {
        /// Where to.
        #[serde(rename = "requestRedirect")]
        redirect: Redirect,
    },
    /// Send the request to another URL of the backend.
    #[serde(rename = "URLRewrite")]
    UrlRewrite {
        /// To which.
        #[serde(rename = "urlRewrite")]
        rewrite: UrlRewrite,
    },
    /// Send a copy of the request somewhere else.
    RequestMirror {
        /// Where to, and of which requests.
        #[serde(rename = "requestMirror")]
        mirror: RequestMirror,
    },
    /// Let pages of other origins read responses.
    #[serde(rename = "CORS")]
    Cors {
        /// Which, and what.
        cors: CorsRules,
    },
    /// A filter that the mesh does not know.
    #[serde(other)]
    Unsupported,
}

/// A copy of requests; of all of them unless a share is given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// Where it goes.
    pub backend_ref: ObjectRef,
    /// Share of requests in hundredths.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Share of requests.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// Which pages of other origins may read responses. `*` in a list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CorsRules {
    /// Origins, as `https://*.example.com`.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_origins: Vec<Arc<str>>,
    /// Whether requests may carry credentials.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_credentials: bool,
    /// Methods.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_methods: Vec<Arc<str>>,
    /// Names of request headers.
    #[serde(default, deserialize_with = "nullable")]
    pub allow_headers: Vec<Arc<str>>,
    /// Names of response headers.
    #[serde(default, deserialize_with = "nullable")]
    pub expose_headers: Vec<Arc<str>>,
    /// How long browsers remember the answer, in seconds; 5 if absent.
    #[serde(default)]
    pub max_age: Option<u32>,
}

/// A share, `numerator` out of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Out of how many; 100 if absent.
    #[serde(default)]
    pub denominator: Option<u32>,
}

/// Edits of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HeaderModifier {
    /// Replaced or inserted.
    #[serde(default, deserialize_with = "nullable")]
    pub set: Vec<HeaderValue>,
    /// Appended.
    #[serde(default, deserialize_with = "nullable")]
    pub add: Vec<HeaderValue>,
    /// Removed.
    #[serde(default, deserialize_with = "nullable")]
    pub remove: Vec<Arc<str>>,
}

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderValue {
    /// Name.
    pub name: Arc<str>,
    /// Value.
    pub value: Arc<str>,
}

/// A redirect; absent parts are taken from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// Scheme.
    #[serde(default)]
    pub scheme: Option<Arc<str>>,
    /// Host.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    /// Path.
    #[serde(default)]
    pub path: Option<PathModifier>,
    /// Port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Status of the answer; 302 if absent.
    #[serde(default)]
    pub status_code: Option<u16>,
}

/// A URL's new parts; absent ones are taken from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct UrlRewrite {
    /// Host.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    /// Path.
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// How a redirect or a rewrite changes the path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum PathModifier {
    /// Replaces all of it.
    ReplaceFullPath {
        /// The new path.
        #[serde(rename = "replaceFullPath")]
        path: Arc<str>,
    },
    /// Replaces the part that matched as a prefix.
    ReplacePrefixMatch {
        /// The new prefix.
        #[serde(rename = "replacePrefixMatch")]
        prefix: Arc<str>,
    },
}

/// A permission for references from other namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrant {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    /// Who may refer to what.
    pub spec: ReferenceGrantSpec,
}

/// Who may refer to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    #[serde(default, deserialize_with = "nullable")]
    pub from: Vec<ReferenceGrantFrom>,
    /// To what, in the grant's namespace.
    #[serde(default, deserialize_with = "nullable")]
    pub to: Vec<ReferenceGrantTo>,
}

/// Objects that may refer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrantFrom {
    /// API group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// Objects that may be referred to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrantTo {
    /// API group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name; none means all.
    #[serde(default)]
    pub name: Option<Arc<str>>,
}
