//! Names of machine code: C, C++, Rust and the kernel.

use super::{Edit, digits, hex, run};

/// Words that a compiler puts behind a name, always with a number.
const NUMBERED: [&str; 7] = [
    "__uniq",
    "clone",
    "constprop",
    "isra",
    "llvm",
    "lto_priv",
    "part",
];
/// Likewise, with a number or without.
const BARE: [&str; 3] = ["cold", "localalias", "warm"];
/// Bytes of the hash of a Rust symbol in the old mangling: `17h`, 16 digits, `E`.
const MANGLED_HASH: usize = 20;
/// Longest word that Rust numbers, such as `async_closure_env`.
const MAX_WORD: usize = 32;

/// Takes off what GCC and LLVM put behind names: the copy of a function with a
/// constant argument is that function, and which copies there are and how they
/// are numbered changes with every build. GCC's come from `clone_function_name`
/// and `create_virtual_clone`, `.llvm.` and a module's hash from LLVM's ThinLTO
/// (`getGlobalNameForLocal`), `.__uniq.` from `-funique-internal-linkage-names`.
///
/// Demanglers write them in three ways: `f.cold`, `f() [clone .cold]` (GNU) and
/// `f() (.cold)` (LLVM). What has code of its own stays: `._omp_fn.0`,
/// `.omp_outlined`, `.avx2`, `.resolver`.
pub(super) fn without_suffixes(name: &str) -> Option<String> {
    let mut stem = name;
    while let Some(shorter) = without_group(stem).or_else(|| without_suffix(stem)) {
        if shorter.is_empty() {
            break;
        }
        stem = shorter;
    }
    (stem.len() < name.len()).then(|| stem.to_owned())
}

/// `f.isra.0` without `.isra.0`.
fn without_suffix(name: &str) -> Option<&str> {
    let (stem, last) = name.rsplit_once('.')?;
    if BARE.contains(&last) {
        return Some(stem);
    }
    // Older versions of LLVM wrote the hash in hexadecimal.
    let is_hash = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F' | b'@');
    if last.is_empty() || !last.bytes().all(is_hash) {
        return None;
    }
    let (stem, word) = stem.rsplit_once('.')?;
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    let is_known =
        word == "llvm" || is_number && (NUMBERED.contains(&word) || BARE.contains(&word));
    is_known.then_some(stem)
}

/// `f() [clone .isra.0]` and `f() (.isra.0.cold)` without the brackets.
fn without_group(name: &str) -> Option<&str> {
    let (stem, mut inner) = match name.strip_suffix(']') {
        Some(body) => body.rsplit_once(" [clone ")?,
        None => name.strip_suffix(')')?.rsplit_once(" (")?,
    };
    if inner.is_empty() {
        return None;
    }
    while !inner.is_empty() {
        inner = without_suffix(inner)?;
    }
    Some(stem)
}

/// Takes off the hash at the end of Rust's old symbol names, mangled or not. It
/// depends on the compiler and on every crate's flags (rustc's
/// `symbol_names/legacy.rs`); `rustc_demangle` leaves it out of `{:#}` too.
pub(super) fn without_hash(name: &str) -> Option<String> {
    let is_hash = |text: &str| text.len() == 16 && hex(text, 16).is_some();
    if let Some((stem, hash)) = name.rsplit_once("::h")
        && is_hash(hash)
        && !stem.is_empty()
    {
        return Some(stem.to_owned());
    }
    let at = name.len().checked_sub(MANGLED_HASH)?;
    let (stem, tail) = name.split_at_checked(at)?;
    let hash = tail.strip_prefix("17h")?.strip_suffix('E')?;
    (stem.starts_with("_ZN") && is_hash(hash)).then(|| format!("{stem}E"))
}

/// `core[c1f1a4ba060b9bfa]::ptr`: the crate's disambiguator, which changes with
/// its version and flags (Rust RFC 2603; `rustc_demangle` leaves it out of
/// `{:#}`). An array's length never follows a name directly.
pub(super) fn crate_hash(before: &str, rest: &str) -> Option<Edit> {
    let inner = rest.strip_prefix('[')?;
    let is_name = before.ends_with(|last: char| last == '_' || last.is_alphanumeric());
    let length = hex(inner, 8)?;
    (is_name && inner.get(length..)?.starts_with("]::"))
        .then_some(length + 2)
        .and_then(Edit::cut)
}

/// `{closure#3}`, `{impl#3}`, `{shim:vtable#0}`: Rust counts them as they stand
/// in the source (RFC 2603, `<disambiguator>`), so one put in above renames all
/// below and two versions would be compared crosswise. Without the number a
/// closure is called `{{closure}}`, as in the old mangling; file and line keep
/// several of one function apart. `{parm#1}` is C++ and stays.
pub(super) fn number(before: &str, rest: &str) -> Option<Edit> {
    const CLOSURE: &str = "{closure#";
    let is_end =
        |text: &str, length: usize| text.get(length..).is_some_and(|end| end.starts_with('}'));
    if let Some(number) = rest.strip_prefix(CLOSURE) {
        let length = digits(number).filter(|&length| is_end(number, length))?;
        return Some(Edit {
            cut: CLOSURE.len() + length + 1,
            put: "{{closure}}",
        });
    }
    let number = rest.strip_prefix('#')?;
    let length = digits(number).filter(|&length| is_end(number, length))?;
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    let word = before
        .bytes()
        .rev()
        .take(MAX_WORD)
        .take_while(in_word)
        .count();
    let (stem, word) = before.split_at_checked(before.len().checked_sub(word)?)?;
    let is_numbered = stem.ends_with('{') && !matches!(word, "" | "parm");
    is_numbered.then_some(length + 1).and_then(Edit::cut)
}

/// `f[abi:v15007]`: libc++ marks what is not part of its interface with its own
/// version (`_LIBCPP_ODR_SIGNATURE` in `__config`), which is `v15007`, `ne180100`
/// and the like. `[abi:cxx11]` tells two functions apart and never changes.
pub(super) fn abi_version(_before: &str, rest: &str) -> Option<Edit> {
    let tag = rest.strip_prefix("[abi:")?;
    let letters = run(tag, 4, u8::is_ascii_lowercase);
    let version = tag.get(letters..).filter(|_| (1..=3).contains(&letters))?;
    let number = digits(version).filter(|&length| length >= 4)?;
    version
        .get(number..)?
        .starts_with(']')
        .then_some("[abi:]".len() + letters + number)
        .and_then(Edit::cut)
}

/// `{lambda(int)#2}` (GNU), `'lambda0'` (LLVM) and `$_0` (Clang): counted within
/// a function (Itanium C++ ABI, "Closure Types"). Every tool for C++ shows the number, and
/// two threads' bodies are often two such, so this is off by default.
pub(super) fn lambda_number(before: &str, rest: &str) -> Option<Edit> {
    if let Some(number) = rest.strip_prefix('#') {
        let length = digits(number)?;
        let is_lambda = before.ends_with(')') && number.get(length..)?.starts_with('}');
        return is_lambda.then_some(length + 1).and_then(Edit::cut);
    }
    let length = digits(rest)?;
    let after = rest.get(length..)?;
    let is_lambda = before.ends_with("'lambda") && after.starts_with('\'')
        || before.ends_with("::$_") && !after.starts_with(super::is_word);
    is_lambda.then_some(length).and_then(Edit::cut)
}
