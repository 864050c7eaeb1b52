//! Where answers go: stdout or a file, and what a terminal there can show.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::Serialize;
use terminal_size::{Width, terminal_size_of};

use super::CliError;
use crate::render::Style;

/// How lists are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// Columns for people
    #[default]
    Text,
    /// JSON of the HTTP API
    Json,
}

/// What stdout can show.
pub fn stdout_style() -> Style {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return Style::default();
    }
    let says = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Style {
        color: !dumb && !says("NO_COLOR"),
        width: terminal_size_of(&stdout).map(|(Width(width), _)| width),
    }
}

/// Whether stdout is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes `bytes` to stdout. A reader that went away is no failure.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn print(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells the user something that is no answer, on stderr.
///
/// # Errors
///
/// [`CliError`] if stderr cannot be written.
pub fn note(text: &str) -> Result<(), CliError> {
    writeln!(io::stderr(), "{text}")
        .map_err(|error| CliError::Failed(format!("cannot write to stderr: {error}")))
}

/// Writes `value` as indented JSON to stdout.
///
/// # Errors
///
/// [`CliError`] if stdout cannot be written.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| CliError::failed(&error))?;
    text.push(b'\n');
    print(&text)
}

/// Writes `bytes` to the file `path`.
///
/// # Errors
///
/// [`CliError`] if it cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    std::fs::write(path, bytes)
        .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))
}

/// Runs `work` with a spinner on stderr, when that is a terminal.
pub async fn with_spinner<T>(message: &str, work: impl Future<Output = T>) -> T {
    let spinner = match io::stderr().is_terminal() {
        true => ProgressBar::new_spinner().with_message(message.to_owned()),
        false => ProgressBar::hidden(),
    };
    spinner.enable_steady_tick(Duration::from_millis(100));
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// `text` with characters that a terminal would obey replaced by `U+FFFD`;
/// line ends stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.contains(obeyed) {
        true => Cow::Owned(text.replace(obeyed, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}
