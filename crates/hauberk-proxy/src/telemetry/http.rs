//! HTTP metric families.

use prometheus_client::registry::Registry;

/// The HTTP families of a process; a field of [`crate::telemetry::metrics::Metrics`].
#[derive(Clone, Debug, Default)]
pub struct Families {}

impl Families {
    /// Registers all families.
    pub fn register(_registry: &mut Registry) -> Self {
        Self::default()
    }
}
