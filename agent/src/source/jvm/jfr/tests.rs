use super::*;
use expect_test::expect;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// See `tests/data/README.md`.
const REAL: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jdk17.jfr"));

/// What is asked of JDK 17.
const ASKED: Asked = Asked {
    cpu_time: false,
    allocation_samples: true,
};

fn read_all(bytes: &[u8]) -> Result<Chunk, JfrError> {
    read(bytes, ASKED, &mut Room::default())
}

/// A line for each kind of event and stack: number, sum, stack from its leaf.
fn summary(chunk: &Chunk) -> String {
    let mut lines: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for event in &chunk.events {
        let (kind, value) = match &event.kind {
            Kind::Execution => ("cpu".to_owned(), 0),
            Kind::CpuTime { period_ns } => ("cpu time".to_owned(), *period_ns),
            Kind::CpuTimeLost { count } => ("lost".to_owned(), *count),
            Kind::Allocation { bytes } => ("bytes".to_owned(), *bytes),
            Kind::MonitorEnter { wait_ns, class } => (format!("monitor {class}"), *wait_ns),
            Kind::Park { wait_ns, class } => (format!("park {class}"), *wait_ns),
        };
        let stack = event.stack.iter().flat_map(|stack| stack.iter());
        let names: Vec<String> = stack
            .map(|frame| format!("{}:{}", frame.function, frame.line))
            .collect();
        let line = lines
            .entry(format!("{kind} {}", names.join(" < ")))
            .or_default();
        *line = (line.0 + 1, line.1 + value);
    }
    let lines = lines.iter();
    lines
        .map(|(text, (count, sum))| format!("{count} {sum} {text}\n"))
        .collect()
}

#[test]
fn a_real_recording_is_read_whole() {
    let chunk = read_all(REAL).unwrap();
    assert_eq!(chunk.dropped, 0);
    let count = |wanted: fn(&Kind) -> bool| {
        let events = chunk.events.iter();
        events.filter(|event| wanted(&event.kind)).count()
    };
    // The numbers of `jfr summary`.
    assert_eq!(count(|kind| matches!(kind, Kind::Execution)), 80);
    assert_eq!(count(|kind| matches!(kind, Kind::Allocation { .. })), 120);
    assert_eq!(count(|kind| matches!(kind, Kind::MonitorEnter { .. })), 42);
    assert_eq!(count(|kind| matches!(kind, Kind::Park { .. })), 39);
    // The sums of `jfr print --json`.
    let mut sums = [0; 3];
    for event in &chunk.events {
        match event.kind {
            Kind::Allocation { bytes } => sums[0] += bytes,
            Kind::MonitorEnter { wait_ns, .. } => sums[1] += wait_ns,
            Kind::Park { wait_ns, .. } => sums[2] += wait_ns,
            _ => {}
        }
    }
    assert_eq!(sums[0], 3_749_068_272);
    assert_eq!([sums[1] / 1_000_000, sums[2] / 1_000_000], [1910, 2343]);
    let header = Header::read(REAL).unwrap();
    for event in &chunk.events {
        let after = event.at.since(header.start).as_millis();
        assert!(event.at >= header.start && after < 3_000, "{after} ms");
    }
    let heaviest: String = summary(&chunk)
        .lines()
        .filter(|line| line.split(' ').next().unwrap().parse::<u32>().unwrap() > 20)
        .flat_map(|line| [line, "\n"])
        .collect();
    expect![[r#"
        111 3730141728 bytes Work.allocateMuch:47 < Work.allocate:59 < Work$$Lambda$16+0x00007f0c64002000/1259475182.run:0 < Work.lambda$start$0:96 < Work$$Lambda$15+0x00007f0c64001c00/929338653.run:0 < java.lang.Thread.run:840
        24 0 cpu Work.cold:23 < Work.spin:38 < Work$$Lambda$14+0x00007f0c64000c08/225534817.run:0 < Work.lambda$start$0:96 < Work$$Lambda$15+0x00007f0c64001c00/929338653.run:0 < java.lang.Thread.run:840
        53 0 cpu Work.hot:14 < Work.spin:36 < Work$$Lambda$14+0x00007f0c64000c08/225534817.run:0 < Work.lambda$start$0:96 < Work$$Lambda$15+0x00007f0c64001c00/929338653.run:0 < java.lang.Thread.run:840
        42 1910885282 monitor java.lang.Object Work.enter:77 < Work$$Lambda$18+0x00007f0c64002440/1020371697.run:0 < Work.lambda$start$0:96 < Work$$Lambda$15+0x00007f0c64001c00/929338653.run:0 < java.lang.Thread.run:840
        39 2343481885 park  jdk.internal.misc.Unsafe.park:0 < java.util.concurrent.locks.LockSupport.parkNanos:376 < Work.park:85 < Work$$Lambda$19+0x00007f0c64002660/789451787.run:0 < Work.lambda$start$0:96 < Work$$Lambda$15+0x00007f0c64001c00/929338653.run:0 < java.lang.Thread.run:840
    "#]]
    .assert_eq(&heaviest);
}

#[test]
fn what_is_no_chunk_is_told_apart() {
    assert_eq!(read_all(b"").unwrap_err(), JfrError::NotAChunk);
    assert_eq!(read_all(b"FLR\0").unwrap_err(), JfrError::NotAChunk);
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = REAL.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        read_all(&changed).unwrap_err()
    };
    assert_eq!(
        with(4, &[0, 3, 0, 0]),
        JfrError::Version { major: 3, minor: 0 }
    );
    let bytes = MAX_CHUNK_BYTES + 1;
    assert_eq!(with(8, &bytes.to_be_bytes()), JfrError::TooLarge { bytes });
    for (at, bytes) in [(8, [0xff; 8]), (8, [0; 8]), (24, [0xff; 8]), (24, [0; 8])] {
        assert!(matches!(with(at, &bytes), JfrError::Damaged { .. }));
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for length in (0..REAL.len()).step_by(997).chain([REAL.len() - 1]) {
        assert!(read_all(&REAL[..length]).is_err(), "{length}");
    }
}

#[test]
fn values_that_take_no_bytes_do_not_hold_the_reader_up() {
    // Class 9 has no fields, class 10 an array of arrays of it.
    let mut chunk = Builder::default();
    chunk.class(9, "Empty", &[]);
    chunk.class(11, "Many", &[("many", 9, true)]);
    chunk.class(10, "jdk.ThreadPark", &[("more", 11, true)]);
    let mut body = vec![10];
    body.extend([5; 10]);
    body.extend([0; 10]);
    let mut bytes = chunk.with_events(&[(10, body)]);
    assert!(read_all(&bytes).is_ok(), "some of them are harmless");
    // Many times more of them than there are bytes.
    let mut body = number(20_000);
    for _ in 0..20_000 {
        body.extend(number(10_000));
    }
    body.extend([0; 10_000]);
    bytes = chunk.with_events(&[(10, body)]);
    assert!(matches!(read_all(&bytes), Err(JfrError::Damaged { .. })));
}

/// A chunk of one text of `length` bytes and `count` methods and stacks that all
/// refer to it.
fn amplified(length: usize, count: u64) -> Vec<u8> {
    let mut chunk = Builder::default();
    chunk.class(2, "java.lang.String", &[]);
    chunk.class(3, "long", &[]);
    chunk.class(4, "jdk.types.Symbol", &[("string", 2, false)]);
    // Numbers in place of references are read alike.
    chunk.class(5, "jdk.types.Method", &[("name", 3, false)]);
    chunk.class(6, "Frame", &[("method", 3, false)]);
    chunk.class(7, "jdk.types.StackTrace", &[("frames", 6, true)]);
    chunk.class(8, "jdk.ExecutionSample", &[("stackTrace", 3, false)]);
    let mut body = vec![0, 0, 0, 0, 3];
    body.extend([4, 1, 1, 3]);
    body.extend(number(u64::try_from(length).unwrap()));
    body.extend(vec![b'a'; length]);
    for class in [5, 7] {
        body.push(class);
        body.extend(number(count));
        for key in 1..=count {
            body.extend(number(key));
            match class {
                5 => body.push(1),
                // Each is called by the first.
                _ => {
                    body.push(2);
                    body.extend(number(key));
                    body.push(1);
                }
            }
        }
    }
    let mut events = vec![(CHECKPOINT, body)];
    events.extend((1..=count).map(|key| (8, number(key))));
    // What each costs to be read is paid for by bytes that say nothing.
    let paid = length * usize::try_from(count).unwrap() / 2;
    events.extend((0..=paid / 60_000).map(|_| (99, vec![0; 60_000])));
    chunk.with_events(&events)
}

#[test]
fn small_entries_that_refer_to_a_large_one_are_bounded() {
    let names = |chunk: &Chunk| {
        let stacks = chunk.events.iter().flat_map(|event| &event.stack);
        let named = stacks.filter(|stack| &*stack[0].function != "[unknown]");
        named.count()
    };
    let (length, count) = (1000, 1000);
    let bytes = amplified(length, count);
    let chunk = read_all(&bytes).unwrap();
    assert_eq!(names(&chunk), 1000);
    let mut room = Room {
        name_bytes: 100_000,
        ..Room::default()
    };
    let chunk = read(&bytes, ASKED, &mut room).unwrap();
    assert!((90..100).contains(&names(&chunk)), "{}", names(&chunk));
    assert_eq!((chunk.events.len(), room.name_bytes), (1000, 0));
    let mut room = Room {
        frames: 101,
        ..Room::default()
    };
    let chunk = read(&bytes, ASKED, &mut room).unwrap();
    let stacks = chunk.events.iter().flat_map(|event| &event.stack);
    assert_eq!((stacks.count(), room.frames), (50, 1));
    // Events of all chunks of a window share the room for them.
    let mut room = Room {
        events: 1_500,
        ..Room::default()
    };
    let kept = [(1_000, 0), (500, 500)];
    for (events, dropped) in kept {
        let chunk = read(&bytes, ASKED, &mut room).unwrap();
        assert_eq!((chunk.events.len(), chunk.dropped), (events, dropped));
    }
}

#[test]
fn what_another_recording_asked_for_is_not_counted_beside_ours() {
    let of = |cpu_time, allocation_samples| {
        let asked = Asked {
            cpu_time,
            allocation_samples,
        };
        let names = [
            "jdk.ExecutionSample",
            "jdk.CPUTimeSample",
            "jdk.ObjectAllocationSample",
            "jdk.ObjectAllocationInNewTLAB",
        ];
        names.map(|name| Wanted::of(name, asked).is_some())
    };
    assert_eq!(of(false, false), [true, false, false, true]);
    assert_eq!(of(false, true), [true, false, true, false]);
    assert_eq!(of(true, true), [false, true, true, false]);
}

#[test]
fn a_class_that_holds_itself_is_refused() {
    let mut chunk = Builder::default();
    chunk.class(9, "jdk.ThreadPark", &[("self", 9, false)]);
    let bytes = chunk.with_events(&[(9, vec![0; 100])]);
    assert!(matches!(read_all(&bytes), Err(JfrError::Damaged { .. })));
}

/// Name, class, whether it is an array.
type NamedField = (String, u64, bool);

/// Makes chunks with classes and events of its own.
#[derive(Default)]
struct Builder {
    strings: Vec<String>,
    classes: Vec<(u64, String, Vec<NamedField>)>,
}

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn framed(kind: u64, body: &[u8]) -> Vec<u8> {
    let mut rest = number(kind);
    rest.extend(body);
    // Its own length, as five bytes, counts too.
    let size = u32::try_from(rest.len() + 5).unwrap();
    let mut bytes: Vec<u8> = (0..4)
        .map(|n| u8::try_from(size >> (7 * n) & 0x7f).unwrap() | 0x80)
        .collect();
    bytes.push(u8::try_from(size >> 28).unwrap());
    bytes.extend(rest);
    bytes
}

impl Builder {
    fn class(&mut self, id: u64, name: &str, fields: &[(&str, u64, bool)]) {
        let fields = fields.iter();
        let fields = fields.map(|(name, class, many)| ((*name).to_owned(), *class, *many));
        self.classes.push((id, name.to_owned(), fields.collect()));
    }

    fn string(&mut self, text: &str) -> Vec<u8> {
        let at = self.strings.iter().position(|known| known == text);
        let at = at.unwrap_or_else(|| {
            self.strings.push(text.to_owned());
            self.strings.len() - 1
        });
        number(u64::try_from(at).unwrap())
    }

    fn element(
        &mut self,
        name: &str,
        attributes: &[(&str, String)],
        children: Vec<Vec<u8>>,
    ) -> Vec<u8> {
        let mut bytes = self.string(name);
        bytes.extend(number(u64::try_from(attributes.len()).unwrap()));
        for (key, value) in attributes {
            bytes.extend(self.string(key));
            bytes.extend(self.string(value));
        }
        bytes.extend(number(u64::try_from(children.len()).unwrap()));
        bytes.extend(children.concat());
        bytes
    }

    fn with_events(&mut self, events: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let classes = self.classes.clone();
        let mut elements = Vec::new();
        for (id, name, fields) in classes {
            let mut children = Vec::new();
            for (name, class, many) in fields {
                let attributes = [
                    ("name", name),
                    ("class", class.to_string()),
                    ("dimension", u8::from(many).to_string()),
                ];
                children.push(self.element("field", &attributes, Vec::new()));
            }
            let attributes = [("id", id.to_string()), ("name", name)];
            elements.push(self.element("class", &attributes, children));
        }
        let root = self.element("root", &[], elements);
        let mut body = vec![0, 0, 0];
        body.extend(number(u64::try_from(self.strings.len()).unwrap()));
        for text in &self.strings {
            body.push(3);
            body.extend(number(u64::try_from(text.len()).unwrap()));
            body.extend(text.as_bytes());
        }
        body.extend(root);
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend(framed(METADATA, &body));
        for (kind, body) in events {
            bytes.extend(framed(*kind, body));
        }
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[5] = 2;
        let size = i64::try_from(bytes.len()).unwrap();
        bytes[8..16].copy_from_slice(&size.to_be_bytes());
        let metadata = i64::try_from(HEADER_BYTES).unwrap();
        bytes[24..32].copy_from_slice(&metadata.to_be_bytes());
        bytes[67] = 1;
        bytes
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((0..REAL.len(), any::<u8>()), 1..40),
    ) {
        let mut bytes = REAL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        drop(read_all(&bytes));
    }

    #[test]
    fn changed_events_and_pools_never_panic(
        // Around the metadata, which are most of the file.
        changes in prop::collection::vec(
            (prop_oneof![HEADER_BYTES..8_352, 105_374..REAL.len()], any::<u8>()),
            1..20,
        ),
    ) {
        let mut bytes = REAL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        drop(read_all(&bytes));
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2_000)) {
        drop(read_all(&noise));
        let mut bytes = REAL[..HEADER_BYTES].to_vec();
        let size = i64::try_from(HEADER_BYTES + noise.len()).unwrap();
        bytes[8..16].copy_from_slice(&size.to_be_bytes());
        bytes[24..32].copy_from_slice(&68_i64.to_be_bytes());
        bytes.extend(noise);
        drop(read_all(&bytes));
    }

    #[test]
    fn numbers_are_read_as_they_are_written(value in 0..1_u64 << 56) {
        let written = number(value);
        prop_assert_eq!(Bytes::new(&written, 0).number(), Ok(value));
    }
}
