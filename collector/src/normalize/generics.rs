//! Type and template arguments of Rust and C++.

use super::is_word;

/// What stands for arguments: as short as the shortest of them, and how Rust
/// writes a type that is left out.
const FOLDED: &str = "<_>";

/// An open bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// `(`, `[` or `{`, with what closes it.
    Plain(char),
    /// `<` of Rust's `<T as Trait>`, which is part of the path.
    Path,
    /// `<` of arguments, and where the text within begins.
    Arguments(usize),
}

/// Replaces every list of type arguments by `<_>`: `<alloc::vec::Vec<T> as
/// Drop>::drop` becomes `<alloc::vec::Vec<_> as Drop>::drop`. Off by default:
/// arguments do not change from build to build, the code of two instances is
/// two functions, and rules for waiting functions name `Mutex<T>::try_lock`.
///
/// Operators (`operator<<`, `->`, `<=>`) and comparisons (`Q<((1)>(2))>`) are no
/// brackets; GNU and LLVM write comparisons within parentheses only. Returns
/// none, so that the name stays, if the brackets do not match. Each character is
/// written, pushed and popped at most once.
pub(super) fn fold(name: &str) -> Option<String> {
    let mut out = String::new();
    let mut open = Vec::new();
    let mut rest = name;
    // Whether `<` here begins arguments: it follows a name.
    let mut after_name = false;
    while let Some(first) = rest.chars().next() {
        let in_word = out.ends_with(is_word);
        if let Some(length) = token(rest, in_word) {
            let (text, tail) = rest.split_at_checked(length)?;
            out.push_str(text);
            rest = tail;
            // GNU writes `operator< <int>`, LLVM `operator<<int>`.
            after_name = text.starts_with("operator");
            if after_name && rest.starts_with(" <") {
                out.push(' ');
                rest = rest.get(1..)?;
            }
            continue;
        }
        rest = rest.get(first.len_utf8()..)?;
        match first {
            '<' if after_name => open.push(Open::Arguments(out.len() + 1)),
            '<' => open.push(Open::Path),
            '(' => open.push(Open::Plain(')')),
            '[' => open.push(Open::Plain(']')),
            '{' => open.push(Open::Plain('}')),
            ')' | ']' | '}' => {
                // What is open within was a comparison.
                while matches!(open.last(), Some(Open::Path | Open::Arguments(_))) {
                    open.pop();
                }
                if open.pop() != Some(Open::Plain(first)) {
                    return None;
                }
            }
            '>' => match open.last() {
                Some(Open::Path) => {
                    open.pop();
                }
                Some(&Open::Arguments(within)) => {
                    open.pop();
                    if out.len() > within {
                        out.truncate(within.checked_sub(1)?);
                        out.push_str(FOLDED);
                        after_name = false;
                        continue;
                    }
                }
                Some(Open::Plain(_)) | None => {}
            },
            _ => {}
        }
        out.push(first);
        after_name = is_word(first) || matches!(first, ':' | ']' | '}' | '\'');
    }
    open.is_empty().then_some(out)
}

/// Operators that hold angle brackets, the longest first.
const OPERATORS: [&str; 13] = [
    "<=>", "<<=", ">>=", "->*", "<<", ">>", "<=", ">=", "->", "()", "[]", "<", ">",
];

/// Length of what `text` begins with that must not be taken apart.
fn token(text: &str, in_word: bool) -> Option<usize> {
    const OPERATOR: &str = "operator";
    if !in_word && let Some(sign) = text.strip_prefix(OPERATOR) {
        let sign = OPERATORS.iter().find(|operator| {
            let after = sign.strip_prefix(**operator);
            // `operator<<int>` is `operator<` with an argument.
            after.is_some_and(|after| **operator != "<<" || !after.starts_with(is_word))
        })?;
        return Some(OPERATOR.len() + sign.len());
    }
    let whole = ["->", "<init>", "<clinit>"];
    if let Some(whole) = whole.iter().find(|whole| text.starts_with(**whole)) {
        return Some(whole.len());
    }
    // A character of a constant argument: `Foo<'<'>`.
    let mut quoted = text.chars();
    let (open, character, close) = (quoted.next()?, quoted.next()?, quoted.next()?);
    (open == '\'' && close == '\'').then_some(character.len_utf8() + 2)
}
