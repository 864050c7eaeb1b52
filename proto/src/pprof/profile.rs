//! A pprof profile by itself: every sample with its frames.

use std::collections::HashMap;
use std::sync::Arc;

use super::table::{PprofFrame, PprofTable, Sample};
use super::{MAX_FRAMES, MAX_UNFOLDED_FRAMES, PprofError, PprofLimits, unpack};
use crate::stack::{Frame, FrameKind, Stack};
use crate::value_type::ValueType;

/// Memory of a sample beside its frames and values.
const SAMPLE_BYTES: usize = 128;
/// Memory of a label of a sample, whose texts are there once.
const LABEL_BYTES: usize = 64;

/// One sample: a stack, one value per sample type, and its string labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PprofSample {
    /// Leaf first.
    pub stack: Stack,
    /// One per sample type; may be negative.
    pub values: Vec<i64>,
    /// String labels, in the order of the profile.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

/// A checked pprof profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pprof {
    /// What each value of a sample counts.
    pub sample_types: Vec<ValueType>,
    /// What lies between samples, when the profile says so.
    pub period_type: Option<ValueType>,
    /// Distance between samples in the period's unit.
    pub period: i64,
    /// When it was taken, in nanoseconds since 1970; 0 when unknown.
    pub time_ns: i64,
    /// How long it was taken, in nanoseconds; 0 when unknown.
    pub duration_ns: i64,
    /// The samples.
    pub samples: Vec<PprofSample>,
    /// Numeric sample labels, which are not kept.
    pub numeric_labels: u64,
}

impl Pprof {
    /// Reads a profile, gzipped or not, whose symbolized frames are of `kind`.
    ///
    /// # Errors
    ///
    /// [`PprofError`] if the bytes are more than [`PprofLimits::default`] allows,
    /// are no profile, name something that the profile does not hold, or have
    /// more than [`MAX_UNFOLDED_FRAMES`] in all stacks together.
    pub fn parse(bytes: &[u8], kind: FrameKind) -> Result<Self, PprofError> {
        let limits = PprofLimits::default();
        let raw = unpack(bytes, limits)?;
        let table = PprofTable::parse(&raw, limits)?;
        let mut unfolding = Unfolding::new(&table, kind, limits.decoded_bytes);
        let mut samples = Vec::new();
        let mut numeric_labels = 0_u64;
        let mut reader = table.samples();
        while let Some(sample) = reader.next()? {
            samples.push(unfolding.sample(sample)?);
            numeric_labels = numeric_labels.saturating_add(sample.numeric_labels);
        }
        Ok(Self {
            samples,
            numeric_labels,
            period: table.period,
            time_ns: table.time_ns,
            duration_ns: table.duration_ns,
            sample_types: table.sample_types,
            period_type: table.period_type,
        })
    }
}

/// Gives samples their frames.
struct Unfolding<'t, 'a> {
    table: &'t PprofTable<'a>,
    kind: FrameKind,
    /// Each text once.
    texts: HashMap<&'a str, Arc<str>>,
    /// Frames of each location that a sample has named.
    frames: Vec<Vec<Frame>>,
    /// Frames that stacks may still have.
    frames_left: usize,
    /// Memory that samples and frames of locations may still take.
    bytes_left: usize,
    limit_bytes: usize,
}

impl<'t, 'a> Unfolding<'t, 'a> {
    fn new(table: &'t PprofTable<'a>, kind: FrameKind, limit_bytes: usize) -> Self {
        Self {
            table,
            kind,
            texts: HashMap::new(),
            frames: vec![Vec::new(); table.location_count()],
            frames_left: MAX_UNFOLDED_FRAMES,
            bytes_left: limit_bytes,
            limit_bytes,
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), PprofError> {
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.ok_or(PprofError::TooManyMessages {
            limit: self.limit_bytes,
        })?;
        Ok(())
    }

    fn text(&mut self, text: &'a str) -> Arc<str> {
        let known = self.texts.entry(text).or_insert_with(|| Arc::from(text));
        Arc::clone(known)
    }

    fn frame(&mut self, frame: PprofFrame<'a>) -> Result<Frame, PprofError> {
        Ok(match frame {
            PprofFrame::Line { function, line } => {
                let function = self.table.function(function)?;
                Frame {
                    kind: self.kind,
                    function: self.text(function.name),
                    system_name: self.text(function.system_name),
                    file: self.text(function.file),
                    start_line: function.start_line,
                    line,
                    build_id: self.text(""),
                    file_offset: 0,
                }
            }
            PprofFrame::Address {
                name,
                build_id,
                file_offset,
            } => Frame {
                build_id: self.text(build_id),
                file_offset,
                ..Frame::named(FrameKind::Unsymbolized, &name)
            },
        })
    }

    fn stack(&mut self, locations: &[usize]) -> Result<Stack, PprofError> {
        let mut stack: Vec<Frame> = Vec::new();
        for &location in locations {
            if stack.len() >= MAX_FRAMES {
                break;
            }
            if self.frames.get(location).is_some_and(Vec::is_empty) {
                let mut frames = Vec::new();
                for frame in self.table.frames(location) {
                    self.spend(size_of::<Frame>())?;
                    frames.push(self.frame(frame?)?);
                }
                if let Some(slot) = self.frames.get_mut(location) {
                    *slot = frames;
                }
            }
            let frames = self.frames.get(location);
            stack.extend(frames.into_iter().flatten().cloned());
        }
        stack.truncate(MAX_FRAMES);
        if stack.len() == MAX_FRAMES {
            stack.push(Frame::named(FrameKind::Synthetic, "[truncated]"));
        }
        let left = self.frames_left.checked_sub(stack.len());
        self.frames_left = left.ok_or(PprofError::TooManyFrames)?;
        Ok(Arc::from(stack))
    }

    fn sample(&mut self, sample: &Sample<'a>) -> Result<PprofSample, PprofError> {
        let labels = usize::try_from(sample.labels).unwrap_or(usize::MAX);
        let bytes = SAMPLE_BYTES
            .saturating_add(sample.values.len().saturating_mul(8))
            .saturating_add(labels.saturating_mul(LABEL_BYTES));
        self.spend(bytes)?;
        let table = self.table;
        Ok(PprofSample {
            stack: self.stack(&sample.locations)?,
            values: sample.values.clone(),
            labels: table
                .labels(sample)
                .map(|(key, text)| (self.text(key), self.text(text)))
                .collect(),
        })
    }
}
