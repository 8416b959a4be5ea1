//! docs/requirements.md and docs/reference/behaviour.md name tests and goldens; they must exist.

use anyhow::Context;
use std::path::Path;

const PAGES: [&str; 2] = ["docs/requirements.md", "docs/reference/behaviour.md"];

/// All findings.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for page in PAGES {
        findings.extend(check_page(root, page)?);
    }
    Ok(findings)
}

fn check_page(root: &Path, name: &str) -> anyhow::Result<Vec<String>> {
    let page =
        std::fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))?;
    let mut findings = Vec::new();
    let mut tests = 0;
    for line in page.lines().filter(|line| line.starts_with('|')) {
        for (before, quoted) in quoted(line) {
            if let Some((file, test)) = quoted.split_once(".rs::") {
                tests += 1;
                let missing = missing_test(root, &format!("{file}.rs"), test);
                findings.extend(missing.map(|why| format!("{name}: {why}")));
            } else if before.contains("golden") {
                let case = format!("crates/hauberk-inject/tests/golden/{quoted}.out.yaml");
                if !root.join(&case).exists() {
                    findings.push(format!("{name}: there is no {case}"));
                }
            }
        }
    }
    anyhow::ensure!(tests > 0, "{name} names no test: has its form changed?");
    Ok(findings)
}

/// The words in backticks of the last column, each with the text of the column before it.
fn quoted(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let column = line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + column[at..].find('`')?;
        let end = start + 1 + column[start + 1..].find('`')?;
        at = end + 1;
        Some((&column[..start], &column[start + 1..end]))
    })
}

fn missing_test(root: &Path, file: &str, test: &str) -> Option<String> {
    let path = if file.starts_with("tests/") || file.starts_with("xtask/") {
        root.join(file)
    } else {
        root.join(format!("crates/hauberk-{file}"))
    };
    match text_of(&path) {
        Ok(text) if text.contains(&format!("fn {test}(")) => None,
        Ok(_) => Some(format!("{file} has no test {test}")),
        Err(error) => Some(format!("cannot read {file}: {error}")),
    }
}

/// The text of a file of tests, and of all files of the folder of its name, if there is one.
fn text_of(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let folder = path.with_extension("");
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                text += &std::fs::read_to_string(path)?;
            }
        }
        if !path.exists() {
            return Ok(text);
        }
    }
    Ok(text + &std::fs::read_to_string(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_last_column() {
        let words: Vec<_> = quoted("| A | `x` | golden `a`, `b.rs::c` |").collect();
        assert_eq!(words, [(" golden ", "a"), (" golden `a`, ", "b.rs::c")]);
    }
}
