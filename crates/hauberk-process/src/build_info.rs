//! What was built: version, revision, profile.
//!
//! The revision comes from the environment variable `HAUBERK_GIT_SHA` of the build, as release
//! builds set it; without it the text is `unknown`. There is no build script: reading the
//! repository would rebuild this crate, and all above it, after every commit.

use crate::metrics::{Info, Metrics};

/// Version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Revision of the source, or `unknown`.
pub const REVISION: &str = match option_env!("HAUBERK_GIT_SHA") {
    Some(revision) => revision,
    None => "unknown",
};

/// Cargo profile family: `debug` or `release`.
pub const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// One line for `--version` and the first log line.
pub fn line(program: &str) -> String {
    format!("{program} {VERSION} ({REVISION}, {PROFILE})")
}

/// Registers `<name>_info{version, git_sha, profile, vendor} 1`; the proxy uses `proxy_build`.
pub fn register(metrics: &Metrics, name: &'static str) {
    let labels = vec![
        ("version", VERSION.to_owned()),
        ("git_sha", REVISION.to_owned()),
        ("profile", PROFILE.to_owned()),
        ("vendor", "hauberk".to_owned()),
    ];
    metrics.register(|registry| {
        registry.register(name, "Version and origin of this program", Info::new(labels));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxys_family_has_linkerds_name() {
        let metrics = Metrics::new();
        register(&metrics, "proxy_build");
        let text = metrics.render();
        let expect = format!("\nproxy_build_info{{version=\"{VERSION}\",git_sha=\"{REVISION}\"");
        assert!(text.contains(&expect), "{text}");
    }
}
