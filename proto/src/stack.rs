//! Frames and stacks.

use std::fmt;
use std::sync::Arc;

/// What kind of code a frame runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// Machine code of C, C++, Rust and the like.
    Native,
    /// Go.
    Go,
    /// The kernel.
    Kernel,
    /// Python.
    Python,
    /// Ruby.
    Ruby,
    /// A Java virtual machine.
    Jvm,
    /// JavaScript in Node.
    Node,
    /// Not resolved yet: `function` reads `module+0xoffset`.
    Unsymbolized,
    /// Made by the profiler, such as `[truncated]`.
    Synthetic,
}

impl FrameKind {
    /// Every kind with its number on the wire and on disk; numbers are never
    /// reused.
    pub const ALL: [(Self, u8); 9] = [
        (Self::Native, 1),
        (Self::Go, 2),
        (Self::Kernel, 3),
        (Self::Python, 4),
        (Self::Ruby, 5),
        (Self::Jvm, 6),
        (Self::Node, 7),
        (Self::Unsymbolized, 8),
        (Self::Synthetic, 9),
    ];

    /// The number on the wire and on disk.
    pub const fn code(self) -> u8 {
        match self {
            Self::Native => 1,
            Self::Go => 2,
            Self::Kernel => 3,
            Self::Python => 4,
            Self::Ruby => 5,
            Self::Jvm => 6,
            Self::Node => 7,
            Self::Unsymbolized => 8,
            Self::Synthetic => 9,
        }
    }

    /// The kind with number `code`, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, number)| *number == code)
            .map(|(kind, _)| *kind)
    }

    /// The catalogue language this kind of code is judged by.
    pub const fn language(self) -> &'static str {
        match self {
            Self::Native | Self::Unsymbolized | Self::Synthetic | Self::Kernel => "native",
            Self::Go => "go",
            Self::Python => "python",
            Self::Ruby => "ruby",
            Self::Jvm => "jvm",
            Self::Node => "node",
        }
    }
}

/// One function, file and line of a stack. Empty text and zero mean "unknown".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// What kind of code it runs.
    pub kind: FrameKind,
    /// Name to show, demangled.
    pub function: Arc<str>,
    /// Name in the binary, when it differs.
    pub system_name: Arc<str>,
    /// Source file.
    pub file: Arc<str>,
    /// Line where the function begins.
    pub start_line: u32,
    /// Line that ran.
    pub line: u32,
    /// Build id of the module in hexadecimal.
    pub build_id: Arc<str>,
    /// Offset in the module's file, for a frame without a symbol.
    pub file_offset: u64,
}

impl Frame {
    /// Returns a frame that has a name and nothing else.
    pub fn named(kind: FrameKind, function: &str) -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            kind,
            function: Arc::from(function),
            system_name: Arc::clone(&empty),
            file: Arc::clone(&empty),
            start_line: 0,
            line: 0,
            build_id: empty,
            file_offset: 0,
        }
    }

    /// Returns this frame at `file` and `line`.
    #[must_use]
    pub fn at(mut self, file: &str, line: u32) -> Self {
        self.file = Arc::from(file);
        self.line = line;
        self
    }
}

/// A frame whose texts are held by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// What kind of code it runs.
    pub kind: FrameKind,
    /// Name to show, demangled.
    pub function: &'a str,
    /// Name in the binary, when it differs.
    pub system_name: &'a str,
    /// Source file.
    pub file: &'a str,
    /// Line where the function begins.
    pub start_line: u32,
    /// Line that ran.
    pub line: u32,
    /// Build id of the module in hexadecimal.
    pub build_id: &'a str,
    /// Offset in the module's file, for a frame without a symbol.
    pub file_offset: u64,
}

impl<'a> FrameRef<'a> {
    /// Returns a frame that has a name and nothing else.
    pub fn named(kind: FrameKind, function: &'a str) -> Self {
        Self {
            kind,
            function,
            system_name: "",
            file: "",
            start_line: 0,
            line: 0,
            build_id: "",
            file_offset: 0,
        }
    }
}

impl Frame {
    /// The frame without holding its texts.
    pub fn borrowed(&self) -> FrameRef<'_> {
        FrameRef {
            kind: self.kind,
            function: &self.function,
            system_name: &self.system_name,
            file: &self.file,
            start_line: self.start_line,
            line: self.line,
            build_id: &self.build_id,
            file_offset: self.file_offset,
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        if !self.file.is_empty() {
            write!(f, " {}", self.file)?;
            if self.line != 0 {
                write!(f, ":{}", self.line)?;
            }
        }
        Ok(())
    }
}

/// The frames of one thread at one moment, leaf first; cheap to clone.
pub type Stack = Arc<[Frame]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_keeps_its_number() {
        for (kind, code) in FrameKind::ALL {
            assert_eq!(kind.code(), code);
            assert_eq!(FrameKind::from_code(code), Some(kind));
        }
        assert_eq!(FrameKind::from_code(0), None);
        assert_eq!(FrameKind::from_code(10), None);
    }
}
