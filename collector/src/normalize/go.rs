//! Names of Go, as the linker and `runtime.CallersFrames` write them.

use super::{Edit, digits, rewrite};

/// `main.F[go.shape.int]` becomes `main.F[...]`: what Go's runtime does to every
/// name that it prints or puts into a profile (`funcNameForPrint`,
/// `runtime/traceback.go`), byte for byte. Names read from a symbol table then
/// equal those of Go's own profiles. `[unknown]` is a stand-in and no name of Go.
pub(super) fn fold_generics(name: &str) -> Option<String> {
    let (before, _) = name.split_once('[')?;
    let (within, after) = name.rsplit_once(']')?;
    (within.len() > before.len() && !before.is_empty()).then(|| format!("{before}[...]{after}"))
}

/// Takes off what changes with a dependency's major version (`/v2`, Go modules
/// reference, "Major version suffixes") and where its copy lies (`vendor/`). Off
/// by default: `k8s.io/api/autoscaling/v2` is a package of its own, both
/// versions can be in one program, and Go's profiles show them.
pub(super) fn without_versions(name: &str) -> Option<String> {
    let (path, function) = split_path(name);
    let path = match path.rsplit_once("/vendor/") {
        Some((_, path)) => path,
        None => path.strip_prefix("vendor/").unwrap_or(path),
    };
    let end = path.len();
    // The last part of the path goes on to the function's first dot.
    let whole = format!("{path}{function}");
    let shorter = rewrite(
        &whole,
        |c| c == '/',
        |before, rest| {
            let version = rest.strip_prefix("/v").filter(|_| before.len() < end)?;
            let length = digits(version).filter(|_| !before.is_empty())?;
            let (number, after) = version.split_at_checked(length)?;
            let is_major =
                !number.starts_with('0') && number != "1" && after.starts_with(['.', '/']);
            is_major.then_some(length + 2).and_then(Edit::cut)
        },
    );
    shorter.or(Some(whole))
}

/// Numbers of closures become `#`: `main.run.func1.2` is `main.run.func#.#`,
/// likewise `.deferwrap1`, `.gowrap2`, `-range3` and `init.0` (`closureName` in
/// `cmd/compile/internal/ir/func.go`; no identifier of Go has a `#`). They are
/// counted as they stand in the source. Off by default: Go's tools show them, a
/// spinning `main.run.func1` must be called that, and `func1` may be a function
/// that somebody wrote.
pub(super) fn without_numbers(name: &str) -> Option<String> {
    let (path, function) = split_path(name);
    let package = function.find('.')?;
    let folded = rewrite(
        function,
        |c| c.is_ascii_digit(),
        |before, rest| {
            let length = digits(rest)?;
            let ends = rest.get(length..)?;
            let is_whole = ends.is_empty() || ends.starts_with(['.', '-']);
            let words = [".func", ".gowrap", ".deferwrap", "-range", "."];
            let owner = words.iter().find_map(|word| before.strip_suffix(word))?;
            (is_whole && owner.len() > package).then_some(Edit {
                cut: length,
                put: "#",
            })
        },
    )?;
    Some(format!("{path}{folded}"))
}

/// Splits a name after the last `/` of its package's path: brackets hold other
/// paths, of types.
fn split_path(name: &str) -> (&str, &str) {
    let before_types = name.split(['[', '(']).next().unwrap_or(name);
    let end = before_types.rfind('/').map_or(0, |slash| slash + 1);
    name.split_at_checked(end).unwrap_or(("", name))
}
