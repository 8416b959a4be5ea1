//! What can be set, and the command line that sets it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::Styles;
use clap::{Args as ClapArgs, Parser, ValueEnum};
use hauberk_identity::issuer::Lifetimes;
use hauberk_index::{ClusterConfig, TransportMode};
use hauberk_model::PortSet;
use hauberk_model::inbound::DefaultPolicy;
use hauberk_process::logging::{Filter, Format};
use hauberk_resources::parse_go;
use ipnet::IpNet;

/// Everything the control plane needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that is the cluster.
    pub source_dir: PathBuf,
    /// Where destination is served.
    pub destination_addr: SocketAddr,
    /// Where inbound and outbound policy are served.
    pub policy_addr: SocketAddr,
    /// Where identity is served, if there is an issuer.
    pub identity_addr: SocketAddr,
    /// Where health and metrics are served.
    pub admin_addr: SocketAddr,
    /// What answers depend on.
    pub cluster: ClusterConfig,
    /// The issuer and all about it; without it there is no identity service and no TLS.
    pub identity: Option<IdentityConfig>,
    /// The admission webhooks; without it there are none.
    pub admission: Option<AdmissionConfig>,
}

/// Where admission webhooks are served, and by which certificate.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// The directory of `tls.crt` and `tls.key`, as a Secret of type `kubernetes.io/tls` is mounted.
    pub tls_dir: PathBuf,
    /// Where policies and routes are reviewed.
    pub policy_addr: SocketAddr,
    /// Where ServiceProfiles are reviewed.
    pub profile_addr: SocketAddr,
}

/// Where the issuer is and how it issues.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// PEM bundle of trust anchors.
    pub trust_anchors_file: PathBuf,
    /// PEM certificate of the issuer, with those above it.
    pub issuer_cert_file: PathBuf,
    /// PEM key of the issuer.
    pub issuer_key_file: PathBuf,
    /// PEM public keys that workload tokens are signed with.
    pub token_key_file: PathBuf,
    /// The `iss` of workload tokens.
    pub token_issuer: String,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
}

/// Answers the proxies of a mesh: where to send, what to accept, and who they are.
///
/// Reads a directory of Kubernetes YAML as the cluster and follows its changes. With an issuer it is
/// also the mesh's certificate authority and speaks mesh TLS on its ports; without one it serves
/// plaintext to its own host only, as behind a sidecar.
#[derive(Debug, Parser)]
#[command(name = "hauberk-controller", version, styles = Styles::plain(), max_term_width = 100)]
pub struct Arguments {
    /// Directory of YAML files that is the cluster
    #[arg(long, value_name = "DIR")]
    source_dir: PathBuf,

    #[command(flatten, next_help_heading = "Listeners")]
    listeners: ListenerArguments,

    #[command(flatten, next_help_heading = "Cluster")]
    cluster: ClusterArguments,

    #[command(flatten, next_help_heading = "Identity (all four files, or none)")]
    identity: IdentityArguments,

    #[command(flatten, next_help_heading = "Admission webhooks (only with a certificate)")]
    admission: AdmissionArguments,

    #[command(flatten, next_help_heading = "Process")]
    process: ProcessArguments,
}

#[derive(Debug, ClapArgs)]
struct ListenerArguments {
    /// Serves io.linkerd.proxy.destination
    #[arg(long, value_name = "ADDR", default_value = "[::]:8086")]
    destination_addr: SocketAddr,
    /// Serves io.linkerd.proxy.inbound and io.linkerd.proxy.outbound
    #[arg(long, value_name = "ADDR", default_value = "[::]:8090")]
    policy_addr: SocketAddr,
    /// Serves io.linkerd.proxy.identity, if there is an issuer
    #[arg(long, value_name = "ADDR", default_value = "[::]:8080")]
    identity_addr: SocketAddr,
    /// Serves /live, /ready, /metrics, /problems and /status
    #[arg(long, value_name = "ADDR", default_value = "[::]:9990")]
    admin_addr: SocketAddr,
}

#[derive(Debug, ClapArgs)]
struct ClusterArguments {
    /// Namespace of the control plane; part of every identity
    #[arg(long, value_name = "NAME", default_value = "linkerd")]
    controller_namespace: String,
    /// Domain of service names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Domain of identities [default: the cluster domain]
    #[arg(long, value_name = "DOMAIN")]
    identity_trust_domain: Option<String>,
    /// What ports accept that no policy speaks of: all-unauthenticated, all-authenticated,
    /// cluster-unauthenticated, cluster-authenticated, deny, audit
    #[arg(long, value_name = "POLICY", default_value = "all-unauthenticated")]
    default_inbound_policy: DefaultPolicy,
    /// Networks of pods, services and nodes
    #[arg(
        long,
        value_name = "NET,…",
        value_delimiter = ',',
        default_value = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8"
    )]
    cluster_networks: Vec<IpNet>,
    /// Networks that probes come from; empty for none
    #[arg(long, value_name = "NET,…", value_parser = networks, default_value = "0.0.0.0/0,::/0")]
    probe_networks: Networks,
    /// Ports whose connections are not looked into, where no annotation says otherwise
    #[arg(long, value_name = "PORT,…", value_parser = port_set,
        default_value = "25,587,3306,4444,5432,6379,9300,11211")]
    default_opaque_ports: PortSet,
    /// How proxies reach each other: through the proxy port with a header, or on the application's
    /// port
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Transport::TransportHeader)]
    outbound_transport_mode: Transport,
    /// Use IPv6 endpoints, and prefer them where a pod has both families
    #[arg(long)]
    enable_ipv6: bool,
    /// Let clients set timeouts and retries by l5d-* headers
    #[arg(long)]
    allow_l5d_request_headers: bool,
    /// Refuse routes backends in other namespaces that no ReferenceGrant there lets them refer to
    #[arg(long)]
    require_reference_grants: bool,
}

#[derive(Debug, ClapArgs)]
struct IdentityArguments {
    /// PEM bundle of trust anchors; read again when it changes
    #[arg(long, value_name = "FILE",
        requires_all = ["issuer_cert_file", "issuer_key_file", "token_key_file"])]
    trust_anchors_file: Option<PathBuf>,
    /// PEM certificate of the issuer; read again when it changes
    #[arg(long, value_name = "FILE", requires = "trust_anchors_file")]
    issuer_cert_file: Option<PathBuf>,
    /// PEM key of the issuer; read again when it changes
    #[arg(long, value_name = "FILE", requires = "trust_anchors_file")]
    issuer_key_file: Option<PathBuf>,
    /// PEM public keys (EC, P-256) that workload tokens are signed with; read again when it changes
    #[arg(long, value_name = "FILE", requires = "trust_anchors_file")]
    token_key_file: Option<PathBuf>,
    /// The `iss` that workload tokens must carry
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    token_issuer: String,
    /// How long certificates live
    #[arg(long, value_name = "DURATION", value_parser = parse_go, default_value = "24h")]
    issuance_lifetime: Duration,
    /// Added at both ends of a certificate's life, and allowed for tokens
    #[arg(long, value_name = "DURATION", value_parser = parse_go, default_value = "20s")]
    clock_skew_allowance: Duration,
}

#[derive(Debug, ClapArgs)]
struct AdmissionArguments {
    /// Directory with tls.crt and tls.key, such as /var/run/linkerd/tls; read again when they change
    #[arg(long, value_name = "DIR")]
    webhook_tls_dir: Option<PathBuf>,
    /// Reviews policies and routes
    #[arg(long, value_name = "ADDR", default_value = "[::]:9443", requires = "webhook_tls_dir")]
    policy_webhook_addr: SocketAddr,
    /// Reviews ServiceProfiles
    #[arg(long, value_name = "ADDR", default_value = "[::]:8443", requires = "webhook_tls_dir")]
    profile_webhook_addr: SocketAddr,
}

#[derive(Debug, ClapArgs)]
struct ProcessArguments {
    /// What is logged: a level, or TARGET=LEVEL,…
    #[arg(long, value_name = "FILTER", default_value = "warn,hauberk=info")]
    log_level: Filter,
    /// plain or json
    #[arg(long, value_name = "FORMAT", value_parser = log_format, default_value = "plain")]
    log_format: Format,
    /// How long connections may take to end after a first signal
    #[arg(long, value_name = "DURATION", value_parser = parse_go, default_value = "20s")]
    shutdown_grace_period: Duration,
}

/// How proxies reach each other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Transport {
    /// Through the proxy's port, with a header that names the application's.
    TransportHeader,
    /// On the application's own port.
    Transparent,
}

/// Networks, maybe none; clap would take an empty list for a missing value.
#[derive(Clone, Debug)]
struct Networks(Vec<IpNet>);

fn networks(text: &str) -> Result<Networks, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let (good, bad): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.parse().map_err(|_| entry)).partition(Result::is_ok);
    let bad: Vec<&str> = bad.into_iter().filter_map(Result::err).collect();
    match bad[..] {
        [] => Ok(Networks(good.into_iter().filter_map(Result::ok).collect())),
        _ => Err(format!("not networks: {}", bad.join(", "))),
    }
}

fn port_set(text: &str) -> Result<PortSet, String> {
    let joined = |bad: Vec<hauberk_model::port::InvalidPort>| {
        bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    PortSet::parse(text).map_err(joined)
}

fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "plain" => Ok(Format::Plain),
        "json" => Ok(Format::Json),
        _ => Err("expected plain or json".to_owned()),
    }
}

/// How the process itself behaves; everything else is [`Config`].
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// What is logged.
    pub log_level: Filter,
    /// In which form.
    pub log_format: Format,
    /// How long connections may take to end.
    pub shutdown_grace_period: Duration,
}

/// What answers depend on, of a control plane started with these arguments; none if it would not
/// start.
pub fn cluster(arguments: impl IntoIterator<Item = String>) -> Option<ClusterConfig> {
    let program = std::iter::once("hauberk-controller".to_owned());
    let arguments = Arguments::try_parse_from(program.chain(arguments)).ok()?;
    Some(arguments.into_config().0.cluster)
}

impl Arguments {
    /// The settings that were typed.
    pub fn into_config(self) -> (Config, ProcessConfig) {
        let Self { source_dir, listeners, cluster, identity, admission, process } = self;
        let config = Config {
            source_dir,
            destination_addr: listeners.destination_addr,
            policy_addr: listeners.policy_addr,
            identity_addr: listeners.identity_addr,
            admin_addr: listeners.admin_addr,
            cluster: cluster.into_config(),
            identity: identity.into_config(),
            admission: admission.into_config(),
        };
        let ProcessArguments { log_level, log_format, shutdown_grace_period } = process;
        (config, ProcessConfig { log_level, log_format, shutdown_grace_period })
    }
}

impl ClusterArguments {
    fn into_config(self) -> ClusterConfig {
        let cluster_domain: Arc<str> = self.cluster_domain.into();
        let trust_domain = self.identity_trust_domain.map(Into::into);
        ClusterConfig {
            control_plane_namespace: self.controller_namespace.into(),
            trust_domain: trust_domain.unwrap_or_else(|| Arc::clone(&cluster_domain)),
            cluster_domain,
            cluster_networks: self.cluster_networks,
            probe_networks: self.probe_networks.0,
            default_policy: self.default_inbound_policy,
            default_opaque_ports: self.default_opaque_ports,
            transport: match self.outbound_transport_mode {
                Transport::TransportHeader => TransportMode::TransportHeader,
                Transport::Transparent => TransportMode::Transparent,
            },
            ipv6: self.enable_ipv6,
            allow_l5d_request_headers: self.allow_l5d_request_headers,
            requires_reference_grants: self.require_reference_grants,
            ..ClusterConfig::default()
        }
    }
}

impl IdentityArguments {
    /// None unless all four files are given; clap refuses some of them without the others.
    fn into_config(self) -> Option<IdentityConfig> {
        Some(IdentityConfig {
            trust_anchors_file: self.trust_anchors_file?,
            issuer_cert_file: self.issuer_cert_file?,
            issuer_key_file: self.issuer_key_file?,
            token_key_file: self.token_key_file?,
            token_issuer: self.token_issuer,
            lifetimes: Lifetimes {
                leaf: self.issuance_lifetime,
                clock_skew: self.clock_skew_allowance,
            },
        })
    }
}

impl AdmissionArguments {
    /// None without a certificate.
    fn into_config(self) -> Option<AdmissionConfig> {
        Some(AdmissionConfig {
            tls_dir: self.webhook_tls_dir?,
            policy_addr: self.policy_webhook_addr,
            profile_addr: self.profile_webhook_addr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(arguments: &[&str]) -> Result<(Config, ProcessConfig), clap::Error> {
        let always = ["hauberk-controller", "--source-dir", "/lab"];
        let arguments = always.iter().chain(arguments);
        Arguments::try_parse_from(arguments).map(Arguments::into_config)
    }

    #[test]
    fn the_command_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_index() {
        let (config, _) = parse(&[]).expect("valid");
        assert_eq!(config.cluster, ClusterConfig::default());
        assert_eq!(config.destination_addr.port(), 8086);
        assert!(config.identity.is_none());
    }

    #[test]
    fn the_settings_of_a_cluster_are_read_from_its_arguments() {
        let all = ["--source-dir", "/lab", "--require-reference-grants", "--enable-ipv6"];
        let settings = cluster(all.map(str::to_owned)).expect("valid");
        let requires_reference_grants = true;
        let expect =
            ClusterConfig { requires_reference_grants, ipv6: true, ..ClusterConfig::default() };
        assert_eq!(settings, expect);
        assert_eq!(cluster(["--no-such-flag".to_owned()]), None);
    }

    #[test]
    fn identity_takes_all_files_or_none() {
        assert!(parse(&["--trust-anchors-file", "a"]).is_err());
        assert!(parse(&["--issuer-cert-file", "b", "--token-key-file", "d"]).is_err());
        let all = [
            "--trust-anchors-file=a",
            "--issuer-cert-file=b",
            "--issuer-key-file=c",
            "--token-key-file=d",
            "--issuance-lifetime=1h30m",
        ];
        let identity = parse(&all).expect("valid").0.identity.expect("is given");
        assert_eq!(identity.lifetimes.leaf, Duration::from_secs(5400));
    }

    #[test]
    fn webhooks_are_off_without_a_certificate() {
        assert!(parse(&[]).expect("valid").0.admission.is_none());
        assert!(parse(&["--policy-webhook-addr=[::1]:1"]).is_err());
        let (config, _) = parse(&["--webhook-tls-dir=/var/run/linkerd/tls"]).expect("valid");
        let admission = config.admission.expect("is given");
        assert_eq!((admission.policy_addr.port(), admission.profile_addr.port()), (9443, 8443));
    }

    #[test]
    fn lists_may_be_empty_and_name_every_bad_entry() {
        let (config, _) = parse(&["--probe-networks=", "--default-opaque-ports="]).expect("valid");
        assert_eq!(config.cluster.probe_networks, []);
        assert!(config.cluster.default_opaque_ports.is_empty());
        let error = parse(&["--probe-networks=10.0.0.0/8,x,y"]).expect_err("x and y");
        assert!(error.to_string().contains("not networks: x, y"), "{error}");
        let error = parse(&["--default-opaque-ports=0,80,z"]).expect_err("0 and z");
        assert!(error.to_string().contains("'0'") && error.to_string().contains("'z'"), "{error}");
    }
}
