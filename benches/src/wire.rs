//! Windows of a corpus in the words of an agent's stream, without building the
//! profiles first: what a simulated agent sends is the same as a real one's,
//! and costs a fraction.
//!
//! The costs of entries are those of [`proto::dictionary`].

use proto::limits::{MAX_DICTIONARY_BYTES, MAX_DICTIONARY_ENTRIES};
use proto::pb::tepui as pb;
use rustc_hash::FxHashMap;

use crate::corpus::{Corpus, PERIOD_NS, Slot, Tally};
use crate::ledger::Entry;

const FRAME_COST: usize = 64;
const ENTRY_COST: usize = 32;

/// A frame of a corpus, its strings as indices into [`Lexicon::strings`].
#[derive(Clone, Copy, Debug)]
struct FrameWords {
    kind: i32,
    function: u32,
    file: u32,
    start_line: u32,
    line: u32,
}

/// The strings and frames of a corpus, each once; shared by all its agents.
#[derive(Debug)]
pub struct Lexicon {
    strings: Vec<String>,
    frames: Vec<FrameWords>,
}

impl Lexicon {
    /// Returns the lexicon of `corpus`.
    pub fn new(corpus: &Corpus) -> Self {
        let mut strings = Vec::new();
        let mut known: FxHashMap<String, u32> = FxHashMap::default();
        let mut word = |text: &str| -> u32 {
            if let Some(&id) = known.get(text) {
                return id;
            }
            let id = narrow(strings.len());
            strings.push(text.to_owned());
            known.insert(text.to_owned(), id);
            id
        };
        let frames = corpus
            .program()
            .frames
            .iter()
            .map(|frame| FrameWords {
                kind: i32::from(frame.kind.code()),
                function: word(&frame.function),
                file: word(&frame.file),
                start_line: frame.start_line,
                line: frame.line,
            })
            .collect();
        Self { strings, frames }
    }
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn wide(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Ids that were given out on a stream, plus one; 0 means not sent yet.
#[derive(Debug, Default)]
struct Given {
    ids: Vec<u32>,
    count: u32,
}

impl Given {
    fn get(&self, word: u32) -> Option<u32> {
        self.ids.get(wide(word)).and_then(|id| id.checked_sub(1))
    }

    fn give(&mut self, word: u32) -> u32 {
        if self.ids.len() <= wide(word) {
            self.ids.resize(wide(word) + 1, 0);
        }
        let id = self.count;
        self.count += 1;
        self.ids[wide(word)] = id + 1;
        id
    }
}

/// What a stream has sent: the sending end of its dictionary.
#[derive(Debug, Default)]
pub struct StreamWords {
    strings: Given,
    frames: Given,
    stacks: Given,
    bytes: usize,
    started: bool,
}

/// Caps of a stream's dictionary.
#[derive(Clone, Copy, Debug)]
pub struct WordLimits {
    entries: usize,
    bytes: usize,
}

impl Default for WordLimits {
    fn default() -> Self {
        Self {
            entries: MAX_DICTIONARY_ENTRIES,
            bytes: MAX_DICTIONARY_BYTES,
        }
    }
}

impl WordLimits {
    /// The smaller of our caps and what the collector told; 0 tells nothing.
    pub fn told(limits: Option<&pb::Limits>) -> Self {
        let ours = Self::default();
        let least = |told: usize, ours: usize| if told == 0 { ours } else { told.min(ours) };
        limits.map_or(ours, |told| Self {
            entries: least(wide(told.max_dictionary_entries), ours.entries),
            bytes: least(
                usize::try_from(told.max_dictionary_bytes).unwrap_or(usize::MAX),
                ours.bytes,
            ),
        })
    }
}

/// The parts of a batch's windows that are the same for all of them.
#[derive(Clone, Debug)]
pub struct Head {
    /// Labels of the series.
    pub labels: pb::LabelSet,
    /// Length of each window in nanoseconds.
    pub duration_ns: u64,
    /// When the target started.
    pub target_start_ns: i64,
}

impl StreamWords {
    /// Returns the words of a stream that has sent nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn is_full(&self, limits: WordLimits) -> bool {
        let entries = wide(self.strings.count) + wide(self.frames.count) + wide(self.stacks.count);
        entries > limits.entries || self.bytes > limits.bytes
    }

    /// The body that ships the windows at `slots`, with the entries the stream
    /// lacks, and what each window adds to a ledger. At the dictionary's cap it
    /// begins anew; a single batch that passes the cap is sent all the same,
    /// for the collector to refuse.
    pub fn body(
        &mut self,
        corpus: &Corpus,
        lexicon: &Lexicon,
        head: &Head,
        slots: &[Slot],
        limits: WordLimits,
        tally: &mut Tally,
    ) -> (pb::BatchBody, Vec<Entry>) {
        let sent = self.body_once(corpus, lexicon, head, slots, tally);
        if !self.is_full(limits) || sent.0.reset {
            return sent;
        }
        *self = Self::default();
        self.body_once(corpus, lexicon, head, slots, tally)
    }

    fn body_once(
        &mut self,
        corpus: &Corpus,
        lexicon: &Lexicon,
        head: &Head,
        slots: &[Slot],
        tally: &mut Tally,
    ) -> (pb::BatchBody, Vec<Entry>) {
        let mut fresh = pb::Dictionary::default();
        let mut windows = Vec::with_capacity(slots.len());
        let mut entries = Vec::with_capacity(slots.len());
        let reset = !self.started;
        self.started = true;
        // Strings are of one batch alone.
        self.strings = Given::default();
        for &slot in slots {
            corpus.draw(slot, tally);
            let mut stacks = Vec::with_capacity(tally.pairs().len());
            let mut values = Vec::with_capacity(tally.pairs().len());
            let mut hash = 0_u64;
            for (stack, count) in tally.pairs() {
                stacks.push(self.stack(corpus, lexicon, stack, &mut fresh));
                values.push(i64::from(count));
                let part = corpus.fingerprint(stack).wrapping_mul(count.into());
                hash = hash.wrapping_add(part);
            }
            windows.push(window(head, slot, stacks, values));
            entries.push(Entry {
                start: slot.start,
                samples: slot.samples,
                hash,
            });
        }
        let body = pb::BatchBody {
            reset,
            dictionary: Some(fresh),
            label_sets: vec![head.labels.clone()],
            windows,
        };
        (body, entries)
    }

    fn stack(
        &mut self,
        corpus: &Corpus,
        lexicon: &Lexicon,
        stack: u32,
        fresh: &mut pb::Dictionary,
    ) -> u32 {
        if let Some(id) = self.stacks.get(stack) {
            return id;
        }
        let root_first = corpus.program().stacks.get(wide(stack));
        let frames: Vec<u32> = root_first
            .into_iter()
            .flatten()
            .rev()
            .map(|&frame| self.frame(lexicon, frame, fresh))
            .collect();
        self.bytes += frames.len() * 4 + ENTRY_COST;
        fresh.stacks.push(pb::Stack { frames });
        self.stacks.give(stack)
    }

    fn frame(&mut self, lexicon: &Lexicon, frame: u32, fresh: &mut pb::Dictionary) -> u32 {
        if let Some(id) = self.frames.get(frame) {
            return id;
        }
        let words = lexicon.frames[wide(frame)];
        let wire = pb::Frame {
            kind: words.kind,
            function: self.string(lexicon, words.function, fresh),
            file: self.string(lexicon, words.file, fresh),
            start_line: words.start_line,
            line: words.line,
            ..pb::Frame::default()
        };
        self.bytes += FRAME_COST;
        fresh.frames.push(wire);
        self.frames.give(frame)
    }

    /// The id on the wire: shifted by one, 0 is "none".
    fn string(&mut self, lexicon: &Lexicon, word: u32, fresh: &mut pb::Dictionary) -> u32 {
        if let Some(id) = self.strings.get(word) {
            return id + 1;
        }
        let text = &lexicon.strings[wide(word)];
        self.bytes += text.len() + ENTRY_COST;
        fresh.strings.push(text.clone());
        self.strings.give(word) + 1
    }
}

fn window(head: &Head, slot: Slot, stacks: Vec<u32>, values: Vec<i64>) -> pb::Window {
    let cpu = || {
        Some(pb::ValueType {
            kind: "cpu".to_owned(),
            unit: "nanoseconds".to_owned(),
        })
    };
    let column = pb::Column {
        name: "process_cpu".to_owned(),
        sample_type: cpu(),
        period_type: cpu(),
        period: i64::try_from(PERIOD_NS).unwrap_or(i64::MAX),
        temporality: pb::Temporality::Delta.into(),
        weight: PERIOD_NS,
        values,
    };
    pb::Window {
        start_unix_nanos: slot.start.get(),
        duration_nanos: head.duration_ns,
        label_set: 0,
        stacks,
        columns: vec![column],
        sample_label_sets: Vec::new(),
        facts: Some(pb::Facts {
            cpu_nanos: u64::from(slot.samples) * PERIOD_NS,
            rss_bytes: 180 << 20,
            threads: 12,
            processes: 1,
            target_start_unix_nanos: head.target_start_ns,
            coverage_permille: 1_000,
            ..pb::Facts::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Shape;
    use prost::Message;
    use proto::dictionary::{Decoder, label_set_to_wire};
    use proto::window::UnixNanos;
    use rustc_hash::FxHashSet;

    const START_NS: i64 = 1_700_000_000_000_000_000;

    fn head(pod: u32) -> Head {
        Head {
            labels: label_set_to_wire(&Corpus::labels("bench", pod)),
            duration_ns: 10_000_000_000,
            target_start_ns: START_NS,
        }
    }

    fn slot(pod: u32, number: i64) -> Slot {
        Slot {
            pod,
            start: UnixNanos::new(START_NS + number * 10_000_000_000),
            samples: 990,
        }
    }

    #[test]
    fn a_stream_says_what_the_corpus_drew() {
        let corpus = Corpus::new(Shape::LEAN, 4);
        let lexicon = Lexicon::new(&corpus);
        let (mut words, mut decoder) = (StreamWords::new(), Decoder::new());
        let mut tally = Tally::new();
        for number in 0..4 {
            let slots = [slot(3, 2 * number), slot(3, 2 * number + 1)];
            let limits = WordLimits::default();
            let (body, entries) =
                words.body(&corpus, &lexicon, &head(3), &slots, limits, &mut tally);
            assert_eq!(body.reset, number == 0);
            let windows = decoder.apply(body).unwrap();
            assert_eq!((windows.len(), entries.len()), (2, 2));
            for (window, slot) in windows.into_iter().zip(slots) {
                let profile = decoder.profile(window.unwrap()).unwrap();
                let labels = Corpus::labels("bench", 3);
                let expected = corpus.profile(labels, slot, 10_000_000_000);
                let expected = expected.with_facts(*profile.facts());
                assert_eq!(profile, expected);
            }
        }
    }

    #[test]
    fn a_full_dictionary_begins_anew() {
        let corpus = Corpus::new(Shape::MEDIUM, 4);
        let lexicon = Lexicon::new(&corpus);
        let (mut words, mut decoder) = (StreamWords::new(), Decoder::new());
        let mut tally = Tally::new();
        let limits = WordLimits {
            entries: 4_000,
            bytes: 1 << 19,
        };
        let mut resets = 0;
        for number in 0..200 {
            let slots = [slot(0, number)];
            let (body, _) = words.body(&corpus, &lexicon, &head(0), &slots, limits, &mut tally);
            resets += u32::from(body.reset);
            assert!(decoder.apply(body).unwrap()[0].is_ok());
        }
        assert!(resets > 1);
    }

    #[test]
    fn no_aligned_block_of_a_long_run_repeats() {
        const BLOCK: usize = 32 << 10;
        let corpus = Corpus::new(Shape::MEDIUM, 4);
        let lexicon = Lexicon::new(&corpus);
        let mut streams: Vec<StreamWords> = (0..10).map(|_| StreamWords::new()).collect();
        let mut tally = Tally::new();
        let mut bytes = Vec::new();
        for number in 0..300 {
            for (pod, words) in (0_u32..).zip(&mut streams) {
                let slots = [slot(pod, number)];
                let limits = WordLimits::default();
                let (body, _) =
                    words.body(&corpus, &lexicon, &head(pod), &slots, limits, &mut tally);
                bytes.extend_from_slice(&body.encode_to_vec());
            }
        }
        let blocks = bytes.chunks_exact(BLOCK);
        let count = blocks.len();
        assert!(count > 50, "{count} blocks");
        let distinct: FxHashSet<&[u8]> = blocks.collect();
        assert_eq!(distinct.len(), count);
    }
}
