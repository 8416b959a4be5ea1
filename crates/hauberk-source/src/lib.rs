//! Where resource events come from.
//!
//! A source is anything that lists the objects of a cluster once and then tells what changes: today a directory of
//! YAML files ([`directory()`]) and a script for tests ([`script()`]). Whoever consumes one cannot tell them apart,
//! which is what makes a directory a first-class cluster.
//!
//! What every source promises:
//! - first one `Relisted` for every kind, also for kinds without objects: after [`Kind::ALL`] of them the listing is
//!   complete. A later `Relisted` replaces everything known about its kind;
//! - afterwards `Applied` and `Deleted` in the order of the changes, and nothing when nothing changed;
//! - the channel is bounded: a slow consumer holds the source back, it never makes it grow;
//! - trouble with one object never hides another: problems are values beside the events;
//! - dropping the receiver ends the source.
//!
//! Not here: what objects mean (`hauberk-index`), and how they are parsed (`hauberk-resources`).
//!
//! [`Kind::ALL`]: hauberk_resources::Kind::ALL

mod directory;
mod script;

use std::collections::BTreeMap;
use std::path::PathBuf;

use hauberk_resources::ResourceEvent;
use tokio::sync::{mpsc, watch};

pub use directory::{DirectoryError, Options, directory};
pub use script::script;

/// Events a source may be ahead of its consumer. Full: the source waits.
const QUEUE_LENGTH: usize = 1024;

/// What is wrong with the input at the moment, by file or directory. Empty when all is well.
pub type Problems = BTreeMap<PathBuf, Vec<String>>;

/// A running source.
#[derive(Debug)]
pub struct Source {
    /// What happened to the objects.
    pub events: mpsc::Receiver<ResourceEvent>,
    /// What could not be understood, always the newest state.
    pub problems: watch::Receiver<Problems>,
}
