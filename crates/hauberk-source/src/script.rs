//! Events at given moments, for tests and demonstrations.

use std::time::Duration;

use hauberk_process::Tasks;
use hauberk_resources::{Kind, ResourceEvent};
use tokio::sync::{mpsc, watch};

use crate::{Problems, QUEUE_LENGTH, Source};

/// Plays `events`, each after its pause, following an empty first listing of every kind.
///
/// The channel is closed after the last event. Pauses run on tokio's clock, so a paused clock plays at once.
pub fn script(events: Vec<(Duration, ResourceEvent)>, tasks: &Tasks) -> Source {
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    let (_, problems) = watch::channel(Problems::default());
    tasks.spawn("source-script", async move {
        let listing =
            Kind::ALL.iter().map(|kind| ResourceEvent::Relisted { kind: *kind, all: Vec::new() });
        for event in listing {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        for (pause, event) in events {
            tokio::time::sleep(pause).await;
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    Source { events: receiver, problems }
}
