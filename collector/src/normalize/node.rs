//! Names of V8, as in perf maps and in the output of its tick processor.

/// Kinds of code that V8 writes before a JavaScript function
/// (`CODE_TYPE_LIST`, `src/logging/code-events.h`, and older tags). The others (`Builtin`,
/// `BytecodeHandler`, `RegExp`) name code that is not a function's.
const KINDS: [&str; 6] = [
    "Eval:",
    "Function:",
    "InterpretedFunction:",
    "JS:",
    "LazyCompile:",
    "Script:",
];
/// Marks of the compiler that made the code.
const MARKS: [char; 4] = ['~', '*', '^', '+'];
/// Likewise, with those of older versions.
const ALL_MARKS: [char; 6] = ['~', '*', '^', '+', '\'', '-'];
/// What V8 calls a function without a name.
const ANONYMOUS: &str = "(anonymous)";

/// Takes off the kind of code and the compiler that made it: `~` interpreter,
/// `^` Sparkplug, `+` Maglev, `*` Turbofan (`CodeKindToMarker`,
/// `src/objects/code-kind.cc`), `'` and `-` of older versions. A hot function
/// goes through all of them within a minute.
pub(super) fn without_tier(name: &str) -> Option<String> {
    let kind = KINDS.iter().find_map(|kind| name.strip_prefix(kind));
    let bare = match kind {
        Some(rest) => {
            // The tick processor puts a space behind the kind.
            let spaced = rest
                .strip_prefix(' ')
                .filter(|marked| marked.starts_with(ALL_MARKS));
            spaced.unwrap_or(rest).trim_start_matches(ALL_MARKS)
        }
        None => {
            let bare = name.trim_start_matches(MARKS);
            let is_marked = bare.len() < name.len();
            let is_name = |next: char| next == ' ' || super::is_word(next);
            Some(bare).filter(|bare| is_marked && bare.starts_with(is_name))?
        }
    };
    match bare {
        "" => None,
        unnamed if unnamed.starts_with(' ') => Some(format!("{ANONYMOUS}{unnamed}")),
        named => Some(named.to_owned()),
    }
}

/// Splits `run /app/a.js:12:3` into the name with its file and the line, which
/// moves with every edit above it.
pub(super) fn position(name: &str) -> Option<(String, u32)> {
    let (function, place) = name.rsplit_once(' ')?;
    let (rest, last) = number(place)?;
    let (file, line) = number(rest).unwrap_or((rest, last));
    let is_file = file.contains(|c: char| !c.is_ascii_digit()) && number(file).is_none();
    (is_file && !function.is_empty()).then(|| (format!("{function} {file}"), line))
}

/// Splits `text:12`.
fn number(text: &str) -> Option<(&str, u32)> {
    let (rest, number) = text.rsplit_once(':')?;
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((rest, number.parse().ok().filter(|_| is_plain)?))
}
