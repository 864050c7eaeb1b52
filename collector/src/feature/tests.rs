use super::codec::{KEY_BYTES, RowError, SERIES_ROW, SERVICE_ROW, key, prefix, version_number};
use super::*;
use expect_test::expect;
use proptest::prelude::*;
use proto::stack::Frame;
use proto::window::UnixNanos;

const MINUTE_NS: u64 = 60_000_000_000;

fn tree(stacks: &[(&str, i128)]) -> CallTree {
    let mut tree = CallTree::new();
    for (folded, samples) in stacks {
        let frames: Vec<Frame> = folded
            .split(';')
            .map(|function| Frame::named(FrameKind::Go, function))
            .collect();
        tree.add(frames.iter(), *samples);
    }
    tree
}

fn step() -> Window {
    Window::from_start(UnixNanos::new(1_700_000_040_000_000_000), MINUTE_NS).unwrap()
}

fn profile<'a>(tree: &'a CallTree, labels: &'a LabelSet) -> StepProfile<'a> {
    StepProfile {
        step: step(),
        tenant: "anonymous",
        namespace: "prod",
        service: "logger",
        labels,
        samples: count(tree.total()),
        tree,
        period_ns: 10_000_000,
        observed_ns: 0,
        facts: Facts {
            cpu_ns: 61_000_000_000,
            target_start: UnixNanos::new(-1),
            cpu_limit_millicores: 2_000,
            ..Facts::default()
        },
    }
}

fn labels() -> LabelSet {
    LabelSet::new([("pod", "a"), ("service", "logger"), ("version", "1.8")]).unwrap()
}

fn spinning() -> SeriesRow {
    let tree = tree(&[
        ("main.startSink;runtime.selectgo", 4_000),
        ("main.startSink;runtime.selectgo;runtime.sellock", 1_000),
        ("main.startSink;runtime.selectgo;runtime.send", 50),
        ("main.work", 1_000),
    ]);
    let catalogue = Catalogue::built_in().unwrap();
    series_row(
        &profile(&tree, &labels()),
        &catalogue,
        &SpinSettings::default(),
    )
}

#[test]
fn a_row_names_its_series_and_counts_its_cores() {
    let row = spinning();
    assert_eq!((row.pod.as_str(), row.version.as_str()), ("a", "1.8"));
    assert_eq!((row.samples, row.observed_ns), (6_050, MINUTE_NS));
    assert!((row.cores - 1.008).abs() < 0.001, "{}", row.cores);
    let [candidate] = row.candidates.as_slice() else {
        panic!("{:?}", row.candidates);
    };
    assert_eq!(candidate.identity, ["main.startSink"]);
    assert_eq!(candidate.progress_share, Some(50.0 / 5_050.0));
}

#[test]
fn time_without_samples_taken_is_no_time_without_work() {
    let tree = tree(&[("main.work", 500)]);
    let labels = labels();
    let of = |observed_ns| {
        let profile = StepProfile {
            observed_ns,
            ..profile(&tree, &labels)
        };
        let catalogue = Catalogue::built_in().unwrap();
        series_row(&profile, &catalogue, &SpinSettings::default()).cores
    };
    // Ten seconds of the minute; longer than the step is the whole step.
    for (observed_ns, cores) in [(MINUTE_NS / 6, 0.5), (MINUTE_NS, 0.083), (u64::MAX, 0.083)] {
        assert!((of(observed_ns) - cores).abs() < 0.001, "{observed_ns}");
    }
}

#[test]
fn a_function_that_calls_itself_counts_once_per_sample() {
    let tree = tree(&[
        ("main.main;main.walk", 3),
        ("main.main;main.walk;main.walk;main.walk", 5),
        ("main.main;main.walk;main.leaf;main.walk", 2),
        ("main.other;main.leaf", 1),
    ]);
    let row = service_row(&profile(&tree, &labels()), counts_of_tree(&tree));
    let counts: Vec<(&str, u64, u64)> = row
        .functions
        .iter()
        .map(|f| (f.function.as_str(), f.flat, f.cum))
        .collect();
    assert_eq!(
        counts,
        [
            ("main.main", 0, 10),
            ("main.walk", 10, 10),
            ("main.leaf", 1, 3),
            ("main.other", 0, 1),
        ]
    );
    assert_eq!((row.samples, row.other_flat), (11, 0));
    assert_eq!(row.version, "1.8");
}

#[test]
fn a_long_chain_of_callers_does_not_push_out_the_workers() {
    let chain: Vec<String> = (0..300).map(|depth| format!("caller{depth:03}")).collect();
    let chain = chain.join(";");
    let stacks: Vec<(String, i128)> = (0..300)
        .map(|n| (format!("{chain};worker{n:03}"), 1_000 - n))
        .collect();
    let stacks: Vec<(&str, i128)> = stacks.iter().map(|(s, n)| (s.as_str(), *n)).collect();
    let row = service_row(
        &profile(&tree(&stacks), &labels()),
        counts_of_tree(&tree(&stacks)),
    );
    assert_eq!(row.functions.len(), MAX_FUNCTIONS);
    let is_listed = |name: &str| row.functions.iter().any(|f| f.function == name);
    assert!(is_listed("worker000") && is_listed("worker099") && is_listed("caller000"));
    let listed: u64 = row.functions.iter().map(|f| f.flat).sum();
    assert_eq!(listed + row.other_flat, row.samples);
}

#[test]
fn cores_of_a_function_are_a_mean_over_steps_and_a_sum_over_versions() {
    let row = |minute: i64, version: &str, cum| ServiceRow {
        step: Window::from_start(UnixNanos::new(minute * 60_000_000_000), MINUTE_NS).unwrap(),
        version: version.to_owned(),
        period_ns: 10_000_000,
        observed_ns: MINUTE_NS,
        samples: cum,
        functions: vec![FunctionCount {
            function: "main.f".to_owned(),
            flat: 0,
            cum,
        }],
        other_flat: 0,
    };
    let rows = [row(1, "1", 3_000), row(1, "2", 3_000), row(2, "2", 6_000)];
    assert_eq!(function_cores(&rows, "main.f"), Some(1.0));
    assert_eq!(function_cores(&rows, "main.g"), Some(0.0));
    assert_eq!(function_cores(&[], "main.f"), None);
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn bytes_on_disk_stay_as_they_are() {
    expect!["0180c0cce5f0c1ce972f80b09dc2df0109616e6f6e796d6f75730470726f64066c6f67676572016103312e389ffbfffdaaff8ea5820180ade20480b09dc2df01a22f222222222222f03f80c4889fe30100000001d00f000000000001020e6d61696e2e737461727453696e6b0000021072756e74696d652e73656c656374676f000002010e6d61696e2e737461727453696e6bba27efeeeeeeeeeeea3f600220fe76c2fb3f98746a1ee4aeef3f01fbd96265f846843f031072756e74696d652e73656c656374676f7a90bb7eb658e93f0f72756e74696d652e73656c6c6f636b7a90bb7eb658c93f0c72756e74696d652e73656e64fbd96265f846843f"].assert_eq(&hex(&spinning().encode()));
    let tree = tree(&[("main.f;main.g", 300), ("main.f", 1)]);
    expect!["0180c0cce5f0c1ce972f80b09dc2df0103312e3880ade20480b09dc2df01ad020002066d61696e2e6601ad02066d61696e2e67ac02ac02"].assert_eq(&hex(&service_row(&profile(&tree, &labels()), counts_of_tree(&tree)).encode()));
    let at = step().start();
    expect!["0100000007000000006553f12800000009"].assert_eq(&hex(&key(SERIES_ROW, 7, at, 9)));
    expect!["0200000007000000006553f128f97e17f8"].assert_eq(&hex(&key(
        SERVICE_ROW,
        7,
        at,
        version_number("1.8"),
    )));
    expect!["824a3bfaafbffd9f"].assert_eq(&format!("{:016x}", series_hash(&labels())));
}

#[test]
fn what_is_no_row_is_refused() {
    let good = spinning().encode();
    let mut longer = good.clone();
    longer.push(0);
    let mut newer = good.clone();
    newer[0] = 2;
    assert_eq!(SeriesRow::decode(&[]), Err(RowError::Damaged));
    assert_eq!(SeriesRow::decode(&longer), Err(RowError::Damaged));
    assert_eq!(
        SeriesRow::decode(&newer),
        Err(RowError::Format { found: 2 })
    );
    for length in 1..good.len() {
        assert_eq!(
            SeriesRow::decode(&good[..length]),
            Err(RowError::Damaged),
            "{length}"
        );
    }
    // A list said to be endless, of nothing.
    let mut endless = ServiceRow::encode(&service_row(&profile(&tree(&[]), &labels()), Vec::new()));
    endless.pop();
    endless.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    assert_eq!(ServiceRow::decode(&endless), Err(RowError::Damaged));
}

#[test]
fn two_sets_of_labels_are_two_series() {
    let of = |pairs: &[(&str, &str)]| series_hash(&LabelSet::new(pairs.iter().copied()).unwrap());
    let all = [
        of(&[]),
        of(&[("a", "bc")]),
        of(&[("ab", "c")]),
        of(&[("a", "b"), ("c", "d")]),
        of(&[("a", "bcd")]),
    ];
    let unique: std::collections::BTreeSet<u64> = all.into_iter().collect();
    assert_eq!(unique.len(), all.len());
}

fn text() -> impl Strategy<Value = String> {
    "[a-zäλ.()*;/]{0,12}"
}

fn candidates() -> impl Strategy<Value = Vec<SpinCandidate>> {
    let kind = prop::sample::select(FrameKind::ALL.map(|(kind, _)| kind).to_vec());
    let frame =
        (text(), text(), any::<u32>(), kind).prop_map(|(function, file, line, kind)| PathFrame {
            function,
            file,
            line,
            kind,
        });
    let shares = (
        0.0..1.0,
        1.0..50.0,
        0.0..64.0,
        proptest::option::of(0.0..1.0),
    );
    let candidate = (
        prop::collection::vec(frame, 0..4),
        prop::collection::vec(text(), 0..4),
        any::<u64>(),
        shares,
        prop::collection::vec((text(), 0.0..1.0), 0..4),
    );
    let candidate = candidate.prop_map(|(path, identity, samples, shares, top_leaves)| {
        let (wait_share, leaf_eff, cores, progress_share) = shares;
        SpinCandidate {
            path,
            identity,
            cores,
            samples,
            leaf_eff,
            wait_share,
            progress_share,
            top_leaves,
        }
    });
    prop::collection::vec(candidate, 0..3)
}

proptest! {
    #[test]
    fn functions_are_counted_as_in_the_call_tree(
        stacks in proptest::collection::vec((proptest::collection::vec("[a-c]", 0..5), 1i128..9), 0..20),
    ) {
        let mut stored = ServiceTree::new(crate::store::ServiceId(1), crate::store::Epoch(0));
        let mut values = ExactSums::default();
        let mut tree = CallTree::new();
        for (stack, value) in &stacks {
            let frames: Vec<_> = stack.iter().map(|name| Frame::named(FrameKind::Go, name)).collect();
            values.add(stored.intern(frames.iter()), *value);
            tree.add(frames.iter(), *value);
        }
        let (mut found, mut expected) = (function_counts(&stored, &values), counts_of_tree(&tree));
        for counts in [&mut found, &mut expected] {
            counts.sort_by(|a, b| a.function.cmp(b.function));
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn series_rows_round_trip(
        texts in prop::array::uniform5(text()),
        numbers in prop::array::uniform5(any::<u64>()),
        start in 0_i64..4_000_000_000_000_000_000,
        cores in 0.0..128.0,
        target_start in any::<i64>(),
        small in any::<u32>(),
        candidates in candidates(),
    ) {
        let [tenant, namespace, service, pod, version] = texts;
        let [series, period_ns, observed_ns, samples, length_ns] = numbers;
        let row = SeriesRow {
            step: Window::from_start(UnixNanos::new(start), length_ns % MINUTE_NS + 1).unwrap(),
            tenant, namespace, service, series, pod, version, period_ns, observed_ns, samples, cores,
            facts: Facts {
                cpu_ns: samples,
                threads_count: small,
                target_start: UnixNanos::new(target_start),
                cpu_limit_millicores: small,
                lost_samples: series,
                ..Facts::default()
            },
            candidates,
        };
        prop_assert_eq!(SeriesRow::decode(&row.encode()), Ok(row));
    }

    #[test]
    fn service_rows_round_trip(
        version in text(),
        numbers in prop::array::uniform4(any::<u64>()),
        functions in prop::collection::vec((text(), any::<u64>(), any::<u64>()), 0..5),
    ) {
        let [period_ns, observed_ns, samples, other_flat] = numbers;
        let count = |(function, flat, cum)| FunctionCount { function, flat, cum };
        let row = ServiceRow {
            step: step(), version, period_ns, observed_ns, samples, other_flat,
            functions: functions.into_iter().map(count).collect(),
        };
        prop_assert_eq!(ServiceRow::decode(&row.encode()), Ok(row));
    }

    #[test]
    fn no_bytes_panic(mut bytes: Vec<u8>) {
        let _any = (SeriesRow::decode(&bytes), ServiceRow::decode(&bytes));
        bytes.insert(0, 1);
        let _known_format = (SeriesRow::decode(&bytes), ServiceRow::decode(&bytes));
    }

    #[test]
    fn byte_order_of_keys_is_kind_service_time_number(
        a in (1_u8..3, 0_u32..3, 0_i64..5, 0_u32..3),
        b in (1_u8..3, 0_u32..3, 0_i64..5, 0_u32..3),
    ) {
        let of = |(kind, service, start, number)| -> [u8; KEY_BYTES] {
            key(kind, service, UnixNanos::new(start * 1_000_000_000), number)
        };
        prop_assert_eq!(of(a).cmp(&of(b)), a.cmp(&b));
        prop_assert!(of(a).starts_with(&prefix(a.0, a.1)));
    }
}
