//! Frames as they enter a tree: with the names that all builds of a function
//! share.

use std::borrow::Cow;

use proto::stack::FrameRef;

use crate::normalize::{Rules, Taken, normalize};

/// What a mangled name of Rust's second scheme begins with. It holds a hash for
/// every crate it speaks of.
const RUST_V0: &str = "_R";

/// A frame with normal names.
#[derive(Debug)]
pub(super) struct Normal<'a> {
    frame: FrameRef<'a>,
    function: Cow<'a, str>,
    system_name: Cow<'a, str>,
}

impl Normal<'_> {
    /// The frame.
    pub(super) fn frame(&self) -> FrameRef<'_> {
        FrameRef {
            function: &self.function,
            system_name: &self.system_name,
            ..self.frame
        }
    }
}

/// `frame` with normal names. What was cut off its function goes where the frame
/// says nothing yet.
pub(super) fn normal(frame: FrameRef<'_>, rules: Rules) -> Normal<'_> {
    let function = normalize(frame.kind, frame.function, rules);
    let system_name = match frame.system_name.starts_with(RUST_V0) && !rules.is_empty() {
        true => Cow::Borrowed(""),
        false => normalize(frame.kind, frame.system_name, rules).name,
    };
    let mut normal = Normal {
        frame,
        function: function.name,
        system_name,
    };
    match function.taken {
        Some(Taken::ModuleOffset(offset)) if frame.file_offset == 0 => {
            normal.frame.file_offset = offset;
        }
        Some(Taken::StartLine(line)) if frame.start_line == 0 => normal.frame.start_line = line,
        _ => {}
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stack::{Frame, FrameKind};
    use std::sync::Arc;

    #[test]
    fn two_builds_of_a_function_are_one_frame() {
        let build = |hash: &str| {
            let mut frame = Frame::named(FrameKind::Native, &format!("logger::run::h{hash}"));
            let mangled = format!("_ZN6logger3run17h{hash}E");
            frame.system_name = Arc::from(mangled.as_str());
            frame.at("run.rs", 7)
        };
        let (old, new) = (build("0123456789abcdef"), build("fedcba9876543210"));
        let normal_old = normal(old.borrowed(), Rules::DEFAULT);
        let normal_new = normal(new.borrowed(), Rules::DEFAULT);
        assert_eq!(normal_new.frame(), normal_old.frame());
        assert_eq!(normal_old.frame().function, "logger::run");
        let place = (normal_old.frame().file, normal_old.frame().line);
        assert_eq!(place, ("run.rs", 7));
        let same = normal(old.borrowed(), Rules::NONE);
        assert_eq!(same.frame(), old.borrowed());
    }

    #[test]
    fn what_was_cut_off_goes_where_the_frame_says_nothing() {
        let frame = Frame::named(FrameKind::Unsymbolized, "libc.so.6+0x1234");
        let normal = normal(frame.borrowed(), Rules::DEFAULT);
        assert_eq!(normal.frame().function, "[libc.so.6]");
        assert_eq!(normal.frame().file_offset, 0x1234);
    }
}
