//! Answers as bytes: text for people, files for tools. Pure: no I/O, no clock.
//!
//! One file per format; all are deterministic. Formats that show functions
//! ([`Format::Top`], [`Format::Tree`], [`Format::Folded`], [`Format::Svg`],
//! [`Format::Speedscope`]) fold lines to functions, [`Format::Pprof`] and
//! [`Format::Json`] keep every line. Choosing samples and pruning happen before,
//! in [`crate::prune`].

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::str::FromStr;

use crate::answer::ProfileAnswer;
use crate::prune;

pub mod diff;
pub mod folded;
pub mod groups;
pub mod json;
mod lines;
pub mod pprof;
pub mod sandwich;
pub mod speedscope;
pub mod svg;
mod text;
pub mod timeline;
pub mod top;
pub mod tree;
pub mod verdict;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Table of functions.
    Top,
    /// Flame graph for a terminal.
    Tree,
    /// `root;child;leaf value`, one line per stack.
    Folded,
    /// Interactive flame graph for a browser.
    Svg,
    /// `profile.proto`, gzipped, for `go tool pprof`.
    Pprof,
    /// Columns of the call tree, for programs.
    Json,
    /// For speedscope.app.
    Speedscope,
}

impl Format {
    /// Nodes to ask for when the reader does not say; 0 for the usual number.
    /// Tables and files for other tools have every function that counts.
    pub fn max_nodes(self) -> u32 {
        match self {
            Self::Top | Self::Pprof | Self::Folded => 65_536,
            Self::Tree | Self::Svg | Self::Json | Self::Speedscope => 0,
        }
    }
}

/// What a picture or table says above itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderContext {
    /// For example `logger · cpu`.
    pub title: String,
    /// For example the selector.
    pub subtitle: Option<String>,
}

/// What the reader's terminal can show; the default is a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether escape codes for colours are welcome.
    pub color: bool,
    /// Columns that lines must fit in; `None` cuts nothing.
    pub width: Option<u16>,
}

/// Why an answer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The flame graph's writer gave up.
    #[error("cannot draw the flame graph")]
    Svg(#[source] io::Error),
    /// The JSON writer gave up.
    #[error("cannot write {format} as JSON")]
    Json {
        /// Which of the JSON formats.
        format: Format,
        /// What the writer said.
        #[source]
        source: serde_json::Error,
    },
}

/// The text names no format.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no format is called {text:?}; use one of {}", known_formats())]
pub struct UnknownFormat {
    text: String,
}

fn known_formats() -> String {
    Format::ALL.map(Format::name).join(", ")
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::Top,
        Self::Tree,
        Self::Folded,
        Self::Svg,
        Self::Pprof,
        Self::Json,
        Self::Speedscope,
    ];

    /// The name on the command line and in URLs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Top => "top",
            Self::Tree => "tree",
            Self::Folded => "folded",
            Self::Svg => "svg",
            Self::Pprof => "pprof",
            Self::Json => "json",
            Self::Speedscope => "speedscope",
        }
    }

    /// The media type for HTTP.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Top | Self::Tree | Self::Folded => "text/plain; charset=utf-8",
            Self::Svg => "image/svg+xml",
            Self::Pprof => "application/octet-stream",
            Self::Json | Self::Speedscope => "application/json",
        }
    }

    /// What a file's name ends with, without the first dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Top | Self::Tree => "txt",
            Self::Folded => "folded",
            Self::Svg => "svg",
            Self::Pprof => "pb.gz",
            Self::Json => "json",
            Self::Speedscope => "speedscope.json",
        }
    }

    /// Whether the bytes are text that a terminal can show.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::Pprof)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| UnknownFormat {
                text: text.chars().take(64).collect(),
            })
    }
}

/// `answer` with a frame for the value that no frame holds.
fn named(answer: &ProfileAnswer) -> Cow<'_, ProfileAnswer> {
    match prune::name_empty_stacks(&answer.tree) {
        None => Cow::Borrowed(answer),
        Some(tree) => Cow::Owned(ProfileAnswer {
            tree,
            ..answer.clone()
        }),
    }
}

/// Writes `answer` in `format`.
///
/// Value that no frame holds is shown as the frame `[no stack]`. `style` matters
/// to [`Format::Top`] and [`Format::Tree`] only.
///
/// # Errors
///
/// [`RenderError`] if a writer fails; no answer is known that makes one fail.
pub fn render(
    answer: &ProfileAnswer,
    format: Format,
    context: &RenderContext,
    style: &Style,
) -> Result<Vec<u8>, RenderError> {
    let answer = named(answer);
    match format {
        Format::Top => Ok(top::render(&answer, context, style).into_bytes()),
        Format::Tree => Ok(tree::render(&answer, context, style).into_bytes()),
        Format::Folded => Ok(folded::render(&answer).into_bytes()),
        Format::Svg => svg::render(&answer, context),
        Format::Pprof => Ok(pprof::render(&answer)),
        Format::Json => json::render(&answer),
        Format::Speedscope => speedscope::render(&answer, context),
    }
}

#[cfg(test)]
mod tests;
