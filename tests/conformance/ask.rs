//! One question of a case: what is asked, from where, and what must come back.

use serde::Deserialize;
use serde_json::{Value, json};

/// The interpreter that peers written in Python run in.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// How far a backend's share may be from its weight; the suite's own tolerance. Over
/// [`DRAWS`] requests that is nearly five standard deviations for a weight of 70 %.
const TOLERANCE: f64 = 0.05;
const DRAWS: u32 = 2000;

/// Which pod asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    V1,
    V2,
    Consumer,
}

type Pairs = Vec<(&'static str, &'static str)>;

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) from: From,
    pub(crate) url: String,
    headers: Pairs,
    status: u16,
    location: Option<&'static str>,
    backend: Option<&'static str>,
    path: Option<&'static str>,
    arrives: Pairs,
    arrives_without: Vec<&'static str>,
    answered: Pairs,
    answered_without: Vec<&'static str>,
    shares: Vec<(&'static str, f64)>,
    /// Pods that must see a copy, and its id.
    pub(crate) copied: Pairs,
    /// Pods that must not.
    pub(crate) not_copied: Pairs,
}

/// What came back, as the client tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    echo: Value,
}

impl Ask {
    /// A question of the first version's pod. A plain path is asked of `http://echo`; over HTTP,
    /// status 200 is expected, of calls code 0.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        let url: String = url.into();
        let url = if url.starts_with('/') { format!("http://echo{url}") } else { url };
        Self {
            from: From::V1,
            status: if url.starts_with("grpc") { 0 } else { 200 },
            url,
            headers: Vec::new(),
            location: None,
            backend: None,
            path: None,
            arrives: Vec::new(),
            arrives_without: Vec::new(),
            answered: Vec::new(),
            answered_without: Vec::new(),
            shares: Vec::new(),
            copied: Vec::new(),
            not_copied: Vec::new(),
        }
    }

    /// Asked from that pod.
    pub(crate) fn from(mut self, from: From) -> Self {
        self.from = from;
        self
    }

    /// Sends a header.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A pod whose name begins so answers.
    pub(crate) fn reaches(mut self, backend: &'static str) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The application sees this path, with its query.
    pub(crate) fn arrives_at(mut self, path: &'static str) -> Self {
        self.path = Some(path);
        self
    }

    /// The application sees this header; several values are joined by commas.
    pub(crate) fn arrives_with(mut self, name: &'static str, value: &'static str) -> Self {
        self.arrives.push((name, value));
        self
    }

    /// The application does not see this header.
    pub(crate) fn arrives_without(mut self, name: &'static str) -> Self {
        self.arrives_without.push(name);
        self
    }

    /// The response has this header.
    pub(crate) fn answered_with(mut self, name: &'static str, value: &'static str) -> Self {
        self.answered.push((name, value));
        self
    }

    /// The response does not have this header.
    pub(crate) fn answered_without(mut self, name: &'static str) -> Self {
        self.answered_without.push(name);
        self
    }

    /// The mesh refuses with this status.
    pub(crate) fn refused_with(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The mesh redirects there.
    pub(crate) fn redirected_to(mut self, status: u16, location: &'static str) -> Self {
        self.status = status;
        self.location = Some(location);
        self
    }

    /// Asked often, backends answer by these shares.
    pub(crate) fn shared_by(mut self, shares: &[(&'static str, f64)]) -> Self {
        self.shares = shares.to_vec();
        self
    }

    /// The pod of that name sees a request with that `x-copy-id`, which no other question has.
    pub(crate) fn copied_to(mut self, backend: &'static str, id: &'static str) -> Self {
        self.copied.push((backend, id));
        self
    }

    /// That pod does not.
    pub(crate) fn not_copied_to(mut self, backend: &'static str, id: &'static str) -> Self {
        self.not_copied.push((backend, id));
        self
    }

    /// With the names of headers in lower case, as HTTP/2 wants them.
    pub(crate) fn in_lower_case(mut self) -> Self {
        for (name, _) in &mut self.headers {
            *name = String::leak(name.to_lowercase());
        }
        self
    }

    /// What the client is told.
    pub(crate) fn question(&self) -> Value {
        let count = if self.shares.is_empty() { 1 } else { DRAWS };
        json!({"url": self.url, "headers": self.headers, "count": count})
    }

    /// Whether the answers are as expected.
    pub(crate) fn check(&self, answers: &[Answer]) -> Result<(), String> {
        for answer in answers {
            self.check_one(answer).map_err(|why| format!("{why}; {answer:?}"))?;
        }
        let count = answers.len() as f64;
        for (backend, share) in &self.shares {
            let hits = answers.iter().filter(|answer| answer.pod().starts_with(backend)).count();
            let seen = hits as f64 / count;
            if (seen - share).abs() > TOLERANCE {
                return Err(format!("{backend} has {seen} of {count} requests, not {share}"));
            }
        }
        Ok(())
    }

    fn check_one(&self, answer: &Answer) -> Result<(), String> {
        let same = |what: &str, seen: Option<&str>, expected: Option<&str>| match seen == expected {
            true => Ok(()),
            false => Err(format!("{what} is {seen:?}, not {expected:?}")),
        };
        if answer.status != Some(self.status) {
            return Err(format!("status is {:?}, not {}", answer.status, self.status));
        }
        same("location", joined(&answer.headers, "location").as_deref(), self.location)?;
        for (name, value) in &self.answered {
            same(name, joined(&answer.headers, name).as_deref(), Some(value))?;
        }
        for name in &self.answered_without {
            same(name, joined(&answer.headers, name).as_deref(), None)?;
        }
        if !matches!(self.status, 0 | 200) {
            return Ok(());
        }
        if let Some(backend) = self.backend
            && !answer.pod().starts_with(backend)
        {
            return Err(format!("{} answered, not {backend}", answer.pod()));
        }
        same("namespace", answer.echo["namespace"].as_str(), Some("conformance"))?;
        if let Some(path) = self.path {
            same("path", answer.echo["path"].as_str(), Some(path))?;
        }
        let seen: Vec<(String, String)> =
            serde_json::from_value(answer.echo["headers"].clone()).map_err(|e| e.to_string())?;
        for (name, value) in &self.arrives {
            same(name, joined(&seen, name).as_deref(), Some(value))?;
        }
        for name in &self.arrives_without {
            same(name, joined(&seen, name).as_deref(), None)?;
        }
        Ok(())
    }
}

impl Answer {
    fn pod(&self) -> &str {
        self.echo["pod"].as_str().unwrap_or_default()
    }
}

/// All values of a header, joined by commas.
fn joined(headers: &[(String, String)], name: &str) -> Option<String> {
    let values = headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let values: Vec<_> = values.map(|(_, value)| value.as_str()).collect();
    (!values.is_empty()).then(|| values.join(","))
}
