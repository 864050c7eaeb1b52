//! Label sets, which name series, and selectors, which pick them.
//!
//! A selector reads like a PromQL one without a metric name:
//! `{version="1.8", pod=~"a.*"}`. Regular expressions match the whole value;
//! names outside `[a-zA-Z_][a-zA-Z0-9_]*` are written in quotes.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

/// Most labels of one series.
pub const MAX_LABELS: usize = 30;
/// Longest label name in bytes.
pub const MAX_NAME_BYTES: usize = 1024;
/// Longest label value in bytes.
pub const MAX_VALUE_BYTES: usize = 2048;
/// Longest selector text in bytes.
const MAX_SELECTOR_BYTES: usize = 16 * 1024;
/// Largest compiled regular expression of a selector in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// The label that names the service.
pub const SERVICE: &str = "service";
/// The label that names the namespace.
pub const NAMESPACE: &str = "namespace";
/// The label that names the pod.
pub const POD: &str = "pod";
/// The label that names the running version.
pub const VERSION: &str = "version";

/// Other spellings of [`SERVICE`] that are read as it.
const SERVICE_ALIASES: [&str; 2] = ["service_name", "service.name"];

/// Sorted, unique name and value pairs. A label with an empty value is as good
/// as absent and is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSet(Vec<(String, String)>);

/// Why labels make no label set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelError {
    /// More than [`MAX_LABELS`].
    #[error("{count} labels are more than the {MAX_LABELS} a series may have")]
    TooMany {
        /// How many there were.
        count: usize,
    },
    /// A name is empty, longer than [`MAX_NAME_BYTES`] or holds a control character.
    #[error("label name {name:?} must be 1 to {MAX_NAME_BYTES} bytes without control characters")]
    BadName {
        /// The start of the name.
        name: String,
    },
    /// A value is longer than [`MAX_VALUE_BYTES`].
    #[error("value of label {name:?} has {bytes} bytes, more than {MAX_VALUE_BYTES}")]
    LongValue {
        /// The label's name.
        name: String,
        /// Length of the value.
        bytes: usize,
    },
    /// One name twice, with different values.
    #[error("label {name:?} is given twice")]
    Twice {
        /// The label's name.
        name: String,
    },
}

impl LabelSet {
    /// Returns the set of these pairs, sorted by name.
    ///
    /// # Errors
    ///
    /// [`LabelError`] if there are too many, a name or value is not allowed,
    /// or one name has two values.
    pub fn new<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, LabelError>
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        let mut labels: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            let name = if SERVICE_ALIASES.contains(&name) {
                SERVICE
            } else {
                name
            };
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control)
            {
                return Err(LabelError::BadName {
                    name: name.chars().take(64).collect(),
                });
            }
            if value.len() > MAX_VALUE_BYTES {
                return Err(LabelError::LongValue {
                    name: name.chars().take(64).collect(),
                    bytes: value.len(),
                });
            }
            if !value.is_empty() {
                labels.push((name.to_owned(), value.to_owned()));
            }
            if labels.len() > MAX_LABELS * 2 {
                break;
            }
        }
        labels.sort();
        labels.dedup();
        if labels.len() > MAX_LABELS {
            return Err(LabelError::TooMany {
                count: labels.len(),
            });
        }
        for pair in labels.windows(2) {
            if let [(first, _), (second, _)] = pair
                && first == second
            {
                return Err(LabelError::Twice {
                    name: first.clone(),
                });
            }
        }
        Ok(Self(labels))
    }

    /// Returns this set with `name` set to `value`.
    ///
    /// # Errors
    ///
    /// As [`LabelSet::new`].
    pub fn with(&self, name: &str, value: &str) -> Result<Self, LabelError> {
        let others = self.iter().filter(|(other, _)| *other != name);
        Self::new(others.chain([(name, value)]))
    }

    /// Value of label `name`, if the set has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .binary_search_by(|(other, _)| other.as_str().cmp(name))
            .ok()
            .and_then(|index| self.0.get(index))
            .map(|(_, value)| value.as_str())
    }

    /// Value of [`SERVICE`], or `""`.
    pub fn service(&self) -> &str {
        self.get(SERVICE).unwrap_or("")
    }

    /// Value of [`NAMESPACE`], or `""`.
    pub fn namespace(&self) -> &str {
        self.get(NAMESPACE).unwrap_or("")
    }

    /// The pairs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_plain_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}

fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if is_plain_name(name) {
        f.write_str(name)
    } else {
        write_quoted(f, name)
    }
}

impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write_name(f, name)?;
            f.write_str("=")?;
            write_quoted(f, value)?;
        }
        f.write_str("}")
    }
}

/// What makes a text more than itself as a pattern, `|` apart.
const PATTERN_SIGNS: [char; 13] = [
    '\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '}', '^', '$',
];

/// How a matcher compares.
#[derive(Clone, Debug)]
enum Op {
    Equal,
    NotEqual,
    Matches(Regex),
    NotMatches(Regex),
}

/// One condition on one label; an absent label has the value `""`.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: String,
    value: String,
    op: Op,
}

/// Conditions that must all hold. The empty selector picks every series.
#[derive(Clone, Debug, Default)]
pub struct Selector(Vec<Matcher>);

/// Why a text is no selector.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// The text breaks the grammar.
    #[error("selector: expected {expected} at byte {at}, as in {{version=\"1.8\",pod=~\"a.*\"}}")]
    Syntax {
        /// What should stand there.
        expected: &'static str,
        /// Where in the text.
        at: usize,
    },
    /// The text is longer than is read.
    #[error("selector of {bytes} bytes is longer than {MAX_SELECTOR_BYTES}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// A regular expression does not compile.
    #[error("regular expression {pattern:?} of label {name:?} cannot be used")]
    Regex {
        /// The label's name.
        name: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: Box<regex::Error>,
    },
}

/// Compiles `pattern` so that it must match a whole text, within a size cap.
fn anchored(name: &str, pattern: &str) -> Result<Regex, SelectorError> {
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map_err(|source| SelectorError::Regex {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            source: Box::new(source),
        })
}

impl Matcher {
    /// Returns the matcher `name = value`.
    pub fn equal(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
            op: Op::Equal,
        }
    }

    /// The label that the condition is on.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The values that the label is compared with, when they are known without
    /// looking at any: of `=` and `!=`, and of patterns such as `a|b`.
    pub fn values(&self) -> Option<Vec<&str>> {
        let is_plain = |text: &str| !text.contains(PATTERN_SIGNS);
        match &self.op {
            Op::Equal | Op::NotEqual => Some(vec![&self.value]),
            Op::Matches(_) | Op::NotMatches(_) => {
                let values: Vec<&str> = self.value.split('|').collect();
                values.iter().all(|value| is_plain(value)).then_some(values)
            }
        }
    }

    /// Whether `labels` meet the condition.
    pub fn accepts(&self, labels: &LabelSet) -> bool {
        self.accepts_value(labels.get(&self.name).unwrap_or(""))
    }

    /// Whether a label with `value` meets the condition; `""` when it is absent.
    pub fn accepts_value(&self, value: &str) -> bool {
        match &self.op {
            Op::Equal => value == self.value,
            Op::NotEqual => value != self.value,
            Op::Matches(regex) => regex.is_match(value),
            Op::NotMatches(regex) => !regex.is_match(value),
        }
    }
}

impl Selector {
    /// Returns the selector of these conditions.
    pub fn new(matchers: Vec<Matcher>) -> Self {
        Self(matchers)
    }

    /// The conditions.
    pub fn matchers(&self) -> &[Matcher] {
        &self.0
    }

    /// Whether `labels` meet every condition.
    pub fn accepts(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|matcher| matcher.accepts(labels))
    }

    /// Whether it has no condition.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and value when the one condition is that a label has a value.
    pub fn single_equal(&self) -> Option<(&str, &str)> {
        match &self.0[..] {
            [only] if matches!(only.op, Op::Equal) && !only.value.is_empty() => {
                Some((&only.name, &only.value))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, matcher) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write_name(f, &matcher.name)?;
            f.write_str(match matcher.op {
                Op::Equal => "=",
                Op::NotEqual => "!=",
                Op::Matches(_) => "=~",
                Op::NotMatches(_) => "!~",
            })?;
            write_quoted(f, &matcher.value)?;
        }
        f.write_str("}")
    }
}

/// Reads a selector from left to right.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, SelectorError> {
        Err(SelectorError::Syntax {
            expected,
            at: self.at,
        })
    }

    fn quoted(&mut self) -> Result<String, SelectorError> {
        let quote = if self.take("\"") {
            '"'
        } else if self.take("'") {
            '\''
        } else {
            return self.expected("a quoted text");
        };
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += offset + c.len_utf8();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, c @ ('\\' | '"' | '\''))) => out.push(c),
                    // A regular expression's own escape, such as `\d`.
                    Some((_, c)) => out.extend(['\\', c]),
                    None => break,
                },
                c => out.push(c),
            }
        }
        self.expected("a closing quote")
    }

    fn name(&mut self) -> Result<String, SelectorError> {
        self.skip_space();
        if self.rest().starts_with(['"', '\'']) {
            return self.quoted();
        }
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or("");
        if !is_plain_name(name) {
            return self.expected("a label name");
        }
        self.at += end;
        Ok(name.to_owned())
    }

    fn matcher(&mut self) -> Result<Matcher, SelectorError> {
        let mut name = self.name()?;
        if SERVICE_ALIASES.contains(&name.as_str()) {
            name = SERVICE.to_owned();
        }
        let make: fn(Regex) -> Op;
        // Longer operators first: `=` begins `=~`.
        if self.take("=~") {
            make = Op::Matches;
        } else if self.take("!~") {
            make = Op::NotMatches;
        } else {
            let op = if self.take("!=") {
                Op::NotEqual
            } else if self.take("=") {
                Op::Equal
            } else {
                return self.expected("one of = != =~ !~");
            };
            let value = self.quoted()?;
            return Ok(Matcher { name, value, op });
        }
        let value = self.quoted()?;
        let op = make(anchored(&name, &value)?);
        Ok(Matcher { name, value, op })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong { bytes: text.len() });
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut parser = Parser { text, at: 0 };
        if !parser.take("{") {
            return parser.expected("'{'");
        }
        let mut matchers = Vec::new();
        while !parser.take("}") {
            matchers.push(parser.matcher()?);
            if !parser.take(",") {
                if parser.take("}") {
                    break;
                }
                return parser.expected("',' or '}'");
            }
        }
        parser.skip_space();
        if parser.rest().is_empty() {
            Ok(Self(matchers))
        } else {
            parser.expected("the end")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> LabelSet {
        LabelSet::new(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn a_set_is_sorted_and_unique_and_drops_empty_values() {
        let set = labels(&[
            ("pod", "p"),
            ("a", ""),
            ("service_name", "logger"),
            ("pod", "p"),
        ]);
        assert_eq!(set.to_string(), r#"{pod="p", service="logger"}"#);
        assert_eq!(set.service(), "logger");
    }

    #[test]
    fn labels_beyond_the_limits_are_refused() {
        let many: Vec<(String, &str)> = (0..31).map(|n| (format!("l{n}"), "v")).collect();
        assert_eq!(LabelSet::new(many), Err(LabelError::TooMany { count: 31 }));
        assert!(matches!(
            LabelSet::new([("", "v")]),
            Err(LabelError::BadName { .. })
        ));
        assert!(matches!(
            LabelSet::new([("n".repeat(1025), "v")]),
            Err(LabelError::BadName { .. })
        ));
        assert!(matches!(
            LabelSet::new([("n", "v".repeat(2049))]),
            Err(LabelError::LongValue { .. })
        ));
        assert!(matches!(
            LabelSet::new([("n", "1"), ("n", "2")]),
            Err(LabelError::Twice { .. })
        ));
    }

    #[test]
    fn selectors_pick_as_prometheus_does() {
        let set = labels(&[
            ("service", "logger"),
            ("pod", "a-1"),
            ("otel.scope.name", "x"),
        ]);
        for (text, expected) in [
            ("", true),
            ("{}", true),
            (r#"{pod="a-1"}"#, true),
            (r#"{pod="a"}"#, false),
            (r#"{pod=~"a"}"#, false),
            (r#"{pod=~"a.*"}"#, true),
            (r#"{pod=~"b|a-\\d"}"#, true),
            (r#"{pod=~'b|a-\d'}"#, true),
            (r#"{pod!~"a.*"}"#, false),
            (r#"{pod!="b", service="logger",}"#, true),
            (r#"{"otel.scope.name"="x"}"#, true),
            (r#"{absent=""}"#, true),
            (r#"{absent!=""}"#, false),
            (r#"{service_name="logger"}"#, true),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.accepts(&set), expected, "{text}");
        }
    }

    #[test]
    fn broken_selectors_say_where() {
        for (text, at) in [
            ("pod=\"a\"", 0),
            ("{pod}", 4),
            ("{pod=a}", 5),
            ("{pod=\"a}", 6),
            ("{pod=\"a\"", 8),
            ("{pod=\"a\"} x", 10),
            ("{1=\"a\"}", 1),
        ] {
            match text.parse::<Selector>() {
                Err(SelectorError::Syntax { at: found, .. }) => assert_eq!(found, at, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(
            r#"{a=~"("}"#.parse::<Selector>(),
            Err(SelectorError::Regex { .. })
        ));
        assert!(matches!(
            r#"{a=~"(a{1000}){1000}"}"#.parse::<Selector>(),
            Err(SelectorError::Regex { .. })
        ));
    }

    #[test]
    fn values_that_are_compared_with_are_known() {
        for (text, expected) in [
            (r#"{a="x.y"}"#, Some(vec!["x.y"])),
            (r#"{a!=""}"#, Some(vec![""])),
            (r#"{a=~"x|y-1"}"#, Some(vec!["x", "y-1"])),
            (r#"{a!~"x|"}"#, Some(vec!["x", ""])),
            (r#"{a=~"x.*"}"#, None),
            (r#"{a=~"(x|y)"}"#, None),
        ] {
            let selector: Selector = text.parse().unwrap();
            let [matcher] = selector.matchers() else {
                panic!("{text}")
            };
            assert_eq!(matcher.values(), expected, "{text}");
            for value in expected.into_iter().flatten() {
                let is_meant = !text.contains('!');
                assert_eq!(matcher.accepts_value(value), is_meant, "{text}: {value}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "\\PC{0,64}") {
            if let Ok(selector) = text.parse::<Selector>() {
                let again: Selector = selector.to_string().parse().unwrap();
                prop_assert_eq!(again.to_string(), selector.to_string());
            }
        }

        #[test]
        fn the_printed_set_selects_itself(pairs in proptest::collection::btree_map("[a-z.]{1,5}", "[a-zé\"\\\\]{1,5}", 0..5)) {
            let set = LabelSet::new(pairs.iter()).unwrap();
            let selector: Selector = set.to_string().parse().unwrap();
            prop_assert!(selector.accepts(&set));
        }
    }
}
