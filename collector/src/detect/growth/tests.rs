use super::super::leak::LeakSettings;
use super::*;

const MIB: f64 = 1_048_576.0;
/// A Friday noon: the days before are no weekend, as far as the middle rule looks.
const UNTIL_H: u64 = 2_900 * 7 * 24 + 36;

/// What a process of 500 MiB holds at an hour before now; 192 hours ago is -192.
type Shape = fn(f64) -> f64;

/// By time of day, a seventh more and less.
fn daily(at: f64) -> f64 {
    0.15 * (std::f64::consts::TAU * at / 24.0).sin()
}

/// Slots of hours and of ten minutes of a process of `uptime` hours. A slot holds the
/// floor of its time with some noise that no generator of random numbers is needed for.
fn slots(shape: Shape, uptime: f64) -> (Vec<Option<f64>>, Vec<Option<f64>>) {
    let value = |at: f64, number: usize| {
        let noise = 0.01 * ((number * 7_919 % 13) as f64 / 6.0 - 1.0);
        (at >= -uptime).then(|| 500.0 * MIB * (1.0 + shape(at) + noise))
    };
    let hours = (0..HOURS).map(|slot| value(slot as f64 - HOURS as f64, slot));
    let tens = (0..TENS).map(|slot| value((slot as f64 - TENS as f64) / 6.0, slot));
    (hours.collect(), tens.collect())
}

fn pace(shape: Shape, uptime: f64) -> Option<Pace> {
    let (hours, tens) = slots(shape, uptime);
    let growth = judge(&hours, &tens, UNTIL_H, &LeakSettings::default().memory)?;
    Some(growth.pace).filter(|pace| *pace != Pace::GoesOn)
}

#[test]
fn growth_is_told_by_how_long_it_takes() {
    let cases: [(&str, Shape, f64, Option<Pace>); 15] = [
        ("nothing", |_| 0.0, 200.0, None),
        ("by day", daily, 200.0, None),
        (
            "1 % an hour for 18 hours",
            |at| daily(at) + 0.01 * (at + 18.0).max(0.0),
            200.0,
            Some(Pace::Middle),
        ),
        (
            "15 % an hour for 5 hours",
            |at| daily(at) + 0.15 * (at + 5.0).max(0.0),
            200.0,
            Some(Pace::Fast),
        ),
        (
            "0.5 % an hour for 50 hours",
            |at| daily(at) + 0.005 * (at + 50.0).max(0.0),
            200.0,
            Some(Pace::Slow),
        ),
        (
            "0.5 % an hour since the start",
            |at| daily(at) + 0.005 * (at + 60.0),
            60.0,
            Some(Pace::Slow),
        ),
        ("1 % an hour, young", |at| 0.01 * (at + 10.0), 10.0, None),
        (
            "a step 6 hours ago",
            |at| daily(at) + if at >= -6.0 { 0.4 } else { 0.0 },
            200.0,
            None,
        ),
        (
            "a step 2 hours ago",
            |at| daily(at) + if at >= -2.0 { 0.4 } else { 0.0 },
            200.0,
            None,
        ),
        (
            "a cache, 4 h to warm, after 5 h",
            |at| 1.0 - (-(at + 5.0) / 4.0).exp(),
            5.0,
            None,
        ),
        (
            "a cache, 4 h to warm, after 26 h",
            |at| 1.0 - (-(at + 26.0) / 4.0).exp(),
            26.0,
            None,
        ),
        (
            "a cache, 24 h to warm, after 36 h",
            |at| daily(at) + 1.0 - (-(at + 36.0) / 24.0).exp(),
            36.0,
            None,
        ),
        (
            "a cache, 24 h to warm, after 56 h",
            |at| daily(at) + 1.0 - (-(at + 56.0) / 24.0).exp(),
            56.0,
            None,
        ),
        (
            "a cache, 4 h to warm, that begins 4 h ago",
            |at| 1.0 - (-(at + 4.0).max(0.0) / 4.0).exp(),
            200.0,
            None,
        ),
        (
            "it shrinks",
            |at| daily(at) - 0.003 * (at + 96.0),
            200.0,
            None,
        ),
    ];
    for (what, shape, uptime, expected) in cases {
        assert_eq!(pace(shape, uptime), expected, "{what}");
    }
}

#[test]
fn what_growth_is_told_with_is_near_the_truth() {
    let (hours, tens) = slots(|at| daily(at) + 0.01 * (at + 18.0).max(0.0), 200.0);
    let growth = judge(&hours, &tens, UNTIL_H, &LeakSettings::default().memory).unwrap();
    let per_hour = growth.per_hour / (5.0 * MIB);
    assert!((0.7..1.3).contains(&per_hour), "{growth:?}");
    assert!(growth.now > growth.before, "{growth:?}");
}

#[test]
fn gaps_are_no_growth_and_do_not_hide_it() {
    let (mut hours, tens) = slots(|at| daily(at) + 0.005 * (at + 50.0).max(0.0), 200.0);
    let settings = LeakSettings::default().memory;
    for slot in (0..HOURS).step_by(5) {
        hours[slot] = None;
    }
    let found = judge(&hours, &tens, UNTIL_H, &settings).map(|growth| growth.pace);
    assert_eq!(found, Some(Pace::Slow));
    for slot in (0..HOURS).filter(|slot| slot % 3 > 0) {
        hours[slot] = None;
    }
    assert_eq!(judge(&hours, &tens, UNTIL_H, &settings), None);
    assert_eq!(judge(&[], &[], UNTIL_H, &settings), None);
}

#[test]
fn a_little_is_no_leak_and_hostile_numbers_are_none() {
    let settings = LeakSettings::default().memory;
    let (hours, tens) = slots(|at| 0.15 * (at + 5.0).max(0.0), 200.0);
    let small = |slots: &[Option<f64>]| -> Vec<Option<f64>> {
        slots
            .iter()
            .map(|slot| slot.map(|value| value / 100.0))
            .collect()
    };
    let found = judge(&small(&hours), &small(&tens), UNTIL_H, &settings);
    assert!(found.is_none_or(|growth| growth.pace == Pace::GoesOn));
    let wild: [fn(usize) -> f64; 4] = [
        |slot| if slot % 2 == 0 { 1.8e19 } else { 1.0 },
        |slot| 1.8e19 / (slot + 1) as f64,
        |_| 1.8e19,
        |_| 0.0,
    ];
    for (place, value) in wild.into_iter().enumerate() {
        let hours: Vec<Option<f64>> = (0..HOURS).map(|slot| Some(value(slot))).collect();
        let tens: Vec<Option<f64>> = (0..TENS).map(|slot| Some(value(slot))).collect();
        let found = judge(&hours, &tens, UNTIL_H, &settings);
        assert!(found.is_none(), "{place}: {found:?}");
    }
}

#[test]
fn a_line_persists_and_what_fills_slows_down() {
    let line: Vec<(f64, f64)> = (0..24).map(|at| (f64::from(at), f64::from(at))).collect();
    assert!((persistence(&line).unwrap() - 1.0).abs() < 1e-6);
    assert!((slope(&line).unwrap() - 1.0).abs() < 1e-9);
    assert!(trend(&line) > 6.0);
    let filling: Vec<(f64, f64)> = line
        .iter()
        .map(|(at, _)| (*at, 1.0 - (-at / 24.0).exp()))
        .collect();
    let share = persistence(&filling).unwrap();
    assert!((0.3..0.45).contains(&share), "{share}");
    assert_eq!(persistence(&[]), None);
    assert_eq!(slope(&[(0.0, 1.0)]), None);
}

#[test]
fn growth_that_was_told_goes_on_until_a_day_is_as_the_one_before() {
    let settings = LeakSettings::default().memory;
    let found = |shape: Shape| {
        let (hours, tens) = slots(shape, 200.0);
        judge(&hours, &tens, UNTIL_H, &settings).map(|growth| growth.pace)
    };
    // It slows down, it is over, it was given back.
    let slows: Shape = |at| 0.5 * (1.0 - (-(at + 60.0).max(0.0) / 24.0).exp());
    let over: Shape = |at| 0.01 * (at + 90.0).clamp(0.0, 30.0);
    let given_back: Shape = |at| {
        if at < -20.0 {
            0.01 * (at + 60.0).max(0.0)
        } else {
            0.0
        }
    };
    assert_eq!(found(slows), Some(Pace::GoesOn));
    assert_eq!(found(over), None);
    assert_eq!(found(given_back), None);
}
