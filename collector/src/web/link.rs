//! Links between pages: a path and query parameters that keep a page's state.

use std::fmt::Write as _;

/// A link under construction.
#[derive(Clone, Debug)]
pub(super) struct Link(String);

impl Link {
    /// Returns a link to `path`, a constant.
    pub(super) fn to(path: &'static str) -> Self {
        Self(path.to_owned())
    }

    /// Adds a parameter, unless it is empty.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                write!(self.0, "%{byte:02X}").unwrap_or_default();
            }
        }
        self
    }

    /// The link as it stands in `href`, after [`super::html::esc`].
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_survives_a_link() {
        let link = Link::to("/service")
            .with("name", "prod/a&b=\"<ü>")
            .with("since", "")
            .with("type", "a:b");
        assert_eq!(
            link.text(),
            "/service?name=prod%2Fa%26b%3D%22%3C%C3%BC%3E&type=a%3Ab"
        );
    }
}
