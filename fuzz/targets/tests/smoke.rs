//! The smoke run of every target: its corpus as it is, then seeded mutations of it.
//!
//! A failure prints the target and the input as a Rust byte string. To keep it as a regression, put
//! the bytes into a file of `fuzz/corpus/<target>/` that is named after what it shows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzz_targets::{TARGETS, Target};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Longest input; libFuzzer's own default.
const INPUT_BYTES_MAX: usize = 4096;

/// A test for each target, so that they run side by side and fail apart.
macro_rules! targets {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name),)*];
        $(
            #[test]
            fn $name() {
                laws_hold_for_the_corpus_and_mutations_of_it(stringify!($name));
            }
        )*
    };
}

targets! {
    admission annotations certificate client_hello detect dns http1_body http1_head http_head
    inject_text names prom_text routes settings transport_header wire yaml
}

fn laws_hold_for_the_corpus_and_mutations_of_it(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "it has no corpus");
    for (path, input) in &corpus {
        assert!(input.len() <= INPUT_BYTES_MAX, "{} is too long", path.display());
        hold(target, input);
    }
    let inputs: Vec<_> = corpus.into_iter().map(|(_, input)| input).collect();
    let mut rng = SmallRng::seed_from_u64(2102);
    for _ in 0..target.mutations {
        hold(target, &mutated(&inputs, &mut rng));
    }
}

#[test]
fn every_target_has_its_binary_and_every_folder_its_target() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    let mut binaries: Vec<_> =
        manifest.lines().filter_map(|line| line.strip_prefix("name = ")).skip(1).collect();
    binaries.sort_unstable();
    let names: Vec<_> = TARGETS.iter().map(|target| format!("{:?}", target.name)).collect();
    assert_eq!(binaries, names);
    assert!(TARGETS.iter().map(|target| target.name).eq(TESTED.iter().copied()));
    for folder in std::fs::read_dir(root().join("corpus")).expect("fuzz/corpus") {
        let folder = folder.expect("readable").file_name();
        assert!(TARGETS.iter().any(|target| folder == target.name), "{folder:?}");
    }
}

fn hold(target: &Target, input: &[u8]) {
    let ended = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    assert!(ended.is_ok(), "the input was b\"{}\"", input.escape_ascii());
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the crate lies in fuzz/").to_owned()
}

/// All files of a corpus, by name, so that runs are equal.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("a folder for every target");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let input = std::fs::read(&path).expect("readable");
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

/// A seed with one to four changes.
fn mutated(corpus: &[Vec<u8>], rng: &mut SmallRng) -> Vec<u8> {
    let mut input = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=4) {
        let other = &corpus[rng.random_range(0..corpus.len())];
        change(&mut input, other, rng);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], rng: &mut SmallRng) {
    /// Bytes that mean something somewhere.
    const SPECIAL: &[u8] = b"\0\x01\x7f\x80\xff\r\n\t :;,.-/*\"'{}[]()<>=#&%@|\\09aZ";
    let at = rng.random_range(0..=input.len());
    let end = rng.random_range(at..=input.len().min(at + 64));
    match rng.random_range(0..8) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => input.insert(at, SPECIAL[rng.random_range(0..SPECIAL.len())]),
        3 => input.insert(at, rng.random()),
        4 if at < input.len() => input[at] = SPECIAL[rng.random_range(0..SPECIAL.len())],
        5 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        6 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let from = rng.random_range(0..=other.len());
            let to = rng.random_range(from..=other.len().min(from + 64));
            input.splice(at..end, other[from..to].iter().copied());
        }
    }
}
