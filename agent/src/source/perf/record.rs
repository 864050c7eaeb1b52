//! Reads the records that the kernel writes into a ring.
//!
//! Promises: no bytes panic it, and no length in them is trusted. Layout:
//! `man 2 perf_event_open`, for the sample type that [`super::events`] asks
//! for: identifier, address, ids, stream, CPU, period, then either the chain of calls or
//! registers and stack.

use crate::unwind::{REGISTERS_COUNT, Registers};

const MMAP: u32 = 1;
const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const SAMPLE: u32 = 9;
const MMAP2: u32 = 10;
const LOST_SAMPLES: u32 = 13;
/// `PERF_RECORD_MISC_COMM_EXEC`.
const MISC_EXEC: u16 = 1 << 13;
/// `PERF_SAMPLE_REGS_ABI_64`.
const ABI_64: u64 = 2;
/// Values from here on are marks between parts of a chain (`PERF_CONTEXT_MAX`).
const FIRST_MARK: u64 = (-4095_i64).cast_unsigned();
/// `PERF_CONTEXT_USER`.
const USER_MARK: u64 = (-512_i64).cast_unsigned();

/// How an event captures the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// The kernel follows frame pointers.
    Chain,
    /// Registers and this many bytes of the stack, unwound here.
    Dump {
        /// A multiple of eight.
        stack_bytes: u32,
    },
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A thread was running.
    Sample(Sample<'a>),
    /// A process mapped code.
    Mapped {
        /// The process.
        pid: i32,
    },
    /// A process began to run another program.
    Executed {
        /// The process.
        pid: i32,
    },
    /// A thread or process began.
    Forked {
        /// Process of the new thread.
        pid: i32,
        /// Process of the thread that made it.
        parent: i32,
    },
    /// A thread ended.
    Exited {
        /// Its process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// Records did not fit into the ring.
    Lost {
        /// How many.
        count: u64,
    },
    /// Of no interest, or of an event that was closed.
    Other,
}

/// A thread that was running.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    /// The event, or for an inherited one the event it was inherited from.
    pub(super) event: u64,
    /// The event itself, also when it was inherited.
    pub(super) stream: u64,
    pub(super) pid: i32,
    pub(super) tid: i32,
    pub(super) cpu: u32,
    /// CPU time between its samples. The kernel keeps saying that of its
    /// beginning where it was changed by an ioctl.
    pub(super) period_ns: u64,
    /// The instruction it was at.
    pub(super) ip: u64,
    pub(super) stack: Stack<'a>,
}

/// How it got there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stack<'a> {
    /// Bytes of the words of a chain.
    Chain(&'a [u8]),
    /// For the unwinder.
    Dump {
        /// Registers in user code.
        registers: Registers,
        /// Memory from the stack pointer on.
        bytes: &'a [u8],
    },
    /// The thread has no 64-bit user registers.
    None,
}

/// A record that ends before what it must hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShortRecord;

/// Reads the record of this kind; `capture_of` tells how the event with an
/// identifier captures.
///
/// # Errors
///
/// [`ShortRecord`] if bytes are missing.
pub(super) fn parse(
    kind: u32,
    misc: u16,
    body: &[u8],
    capture_of: impl FnOnce(u64) -> Option<Capture>,
) -> Result<Record<'_>, ShortRecord> {
    let mut reader = Reader(body);
    match kind {
        SAMPLE => sample(reader, capture_of),
        MMAP | MMAP2 => Ok(Record::Mapped { pid: reader.id()? }),
        COMM if misc & MISC_EXEC != 0 => Ok(Record::Executed { pid: reader.id()? }),
        FORK => Ok(Record::Forked {
            pid: reader.id()?,
            parent: reader.id()?,
        }),
        EXIT => {
            let pid = reader.id()?;
            let _parent = reader.id()?;
            let tid = reader.id()?;
            Ok(Record::Exited { pid, tid })
        }
        LOST => {
            let _event = reader.u64()?;
            Ok(Record::Lost {
                count: reader.u64()?,
            })
        }
        LOST_SAMPLES => Ok(Record::Lost {
            count: reader.u64()?,
        }),
        _ => Ok(Record::Other),
    }
}

fn sample(
    mut reader: Reader<'_>,
    capture_of: impl FnOnce(u64) -> Option<Capture>,
) -> Result<Record<'_>, ShortRecord> {
    let event = reader.u64()?;
    let Some(capture) = capture_of(event) else {
        return Ok(Record::Other);
    };
    let ip = reader.u64()?;
    let pid = reader.id()?;
    let tid = reader.id()?;
    let stream = reader.u64()?;
    let cpu = reader.u32()?;
    let _reserved = reader.u32()?;
    let period_ns = reader.u64()?;
    let stack = match capture {
        Capture::Chain => {
            let count = reader.u64()?;
            let bytes = count.checked_mul(8).ok_or(ShortRecord)?;
            Stack::Chain(reader.bytes(bytes)?)
        }
        Capture::Dump { .. } => dump(&mut reader)?,
    };
    Ok(Record::Sample(Sample {
        event,
        stream,
        pid,
        tid,
        cpu,
        period_ns,
        ip,
        stack,
    }))
}

fn dump<'a>(reader: &mut Reader<'a>) -> Result<Stack<'a>, ShortRecord> {
    // Without registers the kernel writes none, whatever was asked for.
    if reader.u64()? != ABI_64 {
        return Ok(Stack::None);
    }
    let mut words = [0; REGISTERS_COUNT];
    for word in &mut words {
        *word = reader.u64()?;
    }
    let size = reader.u64()?;
    let mut bytes = reader.bytes(size)?;
    if size > 0 {
        // How much of it was really copied.
        let copied = usize::try_from(reader.u64()?).map_err(|_too_large| ShortRecord)?;
        bytes = bytes.get(..copied).unwrap_or(bytes);
    }
    Ok(Stack::Dump {
        registers: Registers::from_words(words),
        bytes,
    })
}

/// Appends the user's part of a chain to `addresses`, leaf first; those of
/// callers lie within the call instruction.
pub(super) fn user_chain(chain: &[u8], addresses: &mut Vec<u64>) {
    let words = chain
        .chunks_exact(8)
        .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
    let mut in_user = false;
    let mut leaf = true;
    for word in words {
        if word >= FIRST_MARK {
            in_user = word == USER_MARK;
            leaf = true;
        } else if in_user && word != 0 {
            addresses.push(if leaf { word } else { word - 1 });
            leaf = false;
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], ShortRecord> {
        let count = usize::try_from(count).map_err(|_too_large| ShortRecord)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ShortRecord)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, ShortRecord> {
        let (word, rest) = self.0.split_first_chunk().ok_or(ShortRecord)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*word))
    }

    fn u32(&mut self) -> Result<u32, ShortRecord> {
        let (word, rest) = self.0.split_first_chunk().ok_or(ShortRecord)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*word))
    }

    /// An id of a process or thread; of one outside of our namespace it is
    /// zero or negative.
    fn id(&mut self) -> Result<i32, ShortRecord> {
        Ok(self.u32()?.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DUMP: Capture = Capture::Dump { stack_bytes: 16 };

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Event 7, address 0x1000, process 2, thread 3, inherited event 8, CPU 1,
    /// period 50.
    fn head(rest: &[u64]) -> Vec<u8> {
        let mut all = vec![7, 0x1000, 3 << 32 | 2, 8, 1, 50];
        all.extend_from_slice(rest);
        words(&all)
    }

    fn stack_of(body: &[u8], capture: Capture) -> Result<Stack<'_>, ShortRecord> {
        match parse(SAMPLE, 0, body, |_| Some(capture))? {
            Record::Sample(sample) => {
                let ids = (sample.event, sample.ip, sample.pid, sample.tid, sample.cpu);
                assert_eq!(ids, (7, 0x1000, 2, 3, 1));
                assert_eq!((sample.stream, sample.period_ns), (8, 50));
                Ok(sample.stack)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn samples_are_read_in_each_way_of_capturing() {
        let chain = head(&[2, USER_MARK, 0x1000]);
        assert_eq!(
            stack_of(&chain, Capture::Chain),
            Ok(Stack::Chain(&chain[56..]))
        );
        let mut rest = vec![ABI_64];
        rest.extend(1..=REGISTERS_COUNT as u64);
        rest.extend([16, 0xaa, 0xbb, 8]);
        let dump = head(&rest);
        let Ok(Stack::Dump { registers, bytes }) = stack_of(&dump, DUMP) else {
            panic!("no dump");
        };
        let expected: Vec<u64> = (1..=REGISTERS_COUNT as u64).collect();
        assert_eq!(
            registers,
            Registers::from_words(expected.try_into().unwrap())
        );
        assert_eq!(bytes, words(&[0xaa]), "only what was copied");
    }

    #[test]
    fn a_sample_without_user_registers_has_no_stack() {
        for abi in [0, 1] {
            assert_eq!(stack_of(&head(&[abi, 0]), DUMP), Ok(Stack::None));
        }
    }

    #[test]
    fn lengths_beyond_the_record_are_refused() {
        for count in [1, u64::MAX, u64::MAX / 8 + 1] {
            assert_eq!(stack_of(&head(&[count]), Capture::Chain), Err(ShortRecord));
        }
        let mut rest = vec![ABI_64];
        rest.extend([0; REGISTERS_COUNT]);
        rest.extend([u64::MAX, 1]);
        assert_eq!(stack_of(&head(&rest), DUMP), Err(ShortRecord));
    }

    #[test]
    fn other_records_tell_who() {
        let ids = words(&[9 << 32 | 5, 11 << 32 | 7]);
        for (kind, misc, expected) in [
            (MMAP, 0, Record::Mapped { pid: 5 }),
            (MMAP2, 0, Record::Mapped { pid: 5 }),
            (COMM, MISC_EXEC, Record::Executed { pid: 5 }),
            (COMM, 0, Record::Other),
            (FORK, 0, Record::Forked { pid: 5, parent: 9 }),
            (EXIT, 0, Record::Exited { pid: 5, tid: 7 }),
            (99, 0, Record::Other),
        ] {
            assert_eq!(parse(kind, misc, &ids, |_| None), Ok(expected));
        }
        assert_eq!(
            parse(LOST, 0, &words(&[1, 44]), |_| None),
            Ok(Record::Lost { count: 44 })
        );
        assert_eq!(
            parse(SAMPLE, 0, &head(&[]), |_| None),
            Ok(Record::Other),
            "of a closed event"
        );
    }

    #[test]
    fn only_the_users_part_of_a_chain_is_taken() {
        const KERNEL_MARK: u64 = (-128_i64).cast_unsigned();
        for (chain, expected) in [
            (vec![], vec![]),
            (vec![0x10], vec![]),
            (vec![USER_MARK, 0x10, 0x20, 0x30], vec![0x10, 0x1f, 0x2f]),
            (
                vec![KERNEL_MARK, 0x99, USER_MARK, 0x10, 0x20],
                vec![0x10, 0x1f],
            ),
            (vec![USER_MARK, 0x10, 0, 0x20], vec![0x10, 0x1f]),
        ] {
            let mut addresses = Vec::new();
            user_chain(&words(&chain), &mut addresses);
            assert_eq!(addresses, expected);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            kind in 0_u32..24,
            misc: u16,
            body in prop::collection::vec(any::<u8>(), 0..200),
            as_chain: bool,
        ) {
            let capture = if as_chain { Capture::Chain } else { DUMP };
            if let Ok(Record::Sample(sample)) = parse(kind, misc, &body, |_| Some(capture))
                && let Stack::Chain(chain) = sample.stack
            {
                user_chain(chain, &mut Vec::new());
            }
        }

        #[test]
        fn no_lengths_panic(words_ in prop::collection::vec(
            prop_oneof![0_u64..40, Just(u64::MAX), Just(USER_MARK), any::<u64>()], 0..20),
            as_chain: bool,
        ) {
            let capture = if as_chain { Capture::Chain } else { DUMP };
            let body = head(&words_);
            if let Ok(Record::Sample(sample)) = parse(SAMPLE, 0, &body, |_| Some(capture))
                && let Stack::Dump { bytes, .. } = sample.stack
            {
                prop_assert!(bytes.len() <= body.len());
            }
        }
    }
}
