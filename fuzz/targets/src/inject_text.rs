//! Manifests through the injector, as text.

use std::sync::LazyLock;

use hauberk_inject::text::{Edit, Transformed, namespaces, transform};
use hauberk_inject::{
    Demand, Form, InjectConfig, Manifest, NamespaceFacts, Outcome, TrustAnchors, inject, uninject,
};
use hauberk_resources::yaml;

static CONFIGS: LazyLock<[InjectConfig; 2]> = LazyLock::new(|| {
    [Form::Annotation, Form::Sidecar].map(|form| {
        let mut config = InjectConfig::new("linkerd", "1");
        config.demand = Demand::Everything;
        config.form = form;
        config.trust_anchors = TrustAnchors::Inline("anchors".to_owned());
        config
    })
});

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = namespaces(&text);
    let facts = NamespaceFacts::default();
    for config in CONFIGS.iter() {
        let change = |manifest: &Manifest| inject(manifest, config, &facts);
        let once = says_what_is_meant(&text, change);
        let twice = transform(&once.text, change);
        assert_eq!(twice.text, once.text, "injecting twice changes nothing");
        says_what_is_meant(&once.text, uninject);
    }
    says_what_is_meant(&text, uninject);
}

/// The text reads back as the values meant, and a document that cannot be read stays as it is.
fn says_what_is_meant(text: &str, change: impl Fn(&Manifest) -> Outcome) -> Transformed {
    let transformed = transform(text, &change);
    let (before, problems) = yaml::objects(text);
    let meant: Vec<_> =
        before.into_iter().map(|object| change(&Manifest::new(object)).manifest.value).collect();
    let (after, problems_after) = yaml::objects(&transformed.text);
    assert_eq!(after, meant, "{}", transformed.text);
    assert_eq!(problems.len(), problems_after.len(), "{}", transformed.text);
    let broken = transformed.documents.iter().filter(|document| document.problem.is_some());
    assert_eq!(broken.clone().count(), problems.len());
    assert!(broken.into_iter().all(|document| document.edit == Edit::None));
    if transformed.documents.iter().all(|document| document.edit == Edit::None) {
        assert_eq!(transformed.text, text);
    }
    transformed
}
