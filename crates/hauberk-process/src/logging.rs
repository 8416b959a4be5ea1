//! Structured logs: where they go, in which format, and how much, changeable at run time.
//!
//! The filter is a comma-separated list of `level`, `target=level` and `target`, the part of
//! tracing's `EnvFilter` syntax that needs no spans and no regular expressions. The longest
//! target that is a prefix of an event's target decides. Two concessions keep settings written
//! for Linkerd's proxy working:
//!
//! - `linkerd=LEVEL` also speaks for Hauberk's own code, unless `hauberk` is named itself.
//! - Directives about spans and their fields, such as `[{headers}]=off` in the value that Linkerd
//!   injects, are accepted and have no effect: there are no such spans here, and no header is logged.
//!
//! Plain lines are `[<uptime>s]  LEVEL ThreadId(NN) target: message field=value`; JSON lines carry
//! the wall clock. [`LogHandle::stream`] gives lines to whoever asks while the process runs, by a filter of their own.
//! Not here: the HTTP access log, which is not filtered by level.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

mod stream;

pub use stream::Lines;
use stream::Streams;

/// The first part of the targets of all code in this workspace.
const OWN_TARGETS: &str = "hauberk";
/// What Linkerd's settings call their own code.
const LINKERD_TARGETS: &str = "linkerd";

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Standard output, as servers do.
    #[default]
    Stdout,
    /// Standard error, as commands do whose output is data.
    Stderr,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// `json` is JSON; everything else is plain, as in linkerd2-proxy.
    pub fn parse(text: &str) -> Self {
        if text.trim().eq_ignore_ascii_case("json") { Format::Json } else { Format::Plain }
    }
}

/// How to log.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What is logged.
    pub filter: Filter,
    /// In which form.
    pub format: Format,
    /// To where.
    pub output: Output,
}

/// Which events are logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    text: String,
    targets: Targets,
}

impl Default for Filter {
    /// Warnings of everybody and Hauberk's own life-cycle.
    fn default() -> Self {
        "warn,hauberk=info".parse().expect("the default filter is well-formed")
    }
}

impl Filter {
    /// Whether nothing at all is logged.
    pub fn is_off(&self) -> bool {
        self.targets == Targets::new().with_default(LevelFilter::OFF)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A filter that cannot be understood; names the directive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The part after `=` is not a level.
    #[error(
        "log directive {directive:?}: {level:?} is not one of off, error, warn, info, debug, trace"
    )]
    Level {
        /// The whole directive.
        directive: String,
        /// The part that should be a level.
        level: String,
    },
    /// The part before `=` cannot be the name of a target.
    #[error("log directive {directive:?}: {target:?} is not the name of a log target")]
    Target {
        /// The whole directive.
        directive: String,
        /// The part that should be a target.
        target: String,
    },
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut targets = Targets::new();
        let mut any = false;
        let mut linkerd = None;
        let mut own_is_named = false;
        for directive in split_directives(text) {
            any = true;
            match Directive::parse(directive)? {
                Directive::Everything(level) => targets = targets.with_default(level),
                Directive::Target(target, level) => {
                    own_is_named |= target == OWN_TARGETS;
                    if target == LINKERD_TARGETS {
                        linkerd = Some(level);
                    }
                    targets = targets.with_target(target, level);
                }
                Directive::Spans => {}
            }
        }
        if !any {
            // An empty filter lets errors through, as EnvFilter's does.
            targets = targets.with_default(LevelFilter::ERROR);
        }
        if let (Some(level), false) = (linkerd, own_is_named) {
            targets = targets.with_target(OWN_TARGETS, level);
        }
        Ok(Filter { text: text.trim().to_owned(), targets })
    }
}

enum Directive<'a> {
    Everything(LevelFilter),
    Target(&'a str, LevelFilter),
    /// About spans, which have no effect here.
    Spans,
}

impl<'a> Directive<'a> {
    fn parse(directive: &'a str) -> Result<Self, FilterError> {
        if directive.contains('[') {
            return Ok(Directive::Spans);
        }
        let Some((target, level)) = directive.split_once('=') else {
            return match LevelFilter::from_str(directive) {
                Ok(level) => Ok(Directive::Everything(level)),
                Err(_) => Ok(Directive::Target(target_name(directive, directive)?, {
                    LevelFilter::TRACE
                })),
            };
        };
        let (target, level) = (target.trim(), level.trim());
        let parsed = LevelFilter::from_str(level).map_err(|_| FilterError::Level {
            directive: directive.to_owned(),
            level: level.to_owned(),
        })?;
        Ok(Directive::Target(target_name(directive, target)?, parsed))
    }
}

fn target_name<'a>(directive: &str, target: &'a str) -> Result<&'a str, FilterError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte);
    if !target.is_empty() && target.bytes().all(allowed) {
        Ok(target)
    } else {
        Err(FilterError::Target { directive: directive.to_owned(), target: target.to_owned() })
    }
}

/// Splits at commas that are outside of brackets; empty parts are left out.
fn split_directives(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c: char| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

/// Changes what is logged while the process runs. Cloning copies one `Arc`.
#[derive(Clone, Debug)]
pub struct LogHandle {
    current: Arc<Mutex<Filter>>,
    reload: reload::Handle<Targets, Registry>,
    streams: Streams,
}

impl LogHandle {
    /// The filter in force.
    pub fn filter(&self) -> Filter {
        self.current.lock().clone()
    }

    /// Replaces the filter, for all threads at once.
    ///
    /// # Errors
    /// When the subscriber is gone, which means that the process is ending.
    pub fn set_filter(&self, filter: Filter) -> Result<(), LoggingGone> {
        let mut current = self.current.lock();
        self.reload.reload(filter.targets.clone()).map_err(|_gone| LoggingGone)?;
        *current = filter;
        Ok(())
    }

    /// Every line from now on that passes `filter`, as JSON, whatever is logged otherwise. None if too many streams are
    /// open.
    pub fn stream(&self, filter: Filter) -> Option<Lines> {
        self.streams.open(filter.targets)
    }
}

/// The log subscriber does not exist any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log subscriber is gone")]
pub struct LoggingGone;

/// Logging was set up before.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up logging: it was set up before")]
pub struct AlreadyInitialised;

/// Sets up logging for the process. To be called once, first thing in `main`.
///
/// # Errors
/// When somebody has set it up before.
pub fn init(config: &Config) -> Result<LogHandle, AlreadyInitialised> {
    let (targets, handle) = reload::Layer::new(config.filter.targets.clone());
    let streams = Streams::default();
    let subscriber = tracing_subscriber::registry()
        .with(lines(config.format, config.output).with_filter(targets))
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(streams.clone())
                .with_thread_ids(true)
                .json()
                .with_filter(streams.clone()),
        );
    subscriber.try_init().map_err(|_| AlreadyInitialised)?;
    let current = Arc::new(Mutex::new(config.filter.clone()));
    Ok(LogHandle { current, reload: handle, streams })
}

fn lines(format: Format, output: Output) -> Box<dyn Layer<Registry> + Send + Sync> {
    let writer = move || -> Box<dyn io::Write> {
        match output {
            Output::Stdout => Box::new(io::stdout()),
            Output::Stderr => Box::new(io::stderr()),
        }
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_thread_ids(true);
    match format {
        Format::Json => Box::new(layer.json()),
        Format::Plain => {
            let terminal = match output {
                Output::Stdout => io::stdout().is_terminal(),
                Output::Stderr => io::stderr().is_terminal(),
            };
            Box::new(layer.with_ansi(terminal).with_timer(Uptime(Instant::now())))
        }
    }
}

/// Seconds since the start, to the microsecond, in brackets.
struct Uptime(Instant);

impl FormatTime for Uptime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "[{:>13.6}s]", self.0.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    /// Whether the filter lets an event of this target and level through.
    fn check(filter: &str, target: &str, level: Level, expect: bool) {
        let parsed: Filter = filter.parse().expect("well-formed");
        let enabled = parsed.targets.would_enable(target, &level);
        assert_eq!(enabled, expect, "{filter} for {target} at {level}");
    }

    #[test]
    fn the_longest_matching_target_decides() {
        check("warn,hauberk=debug", "hauberk_proxy::inbound", Level::DEBUG, true);
        check("warn,hauberk=debug", "hauberk_proxy::inbound", Level::TRACE, false);
        check("warn,hauberk=debug", "h2::codec", Level::INFO, false);
        check("info,h2=off", "h2::codec", Level::ERROR, false);
        check("info , hauberk_proxy::tls=trace", "hauberk_proxy::tls", Level::TRACE, true);
        check("off", "hauberk_proxy", Level::ERROR, false);
        check("", "hauberk_proxy", Level::ERROR, true);
        check("", "hauberk_proxy", Level::WARN, false);
        check("hauberk", "hauberk_proxy", Level::TRACE, true);
    }

    #[test]
    fn understands_what_linkerd_injects() {
        let injected = "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off";
        check(injected, "hauberk_proxy", Level::INFO, true);
        check(injected, "hauberk_proxy", Level::DEBUG, false);
        check(injected, "hyper", Level::INFO, false);
        check("warn,linkerd=trace,hauberk=warn", "hauberk_proxy", Level::INFO, false);
        check("info,a[b{c,d}]=trace", "a", Level::DEBUG, false);
    }

    #[test]
    fn names_the_directive_that_is_wrong() {
        let error = "warn,hauberk=loud".parse::<Filter>().expect_err("no such level");
        assert_eq!(
            error.to_string(),
            "log directive \"hauberk=loud\": \"loud\" is not one of off, error, warn, info, debug, trace"
        );
        let error = "warn,a b=info".parse::<Filter>().expect_err("blank in a target");
        assert!(matches!(error, FilterError::Target { target, .. } if target == "a b"));
        assert!("=info".parse::<Filter>().is_err());
    }

    #[test]
    fn knows_when_everything_is_off() {
        assert!("off".parse::<Filter>().expect("well-formed").is_off());
        assert!(!"off,hauberk=info".parse::<Filter>().expect("well-formed").is_off());
    }
}
