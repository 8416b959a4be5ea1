//! A real directory, real kernel events. Nothing sleeps: each step waits for the event it caused.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hauberk_process::{Shutdown, Tasks};
use hauberk_resources::{Kind, Resource, ResourceEvent};
use hauberk_source::{Options, Problems, Source, directory};
use tempfile::TempDir;

/// Longer than any step takes, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(20);

struct Lab {
    files: TempDir,
    tasks: Tasks,
    source: Source,
}

impl Lab {
    /// Follows a directory with these files, past its first listing, which is returned as text.
    async fn start(files: &[(&str, &str)]) -> (Self, Vec<String>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            write(dir.path(), name, text);
        }
        let tasks = Tasks::new(Shutdown::new());
        let source = directory(dir.path(), Options::default(), &tasks).expect("can be followed");
        let mut lab = Self { files: dir, tasks, source };
        let mut listed = Vec::new();
        for kind in Kind::ALL {
            match lab.event().await {
                ResourceEvent::Relisted { kind: of, all } => {
                    assert_eq!(of, *kind);
                    listed.extend(all.iter().map(|object| object.key().to_string()));
                }
                other => panic!("expected a listing, got {other:?}"),
            }
        }
        (lab, listed)
    }

    async fn event(&mut self) -> ResourceEvent {
        let event = tokio::time::timeout(DEADLINE, self.source.events.recv()).await;
        event.expect("an event in time").expect("the source goes on")
    }

    /// The next event as text: what happened to what.
    async fn next(&mut self) -> String {
        match self.event().await {
            ResourceEvent::Applied(object) => match &*object {
                Resource::Namespace(_) => {
                    let note = object.metadata().annotations.get("note").map_or("", |note| note);
                    format!("applied {} {note}", object.key()).trim_end().to_owned()
                }
                _ => format!("applied {}", object.key()),
            },
            ResourceEvent::Deleted(key) => format!("deleted {key}"),
            ResourceEvent::Relisted { kind, .. } => format!("relisted {kind}"),
        }
    }

    async fn problems(&mut self, accept: impl FnMut(&Problems) -> bool) -> Problems {
        let problems = tokio::time::timeout(DEADLINE, self.source.problems.wait_for(accept)).await;
        problems.expect("problems in time").expect("the source goes on").clone()
    }

    fn write(&self, name: &str, text: &str) {
        write(self.files.path(), name, text);
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }
}

/// Written aside and renamed, as careful writers do.
fn write(directory: &Path, name: &str, text: &str) {
    let aside = directory.join(format!("{name}.tmp"));
    if let Some(parent) = aside.parent() {
        fs::create_dir_all(parent).expect("can create");
    }
    fs::write(&aside, text).expect("can write");
    fs::rename(&aside, directory.join(name)).expect("can rename");
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

fn noted(name: &str, note: &str) -> String {
    format!("{}  annotations: {{note: {note}}}\n", namespace(name))
}

#[tokio::test]
async fn lists_first_and_follows_changes() {
    let two = format!("{}---\n{}", namespace("a"), namespace("b"));
    let (mut lab, listed) =
        Lab::start(&[("two.yml", &two), ("deep/er/c.yaml", &namespace("c")), ("note.txt", "no")])
            .await;
    assert_eq!(listed, ["Namespace a", "Namespace b", "Namespace c"]);

    lab.write("d.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"d"}}"#);
    assert_eq!(lab.next().await, "applied Namespace d");
    lab.write("two.yml", &format!("{}---\n{}", noted("a", "new"), namespace("b")));
    assert_eq!(lab.next().await, "applied Namespace a new");
    fs::write(lab.path("two.yml"), namespace("b")).expect("can write in place");
    assert_eq!(lab.next().await, "deleted Namespace a");
    fs::remove_file(lab.path("two.yml")).expect("can remove");
    assert_eq!(lab.next().await, "deleted Namespace b");
    fs::remove_dir_all(lab.path("deep")).expect("can remove");
    assert_eq!(lab.next().await, "deleted Namespace c");
    lab.write("new/dir/e.yml", &namespace("e"));
    assert_eq!(lab.next().await, "applied Namespace e");
    lab.write("new/dir/f.yml", &namespace("f"));
    assert_eq!(lab.next().await, "applied Namespace f");
    fs::rename(lab.path("new"), lab.path("renamed")).expect("can rename");
    lab.write("renamed/dir/g.yml", &namespace("g"));
    assert_eq!(
        lab.next().await,
        "applied Namespace g",
        "a renamed directory changes nothing itself"
    );
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects() {
    let (mut lab, listed) = Lab::start(&[("a.yml", &namespace("a"))]).await;
    assert_eq!(listed, ["Namespace a"]);

    lab.write("a.yml", "{ this is not: yaml");
    let problems = lab.problems(|problems| !problems.is_empty()).await;
    assert!(problems.keys().all(|path| path.ends_with("a.yml")), "{problems:?}");
    lab.write("b.yml", &namespace("b"));
    assert_eq!(lab.next().await, "applied Namespace b", "the broken file deleted nothing");

    lab.write("a.yml", &noted("a", "mended"));
    assert_eq!(lab.next().await, "applied Namespace a mended");
    lab.problems(Problems::is_empty).await;

    lab.write("a.yml", "{ broken again");
    lab.problems(|problems| !problems.is_empty()).await;
    fs::remove_file(lab.path("a.yml")).expect("can remove");
    assert_eq!(lab.next().await, "deleted Namespace a");
    lab.problems(Problems::is_empty).await;
}

#[tokio::test]
async fn a_broken_object_keeps_its_last_good_version_and_nothing_else() {
    let service = |ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: web}}\nspec: {{ports: {ports}}}\n"
        )
    };
    let file = |service: &str, namespace: &str| format!("{service}---\n{namespace}");
    let good = service("[{port: 80}]");
    let (mut lab, listed) = Lab::start(&[("f.yml", &file(&good, &namespace("a")))]).await;
    assert_eq!(listed, ["Namespace a", "Service web/s"]);

    lab.write("f.yml", &file(&service("7"), &namespace("b")));
    assert_eq!(lab.next().await, "deleted Namespace a");
    assert_eq!(lab.next().await, "applied Namespace b");
    let problems = lab.problems(|problems| !problems.is_empty()).await;
    let texts = problems.values().flatten().cloned().collect::<Vec<_>>().join("\n");
    assert!(texts.contains("spec.ports"), "{texts}");

    lab.write("f.yml", &namespace("b"));
    assert_eq!(lab.next().await, "deleted Service web/s");
}

#[tokio::test]
async fn an_object_in_two_files_is_taken_from_the_first_path() {
    let (mut lab, _) = Lab::start(&[("b.yml", &noted("x", "from-b"))]).await;
    lab.write("a.yml", &noted("x", "from-a"));
    assert_eq!(lab.next().await, "applied Namespace x from-a");
    let problems = lab.problems(|problems| !problems.is_empty()).await;
    assert!(problems.keys().all(|path| path.ends_with("b.yml")), "{problems:?}");
    fs::remove_file(lab.path("a.yml")).expect("can remove");
    assert_eq!(lab.next().await, "applied Namespace x from-b");
    lab.problems(Problems::is_empty).await;

    fs::rename(lab.path("b.yml"), lab.path("c.yml")).expect("can rename");
    lab.write("d.yml", &namespace("other"));
    assert_eq!(lab.next().await, "applied Namespace other", "moving a definition is no change");
}

#[tokio::test]
async fn follows_a_mounted_config_map() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let version = |name: &str, note: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("can create");
        fs::write(path.join("ns.yml"), noted("a", note)).expect("can write");
    };
    let point_to = |name: &str| {
        let aside = dir.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &aside).expect("can link");
        fs::rename(&aside, dir.path().join("..data")).expect("can rename");
    };
    version("..1", "one");
    point_to("..1");
    std::os::unix::fs::symlink("..data/ns.yml", dir.path().join("ns.yml")).expect("can link");

    let tasks = Tasks::new(Shutdown::new());
    let source = directory(dir.path(), Options::default(), &tasks).expect("can be followed");
    let mut lab = Lab { files: dir, tasks, source };
    for _ in Kind::ALL {
        lab.event().await;
    }
    let path = lab.files.path();
    fs::create_dir(path.join("..2")).expect("can create");
    fs::write(path.join("..2/ns.yml"), noted("a", "two")).expect("can write");
    let aside = path.join("..data_tmp");
    std::os::unix::fs::symlink("..2", &aside).expect("can link");
    fs::rename(&aside, path.join("..data")).expect("can rename");
    assert_eq!(lab.next().await, "applied Namespace a two");
}

#[tokio::test]
async fn losing_the_whole_directory_deletes_nothing() {
    let outer = tempfile::tempdir().expect("a temporary directory");
    let inner = outer.path().join("lab");
    write(&inner, "a.yml", &namespace("a"));
    let tasks = Tasks::new(Shutdown::new());
    let source = directory(&inner, Options::default(), &tasks).expect("can be followed");
    let mut lab = Lab { files: outer, tasks, source };
    for _ in Kind::ALL {
        lab.event().await;
    }
    let away = lab.path("away");
    fs::rename(&inner, &away).expect("can rename");
    lab.problems(|problems| !problems.is_empty()).await;
    write(&inner, "b.yml", &namespace("b"));
    assert_eq!(lab.next().await, "applied Namespace b");
    assert_eq!(
        lab.next().await,
        "deleted Namespace a",
        "only when the directory is back without it"
    );
    lab.problems(Problems::is_empty).await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error_at_once() {
    let tasks = Tasks::new(Shutdown::new());
    let error = directory(Path::new("/nonexistent/lab"), Options::default(), &tasks);
    let text = error.expect_err("is not there").to_string();
    assert!(text.starts_with("cannot list directory /nonexistent/lab: "), "{text}");
}

#[tokio::test]
async fn ends_when_nobody_listens() {
    let (lab, _) = Lab::start(&[]).await;
    let Lab { files, tasks, source } = lab;
    drop(source);
    tasks.join(DEADLINE).await.expect("the source's task ends");
    drop(files);
}
