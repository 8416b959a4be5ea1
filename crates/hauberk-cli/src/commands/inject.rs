//! `hauberk inject`: workloads of a manifest join the mesh.
//!
//! It works on text alone and asks no cluster. By default only the annotation is added that
//! makes the cluster's injector add the sidecar; `--manual` writes the sidecar itself. What a
//! flag says about the sidecar is written down as an annotation, so it holds in both cases.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use hauberk_inject::{
    Demand, Form, InjectConfig, Manifest, NamespaceFacts, TrustAnchors, check_value, inject, text,
};
use hauberk_resources::annotations as key;

use crate::{
    args::Global,
    commands::version,
    manifests::{self, Input, ManifestFlags, Verb},
};

/// Flags of `hauberk inject`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    cat deployment.yml | hauberk inject - | kubectl apply -f -\n  \
    kubectl get -n shop deploy -o yaml | hauberk inject - | kubectl apply -f -\n  \
    hauberk inject --diff examples/emojivoto\n  \
    hauberk inject --manual --trust-anchors ca.crt deployment.yml")]
pub(crate) struct Inject {
    #[command(flatten)]
    manifests: ManifestFlags,
    /// Write the containers themselves instead of only the annotation
    #[arg(long)]
    manual: bool,
    /// With --manual: PEM file of what the proxies trust (default: at start, from ConfigMap
    /// linkerd-identity-trust-roots of the pod's namespace)
    #[arg(long, value_name = "FILE", requires = "manual")]
    trust_anchors: Option<PathBuf>,
    /// Outbound requests go where their `l5d-dst-override` says, as ingress controllers need
    #[arg(long)]
    ingress: bool,
    #[command(flatten)]
    proxy: ProxyFlags,
    /// Accepted for scripts of Linkerd: no cluster is ever asked
    #[arg(long, hide = true)]
    ignore_cluster: bool,
}

/// Flags that configure the sidecar; each becomes an annotation.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Settings of the sidecar")]
struct ProxyFlags {
    /// Add a debug container
    #[arg(long)]
    enable_debug_sidecar: bool,
    /// Look up service profiles for names outside the cluster too
    #[arg(long)]
    enable_external_profiles: bool,
    /// Run the proxy as a native sidecar
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "true|false")]
    native_sidecar: Option<String>,
    /// Prefix of image names [default: hauberk]
    #[arg(long)]
    registry: Option<String>,
    /// Image of the proxy
    #[arg(long)]
    proxy_image: Option<String>,
    /// Tag of the proxy image
    #[arg(short = 'v', long)]
    proxy_version: Option<String>,
    /// Image of the init container
    #[arg(long)]
    init_image: Option<String>,
    /// Tag of the init image
    #[arg(long)]
    init_image_version: Option<String>,
    /// When images are pulled: Always, IfNotPresent or Never
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Port inbound connections are redirected to [default: 4143]
    #[arg(long)]
    inbound_port: Option<String>,
    /// Port outbound connections are redirected to [default: 4140]
    #[arg(long)]
    outbound_port: Option<String>,
    /// Port of the tap server [default: 4190]
    #[arg(long)]
    control_port: Option<String>,
    /// Port of probes and metrics [default: 4191]
    #[arg(long)]
    admin_port: Option<String>,
    /// Inbound ports that are not captured, such as 22,8000-8010
    #[arg(long, value_name = "PORTS")]
    skip_inbound_ports: Option<String>,
    /// Outbound ports that are not captured
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Option<String>,
    /// Networks that are not captured
    #[arg(long, value_name = "CIDRS")]
    skip_subnets: Option<String>,
    /// Ports carried without protocol detection, numbers, ranges or names
    #[arg(long, value_name = "PORTS")]
    opaque_ports: Option<String>,
    /// Inbound ports that demand a client identity
    #[arg(long, value_name = "PORTS")]
    require_identity_on_inbound_ports: Option<String>,
    /// What is allowed on ports no Server selects
    #[arg(long, value_name = "POLICY")]
    default_inbound_policy: Option<String>,
    /// User the proxy runs as [default: 2102]
    #[arg(long)]
    proxy_uid: Option<String>,
    /// Group the proxy runs as, negative for none
    #[arg(long, allow_hyphen_values = true)]
    proxy_gid: Option<String>,
    /// Log filter of the proxy
    #[arg(long)]
    proxy_log_level: Option<String>,
    /// CPU request of the proxy
    #[arg(long, value_name = "QUANTITY")]
    proxy_cpu_request: Option<String>,
    /// CPU limit of the proxy
    #[arg(long, value_name = "QUANTITY")]
    proxy_cpu_limit: Option<String>,
    /// Memory request of the proxy
    #[arg(long, value_name = "QUANTITY")]
    proxy_memory_request: Option<String>,
    /// Memory limit of the proxy
    #[arg(long, value_name = "QUANTITY")]
    proxy_memory_limit: Option<String>,
    /// Access log of inbound requests: apache or json
    #[arg(long)]
    access_log: Option<String>,
    /// How long the proxy drains, such as 2m
    #[arg(long, value_name = "DURATION")]
    shutdown_grace_period: Option<String>,
    /// Seconds a classic sidecar waits before it stops
    #[arg(long, value_name = "SECONDS")]
    wait_before_exit_seconds: Option<String>,
    /// Conntrack timeout of half-closed connections; makes the init container privileged
    #[arg(long, value_name = "DURATION")]
    close_wait_timeout: Option<String>,
}

impl ProxyFlags {
    fn flags(&self) -> Vec<(&'static str, &'static str, Option<String>)> {
        let yes = |flag: bool| flag.then(|| "true".to_owned());
        vec![
            ("enable-debug-sidecar", key::ENABLE_DEBUG_SIDECAR, yes(self.enable_debug_sidecar)),
            (
                "enable-external-profiles",
                key::ENABLE_EXTERNAL_PROFILES,
                yes(self.enable_external_profiles),
            ),
            ("native-sidecar", key::PROXY_ENABLE_NATIVE_SIDECAR, self.native_sidecar.clone()),
            ("proxy-image", key::PROXY_IMAGE, self.image(&self.proxy_image, "proxy")),
            ("proxy-version", key::PROXY_IMAGE_VERSION, self.proxy_version.clone()),
            ("init-image", key::INIT_IMAGE, self.image(&self.init_image, "init")),
            ("init-image-version", key::INIT_IMAGE_VERSION, self.init_image_version.clone()),
            ("image-pull-policy", key::IMAGE_PULL_POLICY, self.image_pull_policy.clone()),
            ("inbound-port", key::INBOUND_PORT, self.inbound_port.clone()),
            ("outbound-port", key::OUTBOUND_PORT, self.outbound_port.clone()),
            ("control-port", key::CONTROL_PORT, self.control_port.clone()),
            ("admin-port", key::ADMIN_PORT, self.admin_port.clone()),
            ("skip-inbound-ports", key::SKIP_INBOUND_PORTS, self.skip_inbound_ports.clone()),
            ("skip-outbound-ports", key::SKIP_OUTBOUND_PORTS, self.skip_outbound_ports.clone()),
            ("skip-subnets", key::SKIP_SUBNETS, self.skip_subnets.clone()),
            ("opaque-ports", key::OPAQUE_PORTS, self.opaque_ports.clone()),
            (
                "require-identity-on-inbound-ports",
                key::REQUIRE_IDENTITY_INBOUND_PORTS,
                self.require_identity_on_inbound_ports.clone(),
            ),
            (
                "default-inbound-policy",
                key::DEFAULT_INBOUND_POLICY,
                self.default_inbound_policy.clone(),
            ),
            ("proxy-uid", key::PROXY_UID, self.proxy_uid.clone()),
            ("proxy-gid", key::PROXY_GID, self.proxy_gid.clone()),
            ("proxy-log-level", key::PROXY_LOG_LEVEL, self.proxy_log_level.clone()),
            ("proxy-cpu-request", key::PROXY_CPU_REQUEST, self.proxy_cpu_request.clone()),
            ("proxy-cpu-limit", key::PROXY_CPU_LIMIT, self.proxy_cpu_limit.clone()),
            ("proxy-memory-request", key::PROXY_MEMORY_REQUEST, self.proxy_memory_request.clone()),
            ("proxy-memory-limit", key::PROXY_MEMORY_LIMIT, self.proxy_memory_limit.clone()),
            ("access-log", key::ACCESS_LOG, self.access_log.clone()),
            (
                "shutdown-grace-period",
                key::SHUTDOWN_GRACE_PERIOD,
                self.shutdown_grace_period.clone(),
            ),
            (
                "wait-before-exit-seconds",
                key::PROXY_WAIT_BEFORE_EXIT_SECONDS,
                self.wait_before_exit_seconds.clone(),
            ),
            ("close-wait-timeout", key::CLOSE_WAIT_TIMEOUT, self.close_wait_timeout.clone()),
        ]
    }

    /// The image that was named, else the usual one of the registry that was named.
    fn image(&self, named: &Option<String>, usual: &str) -> Option<String> {
        let of_registry = || Some(format!("{}/{usual}", self.registry.as_ref()?));
        named.clone().or_else(of_registry)
    }

    /// The annotations the flags stand for.
    fn annotations(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut annotations = BTreeMap::new();
        let mut wrong = Vec::new();
        for (flag, key, value) in self.flags() {
            let Some(value) = value else { continue };
            let kind = key::proxy_config(key).map_or(key::ValueKind::Text, |config| config.value);
            match check_value(kind, &value) {
                Ok(()) => drop(annotations.insert(key.to_owned(), value)),
                Err(expected) => wrong.push(format!("--{flag}: {expected}, got \"{value}\"")),
            }
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n       "));
        }
        Ok(annotations)
    }
}

/// Injects what was named.
pub(crate) fn run(global: &Global, command: &Inject) -> anyhow::Result<ExitCode> {
    let config = config(global, command)?;
    let inputs = manifests::read(&command.manifests)?;
    let namespaces = namespaces(&inputs);
    let change = |manifest: &Manifest| {
        let known = manifest.namespace().and_then(|name| namespaces.get(name));
        inject(manifest, &config, known.unwrap_or(&NamespaceFacts::default()))
    };
    manifests::run(&command.manifests, &inputs, Verb::Inject, global.verbose, change)
}

fn config(global: &Global, command: &Inject) -> anyhow::Result<InjectConfig> {
    let mut config = InjectConfig::new(&global.linkerd_namespace, version::CLIENT);
    config.demand = Demand::Everything;
    config.form = if command.manual { Form::Sidecar } else { Form::Annotation };
    config.created_by = format!("hauberk/cli {}", version::CLIENT);
    config.overrides = command.proxy.annotations()?;
    if command.ingress {
        config.inject_value = key::INJECT_INGRESS;
    }
    if let Some(path) = &command.trust_anchors {
        let context = || format!("cannot read trust anchors from {}", path.display());
        let pem = fs::read_to_string(path).with_context(context)?;
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            bail!("{}: no certificate in it", context());
        }
        config.trust_anchors = TrustAnchors::Inline(pem);
    }
    Ok(config)
}

/// What namespaces in the same files say counts for the objects beside them.
fn namespaces(inputs: &[Input]) -> BTreeMap<String, NamespaceFacts> {
    inputs.iter().flat_map(|input| text::namespaces(&input.text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wrong_flags_are_told_at_once() {
        let flags = ProxyFlags {
            inbound_port: Some("0".to_owned()),
            proxy_cpu_limit: Some("lots".to_owned()),
            proxy_uid: Some("2103".to_owned()),
            ..ProxyFlags::default()
        };
        let error = flags.annotations().expect_err("two are wrong").to_string();
        assert!(error.contains("--inbound-port: expected a port (1 to 65535), got \"0\""));
        assert!(error.contains("--proxy-cpu-limit"), "{error}");
        assert!(!error.contains("proxy-uid"), "{error}");
    }

    #[test]
    fn a_registry_names_the_usual_images() {
        let flags = ProxyFlags {
            registry: Some("mirror.example".to_owned()),
            init_image: Some("mine/init".to_owned()),
            ..ProxyFlags::default()
        };
        let annotations = flags.annotations().expect("valid");
        assert_eq!(annotations[key::PROXY_IMAGE], "mirror.example/proxy");
        assert_eq!(annotations[key::INIT_IMAGE], "mine/init");
    }
}
