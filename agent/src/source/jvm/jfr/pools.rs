//! The constant pools of a chunk: where each value is, read when asked for.

use std::sync::Arc;

use proto::limits::MAX_STACK_FRAMES;
use proto::stack::{Frame, FrameKind, Stack};
use rustc_hash::FxHashMap;

use super::bytes::{Bytes, Text};
use super::metadata::{Met, Metadata};
use super::{JfrError, Room};
use crate::source::TRUNCATED;

/// Most values of all pools, of which real chunks have some ten thousand.
const MAX_POOLED: usize = 1 << 19;
/// State of a thread that could run.
const RUNNABLE: &str = "STATE_RUNNABLE";
/// Name of a method or class that the chunk does not name.
const UNKNOWN: &str = "[unknown]";

/// Pools that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pool {
    StackTrace,
    Method,
    Class,
    Symbol,
    ThreadState,
}

impl Pool {
    fn of(class: &str) -> Option<Self> {
        Some(match class {
            "jdk.types.StackTrace" => Self::StackTrace,
            "jdk.types.Method" => Self::Method,
            "java.lang.Class" => Self::Class,
            "jdk.types.Symbol" => Self::Symbol,
            "jdk.types.ThreadState" => Self::ThreadState,
            _ => return None,
        })
    }
}

/// Where a pooled value is.
#[derive(Clone, Copy, Debug)]
struct Place {
    class: u64,
    offset: usize,
}

/// Values by pool and key, and what was made of them.
#[derive(Debug)]
pub(super) struct Pools<'r> {
    room: &'r mut Room,
    places: FxHashMap<(Pool, u64), Place>,
    methods: FxHashMap<u64, Arc<str>>,
    frames: FxHashMap<(u64, u32), Frame>,
    stacks: FxHashMap<u64, Option<Stack>>,
    classes: FxHashMap<u64, Arc<str>>,
    states: FxHashMap<u64, bool>,
}

/// A chunk that can be asked for pooled values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) metadata: &'a Metadata,
}

/// A class as its source names it. What follows the name of a hidden class stays
/// as it is: `W$$Lambda$14+0x00007f0c64002000/1259475182`.
fn source_name(internal: String) -> String {
    match internal.split_once("+0x") {
        Some((class, rest)) => format!("{}+0x{rest}", class.replace('/', ".")),
        None => internal.replace('/', "."),
    }
}

/// A line; negative ones mean that there is none.
fn line_number(stored: u64) -> u32 {
    i32::try_from(stored)
        .ok()
        .and_then(|line| u32::try_from(line).ok())
        .unwrap_or(0)
}

impl<'r> Pools<'r> {
    /// Returns empty ones; what is made of them takes up `room`.
    pub(super) fn new(room: &'r mut Room) -> Self {
        Self {
            room,
            places: FxHashMap::default(),
            methods: FxHashMap::default(),
            frames: FxHashMap::default(),
            stacks: FxHashMap::default(),
            classes: FxHashMap::default(),
            states: FxHashMap::default(),
        }
    }

    /// Room for an event, if there is some.
    pub(super) fn take_event(&mut self) -> Option<()> {
        self.room.events = self.room.events.checked_sub(1)?;
        Some(())
    }

    /// A name, if there is room for it.
    fn named(&mut self, name: String) -> Arc<str> {
        let left = self.room.name_bytes.checked_sub(name.len());
        self.room.name_bytes = left.unwrap_or(0);
        match left {
            Some(_) => Arc::from(name),
            None => Arc::from(UNKNOWN),
        }
    }

    /// Notes where the values of a checkpoint are; `bytes` is behind its size
    /// and type.
    pub(super) fn note(
        &mut self,
        bytes: &mut Bytes<'_>,
        metadata: &Metadata,
    ) -> Result<(), JfrError> {
        for _start_duration_delta in 0..3 {
            bytes.number()?;
        }
        bytes.byte()?;
        for _ in 0..bytes.count()? {
            let class = bytes.number()?;
            let pool = metadata.name(class).and_then(Pool::of);
            for _ in 0..bytes.count()? {
                let key = bytes.number()?;
                if let Some(pool) = pool {
                    let offset = bytes.at();
                    if self.places.len() >= MAX_POOLED {
                        return Err(bytes.damaged("too many pooled values"));
                    }
                    self.places.insert((pool, key), Place { class, offset });
                }
                metadata.value(bytes, class, &mut |_| {})?;
            }
        }
        Ok(())
    }

    fn see<'a>(
        &self,
        content: Content<'a>,
        (pool, key): (Pool, u64),
        mut see: impl FnMut(Met<'a, '_>),
    ) -> Result<bool, JfrError> {
        let Some(place) = self.places.get(&(pool, key)) else {
            return Ok(false);
        };
        let mut bytes = Bytes::new(content.bytes, place.offset);
        content.metadata.value(&mut bytes, place.class, &mut see)?;
        Ok(true)
    }

    /// The first text of a value.
    fn text(&self, content: Content<'_>, pool: Pool, key: u64) -> Result<Option<String>, JfrError> {
        let mut found = Text::Null;
        self.see(content, (pool, key), |met| {
            if let (Met::Text(text), Text::Null) = (met, found) {
                found = text;
            }
        })?;
        Ok(found.read())
    }

    /// Whether a thread in this state could run; so it is held to be where the
    /// chunk does not say.
    pub(super) fn is_runnable(&mut self, content: Content<'_>, key: u64) -> Result<bool, JfrError> {
        if let Some(known) = self.states.get(&key) {
            return Ok(*known);
        }
        let state = self.text(content, Pool::ThreadState, key)?;
        let is_runnable = state.is_none_or(|state| state == RUNNABLE);
        self.states.insert(key, is_runnable);
        Ok(is_runnable)
    }

    /// The name of a class as its source has it, `java.lang.Thread`.
    pub(super) fn class_name(
        &mut self,
        content: Content<'_>,
        key: u64,
    ) -> Result<Arc<str>, JfrError> {
        if let Some(known) = self.classes.get(&key) {
            return Ok(Arc::clone(known));
        }
        let mut name = 0;
        self.see(content, (Pool::Class, key), |met| {
            if let Met::Number("name", symbol) = met {
                name = symbol;
            }
        })?;
        let text = self.text(content, Pool::Symbol, name)?;
        let name = self.named(text.map_or_else(|| UNKNOWN.to_owned(), source_name));
        self.classes.insert(key, Arc::clone(&name));
        Ok(name)
    }

    fn method_name(&mut self, content: Content<'_>, key: u64) -> Result<Arc<str>, JfrError> {
        if let Some(known) = self.methods.get(&key) {
            return Ok(Arc::clone(known));
        }
        let (mut class, mut name) = (0, 0);
        let is_there = self.see(content, (Pool::Method, key), |met| match met {
            Met::Number("type", found) => class = found,
            Met::Number("name", found) => name = found,
            _ => {}
        })?;
        let made = match self.text(content, Pool::Symbol, name)? {
            Some(method) if is_there => {
                let class = self.class_name(content, class)?;
                self.named(format!("{class}.{method}"))
            }
            _ => Arc::from(UNKNOWN),
        };
        self.methods.insert(key, Arc::clone(&made));
        Ok(made)
    }

    fn frame(&mut self, content: Content<'_>, at: (u64, u32)) -> Result<Frame, JfrError> {
        if let Some(known) = self.frames.get(&at) {
            return Ok(known.clone());
        }
        let (method, line) = at;
        let name = self.method_name(content, method)?;
        // The recorder does not say in which file a class was written.
        let frame = Frame::named(FrameKind::Jvm, &name).at("", line);
        self.frames.insert(at, frame.clone());
        Ok(frame)
    }

    /// The stack under `key`, leaf first; nothing if there is none, or no room
    /// for it. One that the recorder cut, or that is too deep, says so at its
    /// root.
    pub(super) fn stack(
        &mut self,
        content: Content<'_>,
        key: u64,
    ) -> Result<Option<Stack>, JfrError> {
        if let Some(known) = self.stacks.get(&key) {
            return Ok(known.clone());
        }
        let mut is_cut = false;
        let mut calls: Vec<(u64, u32)> = Vec::new();
        self.see(content, (Pool::StackTrace, key), |met| match met {
            Met::Number("truncated", cut) => is_cut = cut != 0,
            Met::Element if calls.len() < MAX_STACK_FRAMES => calls.push((0, 0)),
            Met::Element => is_cut = true,
            Met::Number("method", method) if calls.len() < MAX_STACK_FRAMES => {
                if let Some(last) = calls.last_mut() {
                    last.0 = method;
                }
            }
            Met::Number("lineNumber", line) if calls.len() < MAX_STACK_FRAMES => {
                if let Some(last) = calls.last_mut() {
                    last.1 = line_number(line);
                }
            }
            Met::Number(..) | Met::Text(..) => {}
        })?;
        if calls.len() >= MAX_STACK_FRAMES {
            calls.truncate(MAX_STACK_FRAMES - 1);
            is_cut = true;
        }
        let Some(left) = self.room.frames.checked_sub(calls.len()) else {
            return Ok(None);
        };
        self.room.frames = left;
        let mut frames = Vec::with_capacity(calls.len() + usize::from(is_cut));
        for call in calls {
            frames.push(self.frame(content, call)?);
        }
        if is_cut {
            frames.push(Frame::named(FrameKind::Synthetic, TRUNCATED));
        }
        let stack: Option<Stack> = (!frames.is_empty()).then(|| Arc::from(frames));
        self.stacks.insert(key, stack.clone());
        Ok(stack)
    }
}
