//! HTML under construction. Text from outside goes through [`esc`].

use std::fmt::{self, Write as _};

/// A piece of HTML.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Appends `piece`, whose arguments are constant, numbers or [`esc`]aped.
    pub(super) fn push(&mut self, piece: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        self.0.write_fmt(piece).unwrap_or_default();
    }

    /// Appends another piece.
    pub(super) fn append(&mut self, other: Self) {
        self.0.push_str(&other.0);
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// Text that is safe between tags and in double-quoted attributes.
pub(super) struct Escaped<'a>(&'a str);

/// Marks `text` to be shown as it is, whatever it holds.
pub(super) fn esc(text: &str) -> Escaped<'_> {
    Escaped(text)
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Would reorder or hide the text around it.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                c if c.is_control() && c != '\n' && c != '\t' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_leaves_its_place() {
        for (text, expected) in [
            ("logger", "logger"),
            ("<script>", "&lt;script&gt;"),
            ("\" onload='x'", "&quot; onload=&#39;x&#39;"),
            ("a&b;\0\u{202e}c", "a&amp;b;\u{fffd}\u{fffd}c"),
            ("größe", "größe"),
        ] {
            assert_eq!(esc(text).to_string(), expected);
        }
    }
}
