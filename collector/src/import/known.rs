//! What is known of types and code by their names, for files that say no more.

use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality};

/// Sample types as Go, Node and the agent name them, in the five-part form that
/// the agent gives them. Counts since the start of a process stand for what
/// happened in the time of the file. `objects` and `space` are Node's picture
/// of what lives.
const TYPES: [(&str, Temporality); 10] = {
    use Temporality::{Delta, Gauge};
    [
        ("process_cpu:cpu:nanoseconds:cpu:nanoseconds", Delta),
        ("wall:wall:nanoseconds:wall:nanoseconds", Delta),
        ("memory:alloc_objects:count:space:bytes", Delta),
        ("memory:alloc_space:bytes:space:bytes", Delta),
        ("memory:inuse_objects:count:space:bytes", Gauge),
        ("memory:inuse_space:bytes:space:bytes", Gauge),
        ("memory:objects:count:space:bytes", Gauge),
        ("memory:space:bytes:space:bytes", Gauge),
        ("goroutine:goroutine:count:goroutine:count", Gauge),
        ("threadcreate:threadcreate:count:threadcreate:count", Gauge),
    ]
};

/// The profile type whose sample type is called `kind`, and how it behaves over
/// time, if it is a known one.
pub(super) fn type_called(kind: &str) -> Option<(ProfileType, Temporality)> {
    let (text, temporality) = TYPES
        .iter()
        .find(|(text, _)| text.split(':').nth(1) == Some(kind))?;
    let profile_type = text
        .parse()
        .expect("every text of the table has five parts");
    Some((profile_type, *temporality))
}

/// Endings of source files, and the code that they hold.
const LANGUAGES: [(&str, FrameKind); 16] = [
    ("go", FrameKind::Go),
    ("py", FrameKind::Python),
    ("pyx", FrameKind::Python),
    ("rb", FrameKind::Ruby),
    ("java", FrameKind::Jvm),
    ("kt", FrameKind::Jvm),
    ("scala", FrameKind::Jvm),
    ("clj", FrameKind::Jvm),
    ("groovy", FrameKind::Jvm),
    ("js", FrameKind::Node),
    ("mjs", FrameKind::Node),
    ("cjs", FrameKind::Node),
    ("jsx", FrameKind::Node),
    ("ts", FrameKind::Node),
    ("mts", FrameKind::Node),
    ("tsx", FrameKind::Node),
];

/// The kind of code in source file `path`, if its ending tells.
pub(super) fn kind_of_file(path: &str) -> Option<FrameKind> {
    let (_, ending) = path.rsplit_once('.')?;
    LANGUAGES
        .iter()
        .find(|(known, _)| *known == ending)
        .map(|(_, kind)| *kind)
}

/// How V8 begins names of compiled functions.
const V8: [&str; 6] = [
    "JS:",
    "LazyCompile:",
    "Function:",
    "Builtin:",
    "Script:",
    "RegExp:",
];

/// The kind of code that a runtime compiled under `name`.
pub(super) fn kind_of_compiled(name: &str) -> FrameKind {
    if name.starts_with("py::") {
        FrameKind::Python
    } else if V8.iter().any(|prefix| name.starts_with(prefix)) || name.contains(".js:") {
        FrameKind::Node
    } else {
        FrameKind::Jvm
    }
}

/// Whether `name` is a stand-in such as `[unknown]` or `[libc.so.6]`.
pub(super) fn is_stand_in(name: &str) -> bool {
    name.starts_with('[') && name.ends_with(']')
}

/// A frame of source file `file` (empty when unknown) and `line` (0 likewise),
/// whose kind is told by the file, else `kind`.
pub(super) fn placed_frame(function: &str, file: &str, line: u32, kind: FrameKind) -> Frame {
    let kind = match kind_of_file(file) {
        Some(kind) => kind,
        None if is_stand_in(function) => FrameKind::Synthetic,
        None => kind,
    };
    Frame::named(kind, function).at(file, line)
}
