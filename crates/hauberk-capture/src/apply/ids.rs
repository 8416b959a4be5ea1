//! Which user and group ids exist in the user namespace of the calling thread.
//!
//! iptables refuses a rule about an id that is not mapped (`owner_check` in `net/netfilter/xt_owner.c`).

use std::fs;

use crate::rules::Owner;

/// The owners whose ids do not exist here.
pub(super) fn unmapped(owners: impl Iterator<Item = Owner>) -> Vec<Owner> {
    let users = Map::read("/proc/thread-self/uid_map");
    let groups = Map::read("/proc/thread-self/gid_map");
    owners
        .filter(|owner| match owner {
            Owner::User(id) => !users.contains(*id),
            Owner::Group(id) => !groups.contains(*id),
        })
        .collect()
}

/// Ranges of ids as `user_namespaces(7)` shows them: first id inside, first outside, length.
struct Map(Option<String>);

impl Map {
    fn read(file: &str) -> Self {
        Self(fs::read_to_string(file).ok())
    }

    /// An unreadable map is taken for a full one; the tool will say if that was wrong.
    fn contains(&self, id: u32) -> bool {
        let Some(text) = &self.0 else { return true };
        text.lines().any(|line| {
            let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
            match (fields.next(), fields.nth(1)) {
                (Some(first), Some(length)) => {
                    u64::from(id) >= first && u64::from(id) < first + length
                }
                _ => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(map: &str, id: u32) -> bool {
        Map(Some(map.to_owned())).contains(id)
    }

    #[test]
    fn the_first_namespace_has_all_ids() {
        assert!(has("         0          0 4294967295\n", 2102));
    }

    #[test]
    fn a_rootless_namespace_has_few() {
        assert!(!has("         0       1000          1\n", 2102));
        assert!(has("0 1000 1\n1 100000 65536\n", 2102));
        assert!(!has("0 1000 1\n1 100000 2101\n", 2102));
        assert!(has("0 1000 1\n1 100000 2102\n", 2102));
    }
}
