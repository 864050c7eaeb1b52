//! Call trees as messages.

use std::sync::Arc;

use proto::pb::tepui as pb;
use proto::stack::{Frame, FrameKind};
use rustc_hash::FxHashMap;

use super::AnswerError;
use crate::tree::CallTree;

/// The nearest 64-bit number.
pub(crate) fn narrow(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Texts of an answer; each is sent once, 0 means the empty text.
#[derive(Default)]
struct Texts {
    ids: FxHashMap<Arc<str>, u32>,
    list: Vec<String>,
}

impl Texts {
    fn id(&mut self, text: &Arc<str>) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&id) = self.ids.get(text) {
            return id;
        }
        self.list.push(text.to_string());
        let id = index(self.list.len());
        self.ids.insert(Arc::clone(text), id);
        id
    }
}

/// A tree as a message. Values beyond 64 bits become the nearest that fits.
pub(crate) fn tree_to_wire(tree: &CallTree) -> pb::CallTree {
    let mut texts = Texts::default();
    let frames = tree.frames().iter().map(|frame| pb::Frame {
        kind: i32::from(frame.kind.code()),
        function: texts.id(&frame.function),
        system_name: texts.id(&frame.system_name),
        file: texts.id(&frame.file),
        start_line: frame.start_line,
        line: frame.line,
        build_id: texts.id(&frame.build_id),
        file_offset: frame.file_offset,
    });
    let frames = frames.collect();
    let nodes = tree.nodes();
    pb::CallTree {
        strings: texts.list,
        frames,
        parents: nodes.iter().map(|node| node.parent).collect(),
        node_frames: nodes
            .iter()
            .map(|node| node.frame.map_or(0, |frame| frame.saturating_add(1)))
            .collect(),
        self_values: nodes.iter().map(|node| narrow(node.self_value)).collect(),
    }
}

/// Reads a tree from a message.
///
/// # Errors
///
/// [`AnswerError::Damaged`] if it is none.
pub(crate) fn tree_from_wire(wire: &pb::CallTree) -> Result<CallTree, AnswerError> {
    let texts: Vec<Arc<str>> = std::iter::once(Arc::from(""))
        .chain(wire.strings.iter().map(|text| Arc::from(text.as_str())))
        .collect();
    let text = |id: u32| {
        usize::try_from(id)
            .ok()
            .and_then(|id| texts.get(id))
            .map(Arc::clone)
            .ok_or(AnswerError::Damaged("a text is missing"))
    };
    let frames = wire
        .frames
        .iter()
        .map(|frame| {
            Ok(Frame {
                kind: u8::try_from(frame.kind)
                    .ok()
                    .and_then(FrameKind::from_code)
                    .ok_or(AnswerError::Damaged("a frame has an unknown kind"))?,
                function: text(frame.function)?,
                system_name: text(frame.system_name)?,
                file: text(frame.file)?,
                start_line: frame.start_line,
                line: frame.line,
                build_id: text(frame.build_id)?,
                file_offset: frame.file_offset,
            })
        })
        .collect::<Result<Vec<_>, AnswerError>>()?;
    if wire.parents.len() != wire.node_frames.len() || wire.parents.len() != wire.self_values.len()
    {
        return Err(AnswerError::Damaged("its lists differ in length"));
    }
    let mut tree = CallTree::new();
    let mut places = Vec::with_capacity(wire.parents.len());
    let nodes = wire.parents.iter().zip(&wire.node_frames);
    for ((&parent, &frame), &value) in nodes.zip(&wire.self_values) {
        let place = match frame.checked_sub(1) {
            None => 0,
            Some(frame) => {
                let above = usize::try_from(parent)
                    .ok()
                    .and_then(|parent| places.get(parent).copied())
                    .ok_or(AnswerError::Damaged("a node comes before its parent"))?;
                let frame = usize::try_from(frame)
                    .ok()
                    .and_then(|frame| frames.get(frame))
                    .ok_or(AnswerError::Damaged("a frame is missing"))?;
                tree.child(above, frame)
            }
        };
        tree.add_self(place, i128::from(value));
        places.push(place);
    }
    Ok(tree)
}
