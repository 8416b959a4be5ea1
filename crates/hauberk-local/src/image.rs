//! Which program stands for a container image: a lab pulls no images.
//!
//! A container runs its `command` as a program of this machine. Where a manifest leaves that to the
//! image, the image's entry point must be known: our own images are, others are told by the pod's
//! annotation `local.hauberk.io/command.<container>`, a command line in shell quoting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::spec::{Container, Metadata};

/// Prefix of the annotation that tells a container's program.
pub const COMMAND_ANNOTATION: &str = "local.hauberk.io/command.";

/// Program names of our own images, by the image's last path segment.
const OWN_IMAGES: [(&str, &str); 9] = [
    ("proxy", "hauberk-proxy"),
    ("hauberk-proxy", "hauberk-proxy"),
    ("proxy-init", "hauberk-init"),
    ("init", "hauberk-init"),
    ("hauberk-init", "hauberk-init"),
    ("controller", "hauberk-controller"),
    ("hauberk-controller", "hauberk-controller"),
    ("emojivoto", "emojivoto"),
    ("hauberk", "hauberk"),
];

/// Knows the programs that come with this one.
#[derive(Clone, Debug, Default)]
pub struct Images {
    directory: PathBuf,
    /// Named by the user, full image name without tag to command line.
    mapped: BTreeMap<String, Vec<String>>,
    /// What is run instead of programs of our own, by name.
    replaced: BTreeMap<String, Vec<String>>,
}

/// An image nobody has told the program of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "container {container}: the image {image} has no known program here; hint: set a command in the \
     manifest, or the pod annotation {COMMAND_ANNOTATION}{container}: \"program arguments…\""
)]
pub struct UnknownImage {
    container: String,
    image: String,
}

impl Images {
    /// Our own programs are those in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, ..Self::default() }
    }

    /// Tells the program of an image, which is given without its tag.
    pub fn map(&mut self, image: &str, command: &str) {
        self.mapped.insert(image.to_owned(), words(command));
    }

    /// Tells what to run instead of a program of our own, wherever that one would be found: the
    /// same program in another place, or another one with its first arguments. Not empty.
    pub fn replace_program(&mut self, name: &str, command: Vec<String>) {
        self.replaced.insert(name.to_owned(), command);
    }

    /// The directory with our own programs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The argument vector of a container, before `$(VAR)` is expanded.
    ///
    /// As in Kubernetes, `command` replaces the image's entry point and `args` its arguments.
    ///
    /// # Errors
    /// When neither the manifest nor anyone else names a program.
    pub fn command(
        &self,
        pod: &Metadata,
        container: &Container,
    ) -> Result<Vec<String>, UnknownImage> {
        let annotation = pod.annotations.get(&format!("{COMMAND_ANNOTATION}{}", container.name));
        let mut command = match annotation {
            Some(line) => words(line),
            None if !container.command.is_empty() => container.command.clone(),
            None => self.entry_point(&container.image).unwrap_or_default(),
        };
        if command.is_empty() {
            let (container, image) = (container.name.clone(), container.image.clone());
            return Err(UnknownImage { container, image });
        }
        if let Some(instead) = command.first().and_then(|name| self.replaced.get(name)) {
            command.splice(..1, instead.iter().cloned());
        }
        command.extend(container.args.iter().cloned());
        Ok(command)
    }

    fn entry_point(&self, image: &str) -> Option<Vec<String>> {
        let name = without_tag(image);
        if let Some(command) = self.mapped.get(name) {
            return Some(command.clone());
        }
        let last = name.rsplit('/').next()?;
        let (_, program) = OWN_IMAGES.iter().find(|(image, _)| *image == last)?;
        let replaced = self.replaced.contains_key(*program);
        let path = if replaced { program.into() } else { self.directory.join(program) };
        Some(vec![path.to_string_lossy().into_owned()])
    }
}

fn without_tag(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        // The colon of a registry's port comes before a slash.
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// Splits a command line at blanks, with the quoting of a POSIX shell and nothing else of it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(image: &str, command: &[&str], args: &[&str], expect: Result<&[&str], ()>) {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let mut images = Images::new("/opt/hauberk".into());
        images.map("docker.io/library/redis", "redis-server --save ''");
        let container = Container {
            name: "c".into(),
            image: image.into(),
            command: texts(command),
            args: texts(args),
            ..Container::default()
        };
        let found = images.command(&Metadata::default(), &container);
        assert_eq!(found.map_err(drop), expect.map(texts), "{image}");
    }

    #[test]
    fn a_command_wins_over_the_image() {
        check("nginx:1", &["sleep"], &["1"], Ok(&["sleep", "1"]));
        check("cr.l5d.io/linkerd/proxy:v2", &[], &[], Ok(&["/opt/hauberk/hauberk-proxy"]));
        check(
            "host:5000/proxy-init@sha256:00",
            &[],
            &["-p"],
            Ok(&["/opt/hauberk/hauberk-init", "-p"]),
        );
        let redis: &[&str] = &["redis-server", "--save", "", "x"];
        check("docker.io/library/redis:7", &[], &["x"], Ok(redis));
        check("nginx:1", &[], &["x"], Err(()));
    }

    #[test]
    fn another_program_can_stand_for_one_of_our_own() {
        let mut images = Images::new("/opt".into());
        let instead = ["/new/proxy", "with", "words"];
        images.replace_program("hauberk-proxy", instead.map(str::to_owned).to_vec());
        let by_image = Container { image: "hauberk/proxy:1".into(), ..Container::default() };
        let by_name = Container { command: vec!["hauberk-proxy".into()], ..Container::default() };
        let other = Container { command: vec!["hauberk".into()], ..Container::default() };
        for (container, expect) in
            [(by_image, &instead[..]), (by_name, &instead[..]), (other, &["hauberk"])]
        {
            assert_eq!(images.command(&Metadata::default(), &container).unwrap(), expect);
        }
    }

    #[test]
    fn an_annotation_wins_over_all() {
        let images = Images::new("/opt".into());
        let container =
            Container { name: "c".into(), command: vec!["a".into()], ..Container::default() };
        let mut pod = Metadata::default();
        pod.annotations.insert("local.hauberk.io/command.c".into(), r#"b "c d"\ e"#.into());
        assert_eq!(images.command(&pod, &container).unwrap(), ["b", "c d e"]);
    }

    #[test]
    fn the_error_says_how_to_map_an_image() {
        let container =
            Container { name: "web".into(), image: "nginx".into(), ..Container::default() };
        let error = Images::default().command(&Metadata::default(), &container).unwrap_err();
        assert!(error.to_string().contains("local.hauberk.io/command.web"), "{error}");
    }
}
