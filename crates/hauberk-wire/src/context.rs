//! The small texts by which a proxy says who it is: context tokens and workload names.
//!
//! A proxy treats both as opaque: the injector wrote them into its settings and it hands them on.
//! They are JSON objects; older injectors wrote `ns:<namespace>` and `<namespace>:<pod>`.

use std::sync::Arc;

use hauberk_model::Namespace;
use hauberk_model::inbound::WorkloadRef;
use serde_json::Value;

use crate::invalid::Invalid;

/// Longest token that is read, in bytes; three names of at most 253 bytes fit easily.
const TOKEN_BYTES_MAX: usize = 4096;

/// Who asks for endpoints or a profile, as far as it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Context {
    /// Namespace of the asking workload.
    pub namespace: Option<Namespace>,
    /// Node it runs on.
    pub node: Option<Arc<str>>,
    /// Its pod.
    pub pod: Option<Arc<str>>,
}

impl Context {
    /// Reads a token. One that cannot be understood says nothing, it is no error: the answer is
    /// then the one for a client anywhere (linkerd2's destination service).
    pub fn parse(token: &str) -> Self {
        if let Some(namespace) = token.strip_prefix("ns:") {
            return Self { namespace: non_empty(namespace).map(Namespace::new), ..Self::default() };
        }
        let Some(value) = json(token) else { return Self::default() };
        let text = |key| value.get(key).and_then(Value::as_str).and_then(non_empty);
        Self { namespace: text("ns").map(Namespace::new), node: text("nodeName"), pod: text("pod") }
    }

    /// The token that [`Context::parse`] reads.
    pub fn token(&self) -> String {
        let fields = [
            ("ns", self.namespace.as_ref().map(Namespace::as_str)),
            ("nodeName", self.node.as_deref()),
            ("pod", self.pod.as_deref()),
        ];
        object(&fields)
    }
}

/// The workload whose policy is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// Its namespace.
    pub namespace: Namespace,
    /// The pod or external workload.
    pub reference: WorkloadRef,
}

impl Workload {
    /// Reads `{"ns":…,"pod":…}`, `{"ns":…,"external_workload":…}` or `<namespace>:<pod>`.
    ///
    /// # Errors
    /// If it is none of these or a name is empty.
    pub fn parse(token: &str) -> Result<Self, Invalid> {
        const FIELD: &str = "workload";
        let grammar = r#"expected {"ns":"NAMESPACE","pod":"NAME"} or NAMESPACE:NAME"#;
        let invalid = || Invalid::malformed(FIELD, token, grammar);
        if !token.starts_with('{') {
            let (namespace, pod) = token.split_once(':').ok_or_else(invalid)?;
            let namespace = non_empty(namespace).map(Namespace::new).ok_or_else(invalid)?;
            let pod = non_empty(pod).filter(|pod| !pod.contains(':')).ok_or_else(invalid)?;
            return Ok(Self { namespace, reference: WorkloadRef::Pod(pod) });
        }
        let value = json(token).ok_or_else(invalid)?;
        let text = |key| value.get(key).and_then(Value::as_str).and_then(non_empty);
        let reference = match (text("pod"), text("external_workload")) {
            (Some(pod), None) => WorkloadRef::Pod(pod),
            (None, Some(external)) => WorkloadRef::External(external),
            (None, None) | (Some(_), Some(_)) => return Err(invalid()),
        };
        Ok(Self { namespace: text("ns").map(Namespace::new).ok_or_else(invalid)?, reference })
    }

    /// The token that [`Workload::parse`] reads.
    pub fn token(&self) -> String {
        let (key, name) = match &self.reference {
            WorkloadRef::Pod(name) => ("pod", name),
            WorkloadRef::External(name) => ("external_workload", name),
        };
        object(&[("ns", Some(self.namespace.as_str())), (key, Some(name))])
    }
}

fn non_empty(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn json(token: &str) -> Option<Value> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    serde_json::from_str(token).ok().filter(Value::is_object)
}

fn object(fields: &[(&str, Option<&str>)]) -> String {
    let present = fields.iter().filter_map(|(key, text)| Some((*key, (*text)?)));
    let fields = present.map(|(key, text)| (key.to_owned(), Value::from(text)));
    Value::Object(fields.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_context() {
        let check = |token: &str, namespace: Option<&str>, node: Option<&str>| {
            let context = Context::parse(token);
            assert_eq!(context.namespace.as_ref().map(Namespace::as_str), namespace, "{token}");
            assert_eq!(context.node.as_deref(), node, "{token}");
        };
        check(r#"{"ns":"emojivoto","nodeName":"n1","pod":"web-1"}"#, Some("emojivoto"), Some("n1"));
        check("ns:emojivoto", Some("emojivoto"), None);
        check("", None, None);
        check("{", None, None);
        check("[]", None, None);
        check(r#"{"ns":7}"#, None, None);
    }

    #[test]
    fn reads_workloads_and_refuses_the_rest() {
        let pod = Workload { namespace: "n".into(), reference: WorkloadRef::Pod("p".into()) };
        for token in [r#"{"ns":"n","pod":"p"}"#, "n:p"] {
            assert_eq!(Workload::parse(token).as_ref(), Ok(&pod));
        }
        let external = r#"{"ns":"n","external_workload":"vm"}"#;
        let workload = Workload::parse(external).expect("valid");
        assert_eq!(workload.reference, WorkloadRef::External("vm".into()));
        assert_eq!(workload.token(), external);
        for bad in ["", "n", ":p", "n:", "n:p:q", "{", "{}", r#"{"ns":"n"}"#, r#"{"pod":"p"}"#] {
            assert!(Workload::parse(bad).is_err(), "{bad}");
        }
    }
}
