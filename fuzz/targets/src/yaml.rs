//! Texts of manifests, and the objects in them.

use hauberk_resources::{Resource, yaml};

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let sections = yaml::sections(&text);
    let whole: String = sections.iter().map(|section| section.text).collect();
    assert_eq!(whole, text, "sections put together give the text");
    // A carriage return alone ends a line too (YAML 1.2.2, rule 26).
    let lines = text.matches(['\n', '\r']).count() + 1;
    let full = sections.iter().filter(|section| !section.is_empty()).count();
    let (values, problems) = yaml::documents(&text);
    assert!(values.len() + problems.len() <= full);
    for problem in &problems {
        assert!((1..=full).contains(&problem.document) && problem.line <= lines, "{problem}");
        assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{problem:?}");
    }
    for value in &values {
        let written = yaml::write(value).expect("no JSON value is refused");
        let read = yaml::parse(&written);
        assert_eq!(read.as_ref(), Ok(value), "{written}");
        assert_eq!(yaml::sections(&written).len(), 1, "{written}");
    }
    for object in values.into_iter().flat_map(yaml::expand_list) {
        match Resource::parse(object) {
            Ok(resource) => assert_eq!(resource.key().kind, resource.kind()),
            Err(invalid) => assert!(!invalid.to_string().is_empty()),
        }
    }
}
