//! What makes pods: deployments, sets and jobs.

use crate::{metadata::Metadata, pod::PodSpec, selector::LabelSelector, view::nullable};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

/// A deployment, stateful set, daemon set, replica set or job; the kind is in [`crate::Resource`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Workload {
    /// Name, labels, annotations, owner.
    pub metadata: Metadata,
    /// What was asked for.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: WorkloadSpec,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct WorkloadSpec {
    /// How many pods; kinds without the field, and an absent field, mean what the kind's default is.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// The pods that belong to the workload.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// What its pods look like.
    #[serde(default, deserialize_with = "nullable")]
    pub template: PodTemplate,
}

/// What the pods of a workload look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: TemplateMetadata,
    /// Containers of the pods.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
}

/// Labels and annotations of the pods of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TemplateMetadata {
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations.
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}
