//! Is this network namespace the machine's own?
//!
//! Capture rules in the namespace of a machine (or of a Kubernetes node) would redirect everything it
//! serves, its remote shell included. So [`crate::apply`] works only through a
//! [`PodNetwork`](crate::PodNetwork), and that is refused when one of these facts speaks for the machine's
//! own namespace:
//!
//! 1. The kernel shows `net.core.netdev_max_backlog` under `/proc/sys`. It registers that setting, and
//!    others that exist once per machine, for the first namespace only. `/proc/sys/net` always shows
//!    the namespace of the reading thread, whatever the process and user namespaces are, so this works
//!    inside a container with host networking too, without any privilege.
//! 2. The namespace has the number that recent kernels give to the first one (`NET_NS_INIT_INO` of
//!    `linux/nsfs.h`, Linux 6.18).
//! 3. The process is in the machine's own process namespace, so that process 1 is the machine's init,
//!    and shares its network namespace. In any other process namespace process 1 proves nothing: in a
//!    pod it is the pod's, and sharing its network is the normal case.
//!
//! Missing facts (no `/proc`, `/proc/1/ns/net` not readable) speak for nothing. What this cannot see is
//! a node that is itself a container, such as those of `kind`: its namespace is an ordinary one. There
//! the injector's refusal of pods with host networking is the protection.

use std::fs;
use std::path::Path;

/// `PROC_PID_INIT_INO`: the number of the machine's own process namespace.
const PID_NAMESPACE_OF_MACHINE: u64 = 0xEFFF_FFFC;
/// `NET_NS_INIT_INO`: the number of the machine's own network namespace where it is fixed.
const NETWORK_NAMESPACE_OF_MACHINE: u64 = 0xEFFF_FFF9;

/// What the kernel tells about the calling thread's namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether `/proc/sys/net` shows settings that exist once per machine.
    pub has_machine_settings: bool,
    /// Number of the network namespace.
    pub network: Option<u64>,
    /// Number of the process namespace.
    pub process: Option<u64>,
    /// Number of process 1's network namespace.
    pub network_of_first_process: Option<u64>,
}

impl Facts {
    /// Reads the facts about the calling thread.
    pub fn read() -> Self {
        Self {
            has_machine_settings: Path::new("/proc/sys/net/core/netdev_max_backlog").exists(),
            network: number_of("/proc/thread-self/ns/net"),
            process: number_of("/proc/thread-self/ns/pid"),
            network_of_first_process: number_of("/proc/1/ns/net"),
        }
    }

    /// Why this is the machine's own namespace, if it is.
    pub fn why_machine(&self) -> Option<&'static str> {
        let shares_with_init = self.process == Some(PID_NAMESPACE_OF_MACHINE)
            && self.network.is_some()
            && self.network == self.network_of_first_process;
        if self.has_machine_settings {
            Some("it has the settings that exist once per machine")
        } else if self.network == Some(NETWORK_NAMESPACE_OF_MACHINE) {
            Some("it has the number of the machine's first network namespace")
        } else if shares_with_init {
            Some("the machine's process 1 is in it")
        } else {
            None
        }
    }
}

/// Reads `net:[4026531833]`.
fn number_of(link: &str) -> Option<u64> {
    let pod = fs::read_link(link).ok()?;
    pod.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Facts = Facts {
        has_machine_settings: false,
        network: Some(4_026_532_245),
        process: Some(4_026_532_300),
        network_of_first_process: Some(4_026_532_245),
    };

    #[test]
    fn a_pod_whose_first_process_is_its_own_is_no_machine() {
        assert_eq!(POD.why_machine(), None);
    }

    #[test]
    fn host_networking_shows_through_a_process_namespace() {
        assert!(Facts { has_machine_settings: true, ..POD }.why_machine().is_some());
        let network = Some(NETWORK_NAMESPACE_OF_MACHINE);
        assert!(Facts { network, ..POD }.why_machine().is_some());
    }

    #[test]
    fn sharing_the_network_of_the_machines_init_is_the_machine() {
        let process = Some(PID_NAMESPACE_OF_MACHINE);

        assert!(Facts { process, ..POD }.why_machine().is_some());
        let network = Some(4_026_532_999);
        assert_eq!(Facts { process, network, ..POD }.why_machine(), None);
        let network_of_first_process = None;
        assert_eq!(Facts { process, network_of_first_process, ..POD }.why_machine(), None);
    }

    #[test]
    fn knowing_nothing_proves_nothing() {
        assert_eq!(Facts::default().why_machine(), None);
    }

    #[test]
    fn this_machine_knows_its_namespace() {
        assert!(Facts::read().network.is_some());
    }
}
