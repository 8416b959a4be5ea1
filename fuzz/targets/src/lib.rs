//! What must hold of every parser of foreign bytes, as functions over bytes.
//!
//! A target takes any bytes, gives them to one parser and asserts what that parser promises: that it
//! ends without a panic, and a law, such as "what was written reads back equal" or "a decision does
//! not change when more bytes come". Two callers: the smoke test of this crate, which runs the
//! corpus and seeded mutations of it in every `cargo test`, and the libFuzzer binaries in `fuzz/`,
//! which run for as long as somebody lets them.
//!
//! Not here: parsers of libraries (h2, rustls, prost), and how inputs are made.

mod admission;
mod annotations;
mod certificate;
mod choices;
mod client_hello;
mod detect;
mod dns;
mod http1_body;
mod http1_head;
mod http_head;
mod inject_text;
mod names;
mod prom_text;
mod routes;
mod settings;
mod transport_header;
mod wire;
mod yaml;

/// One parser with its laws.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the binary in `fuzz/` and of the folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// Panics when a law is broken.
    pub check: fn(&[u8]),
    /// How many mutations the smoke test tries; less where one takes longer.
    pub mutations: u32,
}

const fn target(name: &'static str, check: fn(&[u8]), mutations: u32) -> Target {
    Target { name, check, mutations }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("admission", admission::check, 10_000),
    target("annotations", annotations::check, 3000),
    target("certificate", certificate::check, 500),
    target("client_hello", client_hello::check, 1000),
    target("detect", detect::check, 3000),
    target("dns", dns::check, 2000),
    target("http1_body", http1_body::check, 5000),
    target("http1_head", http1_head::check, 1000),
    target("http_head", http_head::check, 3000),
    target("inject_text", inject_text::check, 300),
    target("names", names::check, 2000),
    target("prom_text", prom_text::check, 2000),
    target("routes", routes::check, 10_000),
    target("settings", settings::check, 1000),
    target("transport_header", transport_header::check, 3000),
    target("wire", wire::check, 5000),
    target("yaml", yaml::check, 500),
];

/// Gives bytes to the target of that name.
///
/// # Panics
/// When a law is broken, and when there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of that name").check)(data);
}

/// Asserts that a decision, once it has fallen, stays as it is when more bytes come.
///
/// Looks at every beginning of `data` up to `ends_max` bytes, so that its cost stays bounded.
fn assert_stable<T: PartialEq + std::fmt::Debug>(
    data: &[u8],
    ends_max: usize,
    decide: impl Fn(&[u8]) -> T,
    is_open: impl Fn(&T) -> bool,
) {
    let whole = decide(data);
    for end in 0..data.len().min(ends_max) {
        let early = decide(&data[..end]);
        assert!(
            is_open(&early) || early == whole,
            "{early:?} after {end} bytes, {whole:?} after all"
        );
    }
}
