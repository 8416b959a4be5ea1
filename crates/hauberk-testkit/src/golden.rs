//! Goldens: expected output in a file that is read by people at each change.
//!
//! `HAUBERK_UPDATE_GOLDEN=1 cargo test` rewrites the files; the change then shows in the diff.

use std::path::Path;

/// The environment variable that makes tests rewrite goldens.
pub const UPDATE: &str = "HAUBERK_UPDATE_GOLDEN";

/// Compares text with the content of a file, or rewrites the file if [`UPDATE`] is set.
///
/// # Panics
/// When they differ, with the first line that does; when the file is missing or cannot be written.
#[track_caller]
pub fn assert_golden(path: impl AsRef<Path>, actual: &str) {
    let path = path.as_ref();
    if std::env::var_os(UPDATE).is_some() {
        if let Err(error) = std::fs::write(path, actual) {
            panic!("cannot write golden {}: {error}", path.display());
        }
        return;
    }
    let expected = match std::fs::read_to_string(path) {
        Ok(expected) => expected,
        Err(error) => {
            panic!("cannot read golden {}: {error}\nhint: {UPDATE}=1 writes it", path.display())
        }
    };
    if let Some(difference) = first_difference(&expected, actual) {
        panic!("{} differs {difference}\nhint: {UPDATE}=1 rewrites it", path.display());
    }
}

/// Says where two texts differ first, in words for a person.
fn first_difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (mut expected_lines, mut actual_lines) =
        (expected.split_inclusive('\n'), actual.split_inclusive('\n'));
    let mut number = 1;
    loop {
        let (expected, actual) = (expected_lines.next(), actual_lines.next());
        if expected != actual {
            let show = |line: Option<&str>| line.map_or("end of text".into(), |l| format!("{l:?}"));
            let (expected, actual) = (show(expected), show(actual));
            return Some(format!("in line {number}:\n  expected {expected}\n  actual   {actual}"));
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_line_that_differs() {
        let check = |expected: &str, actual: &str, expect: Option<&str>| {
            assert_eq!(first_difference(expected, actual).as_deref(), expect);
        };
        check("a\nb\n", "a\nb\n", None);
        check("", "", None);
        check("a\nb\n", "a\nc\n", Some("in line 2:\n  expected \"b\\n\"\n  actual   \"c\\n\""));
        check("a\n", "a", Some("in line 1:\n  expected \"a\\n\"\n  actual   \"a\""));
        check("a\n", "a\nb", Some("in line 2:\n  expected end of text\n  actual   \"b\""));
    }

    #[test]
    fn accepts_equal_text_and_refuses_a_missing_file() {
        if std::env::var_os(UPDATE).is_some() {
            eprintln!("SKIPPED: goldens are being rewritten");
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("text");
        std::fs::write(&path, "a\n").expect("writable");
        assert_golden(&path, "a\n");
        let missing = directory.path().join("missing");
        assert!(std::panic::catch_unwind(|| assert_golden(missing, "a\n")).is_err());
    }
}
