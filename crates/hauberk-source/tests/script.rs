//! The scripted source, on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use hauberk_process::{Shutdown, Tasks};
use hauberk_resources::{Kind, Resource, ResourceEvent};
use hauberk_source::script;
use serde_json::json;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn plays_events_at_their_moments() {
    let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let namespace = Arc::new(Resource::parse(value).expect("valid"));
    let (applied, deleted) =
        (ResourceEvent::Applied(namespace.clone()), ResourceEvent::Deleted(namespace.key()));
    let minute = Duration::from_secs(60);
    let tasks = Tasks::new(Shutdown::new());
    let began = Instant::now();
    let mut source = script(vec![(minute, applied.clone()), (minute, deleted.clone())], &tasks);
    for kind in Kind::ALL {
        let listed = ResourceEvent::Relisted { kind: *kind, all: Vec::new() };
        assert_eq!(source.events.recv().await, Some(listed));
    }
    assert_eq!(source.events.recv().await, Some(applied));
    assert_eq!(began.elapsed(), minute);
    assert_eq!(source.events.recv().await, Some(deleted));
    assert_eq!(began.elapsed(), minute * 2);
    assert_eq!(source.events.recv().await, None);
}
