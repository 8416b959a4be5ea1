//! How results and mistakes are shown.
//!
//! Colour is used only on a terminal, can be switched off by `NO_COLOR`, and never carries
//! meaning: every coloured sign is also a different character.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// A sign before a line of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
}

impl Sign {
    fn glyph(self) -> &'static str {
        match self {
            Self::Good => "√",
            Self::Warning => "‼",
            Self::Bad => "×",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32;1m",
            Self::Warning => "\x1b[33;1m",
            Self::Bad => "\x1b[31;1m",
        }
    }

    /// The sign as text, coloured if asked.
    pub(crate) fn render(self, colour: Colour) -> String {
        match colour {
            Colour::On => format!("{}{}\x1b[0m", self.colour(), self.glyph()),
            Colour::Off => self.glyph().to_owned(),
        }
    }
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Escape sequences are understood.
    On,
    /// Plain text.
    Off,
}

impl Colour {
    /// What standard error understands.
    pub(crate) fn of_stderr() -> Self {
        Self::when(io::stderr().is_terminal())
    }

    /// What standard output understands.
    pub(crate) fn of_stdout() -> Self {
        Self::when(io::stdout().is_terminal())
    }

    fn when(terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if terminal && !refused { Self::On } else { Self::Off }
    }
}

/// Writes an artefact to standard output. A reader that closed the pipe is not an error.
pub(crate) fn artefact(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Writes lines for people to standard error.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes()); // Nobody is left to tell.
}

/// Shows the error that ended a command, and its causes.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    note(&format!("Error: {error:#}\n"));
    ExitCode::FAILURE
}
