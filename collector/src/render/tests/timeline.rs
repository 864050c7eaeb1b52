//! What a timeline looks like.

use super::*;
use crate::render::timeline::{GAP, json, render};
use crate::timeline::{StepValue, Steps, Timeline};

/// Two versions over an hour: one that ends, one that spins and has a gap.
fn versions(step_s: u64) -> Timeline {
    let start = UnixNanos::new(1_800_000_000_000_000_000);
    let window = Window::from_start(start, 3_600_000_000_000).unwrap();
    let steps = Steps::new(window, Duration::from_secs(step_s)).unwrap();
    let values = |millicores: &dyn Fn(u64) -> Option<u64>| {
        let all = (0..3_600 / step_s).map(|at| match millicores(at * step_s / 60) {
            None => StepValue::default(),
            Some(millicores) => StepValue {
                value: i128::from(millicores * step_s) * 1_000_000,
                observed: Duration::from_secs(step_s),
            },
        });
        all.collect::<Vec<_>>()
    };
    let old = values(&|minute| (minute < 20).then_some(50 + minute));
    let new = values(&|minute| match minute {
        0..15 | 30..35 => None,
        15..40 => Some(100),
        40 => Some(0),
        _ => Some(1_040),
    });
    Timeline::new(
        steps,
        ProfileType::cpu(),
        Temporality::Delta,
        vec!["version".to_owned()],
        [(vec!["1.8".to_owned()], new), (vec!["1.7".to_owned()], old)],
    )
}

fn memory(values: Vec<StepValue>) -> Timeline {
    let start = UnixNanos::new(1_800_000_000_000_000_000);
    let window = Window::from_start(start, 240_000_000_000).unwrap();
    Timeline::new(
        Steps::new(window, Duration::from_secs(60)).unwrap(),
        "memory:inuse_space:bytes:space:bytes".parse().unwrap(),
        Temporality::Gauge,
        Vec::new(),
        [(Vec::new(), values)],
    )
}

fn seen(value: i128) -> StepValue {
    StepValue {
        value,
        observed: Duration::from_secs(60),
    }
}

fn check(timeline: &Timeline, style: Style, expected: Expect) {
    let text = render(timeline, &context(), &style);
    expected.assert_eq(&visible(&text));
    if let Some(width) = style.width {
        for line in without_colors(&text).lines() {
            assert!(text::width(line) <= usize::from(width), "too wide: {line}");
        }
    }
}

#[test]
fn two_versions_in_a_pipe() {
    check(
        &versions(60),
        PIPE,
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  cpu in cores
            Time:  2027-01-15 08:00:00 to 09:00:00 UTC (1h)
            Chart: 2 × 1m per cell, the largest; bars from 0 to each line's max; · unknown

            version  08:00                    09:00        min        max       last
            1.7      ▆▇▇▇▇█████····················       0.05       0.07       0.07
            1.8      ·······▁▁▁▁▁▁▁▁··▁▁▁██████████       0.00       1.04       1.04
        "#]],
    );
}

#[test]
fn more_steps_than_columns_show_the_largest() {
    check(
        &versions(30),
        terminal(80, true),
        expect![[r#"
            ␛[1mlogger · cpu␛[0m
            {version="1.8"}
            ␛[2mType:  ␛[0mcpu in cores
            ␛[2mTime:  ␛[0m2027-01-15 08:00:00 to 09:00:00 UTC (1h)
            ␛[2mChart: ␛[0m4 × 30s per cell, the largest; bars from 0 to each line's max; · unknown

            ␛[2mversion  08:00                    09:00        min        max       last␛[0m
            1.7      ▆▇▇▇▇█████····················       0.05       0.07       0.07
            1.8      ·······▁▁▁▁▁▁▁▁··▁▁▁██████████       0.00       1.04       1.04
        "#]],
    );
}

#[test]
fn averages_have_their_unit() {
    let values = vec![
        seen(64 << 26),
        seen(0),
        StepValue::default(),
        seen(96 << 26),
    ];
    check(
        &memory(values),
        terminal(80, false),
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  inuse_space in bytes
            Time:  2027-01-15 08:00:00 to 08:04:00 UTC (4m)
            Chart: 1m per cell; bars from 0 to each line's max; · unknown

                             min        max       last
            all  ▆▁·█          0   102.40MB   102.40MB
        "#]],
    );
}

#[test]
fn json_is_an_interface() {
    let values = vec![seen(90), StepValue::default(), seen(0)];
    let bytes = json(&memory(values)).unwrap();
    expect![[r#"
        {"schema":1,"profile_type":"memory:inuse_space:bytes:space:bytes","measure":"average","unit":"bytes","start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:04:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000240000000000,"first_step":"2027-01-15T08:00:00Z","first_step_unix_ns":1800000000000000000,"step_s":60,"steps":4,"series":[{"labels":{},"points":[1.5,null,0.0,null]}]}
    "#]].assert_eq(&String::from_utf8(bytes).unwrap());
    let bytes = json(&versions(900)).unwrap();
    expect![[r#"
        {"schema":1,"profile_type":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","measure":"cores","unit":"cores","start":"2027-01-15T08:00:00Z","end":"2027-01-15T09:00:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800003600000000000,"first_step":"2027-01-15T08:00:00Z","first_step_unix_ns":1800000000000000000,"step_s":900,"steps":4,"series":[{"labels":{"version":"1.7"},"points":[0.05,0.065,null,null]},{"labels":{"version":"1.8"},"points":[null,0.1,null,1.04]}]}
    "#]].assert_eq(&String::from_utf8(bytes).unwrap());
}

#[test]
fn no_data_is_said_and_gaps_are_no_zeros() {
    let nothing = memory(Vec::new());
    assert!(render(&nothing, &context(), &PIPE).contains("no data"));
    let zeros = render(&memory(vec![seen(0); 3]), &context(), &PIPE);
    assert!(zeros.contains(&format!("▁▁▁{GAP}")), "{zeros}");
    let only = render(&memory(vec![seen(60)]), &context(), &PIPE);
    assert!(only.contains(&format!("█{GAP}{GAP}{GAP}")), "{only}");
}

#[test]
fn nothing_hostile_breaks_it() {
    let mut timeline = memory(vec![seen(i128::MAX), seen(i128::MIN), seen(-1), seen(1)]);
    timeline.group_by = vec!["\u{1b}[31m\n".to_owned()];
    for name in [
        "",
        "\u{1b}]0;x\u{7}",
        "\u{202e}",
        &"long".repeat(99),
        "日本語",
    ] {
        timeline.series[0].group = vec![name.to_owned()];
        for width in [Some(1), Some(40), Some(80), Some(u16::MAX), None] {
            let text = render(
                &timeline,
                &context(),
                &Style {
                    color: false,
                    width,
                },
            );
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()),
                "{text:?}"
            );
            assert!(!text.contains('\u{202e}'));
        }
        let bytes = json(&timeline).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    }
}
