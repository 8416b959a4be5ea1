//! The container that captures traffic before the application starts, or checks that the CNI
//! plugin of the node did.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    config::{Capture, Firewall, InjectConfig, Ipv6},
    manifest::first_container,
    settings::{Flavour, Settings},
    volumes::{self, XTABLES_LOCK},
};

/// Name of the container that writes the rules.
pub(crate) const INIT: &str = "linkerd-init";

/// Name of the container that checks the rules of a CNI plugin.
pub(crate) const VALIDATOR: &str = "linkerd-network-validator";

/// The nobody user both containers run as.
const NOBODY: u32 = 65_534;

/// The container for this pod, if it needs one: with a CNI plugin only Linkerd's image brings
/// a program that checks.
pub(crate) fn container(pod: &Value, settings: &Settings, config: &InjectConfig) -> Option<Value> {
    match (config.capture, settings.flavour) {
        (Capture::InitContainer, _) => Some(init(pod, settings, config)),
        (Capture::Cni, Flavour::Linkerd) => Some(validator(settings, config)),
        (Capture::Cni, Flavour::Hauberk) => None,
    }
}

fn init(pod: &Value, settings: &Settings, config: &InjectConfig) -> Value {
    let command = match settings.flavour {
        Flavour::Hauberk => "hauberk-init",
        Flavour::Linkerd => "/usr/lib/linkerd/linkerd2-proxy-init",
    };
    let mut mounts = vec![json!({"name": XTABLES_LOCK, "mountPath": "/run"})];
    mounts.extend(volumes::account_mount(pod));
    let mut container = json!({
        "name": INIT,
        "image": settings.init_image.reference,
        "imagePullPolicy": settings.init_image.pull_policy,
        "command": [command],
        "args": init_arguments(settings, config),
        "securityContext": init_security(pod, settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    if let Some(resources) = settings.resources.to_json() {
        container["resources"] = resources;
    }
    container
}

fn init_arguments(settings: &Settings, config: &InjectConfig) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    match config.firewall {
        Firewall::IptablesNft => {
            flag("--firewall-bin-path", "iptables-nft".to_owned());
            flag("--firewall-save-bin-path", "iptables-nft-save".to_owned());
        }
        Firewall::IptablesLegacy => {
            flag("--firewall-bin-path", "iptables-legacy".to_owned());
            flag("--firewall-save-bin-path", "iptables-legacy-save".to_owned());
        }
        Firewall::Automatic => {}
    }
    flag("--incoming-proxy-port", settings.listen.inbound.to_string());
    flag("--outgoing-proxy-port", settings.listen.outbound.to_string());
    flag("--proxy-uid", settings.uid.to_string());
    if let Some(gid) = settings.gid {
        flag("--proxy-gid", gid.to_string());
    }
    let own = format!("{},{}", settings.control_port, settings.admin_port);
    let skip = &settings.skip_ports;
    let inbound = [own.as_str(), &skip.inbound].join(",");
    flag("--inbound-ports-to-ignore", inbound.trim_end_matches(',').to_owned());
    if !skip.outbound.is_empty() {
        flag("--outbound-ports-to-ignore", skip.outbound.clone());
    }
    if let Some(seconds) = settings.close_wait {
        flag("--timeout-close-wait-secs", seconds.to_string());
    }
    if let Some(subnets) = &settings.skip_subnets {
        flag("--subnets-to-ignore", subnets.clone());
    }
    if config.ipv6 == Ipv6::Off {
        arguments.push("--ipv6=false".to_owned());
    }
    arguments
}

/// The rules need `NET_ADMIN` and `NET_RAW`; a timeout of the connection tracker needs the
/// whole host's privileges, because it is set through `/proc/sys`.
fn init_security(pod: &Value, settings: &Settings) -> Value {
    let privileged = settings.close_wait.is_some();
    let capabilities = first_container(pod)
        .map_or(&Value::Null, |first| &first["securityContext"]["capabilities"]);
    let of = |key: &str| {
        let list = capabilities[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let needed = ["NET_ADMIN".to_owned(), "NET_RAW".to_owned()];
    let mut seen = BTreeSet::new();
    let add: Vec<_> = needed
        .iter()
        .cloned()
        .chain(of("add"))
        .filter(|capability| seen.insert(capability.clone()))
        .collect();
    let drop: Vec<_> = of("drop").into_iter().filter(|name| !needed.contains(name)).collect();
    let mut capabilities = json!({"add": add});
    if !drop.is_empty() {
        capabilities["drop"] = drop.into();
    }
    let user = if privileged { 0 } else { NOBODY };
    json!({
        "allowPrivilegeEscalation": privileged,
        "capabilities": capabilities,
        "privileged": privileged,
        "readOnlyRootFilesystem": true,
        "runAsGroup": user,
        "runAsNonRoot": !privileged,
        "runAsUser": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Connects to an address nobody has and expects to reach its own listener instead.
fn validator(settings: &Settings, config: &InjectConfig) -> Value {
    let outbound = settings.listen.outbound;
    let (connect, listen) = match config.ipv6 {
        Ipv6::Off => ("1.1.1.1:20001".to_owned(), format!("0.0.0.0:{outbound}")),
        Ipv6::On => ("[fd00::1]:20001".to_owned(), format!("[::]:{outbound}")),
    };
    let mut container = json!({
        "name": VALIDATOR,
        "image": settings.init_image.reference,
        "imagePullPolicy": settings.init_image.pull_policy,
        "command": ["/usr/lib/linkerd/linkerd2-network-validator"],
        "args": [
            "--log-format", "plain", "--log-level", "debug", "--connect-addr", connect,
            "--listen-addr", listen, "--timeout", "10s",
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": NOBODY,
            "runAsNonRoot": true,
            "runAsUser": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(resources) = settings.resources.to_json() {
        container["resources"] = resources;
    }
    container
}
