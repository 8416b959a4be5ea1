//! Filters, each way: the parts that inbound and outbound messages share.

use std::sync::Arc;
use std::time::Duration;

use hauberk_model::cors::{Cors, OriginPattern};
use hauberk_model::filter::{
    Delay, HeaderEdits, InjectGrpcFailure, InjectHttpFailure, Mirror, PathRewrite, Ratio, Redirect,
    UrlRewrite,
};
use hauberk_model::name::{Authority, ServiceName};
use http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};

use crate::api::{grpc_route, http_route, http_types};
use crate::invalid::{Invalid, Required};
use crate::scalar;

/// What a filter of a kind that this version does not know answers requests with. The rule does
/// not work without its filter, but other rules do.
pub(crate) const UNKNOWN_FILTER: &str = "route filter is not supported by this proxy";

/// What a route that could not be understood answers HTTP requests with.
pub(crate) fn invalid_http(message: &Arc<str>) -> InjectHttpFailure {
    InjectHttpFailure {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: message.clone(),
        ratio: Ratio::ALL,
    }
}

/// What a route that could not be understood answers gRPC calls with: code 13, `INTERNAL`.
pub(crate) fn invalid_grpc(message: &Arc<str>) -> InjectGrpcFailure {
    InjectGrpcFailure { code: 13, message: message.clone(), ratio: Ratio::ALL }
}

fn ratio_to_wire(ratio: Ratio) -> Option<http_route::Ratio> {
    Some(http_route::Ratio { numerator: ratio.numerator, denominator: ratio.denominator })
}

fn ratio_from_wire(field: &'static str, wire: Option<http_route::Ratio>) -> Result<Ratio, Invalid> {
    match wire {
        None => Ok(Ratio::ALL),
        Some(http_route::Ratio { denominator: 0, .. }) => Err(Invalid::out_of_range(field, 0)),
        Some(http_route::Ratio { numerator, denominator }) => Ok(Ratio { numerator, denominator }),
    }
}

pub(crate) fn http_failure_to_wire(from: &InjectHttpFailure) -> http_route::HttpFailureInjector {
    http_route::HttpFailureInjector {
        status: from.status.as_u16().into(),
        message: from.message.to_string(),
        ratio: ratio_to_wire(from.ratio),
    }
}

pub(crate) fn http_failure_from_wire(
    wire: http_route::HttpFailureInjector,
) -> Result<InjectHttpFailure, Invalid> {
    Ok(InjectHttpFailure {
        status: scalar::status("HttpFailureInjector.status", wire.status)?,
        message: wire.message.into(),
        ratio: ratio_from_wire("HttpFailureInjector.ratio", wire.ratio)?,
    })
}

/// How the message of a failure begins that stands for a URL rewrite. What follows are words
/// `host=NAME`, then `full=PATH` or `prefix=PATH`, which goes to the end.
const URL_REWRITE: &str = "route rewrites URLs, which this proxy cannot do:";

/// Says a URL rewrite, for which `linkerd2-proxy-api` v0.20 has no word: as a failure of every
/// request. Proxies that know no more fail the requests of the rule, as the Gateway API asks of
/// filters that cannot be applied, and say why (docs/decisions/0012).
pub(crate) fn url_rewrite_to_wire(from: &UrlRewrite) -> http_route::HttpFailureInjector {
    let mut message = URL_REWRITE.to_owned();
    if let Some(host) = &from.host {
        message += &format!(" host={host}");
    }
    match &from.path {
        None => {}
        Some(PathRewrite::Full(path)) => message += &format!(" full={path}"),
        Some(PathRewrite::Prefix(path)) => message += &format!(" prefix={path}"),
    }
    http_failure_to_wire(&invalid_http(&message.into()))
}

/// Reads a URL rewrite, if the failure stands for one; what is not exactly as above does not.
pub(crate) fn url_rewrite_from_wire(wire: &http_route::HttpFailureInjector) -> Option<UrlRewrite> {
    let mut rest = wire.message.strip_prefix(URL_REWRITE)?;
    let mut host = None;
    if let Some(named) = rest.strip_prefix(" host=") {
        let (name, after) = named.split_at(named.find(' ').unwrap_or(named.len()));
        (host, rest) = (Some(name.into()), after);
    }
    let path = match rest.strip_prefix(" full=").map(|path| PathRewrite::Full(path.into())) {
        Some(full) => Some(full),
        None => rest.strip_prefix(" prefix=").map(|path| PathRewrite::Prefix(path.into())),
    };
    (rest.is_empty() || path.is_some()).then_some(UrlRewrite { host, path })
}

/// How the message of a failure begins that stands for a mirror. What follows are words
/// `share=N/M`, `service=NAMESPACE/NAME` and `to=AUTHORITY`.
const MIRROR: &str = "route mirrors requests, which this proxy leaves out:";

/// How the message of a failure begins that stands for a delay. What follows are words `share=N/M`
/// and `millis=N`.
const DELAY: &str = "route delays requests, which this proxy leaves out:";

/// What may be left out, and is, by proxies that do not know it.
///
/// `linkerd2-proxy-api` v0.20 has no words for these. They are said as failures of no request at
/// all, whose message says what is meant (docs/decisions/0018).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Optional {
    Mirror(Mirror),
    Delay(Delay),
    Cors(Cors),
}

/// How the message of a failure begins that stands for CORS. What follows are words `origins=`,
/// `credentials=`, `methods=`, `headers=`, `exposed=` (lists with commas, `*` for all) and
/// `max-age=N`.
const CORS: &str = "route answers CORS requests, which this proxy leaves out:";

impl Optional {
    fn message(&self) -> String {
        match self {
            Self::Mirror(Mirror { service, authority, ratio }) => {
                let Ratio { numerator, denominator } = ratio;
                format!("{MIRROR} share={numerator}/{denominator} service={service} to={authority}")
            }
            Self::Delay(Delay { time, ratio: Ratio { numerator, denominator } }) => {
                format!("{DELAY} share={numerator}/{denominator} millis={}", time.as_millis())
            }
            Self::Cors(cors) => {
                let origins: Vec<&str> = cors.origins.iter().map(OriginPattern::as_str).collect();
                format!(
                    "{CORS} origins={} credentials={} methods={} headers={} exposed={} max-age={}",
                    origins.join(","),
                    cors.credentials,
                    names(cors.any_method, &cors.methods),
                    names(cors.any_header, &cors.headers),
                    names(cors.exposes_all, &cors.exposed),
                    cors.max_age
                )
            }
        }
    }

    /// Reads what a failure of no request stands for; what is not exactly as above stands for
    /// itself.
    fn read(ratio: Option<&http_route::Ratio>, message: &str) -> Option<Self> {
        if ratio.is_none_or(|ratio| ratio.numerator != 0) {
            return None;
        }
        let read = if let Some(words) = message.strip_prefix(CORS) {
            Self::Cors(cors(words)?)
        } else if let Some(words) = message.strip_prefix(MIRROR) {
            let (ratio, rest) = share(words)?;
            let (service, to) = rest.strip_prefix(" service=")?.split_once(" to=")?;
            let (namespace, name) = service.split_once('/')?;
            let (_, port) = to.rsplit_once(':')?;
            let authority = Authority::parse(to, port.parse().ok()?).ok()?;
            Self::Mirror(Mirror { service: ServiceName::new(namespace, name), authority, ratio })
        } else {
            let (ratio, rest) = share(message.strip_prefix(DELAY)?)?;
            let millis: u64 = rest.strip_prefix(" millis=")?.parse().ok()?;
            Self::Delay(Delay { time: Duration::from_millis(millis), ratio })
        };
        (read.message() == message).then_some(read)
    }

    pub(crate) fn to_http(&self) -> http_route::HttpFailureInjector {
        let failure = invalid_http(&self.message().into());
        http_failure_to_wire(&InjectHttpFailure { ratio: Ratio::NONE, ..failure })
    }

    pub(crate) fn from_http(wire: &http_route::HttpFailureInjector) -> Option<Self> {
        Self::read(wire.ratio.as_ref(), &wire.message)
    }

    pub(crate) fn to_grpc(&self) -> grpc_route::GrpcFailureInjector {
        let failure = invalid_grpc(&self.message().into());
        grpc_failure_to_wire(&InjectGrpcFailure { ratio: Ratio::NONE, ..failure })
    }

    pub(crate) fn from_grpc(wire: &grpc_route::GrpcFailureInjector) -> Option<Self> {
        Self::read(wire.ratio.as_ref(), &wire.message)
    }
}

/// A list with commas; `*` for all comes first.
fn names<T: AsRef<str>>(all: bool, names: &[T]) -> String {
    let all = all.then_some("*").into_iter();
    all.chain(names.iter().map(AsRef::as_ref)).collect::<Vec<_>>().join(",")
}

fn cors(words: &str) -> Option<Cors> {
    let (origins, rest) = words.strip_prefix(" origins=")?.split_once(" credentials=")?;
    let (credentials, rest) = rest.split_once(" methods=")?;
    let (methods, rest) = rest.split_once(" headers=")?;
    let (headers, rest) = rest.split_once(" exposed=")?;
    let (exposed, max_age) = rest.split_once(" max-age=")?;
    let split = |list: &str| -> (bool, Vec<String>) {
        let items = list.split(',').filter(|item| !item.is_empty());
        let (all, names): (Vec<&str>, Vec<&str>) = items.partition(|item| *item == "*");
        (!all.is_empty(), names.into_iter().map(str::to_owned).collect())
    };
    let origins = origins.split(',').filter(|item| !item.is_empty());
    let ((any_method, methods), (any_header, headers), (exposes_all, exposed)) =
        (split(methods), split(headers), split(exposed));
    let header_names = |names: Vec<String>| -> Option<Vec<HeaderName>> {
        names.iter().map(|name| name.parse().ok()).collect()
    };
    Some(Cors {
        origins: origins.map(|origin| OriginPattern::parse(origin).ok()).collect::<Option<_>>()?,
        credentials: credentials.parse().ok()?,
        methods: methods.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
        any_method,
        headers: header_names(headers)?,
        any_header,
        exposed: header_names(exposed)?,
        exposes_all,
        max_age: max_age.parse().ok()?,
    })
}

/// Reads ` share=N/M` and gives what follows.
fn share(words: &str) -> Option<(Ratio, &str)> {
    let words = words.strip_prefix(" share=")?;
    let (share, rest) = words.split_at(words.find(' ')?);
    let (numerator, denominator) = share.split_once('/')?;
    let (numerator, denominator) = (numerator.parse().ok()?, denominator.parse().ok()?);
    (denominator != 0).then_some((Ratio { numerator, denominator }, rest))
}

pub(crate) fn grpc_failure_to_wire(from: &InjectGrpcFailure) -> grpc_route::GrpcFailureInjector {
    grpc_route::GrpcFailureInjector {
        code: from.code.into(),
        message: from.message.to_string(),
        ratio: ratio_to_wire(from.ratio),
    }
}

/// Linkerd's policy controller writes code 500 for a backend that does not exist; numbers that are
/// no gRPC code are read as `INTERNAL`.
pub(crate) fn grpc_failure_from_wire(
    wire: grpc_route::GrpcFailureInjector,
) -> Result<InjectGrpcFailure, Invalid> {
    let code = scalar::ranged_u16("GrpcFailureInjector.code", wire.code)?;
    Ok(InjectGrpcFailure {
        code: if (1..=16).contains(&code) { code } else { 13 },
        message: wire.message.into(),
        ratio: ratio_from_wire("GrpcFailureInjector.ratio", wire.ratio)?,
    })
}

pub(crate) fn request_headers_to_wire(from: &HeaderEdits) -> http_route::RequestHeaderModifier {
    let (add, set, remove) = edits_to_wire(from);
    http_route::RequestHeaderModifier { add, set, remove }
}

pub(crate) fn response_headers_to_wire(from: &HeaderEdits) -> http_route::ResponseHeaderModifier {
    let (add, set, remove) = edits_to_wire(from);
    http_route::ResponseHeaderModifier { add, set, remove }
}

pub(crate) fn request_headers_from_wire(
    wire: http_route::RequestHeaderModifier,
) -> Result<HeaderEdits, Invalid> {
    edits_from_wire("RequestHeaderModifier", wire.add, wire.set, wire.remove)
}

pub(crate) fn response_headers_from_wire(
    wire: http_route::ResponseHeaderModifier,
) -> Result<HeaderEdits, Invalid> {
    edits_from_wire("ResponseHeaderModifier", wire.add, wire.set, wire.remove)
}

type Headers = Option<http_types::Headers>;

fn edits_to_wire(from: &HeaderEdits) -> (Headers, Headers, Vec<String>) {
    let headers = |pairs: &[(HeaderName, HeaderValue)]| {
        let headers = pairs.iter().map(|(name, value)| http_types::headers::Header {
            name: name.as_str().to_owned(),
            value: value.as_bytes().to_vec(),
        });
        (!pairs.is_empty()).then(|| http_types::Headers { headers: headers.collect() })
    };
    let remove = from.remove.iter().map(|name| name.as_str().to_owned()).collect();
    (headers(&from.add), headers(&from.set), remove)
}

fn edits_from_wire(
    field: &'static str,
    add: Headers,
    set: Headers,
    remove: Vec<String>,
) -> Result<HeaderEdits, Invalid> {
    let pairs = |headers: Headers| {
        let headers = headers.into_iter().flat_map(|headers| headers.headers);
        let pair = |header: http_types::headers::Header| {
            Ok((header_name(field, &header.name)?, header_value(field, &header.value)?))
        };
        headers.map(pair).collect::<Result<Vec<_>, Invalid>>()
    };
    let remove = remove.iter().map(|name| header_name(field, name)).collect::<Result<_, _>>()?;
    Ok(HeaderEdits { add: pairs(add)?, set: pairs(set)?, remove })
}

pub(crate) fn header_name(field: &'static str, name: &str) -> Result<HeaderName, Invalid> {
    name.parse().map_err(|error| Invalid::malformed(field, name, error))
}

pub(crate) fn header_value(field: &'static str, value: &[u8]) -> Result<HeaderValue, Invalid> {
    let shown = || String::from_utf8_lossy(value).into_owned();
    HeaderValue::from_bytes(value).map_err(|error| Invalid::malformed(field, shown(), error))
}

pub(crate) fn redirect_to_wire(from: &Redirect) -> http_route::RequestRedirect {
    use http_route::path_modifier::Replace;
    let replace = from.path.as_ref().map(|path| match path {
        PathRewrite::Full(path) => Replace::Full(path.to_string()),
        PathRewrite::Prefix(path) => Replace::Prefix(path.to_string()),
    });
    http_route::RequestRedirect {
        scheme: from.scheme.as_ref().map(http_types::Scheme::from),
        host: from.host.as_deref().unwrap_or_default().to_owned(),
        path: replace.map(|replace| http_route::PathModifier { replace: Some(replace) }),
        port: scalar::port_to_wire(from.port),
        status: from.status.map_or(0, |status| status.as_u16().into()),
    }
}

pub(crate) fn redirect_from_wire(wire: http_route::RequestRedirect) -> Result<Redirect, Invalid> {
    use http_route::path_modifier::Replace;
    let scheme = |scheme: http_types::Scheme| {
        Scheme::try_from(scheme)
            .map_err(|error| Invalid::malformed("RequestRedirect.scheme", "", error))
    };
    let path = |path: http_route::PathModifier| {
        Ok(match path.replace.required("RequestRedirect.path")? {
            Replace::Full(path) => PathRewrite::Full(path.into()),
            Replace::Prefix(path) => PathRewrite::Prefix(path.into()),
        })
    };
    let status = match wire.status {
        0 => None,
        number => Some(scalar::status("RequestRedirect.status", number)?),
    };
    Ok(Redirect {
        scheme: wire.scheme.map(scheme).transpose()?,
        host: (!wire.host.is_empty()).then(|| wire.host.into()),
        path: wire.path.map(path).transpose()?,
        port: scalar::optional_port("RequestRedirect.port", wire.port)?,
        status,
    })
}
