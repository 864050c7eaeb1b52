//! Frames as they enter a tree: with the names that all builds of a function
//! share.

use std::borrow::Cow;
use std::sync::Arc;

use proto::stack::Frame;

use crate::normalize::{Rules, Taken, normalize};

/// What a mangled name of Rust's second scheme begins with. It holds a hash for
/// every crate it speaks of.
const RUST_V0: &str = "_R";

/// `frame` with normal names. What was cut off its function goes where the frame
/// says nothing yet.
pub(super) fn normal(frame: &Frame, rules: Rules) -> Cow<'_, Frame> {
    let function = normalize(frame.kind, &frame.function, rules);
    let system_name = match frame.system_name.starts_with(RUST_V0) && !rules.is_empty() {
        true => Cow::Borrowed(""),
        false => normalize(frame.kind, &frame.system_name, rules).name,
    };
    if function.applied.is_empty() && *system_name == *frame.system_name {
        return Cow::Borrowed(frame);
    }
    let mut normal = Frame {
        function: Arc::from(&*function.name),
        system_name: Arc::from(&*system_name),
        ..frame.clone()
    };
    match function.taken {
        Some(Taken::ModuleOffset(offset)) if normal.file_offset == 0 => {
            normal.file_offset = offset;
        }
        Some(Taken::StartLine(line)) if normal.start_line == 0 => normal.start_line = line,
        _ => {}
    }
    Cow::Owned(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stack::FrameKind;

    #[test]
    fn two_builds_of_a_function_are_one_frame() {
        let build = |hash: &str| {
            let mut frame = Frame::named(FrameKind::Native, &format!("logger::run::h{hash}"));
            let mangled = format!("_ZN6logger3run17h{hash}E");
            frame.system_name = Arc::from(mangled.as_str());
            frame.at("run.rs", 7)
        };
        let (old, new) = (build("0123456789abcdef"), build("fedcba9876543210"));
        let normal_old = normal(&old, Rules::DEFAULT).into_owned();
        assert_eq!(normal(&new, Rules::DEFAULT).into_owned(), normal_old);
        assert_eq!(&*normal_old.function, "logger::run");
        assert_eq!((&*normal_old.file, normal_old.line), ("run.rs", 7));
        assert!(matches!(normal(&old, Rules::NONE), Cow::Borrowed(_)));
    }

    #[test]
    fn what_was_cut_off_goes_where_the_frame_says_nothing() {
        let frame = Frame::named(FrameKind::Unsymbolized, "libc.so.6+0x1234");
        let normal = normal(&frame, Rules::DEFAULT).into_owned();
        assert_eq!(&*normal.function, "[libc.so.6]");
        assert_eq!(normal.file_offset, 0x1234);
    }
}
