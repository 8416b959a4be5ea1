//! Log lines on standard output, in the two forms that Linkerd's init container wrote.
//!
//! One short-lived, single-threaded program writes a handful of lines, so this is all it needs.

use std::io::{self, Write as _};

use jiff::Timestamp;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `time="…" level=info msg="…"`
    Plain,
    /// `{"level":"info","msg":"…","time":"…"}`
    Json,
    /// `2020/03/01 12:00:00 …`, each line of a longer text with its own time: Linkerd 2.7's.
    Dated,
}

/// How much a line matters. Lines beyond the chosen level are not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    Warning,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Names as logrus knows them; its two levels above error do not occur here.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.to_lowercase().as_str() {
            "panic" | "fatal" | "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warning),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(format!("'{text}' is none of error, warn, info, debug, trace")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where log lines go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) format: Format,
    pub(crate) level: Level,
    pub(crate) clock: fn() -> Timestamp,
}

impl Log {
    pub(crate) fn write(&self, level: Level, message: &str) {
        if level <= self.level {
            let lines = render(self.format, level, message, (self.clock)());
            // Without standard output there is nobody to tell.
            let _ = io::stdout().lock().write_all(lines.as_bytes());
        }
    }

    pub(crate) fn info(&self, message: &str) {
        self.write(Level::Info, message);
    }
}

fn render(format: Format, level: Level, message: &str, now: Timestamp) -> String {
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    let quoted = serde_json::Value::from(message);
    match format {
        Format::Plain => format!("time=\"{time}\" level={} msg={quoted}\n", level.name()),
        Format::Json => {
            format!("{{\"level\":\"{}\",\"msg\":{quoted},\"time\":\"{time}\"}}\n", level.name())
        }
        Format::Dated => {
            let time = now.strftime("%Y/%m/%d %H:%M:%S");
            let text = message.trim_end_matches('\n');
            text.split('\n').map(|line| format!("{time} {line}\n")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, message: &str) -> String {
        let now = Timestamp::from_second(1_583_000_000).expect("a time");
        render(format, Level::Info, message, now)
    }

    #[test]
    fn three_forms() {
        let quoted = r#"a \"b\""#;
        assert_eq!(
            line(Format::Plain, "a \"b\""),
            format!("time=\"2020-02-29T18:13:20Z\" level=info msg=\"{quoted}\"\n")
        );
        assert_eq!(
            line(Format::Json, "a \"b\""),
            format!(
                "{{\"level\":\"info\",\"msg\":\"{quoted}\",\"time\":\"2020-02-29T18:13:20Z\"}}\n"
            )
        );
        assert_eq!(
            line(Format::Dated, "< x\ny\n"),
            "2020/02/29 18:13:20 < x\n2020/02/29 18:13:20 y\n"
        );
    }
}
