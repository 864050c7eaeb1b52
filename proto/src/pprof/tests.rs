//! What is written is read back, and no bytes do harm.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::pb::pprof as pb;
use crate::stack::{Frame, FrameKind};
use crate::value_type::ValueType;

fn head() -> PprofHead {
    PprofHead {
        sample_types: vec![ValueType::new("cpu", "nanoseconds").unwrap()],
        period_type: ValueType::new("cpu", "nanoseconds").unwrap(),
        period: 10_000_000,
        time_ns: 1,
        duration_ns: 2,
        comments: Vec::new(),
    }
}

fn raw(change: impl FnOnce(&mut pb::Profile)) -> Vec<u8> {
    let mut builder = PprofBuilder::new(&head());
    builder.add(&[Frame::named(FrameKind::Go, "main.main")], vec![7]);
    let mut profile =
        pb::Profile::decode(&codec::gunzip(&builder.finish(), 1 << 20).unwrap()[..]).unwrap();
    change(&mut profile);
    profile.encode_to_vec()
}

#[test]
fn what_is_built_is_read_back() {
    let leaf = Frame::named(FrameKind::Go, "runtime.selectgo").at("select.go", 121);
    let root = Frame {
        start_line: 3,
        build_id: Arc::from(""),
        ..Frame::named(FrameKind::Go, "main.startSink").at("sink.go", 40)
    };
    let mut builder = PprofBuilder::new(&head());
    builder.add([&leaf, &root], vec![5]);
    builder.add([&root], vec![-2]);
    let read = Pprof::parse(&builder.finish(), FrameKind::Go).unwrap();
    assert_eq!(read.period, 10_000_000);
    assert_eq!(read.sample_types, head().sample_types);
    assert_eq!(&read.samples[0].stack[..], &[leaf, root.clone()]);
    assert_eq!(read.samples[1].values, [-2]);
    assert_eq!(&read.samples[1].stack[..], &[root]);
}

#[test]
fn labels_of_a_sample_are_read_back() {
    let leaf = Frame::named(FrameKind::Go, "main.main");
    let mut builder = PprofBuilder::new(&head());
    builder.add_labelled([&leaf], vec![-5], &[("pprof::base", "true"), ("a", "")]);
    let read = Pprof::parse(&builder.finish(), FrameKind::Go).unwrap();
    // A label without a text is a numeric one to every reader.
    assert_eq!(
        read.samples[0].labels,
        [("pprof::base".into(), "true".into())]
    );
    assert_eq!(read.numeric_labels, 1);
}

#[test]
fn a_long_text_is_cut_where_it_is_read_between_letters() {
    let limit = crate::limits::MAX_STRING_BYTES;
    for (letter, kept) in [
        ("a", limit),
        ("ü", limit - limit % 2),
        ("€", limit - limit % 3),
    ] {
        let long = letter.repeat(limit);
        let bytes = raw(|profile| {
            let name = usize::try_from(profile.function[0].name).unwrap();
            profile.string_table[name] = long.clone();
        });
        let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
        let name = &read.samples[0].stack[0].function;
        assert_eq!(name.len(), kept, "{letter}");
        assert!(long.starts_with(&**name));
    }
}

#[test]
fn dangling_indices_are_errors() {
    type Change = fn(&mut pb::Profile);
    let cases: [(&str, Change); 5] = [
        ("string", |p| p.function[0].name = 99),
        ("string", |p| p.sample_type[0].unit = -1),
        ("location", |p| p.sample[0].location_id[0] = 9),
        ("function", |p| p.location[0].line[0].function_id = 9),
        ("mapping", |p| {
            p.location[0].line.clear();
            p.location[0].mapping_id = 9;
        }),
    ];
    for (what, change) in cases {
        match Pprof::parse(&raw(change), FrameKind::Go) {
            Err(PprofError::Dangling { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(matches!(
        Pprof::parse(&raw(|p| p.sample[0].value.push(1)), FrameKind::Go),
        Err(PprofError::UnevenSample { .. })
    ));
}

#[test]
fn ids_need_not_count_up() {
    let bytes = raw(|p| {
        p.location[0].id = 900;
        p.function[0].id = u64::MAX;
        p.location[0].line[0].function_id = u64::MAX;
        p.sample[0].location_id = vec![900];
    });
    let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
    assert_eq!(&*read.samples[0].stack[0].function, "main.main");
}

#[test]
fn a_small_file_that_decodes_or_unfolds_beyond_memory_is_refused() {
    let limits = PprofLimits {
        decoded_bytes: 1 << 20,
        ..PprofLimits::default()
    };
    let is_refused = |bytes: &[u8]| {
        let read = PprofTable::parse(bytes, limits);
        matches!(read, Err(PprofError::TooManyMessages { .. }))
    };
    assert!(!is_refused(&raw(|_| {})));
    type Change = fn(&mut pb::Profile);
    let many: [Change; 6] = [
        |p| p.sample = vec![pb::Sample::default(); 40_000],
        |p| p.location = vec![pb::Location::default(); 10_000],
        |p| p.location[0].line = vec![pb::Line::default(); 40_000],
        |p| p.function = vec![pb::Function::default(); 10_000],
        |p| p.sample_type = vec![pb::ValueType::default(); 10_000],
        |p| p.string_table.resize(40_000, String::new()),
    ];
    for (number, change) in many.into_iter().enumerate() {
        assert!(is_refused(&raw(change)), "{number}");
    }
    // Neither are kept: a sample is read into the memory of the one before it.
    let many: [Change; 2] = [
        |p| p.sample[0].label = vec![p.sample[0].label[0]; 200_000],
        |p| p.sample[0].location_id = vec![1; 200_000],
    ];
    for change in many {
        let bytes = raw(|p| {
            let label = pb::Label {
                key: 1,
                str: 1,
                ..pb::Label::default()
            };
            p.sample[0].label.push(label);
            change(p);
        });
        let table = PprofTable::parse(&bytes, limits).unwrap();
        let mut samples = table.samples();
        let sample = samples.next().unwrap().unwrap();
        assert!(sample.labels == 200_000 || sample.locations.len() == MAX_FRAMES + 1);
    }
    let unfolding = raw(|p| {
        p.location[0].line = vec![p.location[0].line[0]; 1_000];
        p.sample = vec![p.sample[0].clone(); 3_000];
    });
    assert!(unfolding.len() < 64 * 1024);
    let refused = Pprof::parse(&unfolding, FrameKind::Go);
    assert!(matches!(refused, Err(PprofError::TooManyFrames)));
}

#[test]
fn a_table_tells_files_and_what_locations_stand_for() {
    let bytes = raw(|p| {
        p.string_table.push("a.py".to_owned());
        p.string_table.push("/lib/libc.so".to_owned());
        p.function[0].filename = 4;
        p.location[0].line[0].line = 7;
        p.mapping[0].filename = 5;
        p.mapping[0].memory_start = 0x100;
        p.mapping[0].file_offset = 0x30;
        p.location.push(pb::Location {
            id: 2,
            mapping_id: 1,
            address: 0x123,
            ..pb::Location::default()
        });
        p.location.push(pb::Location {
            id: 3,
            address: 0xab,
            ..pb::Location::default()
        });
    });
    let table = PprofTable::parse(&bytes, PprofLimits::default()).unwrap();
    assert_eq!(table.files().collect::<Vec<_>>(), ["a.py"]);
    let mut samples = table.samples();
    assert_eq!(samples.next().unwrap().unwrap().locations, [0]);
    assert_eq!(samples.next().unwrap(), None);
    let address = |name: &str, file_offset| PprofFrame::Address {
        name: name.to_owned(),
        build_id: "",
        file_offset,
    };
    let line = PprofFrame::Line {
        function: 0,
        line: 7,
    };
    for (location, expected) in [
        (0, line),
        (1, address("libc.so+0x53", 0x53)),
        (2, address("0xab", 0xab)),
    ] {
        let frames: Result<Vec<_>, _> = table.frames(location).collect();
        assert_eq!(frames.unwrap(), [expected]);
    }
    assert_eq!(table.function(0).unwrap().name, "main.main");
    for nothing in [
        table.frames(3).next().unwrap().err(),
        table.function(1).err(),
    ] {
        assert!(matches!(nothing, Some(PprofError::Dangling { .. })));
    }
}

#[test]
fn fields_may_come_in_any_order_and_unknown_ones_are_passed_over() {
    let whole = raw(|p| p.sample.push(p.sample[0].clone()));
    let expected = Pprof::parse(&whole, FrameKind::Go).unwrap();
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut rest = &whole[..];
    while !rest.is_empty() {
        let before = rest;
        let (tag, wire) = prost::encoding::decode_key(&mut rest).unwrap();
        let context = prost::encoding::DecodeContext::default();
        prost::encoding::skip_field(wire, tag, &mut rest, context).unwrap();
        fields.push(before[..before.len() - rest.len()].to_vec());
    }
    // Number 100: a number, four and eight bytes, a text.
    let unknown: [&[u8]; 4] = [
        &[0xa0, 6, 0x80, 1],
        &[0xa5, 6, 1, 2, 3, 4],
        &[0xa1, 6, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xa2, 6, 2, 0xff, 0xff],
    ];
    // Texts keep their order, everything else may move.
    let (texts, others): (Vec<_>, Vec<_>) = fields.into_iter().partition(|f| f[0] == 0x32);
    let unknown = unknown.map(<[u8]>::to_vec).into_iter();
    let parts: Vec<Vec<u8>> = unknown
        .chain(others.into_iter().rev())
        .chain(texts)
        .collect();
    let read = Pprof::parse(&parts.concat(), FrameKind::Go).unwrap();
    assert_eq!(read, expected);
}

#[test]
fn a_profile_that_ends_anywhere_is_refused_or_read() {
    let whole = raw(|p| p.sample = vec![p.sample[0].clone(); 3]);
    for end in 0..whole.len() {
        let _read = Pprof::parse(&whole[..end], FrameKind::Go);
    }
    // The last field breaks off.
    let end = whole.len() - 1;
    let broken = Pprof::parse(&whole[..end], FrameKind::Go);
    assert!(matches!(broken, Err(PprofError::Decode(WireError::Short))));
}

/// What `raw` holds as prost reads it, in plain steps; `None` when it is refused.
fn reference(raw: &[u8], kind: FrameKind) -> Option<Pprof> {
    let profile = pb::Profile::decode(raw).ok()?;
    let text = |index: i64| -> Option<Arc<str>> {
        let text = profile.string_table.get(usize::try_from(index).ok()?)?;
        Some(Arc::from(text.as_str()))
    };
    let value_type = |raw: &pb::ValueType| {
        let (kind, unit) = (text(raw.r#type)?, text(raw.unit)?);
        ValueType::new(&kind, if unit.is_empty() { "count" } else { &unit }).ok()
    };
    let frames = |id: u64| -> Option<Vec<Frame>> {
        // Of several with one id the last counts.
        let location = profile.location.iter().rfind(|l| l.id == id)?;
        let lines = location.line.iter().map(|line| {
            let id = line.function_id;
            let function = profile.function.iter().rfind(|f| f.id == id)?;
            let (name, system_name) = (text(function.name)?, text(function.system_name)?);
            Some(Frame {
                system_name: if system_name == name {
                    Arc::from("")
                } else {
                    system_name
                },
                file: text(function.filename)?,
                start_line: u32::try_from(function.start_line).unwrap_or(0),
                line: u32::try_from(line.line).unwrap_or(0),
                ..Frame::named(kind, &name)
            })
        });
        let lines = lines.collect::<Option<Vec<_>>>()?;
        if !lines.is_empty() {
            return Some(lines);
        }
        let (name, build_id, offset) = match location.mapping_id {
            0 => (String::new(), Arc::from(""), location.address),
            id => {
                let mapping = profile.mapping.iter().rfind(|m| m.id == id)?;
                let path = text(mapping.filename)?;
                let offset = location.address.wrapping_sub(mapping.memory_start);
                let offset = offset.wrapping_add(mapping.file_offset);
                let module = path.rsplit('/').next()?;
                (format!("{module}+"), text(mapping.build_id)?, offset)
            }
        };
        let name = format!("{name}0x{offset:x}");
        Some(vec![Frame {
            build_id,
            file_offset: offset,
            ..Frame::named(FrameKind::Unsymbolized, &name)
        }])
    };
    let types = profile.sample_type.iter().map(value_type);
    let sample_types = types.collect::<Option<Vec<_>>>()?;
    let period_type = match &profile.period_type {
        Some(raw) => Some(value_type(raw)?),
        None => None,
    };
    let mut numeric_labels = 0;
    let mut samples = Vec::new();
    for sample in &profile.sample {
        if sample.value.len() != sample_types.len() {
            return None;
        }
        let stacks = sample.location_id.iter().map(|id| frames(*id));
        let stack = stacks.collect::<Option<Vec<_>>>()?.concat();
        let (named, numeric): (Vec<&pb::Label>, Vec<&pb::Label>) =
            sample.label.iter().partition(|l| l.str != 0);
        numeric_labels += u64::try_from(numeric.len()).unwrap();
        let labels = named.iter().map(|l| Some((text(l.key)?, text(l.str)?)));
        samples.push(PprofSample {
            stack: Arc::from(stack),
            values: sample.value.clone(),
            labels: labels.collect::<Option<_>>()?,
        });
    }
    Some(Pprof {
        sample_types,
        period_type,
        period: profile.period,
        time_ns: profile.time_nanos,
        duration_ns: profile.duration_nanos,
        samples,
        numeric_labels,
    })
}

/// Ids and indices near what there is, most of them valid.
fn some_id() -> impl Strategy<Value = u64> {
    prop_oneof![40 => 1_u64..4, 1 => 0_u64..6, 1 => any::<u64>()]
}

fn some_text() -> impl Strategy<Value = i64> {
    prop_oneof![60 => 0_i64..5, 1 => -1_i64..7]
}

fn some_number() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0_i64..300, 1 => any::<i64>()]
}

prop_compose! {
    fn some_line()(function_id in some_id(), line in some_number(), column in 0_i64..3) -> pb::Line {
        pb::Line { function_id, line, column }
    }
}

prop_compose! {
    fn some_location()(
        mapping_id in prop_oneof![Just(0_u64), some_id()],
        address: u64,
        line in prop::collection::vec(some_line(), 0..3),
    ) -> pb::Location {
        pb::Location { id: 0, mapping_id, address, line, is_folded: false }
    }
}

prop_compose! {
    fn some_function()(
        texts in prop::array::uniform3(some_text()),
        start_line in some_number(),
    ) -> pb::Function {
        let [name, system_name, filename] = texts;
        pb::Function { id: 0, name, system_name, filename, start_line }
    }
}

prop_compose! {
    fn some_mapping()(
        memory_start: u64, file_offset: u64, filename in some_text(), build_id in some_text(),
    ) -> pb::Mapping {
        pb::Mapping { memory_start, file_offset, filename, build_id, ..pb::Mapping::default() }
    }
}

prop_compose! {
    fn some_sample()(
        location_id in prop::collection::vec(some_id(), 0..6),
        value in prop_oneof![
            30 => prop::collection::vec(some_number(), 2),
            1 => prop::collection::vec(some_number(), 0..4),
        ],
        label in prop::collection::vec((some_text(), some_text(), some_number()), 0..3),
    ) -> pb::Sample {
        let label = label.into_iter().map(|(key, str, num)| pb::Label { key, str, num, num_unit: 0 });
        pb::Sample { location_id, value, label: label.collect() }
    }
}

prop_compose! {
    fn some_profile()(
        sample in prop::collection::vec(some_sample(), 0..6),
        mut mapping in prop::collection::vec(some_mapping(), 3..4),
        mut location in prop::collection::vec(some_location(), 3..5),
        mut function in prop::collection::vec(some_function(), 3..5),
        texts in prop::collection::vec("[a-z/.ä]{1,6}", 4),
        period_type in prop::option::of(Just(pb::ValueType { r#type: 1, unit: 0 })),
        times in prop::array::uniform3(some_number()),
        are_counted in prop::array::uniform3(prop::bool::weighted(0.8)),
        ids in prop::collection::vec(1_u64..4, 5),
    ) -> pb::Profile {
        let id = |is_counted: bool, place: usize| match is_counted {
            true => u64::try_from(place).unwrap() + 1,
            false => ids[place],
        };
        for (place, mapping) in mapping.iter_mut().enumerate() {
            mapping.id = id(are_counted[0], place);
        }
        for (place, location) in location.iter_mut().enumerate() {
            location.id = id(are_counted[1], place);
        }
        for (place, function) in function.iter_mut().enumerate() {
            function.id = id(are_counted[2], place);
        }
        let [time_nanos, duration_nanos, period] = times;
        pb::Profile {
            sample_type: vec![
                pb::ValueType { r#type: 1, unit: 2 },
                pb::ValueType { r#type: 3, unit: 0 },
            ],
            sample,
            mapping,
            location,
            function,
            string_table: [String::new()].into_iter().chain(texts).collect(),
            time_nanos,
            duration_nanos,
            period_type,
            period,
            comment: vec![1, 2],
            ..pb::Profile::default()
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _read = Pprof::parse(&bytes, FrameKind::Go);
    }

    #[test]
    fn no_damage_panics(at in 0usize..400, byte: u8) {
        let mut bytes = raw(|_| {});
        let length = bytes.len();
        bytes[at % length] = byte;
        let _read = Pprof::parse(&bytes, FrameKind::Go);
    }

    #[test]
    fn a_profile_is_read_as_prost_reads_it(profile in some_profile()) {
        let raw = profile.encode_to_vec();
        let read = Pprof::parse(&raw, FrameKind::Go).ok();
        prop_assert_eq!(read, reference(&raw, FrameKind::Go));
    }

    #[test]
    fn a_damaged_profile_is_read_as_prost_reads_it_or_refused(
        profile in some_profile(), at: prop::sample::Index, byte: u8,
    ) {
        let mut raw = profile.encode_to_vec();
        let at = at.index(raw.len());
        raw[at] = byte;
        if let (Ok(read), Some(expected)) =
            (Pprof::parse(&raw, FrameKind::Go), reference(&raw, FrameKind::Go))
        {
            prop_assert_eq!(read, expected);
        }
    }
}
