//! Streams of bodies, good and bad, through both ends.

use std::sync::Arc;

use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::limits::{
    MAX_COLUMNS, MAX_DICTIONARY_BYTES, MAX_DICTIONARY_ENTRIES, MAX_SAMPLES, MAX_STACK_FRAMES,
    MAX_STRING_BYTES, MAX_WINDOWS,
};
use crate::pb::tepui as pb;
use crate::profile::Profile;
use crate::stack::{Frame, FrameKind, Stack};
use crate::value_type::{ProfileType, Temporality, ValueType};
use crate::window::UnixNanos;

fn window(start: i64, length: u64) -> Window {
    Window::from_start(UnixNanos::new(start), length).unwrap()
}

fn cpu(values: Vec<i64>) -> Column {
    Column {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: 10_000_000,
        weight: 10_000_000,
        values,
    }
}

fn stack(names: &[&str]) -> Stack {
    names
        .iter()
        .map(|name| Frame::named(FrameKind::Go, name).at("sink.go", 42))
        .collect()
}

fn profile(stacks: Vec<Stack>) -> Profile {
    let values = (1..).take(stacks.len()).collect();
    Profile::new(
        LabelSet::new([("service", "logger"), ("pod", "a-1")]).unwrap(),
        window(1_700_000_000_000_000_000, 10_000_000_000),
        stacks,
        vec![cpu(values)],
        Facts {
            cpu_ns: 30,
            threads_count: 2,
            ..Facts::default()
        },
    )
    .unwrap()
}

fn spin() -> Profile {
    profile(vec![
        stack(&["runtime.sellock", "runtime.selectgo", "main.startSink"]),
        stack(&["runtime.selectgo", "main.startSink"]),
    ])
}

fn decode(decoder: &mut Decoder, body: pb::BatchBody) -> Vec<Profile> {
    decoder
        .apply(body)
        .unwrap()
        .into_iter()
        .map(|window| decoder.profile(window.unwrap()).unwrap())
        .collect()
}

/// Lines of at most 64 hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        line.iter().fold(String::new(), |mut text, byte| {
            text.push_str(&format!("{byte:02x}"));
            text
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_bytes_of_a_stream_are_pinned() {
    let mut encoder = Encoder::new();
    let first = encoder.encode(&[spin()]).unwrap().encode_to_vec();
    expect![[r#"
        080112670a0f72756e74696d652e73656c6c6f636b0a0773696e6b2e676f0a10
        72756e74696d652e73656c656374676f0a0e6d61696e2e737461727453696e6b
        1208080210012002302a1208080210032002302a1208080210042002302a1a05
        0a030001021a040a0201021a1f0a0a0a03706f641203612d310a110a07736572
        7669636512066c6f676765722261088080a8b1e39fe7cb171080c8afa0252202
        00012a450a0b70726f636573735f63707512120a03637075120b6e616e6f7365
        636f6e64731a120a03637075120b6e616e6f7365636f6e64732080ade2042801
        3080ade2043a0202043a04081e1802"#]]
    .assert_eq(&hex(&first));
    // The second batch needs one new stack and nothing else.
    let other = profile(vec![stack(&["main.startSink"])]);
    let second = encoder.encode(&[other]).unwrap().encode_to_vec();
    expect![[r#"
        12051a030a01021a1f0a0a0a03706f641203612d310a110a0773657276696365
        12066c6f67676572225f088080a8b1e39fe7cb171080c8afa0252201022a440a
        0b70726f636573735f63707512120a03637075120b6e616e6f7365636f6e6473
        1a120a03637075120b6e616e6f7365636f6e64732080ade20428013080ade204
        3a01023a04081e1802"#]]
    .assert_eq(&hex(&second));
}

#[test]
fn frames_and_stacks_go_once_per_stream_and_strings_with_frames() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let entries = |body: &pb::BatchBody| {
        let d = body.dictionary.as_ref().unwrap();
        (body.reset, d.strings.len(), d.frames.len(), d.stacks.len())
    };
    for (profiles, expected) in [
        (vec![spin(), spin()], (true, 4, 3, 2)),
        (vec![spin()], (false, 0, 0, 0)),
        (
            vec![profile(vec![stack(&["main.startSink"])])],
            (false, 0, 0, 1),
        ),
        (
            vec![profile(vec![stack(&["new", "new"])])],
            (false, 2, 1, 1),
        ),
        (vec![profile(vec![])], (false, 0, 0, 0)),
        (vec![], (false, 0, 0, 0)),
    ] {
        let body = encoder.encode(&profiles).unwrap();
        assert_eq!(entries(&body), expected);
        assert_eq!(decode(&mut decoder, body), profiles);
    }
    assert_eq!(decoder.stack_count(), 4);
    assert_eq!(encoder.bytes, decoder.bytes, "both ends count alike");
}

#[test]
fn equal_labels_of_one_batch_are_sent_once() {
    let body = Encoder::new().encode(&[spin(), spin()]).unwrap();
    assert_eq!(body.label_sets.len(), 1);
    assert_eq!(body.windows.len(), 2);
}

/// A profile whose dictionary takes about `bytes`.
fn heavy(tag: &str, bytes: usize) -> Profile {
    let name_bytes = MAX_STRING_BYTES / 2;
    let names: Vec<String> = (0..bytes / name_bytes)
        .map(|n| format!("{tag}{n:>name_bytes$}"))
        .collect();
    let frames = names.chunks(1000).map(|names| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        stack(&names)
    });
    profile(frames.collect())
}

#[test]
fn at_the_byte_cap_the_dictionary_begins_anew() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let mut resets = Vec::new();
    for n in 0..5 {
        let sent = heavy(&format!("p{n}."), MAX_DICTIONARY_BYTES / 5 * 2);
        let body = encoder.encode(std::slice::from_ref(&sent)).unwrap();
        resets.push(body.reset);
        assert_eq!(decode(&mut decoder, body), [sent]);
        assert!(decoder.bytes <= MAX_DICTIONARY_BYTES);
    }
    assert_eq!(resets, [true, false, true, false, true]);
}

#[test]
fn at_the_entry_cap_the_dictionary_begins_anew() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    // Each takes a string, a frame and a stack.
    let wide = |tag: u32| {
        let stacks = (0..50_000).map(|n| {
            let frame = Frame::named(FrameKind::Native, &format!("{tag}.{n}"));
            Stack::from(vec![frame])
        });
        profile(stacks.collect())
    };
    let mut resets = Vec::new();
    for tag in 0..3 {
        let sent = wide(tag);
        let body = encoder.encode(std::slice::from_ref(&sent)).unwrap();
        resets.push(body.reset);
        assert_eq!(decode(&mut decoder, body), [sent]);
    }
    assert_eq!(resets, [true, false, true]);
}

#[test]
fn a_batch_that_alone_passes_a_cap_is_refused_and_the_encoder_lives_on() {
    let mut encoder = Encoder::new();
    encoder.encode(&[spin()]).unwrap();
    for profiles in [
        vec![heavy("p", MAX_DICTIONARY_BYTES / 5 * 6)],
        vec![spin(); MAX_WINDOWS + 1],
    ] {
        assert!(matches!(
            encoder.encode(&profiles),
            Err(DictionaryError::TooLarge { .. })
        ));
        let body = encoder.encode(&[spin()]).unwrap();
        if body.reset {
            assert_eq!(decode(&mut Decoder::new(), body), [spin()]);
        }
    }
}

#[test]
fn what_is_too_long_is_cut_at_the_sender() {
    let long = "é".repeat(MAX_STRING_BYTES);
    let deep: Vec<&str> = vec!["f"; MAX_STACK_FRAMES + 7];
    let sent = profile(vec![stack(&[&long]), stack(&deep)]);
    let body = Encoder::new().encode(&[sent]).unwrap();
    let received = decode(&mut Decoder::new(), body);
    let [name, deep] = received[0].stacks() else {
        panic!("two stacks were sent");
    };
    assert_eq!(&*name[0].function, "é".repeat(MAX_STRING_BYTES / 2));
    assert_eq!(deep.len(), MAX_STACK_FRAMES);
    assert_eq!(&*deep[MAX_STACK_FRAMES - 1].function, "[truncated]");
    assert_eq!(&*deep[MAX_STACK_FRAMES - 2].function, "f");
}

#[test]
fn a_broken_dictionary_is_an_error_of_the_stream() {
    let dictionary = |frame: pb::Frame, stack: Vec<u32>| pb::Dictionary {
        strings: vec!["a".to_owned()],
        frames: vec![frame],
        stacks: vec![pb::Stack { frames: stack }],
    };
    let native = |function, file| pb::Frame {
        kind: 1,
        function,
        file,
        ..pb::Frame::default()
    };
    let dangling = |what, id| DictionaryError::Dangling { what, id };
    let unknown = |number| DictionaryError::UnknownEnum {
        what: "frame kind",
        number,
    };
    let kind = |kind| pb::Frame {
        kind,
        ..pb::Frame::default()
    };
    for (dictionary, expected) in [
        (dictionary(native(1, 0), vec![0]), None),
        (
            dictionary(native(2, 0), vec![]),
            Some(dangling("string", 1)),
        ),
        (
            dictionary(native(1, u32::MAX), vec![]),
            Some(dangling("string", u32::MAX - 1)),
        ),
        (
            dictionary(native(1, 0), vec![0, 1]),
            Some(dangling("frame", 1)),
        ),
        (
            dictionary(native(1, 0), vec![u32::MAX]),
            Some(dangling("frame", u32::MAX)),
        ),
        (dictionary(kind(0), vec![]), Some(unknown(0))),
        (dictionary(kind(10), vec![]), Some(unknown(10))),
        (dictionary(kind(-1), vec![]), Some(unknown(-1))),
        (dictionary(kind(257), vec![]), Some(unknown(257))),
        (
            dictionary(native(1, 0), vec![0; MAX_STACK_FRAMES + 1]),
            Some(DictionaryError::TooLarge {
                what: "stack in frames",
                size: MAX_STACK_FRAMES + 1,
                limit: MAX_STACK_FRAMES,
            }),
        ),
        (
            pb::Dictionary {
                strings: vec!["a".repeat(MAX_STRING_BYTES + 1)],
                ..pb::Dictionary::default()
            },
            Some(DictionaryError::TooLarge {
                what: "string in bytes",
                size: MAX_STRING_BYTES + 1,
                limit: MAX_STRING_BYTES,
            }),
        ),
        (
            pb::Dictionary {
                strings: vec![String::new(); MAX_DICTIONARY_ENTRIES + 1],
                ..pb::Dictionary::default()
            },
            Some(DictionaryError::TooLarge {
                what: "number of dictionary entries",
                size: MAX_DICTIONARY_ENTRIES + 1,
                limit: MAX_DICTIONARY_ENTRIES,
            }),
        ),
        (
            pb::Dictionary {
                strings: vec!["a".repeat(MAX_STRING_BYTES); 1024],
                ..pb::Dictionary::default()
            },
            Some(DictionaryError::TooLarge {
                what: "dictionary in bytes",
                size: 1024 * (MAX_STRING_BYTES + ENTRY_COST),
                limit: MAX_DICTIONARY_BYTES,
            }),
        ),
    ] {
        let body = pb::BatchBody {
            reset: true,
            dictionary: Some(dictionary),
            ..pb::BatchBody::default()
        };
        assert_eq!(Decoder::new().apply(body).err(), expected);
    }
}

#[test]
fn entries_of_before_a_reset_are_gone() {
    let mut decoder = Decoder::new();
    let mut body = Encoder::new().encode(&[spin()]).unwrap();
    decoder.apply(body.clone()).unwrap();
    body.dictionary = None;
    let window = decoder.apply(body).unwrap().remove(0);
    assert_eq!(
        window,
        Err(WireWindowError::Dictionary(DictionaryError::Dangling {
            what: "stack",
            id: 0
        }))
    );
    assert_eq!((decoder.bytes, decoder.stack_count()), (0, 0));
    assert_eq!(decoder.stack(0).count(), 0);
}

#[test]
fn a_bad_window_is_refused_and_its_neighbours_stand() {
    type Break = fn(&mut pb::BatchBody);
    let dangling = |what, id| WireWindowError::Dictionary(DictionaryError::Dangling { what, id });
    let rows: [(Break, WireWindowError); 12] = [
        (|b| b.windows[1].label_set = 7, dangling("label set", 7)),
        (|b| b.windows[1].stacks[0] = 2, dangling("stack", 2)),
        (
            |b| {
                b.label_sets.push(pb::LabelSet::default());
                b.windows[1].label_set = 1;
            },
            WireWindowError::NoService,
        ),
        (
            |b| {
                let label = pb::Label::default();
                b.label_sets.push(pb::LabelSet {
                    labels: vec![label],
                });
                b.windows[1].label_set = 1;
            },
            WireWindowError::Labels(LabelError::BadName {
                name: String::new(),
            }),
        ),
        (
            |b| b.windows[1].duration_nanos = 0,
            WireWindowError::Window(WindowError::Empty {
                start: UnixNanos::new(1_700_000_000_000_000_000),
                end: UnixNanos::new(1_700_000_000_000_000_000),
            }),
        ),
        (
            |b| b.windows[1].duration_nanos = u64::MAX,
            WireWindowError::Window(WindowError::OutOfRange {
                start_ns: 1_700_000_000_000_000_000,
                duration_ns: u64::MAX,
            }),
        ),
        (
            |b| b.windows[1].start_unix_nanos = i64::MIN,
            WireWindowError::Window(WindowError::OutOfRange {
                start_ns: i64::MIN,
                duration_ns: 0,
            }),
        ),
        (
            |b| b.windows[1].columns[0].temporality = 9,
            WireWindowError::Dictionary(DictionaryError::UnknownEnum {
                what: "temporality",
                number: 9,
            }),
        ),
        (
            |b| b.windows[1].columns[0].values.truncate(1),
            WireWindowError::Columns(ProfileError::UnevenColumn {
                profile_type: ProfileType::cpu().to_string(),
                values: 1,
                stacks: 2,
            }),
        ),
        (
            |b| b.windows[1].columns[0].weight = 0,
            WireWindowError::Columns(ProfileError::ZeroWeight {
                profile_type: ProfileType::cpu().to_string(),
            }),
        ),
        (
            |b| {
                let again = b.windows[1].columns[0].clone();
                b.windows[1].columns.push(again);
            },
            WireWindowError::Columns(ProfileError::TwiceTheSame {
                profile_type: ProfileType::cpu().to_string(),
            }),
        ),
        (
            |b| {
                let column = b.windows[1].columns[0].clone();
                b.windows[1].columns = vec![column; MAX_COLUMNS + 1];
            },
            WireWindowError::Dictionary(DictionaryError::TooLarge {
                what: "number of columns",
                size: MAX_COLUMNS + 1,
                limit: MAX_COLUMNS,
            }),
        ),
    ];
    for (break_it, expected) in rows {
        let mut body = Encoder::new().encode(&[spin(), spin(), spin()]).unwrap();
        break_it(&mut body);
        let mut decoder = Decoder::new();
        let mut windows = decoder.apply(body).unwrap();
        assert_eq!(windows.remove(1), Err(expected));
        for window in windows {
            assert_eq!(decoder.profile(window.unwrap()), Ok(spin()));
        }
    }
}

#[test]
fn too_many_windows_or_samples_are_refused() {
    let mut body = Encoder::new().encode(&[spin()]).unwrap();
    body.windows = vec![pb::Window::default(); MAX_WINDOWS + 1];
    assert!(matches!(
        Decoder::new().apply(body),
        Err(DictionaryError::TooLarge { .. })
    ));
    let mut body = Encoder::new().encode(&[spin()]).unwrap();
    body.windows[0].stacks = vec![0; MAX_SAMPLES + 1];
    assert!(matches!(
        Decoder::new().apply(body).unwrap().remove(0),
        Err(WireWindowError::Dictionary(
            DictionaryError::TooLarge { .. }
        ))
    ));
}

fn any_text() -> impl Strategy<Value = Arc<str>> {
    "[a-c]{0,2}|\\PC{0,8}".prop_map(Arc::from)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let kind = prop::sample::select(FrameKind::ALL.to_vec());
    let texts = (any_text(), any_text(), any_text(), any_text());
    (kind, texts, any::<(u32, u32, u64)>()).prop_map(
        |((kind, _), (function, system_name, file, build_id), (start_line, line, file_offset))| {
            Frame {
                kind,
                function,
                system_name,
                file,
                start_line,
                line,
                build_id,
                file_offset,
            }
        },
    )
}

prop_compose! {
    fn any_facts()(
        (cpu_ns, rss_bytes, throttled_ns, lost_samples) in any::<(u64, u64, u64, u64)>(),
        (dropped_labels, observed_ns, start) in any::<(u64, u64, i64)>(),
        (threads_count, processes_count) in any::<(u32, u32)>(),
        (cpu_limit_millicores, coverage_permille) in any::<(u32, u32)>(),
    ) -> Facts {
        Facts {
            cpu_ns,
            rss_bytes,
            threads_count,
            processes_count,
            target_start: UnixNanos::new(start),
            cpu_limit_millicores,
            throttled_ns,
            coverage_permille,
            lost_samples,
            dropped_labels,
            observed_ns,
        }
    }
}

prop_compose! {
    fn any_profile()(
        pool in vec(any_frame(), 1..6),
        picks in vec(vec(any::<prop::sample::Index>(), 0..6), 0..6),
        labels in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..4),
        start in 0..i64::MAX / 2,
        length in 1..1_u64 << 62,
        facts in any_facts(),
        gauge: bool,
        (period, weight) in (any::<i64>(), 1..u64::MAX),
        (first, second) in (vec(any::<i64>(), 6), vec(any::<i64>(), 6)),
    ) -> Profile {
        let stacks: Vec<Stack> = picks
            .iter()
            .map(|picks| picks.iter().map(|pick| pick.get(&pool).clone()).collect())
            .collect();
        let heap = ValueType::new("inuse_space", "bytes").unwrap();
        let column = |profile_type, temporality, values: &[i64]| Column {
            profile_type,
            temporality,
            period,
            weight,
            values: values[..stacks.len()].to_vec(),
        };
        let columns = vec![
            column(ProfileType::cpu(), Temporality::Delta, &first),
            column(
                ProfileType::new("memory", heap.clone(), heap).unwrap(),
                if gauge { Temporality::Gauge } else { Temporality::Delta },
                &second,
            ),
        ];
        let labels = LabelSet::new(labels).unwrap().with("service", "s").unwrap();
        Profile::new(labels, window(start, length), stacks, columns, facts).unwrap()
    }
}

/// A body near enough to a good one to get deep into the checks.
fn any_body() -> impl Strategy<Value = pb::BatchBody> {
    let id = prop_oneof![4 => 0..3_u32, 1 => any::<u32>()];
    let number = prop_oneof![4 => 0..4_i32, 1 => any::<i32>()];
    let frame = (
        number.clone(),
        id.clone(),
        id.clone(),
        id.clone(),
        id.clone(),
    )
        .prop_map(|(kind, function, system_name, file, build_id)| pb::Frame {
            kind,
            function,
            system_name,
            file,
            build_id,
            ..pb::Frame::default()
        });
    let stack = vec(id.clone(), 0..4).prop_map(|frames| pb::Stack { frames });
    let dictionary = (vec("[a-c]{0,2}", 0..4), vec(frame, 0..4), vec(stack, 0..4)).prop_map(
        |(strings, frames, stacks)| pb::Dictionary {
            strings,
            frames,
            stacks,
        },
    );
    let value_type = prop::option::of(("[a:]{0,2}", "[b:]{0,2}"))
        .prop_map(|parts| parts.map(|(kind, unit)| pb::ValueType { kind, unit }));
    let column = (
        "[a:]{0,2}",
        value_type.clone(),
        value_type,
        number,
        any::<(i64, u64)>(),
        vec(any::<i64>(), 0..3),
    )
        .prop_map(
            |(name, sample_type, period_type, temporality, (period, weight), values)| pb::Column {
                name,
                sample_type,
                period_type,
                period,
                temporality,
                weight,
                values,
            },
        );
    let label = ("(service|[a-c]?)", "[a-c]?").prop_map(|(name, value)| pb::Label { name, value });
    let set = vec(label, 0..3).prop_map(|labels| pb::LabelSet { labels });
    let window = (
        any::<(i64, u64)>(),
        id.clone(),
        vec(id, 0..3),
        vec(column, 0..3),
    )
        .prop_map(
            |((start_unix_nanos, duration_nanos), label_set, stacks, columns)| pb::Window {
                start_unix_nanos,
                duration_nanos,
                label_set,
                stacks,
                columns,
                ..pb::Window::default()
            },
        );
    (
        any::<bool>(),
        prop::option::of(dictionary),
        vec(set, 0..3),
        vec(window, 0..4),
    )
        .prop_map(|(reset, dictionary, label_sets, windows)| pb::BatchBody {
            reset,
            dictionary,
            label_sets,
            windows,
        })
}

/// Feeds bodies to one decoder; whatever it accepts must be whole.
fn feed(bodies: Vec<pb::BatchBody>) {
    let mut decoder = Decoder::new();
    for body in bodies {
        for window in decoder.apply(body).into_iter().flatten().flatten() {
            let samples = window.stacks.len();
            let profile = decoder.profile(window).unwrap();
            assert_eq!(profile.stacks().len(), samples);
            assert!(!profile.labels().service().is_empty());
        }
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding_over_a_stream(
        batches in vec(vec(any_profile(), 0..4), 1..4),
    ) {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        for batch in batches {
            let bytes = encoder.encode(&batch).unwrap().encode_to_vec();
            let body = pb::BatchBody::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(decode(&mut decoder, body), batch);
            prop_assert_eq!(encoder.bytes, decoder.bytes);
        }
    }

    #[test]
    fn no_body_panics(bodies in vec(any_body(), 1..4)) {
        feed(bodies);
    }

    #[test]
    fn no_damage_of_a_good_body_panics(
        batch in vec(any_profile(), 1..3),
        at: prop::sample::Index,
        with: u8,
    ) {
        let mut bytes = Encoder::new().encode(&batch).unwrap().encode_to_vec();
        *at.get_mut(&mut bytes) = with;
        feed(pb::BatchBody::decode(bytes.as_slice()).into_iter().collect());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        feed(pb::BatchBody::decode(bytes.as_slice()).into_iter().collect());
    }
}
