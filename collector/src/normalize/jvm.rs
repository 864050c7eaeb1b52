//! Names of classes that a Java virtual machine makes while it runs.

use super::{Edit, digits, hex, is_word, run};

/// Classes made for reflection, whose names go on with a number.
const ACCESSORS: [&str; 3] = [
    "GeneratedMethodAccessor",
    "GeneratedConstructorAccessor",
    "GeneratedSerializationConstructorAccessor",
];

/// Hidden classes (JEP 371) carry the address of their data behind a `/`, a `.`
/// or a `+`: `W$$Lambda$14/0x0000000800c03000`, `LambdaForm$MH.0x…`, in Flight
/// Recorder `W$$Lambda+0x00007f8177090218/543846639`. The lambda's number, which
/// JDK 21 no longer has, counts in the order in which lambdas first ran. All
/// that goes, as with `--norm` of async-profiler's `jfrconv`; the lambda's body,
/// a method of the class that holds it, keeps its own frame.
pub(super) fn hidden(before: &str, rest: &str) -> Option<Edit> {
    if let Some(after) = rest.strip_prefix("$") {
        let length = digits(after).filter(|_| before.ends_with("$$Lambda"))?;
        return ends(after, length)
            .then_some(length + 1)
            .and_then(Edit::cut);
    }
    let after = rest.strip_prefix(['/', '.', '+'])?;
    if let Some(address) = after.strip_prefix("0x") {
        let length = hex(address, 8).filter(|_| before.ends_with(is_word))?;
        let tail = address.get(length..)?;
        let code = tail.strip_prefix('/').and_then(digits);
        let total = length + code.map_or(0, |code| code + 1);
        return ends(address, total)
            .then_some(total + 3)
            .and_then(Edit::cut);
    }
    // Before JDK 15: a hash code, `W$$Lambda$14/1234567890`.
    let length = digits(after).filter(|_| rest.starts_with('/'))?;
    let class = before.trim_end_matches(|last: char| last.is_ascii_digit());
    let is_lambda = class.ends_with("$$Lambda$") || class.ends_with("$$Lambda");
    (is_lambda && ends(after, length))
        .then_some(length + 1)
        .and_then(Edit::cut)
}

/// Classes made for reflection (`jdk.internal.reflect.MethodAccessorGenerator`),
/// for interfaces (`java.lang.reflect.Proxy`, with the number of its package
/// too), and by CGLIB (`DefaultNamingPolicy`: hash or number), Byte Buddy and
/// Hibernate (`NamingStrategy.SuffixingRandom`): numbered in the order of first
/// use, or at random.
pub(super) fn generated(before: &str, rest: &str) -> Option<Edit> {
    if let Some(length) = digits(rest) {
        // `A$Proxy7` is a class that somebody wrote.
        let is_proxy = before
            .strip_suffix("$Proxy")
            .is_some_and(|package| !package.ends_with(is_word));
        let is_accessor = ACCESSORS.iter().any(|class| before.ends_with(class));
        let is_class = (is_proxy || is_accessor) && ends(rest, length);
        let is_package = (before.ends_with("jdk.proxy") || before.ends_with("jdk/proxy"))
            && rest.get(length..)?.get(1..)?.starts_with("$Proxy");
        return (is_class || is_package)
            .then_some(length)
            .and_then(Edit::cut);
    }
    let after = rest.strip_prefix('$')?;
    if let Some(hash) = after.strip_prefix('$') {
        let length = hex(hash, 1).filter(|_| before.ends_with("CGLIB"))?;
        let next = hash.get(length..)?;
        return (ends(hash, length) || next.starts_with("$$"))
            .then_some(length + 2)
            .and_then(Edit::cut);
    }
    let is_random = before.ends_with("$ByteBuddy") || before.ends_with("$HibernateProxy");
    let length = run(after, 9, u8::is_ascii_alphanumeric);
    (is_random && length == 8 && ends(after, length))
        .then_some(length + 1)
        .and_then(Edit::cut)
}

/// `lambda$main$0`: javac counts the lambdas of a class (`LambdaToMethod`), so
/// one put in above renames all below. Off by default: stack traces show the
/// number, and without it all lambdas of a method are one.
pub(super) fn lambda_number(before: &str, rest: &str) -> Option<Edit> {
    let number = rest.strip_prefix('$')?;
    let length = digits(number).filter(|&length| ends(number, length))?;
    // The word ends here, so no other look back goes over it.
    let word = before.trim_end_matches(is_word);
    let method = before.get(word.len()..)?;
    let is_lambda = method.starts_with("lambda$") && method.len() > "lambda$".len();
    is_lambda.then_some(length + 1).and_then(Edit::cut)
}

/// Whether no word goes on `length` bytes into `text`.
fn ends(text: &str, length: usize) -> bool {
    text.get(length..)
        .is_some_and(|after| !after.starts_with(is_word))
}
