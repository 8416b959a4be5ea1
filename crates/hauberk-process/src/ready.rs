//! Whether the process can do its work, as a set of named conditions.
//!
//! Parts that must be there before traffic is welcome (a certificate, filled caches) take a
//! [`Condition`] while the process is being built and fulfil it later. The admin server's `/ready`
//! asks [`Readiness::missing`]; others wait with [`Readiness::wait`]. A condition can be lost
//! again. A process without conditions is ready.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// All conditions of a process. Cloning copies one `Arc`.
#[derive(Clone, Debug)]
pub struct Readiness {
    missing: Arc<watch::Sender<BTreeSet<&'static str>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { missing: Arc::new(watch::Sender::new(BTreeSet::new())) }
    }
}

impl Readiness {
    /// Ready until the first condition is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, which is not fulfilled yet. Two conditions of one name are one.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, readiness: self.clone() };
        condition.set_unready();
        condition
    }

    /// Whether every condition is fulfilled.
    pub fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// Names of the conditions that are not fulfilled.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.borrow().iter().copied().collect()
    }

    /// Waits until every condition is fulfilled. Cancel-safe.
    pub async fn wait(&self) {
        let mut missing = self.missing.subscribe();
        // An error means that the sender is gone, which `self` prevents.
        let _ = missing.wait_for(BTreeSet::is_empty).await;
    }
}

/// One thing that must be there before the process is ready.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Condition {
    /// The condition is fulfilled.
    pub fn set_ready(&self) {
        self.readiness.missing.send_if_modified(|missing| missing.remove(self.name));
    }

    /// The condition is not, or no longer, fulfilled.
    pub fn set_unready(&self) {
        self.readiness.missing.send_if_modified(|missing| missing.insert(self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_all_conditions_are_fulfilled() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (identity, caches) = (readiness.condition("identity"), readiness.condition("caches"));
        assert_eq!(readiness.missing(), ["caches", "identity"]);
        identity.set_ready();
        assert!(!readiness.is_ready());
        caches.set_ready();
        readiness.wait().await;
        caches.set_unready();
        assert_eq!(readiness.missing(), ["caches"]);
    }
}
