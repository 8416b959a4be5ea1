//! When the writer answers. Nothing runs here: there are services only, and the test plays whoever
//! loads their rules.

use hauberk_identity::{Key as SigningKey, token::TokenSigner};
use hauberk_process::Shutdown;
use serde_json::json;
use std::path::Path;
use std::sync::Mutex;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::container::Machine;
use crate::root::{Kept, MountPoints};

/// A running writer, and both ends of what it has to do with rules.
struct Desk {
    events: mpsc::Sender<Event>,
    wanted: watch::Receiver<Wanted>,
    loaded: watch::Sender<Loaded>,
    tasks: hauberk_process::Tasks,
    _directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tasks = hauberk_process::Tasks::new(Shutdown::new());
        let signer = TokenSigner::new(&SigningKey::generate().unwrap(), "test").unwrap();
        let machine = Machine {
            mount_points: Mutex::new(MountPoints::new().unwrap()),
            host_proc: Kept::open(Path::new("/proc")).unwrap(),
            signer,
        };
        let (events, asked) = mpsc::channel(16);
        let (reports, reported) = mpsc::channel(16);
        let rules = watch::Sender::new(Wanted::default());
        let (wanted, (loaded, loaded_rules)) =
            (rules.subscribe(), watch::channel(Loaded::default()));
        let outputs = Outputs { zone: watch::Sender::default(), rules, loaded_rules };
        let setup = Setup {
            images: Images::new("/opt".into()),
            ids: IdRanges::parse("0 0 65536"),
            path: String::new(),
            inject: None,
            cluster: None,
            objects: directory.path().to_owned(),
        };
        let machine = Arc::new(machine);
        let surroundings = Surroundings { machine, tasks: tasks.clone(), reports };
        tasks.spawn("lab", Lab::new(setup, surroundings, outputs).run(asked, reported));
        Self { events, wanted, loaded, tasks, _directory: directory }
    }

    async fn ask(&self, request: Request) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        self.events.send(Event::Asked(request, answer)).await.unwrap();
        answered
    }

    async fn apply(&self, service: &str, address: &str) -> oneshot::Receiver<Answer> {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": service},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
        self.ask(Request::Apply { manifests: vec![service] }).await
    }

    /// The rules that are wanted as soon as they say something of `address`. The writer has not
    /// paused between making them and putting its answers by.
    async fn wants(&mut self, address: &str) -> u64 {
        let wanted = self.wanted.wait_for(|wanted| wanted.text.contains(address)).await;
        wanted.unwrap().number
    }

    fn load(&self, number: u64, problem: Option<&str>) {
        self.loaded.send_replace(Loaded { number, problem: problem.map(str::to_owned) });
    }
}

fn is_held(answer: &mut oneshot::Receiver<Answer>) -> bool {
    matches!(answer.try_recv(), Err(TryRecvError::Empty))
}

#[tokio::test]
async fn answers_come_when_the_rules_of_their_state_are_loaded() {
    let mut desk = Desk::new();
    let mut applied = desk.apply("web", "10.96.0.7").await;
    let first = desk.wants("10.96.0.7").await;
    let mut pods = desk.ask(Request::Pods).await;
    let mut progress = desk.ask(Request::Progress).await;
    let mut later = desk.apply("other", "10.96.0.8").await;
    let second = desk.wants("10.96.0.8").await;
    let all = [&mut applied, &mut pods, &mut progress, &mut later];
    assert_eq!(all.map(is_held), [true; 4], "the kernel has none of the rules");

    desk.load(first, None);
    assert!(matches!(applied.await, Ok(Answer::Changed { .. })));
    assert!(is_held(&mut later), "its own rules are not the first ones");

    desk.load(second, None);
    assert!(matches!(pods.await, Ok(Answer::Pods { .. })));
    assert!(matches!(progress.await, Ok(Answer::Progress(_))));
    assert!(matches!(later.await, Ok(Answer::Changed { .. })));
    let again = desk.ask(Request::Pods).await.await;
    assert!(again.is_ok(), "what changes nothing waits for nothing");
    desk.tasks.shutdown().force();
}

#[tokio::test]
async fn rules_that_cannot_be_loaded_are_a_problem_and_hold_nobody_back() {
    let mut desk = Desk::new();
    let applied = desk.apply("web", "10.96.0.7").await;
    let number = desk.wants("10.96.0.7").await;
    desk.load(number, Some("nft refused the rules"));
    assert!(applied.await.is_ok());
    let Ok(Answer::Progress(progress)) = desk.ask(Request::Progress).await.await else {
        panic!("another answer");
    };
    assert_eq!(progress.problems, ["nft refused the rules"]);

    // Nor does one who has left.
    drop(std::mem::take(&mut desk.loaded));
    assert!(desk.apply("other", "10.96.0.8").await.await.is_ok());
    desk.tasks.shutdown().force();
}
