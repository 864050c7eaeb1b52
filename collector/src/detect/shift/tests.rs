use proto::window::{UnixNanos, Window};

use super::baseline::Reach;
use super::*;
use crate::feature::FunctionCount;

const HOUR_S: i64 = 3_600;
/// Functions in two packages, with so many samples in an hour.
const PROGRAM: [(&str, u64); 8] = [
    ("shop/a.parse", 20_000),
    ("shop/a.check", 10_000),
    ("shop/a.sort", 5_000),
    ("shop/b.store", 9_000),
    ("shop/b.index", 7_000),
    ("shop/b.log", 3_000),
    ("runtime.gc", 6_000),
    ("runtime.mallocgc", 4_000),
];

/// What happens to a count in an hour.
type Change<'a> = &'a dyn Fn(&str, u64) -> u64;

const NOTHING: Change<'static> = &|_, count| count;

/// A row of the hour (or ten minutes, with a sixth of the samples) `hour`, counted from
/// day 20,000. Counts differ by 1 % from hour to hour, each function in its own way.
fn row(grain: Grain, start_s: i64, change: Change<'_>) -> ServiceRow {
    let length_s = i64::try_from(grain.length_s()).unwrap();
    let part = u64::try_from(HOUR_S / length_s).unwrap();
    let mut functions = Vec::new();
    let (mut total, mut of_a) = (0, 0);
    for (place, (function, count)) in (1_i64..).zip(PROGRAM) {
        let wobble = (start_s / length_s * 7 + place * 13) % 5 - 2;
        let count = count / 200 * u64::try_from(200 + wobble).unwrap() / part;
        let count = change(function, count);
        total += count;
        of_a += if function.starts_with("shop/a.") {
            count
        } else {
            0
        };
        functions.push((function, count, count));
    }
    let fresh = change("shop/c.fresh", 0);
    total += fresh;
    functions.push(("shop/c.fresh", fresh, fresh));
    functions.extend([("shop/a.Handle", 0, of_a), ("main.main", 0, total)]);
    let mut functions: Vec<FunctionCount> = functions
        .into_iter()
        .filter(|(_, _, cum)| *cum > 0)
        .map(|(function, flat, cum)| FunctionCount {
            function: function.to_owned(),
            flat,
            cum,
        })
        .collect();
    functions.sort_by_key(|count| std::cmp::Reverse(count.cum));
    let nanos = 1_000_000_000;
    ServiceRow {
        step: Window::from_start(
            UnixNanos::new(start_s * nanos),
            u64::try_from(length_s * nanos).unwrap(),
        )
        .unwrap(),
        version: String::new(),
        period_ns: 10_000_000,
        observed_ns: grain.length_s() * 1_000_000_000,
        samples: total,
        functions,
        other_flat: 0,
    }
}

fn start(hour: i64) -> i64 {
    20_000 * 24 * HOUR_S + hour * HOUR_S
}

/// Seven days of the same hours before `hour`.
fn usual(hour: i64) -> Baseline {
    let rows: Vec<ServiceRow> = (1..=7)
        .flat_map(|day| [-1, 0, 1].map(|near| hour - day * 24 + near))
        .map(|hour| row(Grain::Hour, start(hour), NOTHING))
        .collect();
    Baseline::new(&rows, Reach::Days).unwrap()
}

/// Lets `hours` go by in which counts change; returns the state and what was told first,
/// with the hours until then.
fn live(hours: i64, change: Change<'_>) -> (ShiftState, Option<(f64, Shift)>) {
    let settings = ShiftSettings::default();
    let mut state = ShiftState::default();
    let mut first = None;
    for hour in 0..hours {
        for part in 0..6 {
            let at = start(hour) + part * 600;
            let ten = row(Grain::TenMinutes, at, change);
            let baseline = usual(hour);
            if part == 5 {
                let whole = row(Grain::Hour, start(hour), change);
                state.step(Grain::Hour, &whole, Some(&baseline), &settings);
            }
            let active = state
                .step(Grain::TenMinutes, &ten, Some(&baseline), &settings)
                .unwrap();
            if first.is_none() {
                let ended = hour * 6 + part + 1;
                let hours = f64::from(i32::try_from(ended).unwrap()) / 6.0;
                first = active.first().map(|shift| (hours, shift.clone()));
            }
        }
    }
    (state, first)
}

#[test]
fn nothing_is_told_of_a_service_that_is_as_ever() {
    let (state, first) = live(48, NOTHING);
    assert_eq!(first, None);
    assert!(state.active().is_empty());
}

#[test]
fn traffic_makes_no_function_dearer() {
    let (_, first) = live(24, &|_, count| count * 2);
    assert_eq!(first, None);
    let (_, first) = live(24, &|_, count| count / 3);
    assert_eq!(first, None);
}

#[test]
fn a_function_half_as_dear_again_is_told_within_half_an_hour() {
    let change: Change<'_> = &|function, count| match function {
        "shop/a.sort" => count * 3 / 2,
        _ => count,
    };
    let (state, first) = live(3, change);
    let (hours, shift) = first.unwrap();
    assert!(hours <= 0.5, "{hours}");
    assert_eq!(shift.kind, FindingKind::Regression);
    assert_eq!(
        (shift.function.as_str(), shift.by),
        ("shop/a.sort", By::Flat)
    );
    assert_eq!(shift.onset_ns, start(0) * 1_000_000_000);
    let [ratio, low, high] = shift.ratio.unwrap();
    assert!(
        (ratio - 1.5).abs() < 0.05 && low < ratio && ratio < high,
        "{shift:?}"
    );
    assert!(shift.cores[0] > 1.4 * shift.cores[1], "{shift:?}");
    // Its callers are not told beside it.
    assert_eq!(state.active().len(), 1, "{:?}", state.active());
}

#[test]
fn a_tenth_is_told_after_hours_and_is_over_when_it_is_mended() {
    let mended = start(12);
    let change = |row_start: i64| {
        move |function: &str, count: u64| match function {
            "shop/b.index" if row_start < mended => count * 11 / 10,
            _ => count,
        }
    };
    let settings = ShiftSettings::default();
    let mut state = ShiftState::default();
    let mut told = Vec::new();
    for hour in 0..24 {
        let whole = row(Grain::Hour, start(hour), &change(start(hour)));
        state.step(Grain::Hour, &whole, Some(&usual(hour)), &settings);
        // A row that was judged before changes nothing.
        let before = state.clone();
        let again = state.step(Grain::Hour, &whole, Some(&usual(hour)), &settings);
        assert_eq!(again, None);
        assert_eq!(state, before);
        told.push(state.active().iter().any(|s| s.function == "shop/b.index"));
    }
    let first = told.iter().position(|told| *told).unwrap();
    assert!((2..8).contains(&first), "{told:?}");
    assert!(told[11] && !told[14], "{told:?}");
}

#[test]
fn a_cheaper_function_makes_no_other_dearer_and_is_good_to_know() {
    let change: Change<'_> = &|function, count| match function {
        "shop/a.parse" => count / 5,
        _ => count,
    };
    let (state, first) = live(12, change);
    let (_, shift) = first.unwrap();
    assert_eq!(
        (shift.function.as_str(), shift.kind),
        ("shop/a.parse", FindingKind::Improvement)
    );
    let kinds: Vec<FindingKind> = state.active().iter().map(|shift| shift.kind).collect();
    assert!(
        kinds.iter().all(|kind| *kind == FindingKind::Improvement),
        "{kinds:?}"
    );
}

#[test]
fn work_that_moved_within_its_package_is_not_told() {
    let change: Change<'_> = &|function, count| match function {
        "shop/a.sort" => count / 5,
        "shop/a.check" => count + 600,
        _ => count,
    };
    // By rows of an hour: sort lost 4,000 samples and check gained as many.
    let settings = ShiftSettings::default();
    let mut state = ShiftState::default();
    for hour in 0..12 {
        let exact: Change<'_> = &|function, count| match function {
            "shop/a.check" => count + 4_000,
            _ => change(function, count),
        };
        let whole = row(Grain::Hour, start(hour), exact);
        state.step(Grain::Hour, &whole, Some(&usual(hour)), &settings);
    }
    let told = state.active().iter();
    let told: Vec<_> = told.filter(|s| s.kind == FindingKind::Regression).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_new_hot_function_is_called_new() {
    let change: Change<'_> = &|function, count| match function {
        "shop/c.fresh" => 400,
        _ => count,
    };
    let (_, first) = live(4, change);
    let (hours, shift) = first.unwrap();
    assert!(hours <= 2.0, "{hours}");
    assert_eq!(shift.kind, FindingKind::NewHotFunction);
    assert_eq!(
        (shift.function.as_str(), shift.ratio),
        ("shop/c.fresh", None)
    );
}

#[test]
fn growth_from_day_to_day_is_no_alert() {
    // Each day 4 % dearer than the day before, for ten days; day 10 is judged.
    let grown = |day: i64| {
        move |function: &str, count: u64| match function {
            "shop/b.store" => count * u64::try_from(100 + 4 * day).unwrap() / 100,
            _ => count,
        }
    };
    let settings = ShiftSettings::default();
    let mut state = ShiftState::default();
    for hour in 0..24 {
        let rows: Vec<ServiceRow> = (1..=7)
            .flat_map(|day| [-1, 0, 1].map(|near| (day, hour - day * 24 + near)))
            .map(|(day, hour)| row(Grain::Hour, start(hour), &grown(10 - day)))
            .collect();
        let baseline = Baseline::new(&rows, Reach::Days).unwrap();
        let whole = row(Grain::Hour, start(hour), &grown(10));
        state.step(Grain::Hour, &whole, Some(&baseline), &settings);
    }
    let kinds: Vec<FindingKind> = state.active().iter().map(|shift| shift.kind).collect();
    assert_eq!(kinds, [FindingKind::Drift]);
}

/// As [`live`], with counts that change with time: `change` has the start of a row, too.
/// What is usual was so before, by the same rule. Returns what was told after each row.
fn through(hours: i64, change: &dyn Fn(i64, &str, u64) -> u64) -> Vec<Vec<Shift>> {
    let settings = ShiftSettings::default();
    let mut state = ShiftState::default();
    let mut told = Vec::new();
    let at = |grain: Grain, start_s| {
        let part = Grain::Hour.length_s() / grain.length_s();
        row(grain, start_s, &|function, count| match function {
            // Of what is not usual the samples of an hour are given.
            "shop/c.fresh" => change(start_s, function, count) / part,
            _ => change(start_s, function, count),
        })
    };
    for hour in 0..hours {
        let rows: Vec<ServiceRow> = (1..=7)
            .flat_map(|day| [-1, 0, 1].map(|near| hour - day * 24 + near))
            .map(|hour| at(Grain::Hour, start(hour)))
            .collect();
        let baseline = Baseline::new(&rows, Reach::Days).unwrap();
        for part in 0..6 {
            if part == 5 {
                let whole = at(Grain::Hour, start(hour));
                state.step(Grain::Hour, &whole, Some(&baseline), &settings);
            }
            let ten = at(Grain::TenMinutes, start(hour) + part * 600);
            let active = state.step(Grain::TenMinutes, &ten, Some(&baseline), &settings);
            told.push(active.unwrap().to_vec());
        }
    }
    told
}

#[test]
fn a_new_function_that_is_gone_again_is_over() {
    let told = through(8, &|start_s, function, count| match function {
        "shop/c.fresh" if (start(0)..start(4)).contains(&start_s) => 2_400,
        _ => count,
    });
    assert_eq!(told[23].len(), 1, "{:?}", told[23]);
    assert!(told.last().unwrap().is_empty(), "{:?}", told.last());
}

#[test]
fn a_small_new_function_is_told_neither_now_nor_when_it_is_usual() {
    let told = through(9 * 24, &|start_s, function, count| match function {
        "shop/c.fresh" if start_s >= start(0) => 240,
        _ => count,
    });
    let told: Vec<_> = told.iter().flatten().collect();
    assert!(told.is_empty(), "{:?}", told.first());
}

#[test]
fn a_function_that_was_seen_once_is_told_when_it_is_hot() {
    let once = start(-26);
    let told = through(2, &|start_s, function, count| match function {
        "shop/c.fresh" if start_s == once => 1,
        "shop/c.fresh" if start_s >= start(0) => 2_000,
        _ => count,
    });
    let told = told.last().unwrap();
    let told: Vec<_> = told.iter().map(|s| (s.function.as_str(), s.kind)).collect();
    assert_eq!(told, [("shop/c.fresh", FindingKind::NewHotFunction)]);
}

#[test]
fn a_job_of_two_hours_each_day_is_usual() {
    let told = through(24, &|start_s, function, count| match function {
        "shop/c.fresh" if matches!(start_s / HOUR_S % 24, 13 | 14) => 900,
        _ => count,
    });
    let told: Vec<_> = told.iter().flatten().collect();
    assert!(told.is_empty(), "{:?}", told.first());
}

#[test]
fn what_began_with_a_cause_that_is_over_is_told_then() {
    let blamed_of = |mended: Option<&str>| {
        let told = through(12, &|start_s, function, count| {
            let is_mended = Some(function) == mended && start_s >= start(6);
            match function {
                "shop/a.sort" if start_s >= start(0) && !is_mended => count * 9 / 5,
                "shop/b.index" if start_s >= start(0) && !is_mended => count * 31 / 20,
                _ => count,
            }
        });
        [&told[35], told.last().unwrap()].map(|told| {
            let names = told.iter().map(|shift| shift.function.clone());
            names.collect::<Vec<_>>()
        })
    };
    let (blamed, other) = ("shop/a.sort".to_owned(), "shop/b.index".to_owned());
    for told in blamed_of(None) {
        assert!(told.contains(&blamed) && !told.contains(&other), "{told:?}");
    }
    let [before, after] = blamed_of(Some(&blamed));
    assert!(!before.contains(&other), "{before:?}");
    assert!(
        after.contains(&other) && !after.contains(&blamed),
        "{after:?}"
    );
}

#[test]
fn what_grew_slowly_and_then_jumps_is_a_regression() {
    let told = through(30, &|start_s, function, count| {
        let day = u64::try_from((start_s - start(0)).div_euclid(24 * HOUR_S) + 10).unwrap();
        let grown = count * (100 + 4 * day) / 100;
        match function {
            "shop/b.store" if start_s >= start(24) => grown * 3,
            "shop/b.store" => grown,
            _ => count,
        }
    });
    let kinds = |told: &[Shift]| told.iter().map(|s| s.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&told[24 * 6 - 1]), [FindingKind::Drift]);
    let jumped = told.last().unwrap();
    let store = jumped.iter().find(|s| s.function == "shop/b.store");
    assert_eq!(store.unwrap().kind, FindingKind::Regression, "{jumped:?}");
    assert_eq!(store.unwrap().onset_ns, start(24) * 1_000_000_000);
}

#[test]
fn cores_of_a_root_that_is_renamed_are_those_of_the_service() {
    let settings = ShiftSettings::default();
    let mut state = ShiftState::default();
    for hour in 0..6 {
        let mut whole = row(Grain::Hour, start(hour), NOTHING);
        for count in &mut whole.functions {
            if count.function == "main.main" {
                count.function = "main.run".to_owned();
            }
        }
        state.step(Grain::Hour, &whole, Some(&usual(hour)), &settings);
        for shift in state.active() {
            let [now, before] = shift.cores;
            assert!(now <= 0.2 && before <= 0.2, "{shift:?}");
        }
    }
    let told: Vec<_> = state.active().iter().map(|s| &*s.function).collect();
    assert!(told.contains(&"main.main"), "{told:?}");
}

#[test]
fn too_little_is_known_of_a_young_service() {
    let rows: Vec<ServiceRow> = (0..2)
        .map(|hour| row(Grain::Hour, start(hour), NOTHING))
        .collect();
    assert!(Baseline::new(&rows, Reach::Hours).is_none());
    let mut state = ShiftState::default();
    let ten = row(Grain::TenMinutes, start(0), NOTHING);
    let settings = ShiftSettings::default();
    assert_eq!(
        state.step(Grain::TenMinutes, &ten, None, &settings),
        Some(&[][..])
    );
    // A row without samples says nothing.
    let empty = row(Grain::TenMinutes, start(1), &|_, _| 0);
    let baseline = usual(1);
    let told = state.step(Grain::TenMinutes, &empty, Some(&baseline), &settings);
    assert_eq!(told, Some(&[][..]));
}

#[test]
fn what_a_person_calls_normal_is_not_told_again() {
    let change: Change<'_> = &|function, count| match function {
        "shop/a.sort" => count * 3 / 2,
        _ => count,
    };
    let (mut state, _) = live(2, change);
    assert_eq!(state.active().len(), 1);
    state.accept("shop/a.sort", UnixNanos::new(start(2) * 1_000_000_000));
    assert!(state.active().is_empty());
    let settings = ShiftSettings::default();
    for hour in 2..24 {
        let whole = row(Grain::Hour, start(hour), change);
        state.step(Grain::Hour, &whole, Some(&usual(hour)), &settings);
        assert!(state.active().is_empty(), "{:?}", state.active());
    }
}

#[test]
fn a_state_is_kept_and_read_back() {
    let change: Change<'_> = &|function, count| match function {
        "shop/a.sort" => count * 3 / 2,
        _ => count,
    };
    let (state, _) = live(2, change);
    let json = serde_json::to_vec(&state).unwrap();
    let read: ShiftState = serde_json::from_slice(&json).unwrap();
    // JSON may change the last bit of a number.
    let shown = |state: &ShiftState| format!("{:.6?}", state);
    assert_eq!(shown(&read), shown(&state));
}
