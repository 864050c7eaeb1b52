use proto::window::UnixNanos;

use super::*;

fn side() -> Side {
    Side {
        window: Window::from_start(UnixNanos::new(0), 60_000_000_000).unwrap(),
        selector: String::new(),
        pods: 0,
        units: 0,
        samples: 0.0,
        cores: 0.0,
    }
}

/// A small generator of numbers, the same each time.
struct Seeded(u64);

impl Seeded {
    fn unit(&mut self) -> f64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit().max(1e-12), self.unit());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of a test"
)]
fn samples(count: f64) -> u64 {
    count.max(0.0) as u64
}

/// What a function takes of a unit, flat, below `main.main`.
type Program<'a> = &'a [(&'a str, f64)];

/// Pods that run `program`, each with `mean_samples` samples, by more or less traffic and
/// with `noise` in each function.
fn pods(program: Program<'_>, count: usize, mean_samples: f64, noise: f64, seed: u64) -> Vec<Unit> {
    let mut random = Seeded(seed);
    let mut names = Names::default();
    let each = (0..count).map(|_| {
        let traffic = mean_samples * (0.7 + 0.6 * random.unit());
        let mut unit = Unit::default();
        let mut sum = 0_u64;
        for (function, share) in program {
            let mean = traffic * share * (1.0 + noise * random.normal());
            let count = samples(mean + mean.max(0.0).sqrt() * random.normal());
            sum += count;
            let count = FunctionCount {
                function: *function,
                flat: count,
                cum: count,
            };
            unit.add([count].into_iter(), 1.0, &mut names);
        }
        let main = FunctionCount {
            function: "main.main",
            flat: 0,
            cum: sum,
        };
        unit.add([main].into_iter(), 1.0, &mut names);
        unit
    });
    each.collect()
}

/// Fifty functions, in `app/a` to `app/e`, most small.
fn program() -> Vec<(String, f64)> {
    let weights = (1..=50).map(|n| 1.0 / f64::from(n));
    let sum: f64 = weights.clone().sum();
    let named = weights.enumerate().map(|(place, weight)| {
        let package = ["a", "b", "c", "d", "e"][place % 5];
        (format!("app/{package}.f{place}"), weight / sum)
    });
    named.collect()
}

fn of(program: &[(String, f64)]) -> Vec<(&str, f64)> {
    program
        .iter()
        .map(|(name, share)| (name.as_str(), *share))
        .collect()
}

fn judged(base: &[Unit], new: &[Unit]) -> Verdict {
    Verdict::new((side(), base), (side(), new), Rules::default(), Vec::new())
}

#[test]
fn a_dearer_function_is_named_with_its_cost() {
    let base = program();
    let mut new = base.clone();
    // 5 % of the service's CPU time more, in a function that had about 3.7 %.
    new[5].1 += 0.05;
    let verdict = judged(
        &pods(&of(&base), 10, 30_000.0, 0.03, 1),
        &pods(&of(&new), 10, 20_000.0, 0.03, 2),
    );
    let found: Vec<&Shift> = verdict.regressions(0.04).collect();
    assert_eq!(found.len(), 1, "{verdict:?}");
    let shift = found[0];
    assert_eq!((&*shift.function, shift.by), ("app/a.f5", By::Flat));
    assert!((shift.gain.value - 0.05).abs() < 0.006, "{shift:?}");
    assert!(shift.gain.low > 0.04 && shift.gain.high < 0.06, "{shift:?}");
    assert!(shift.ratio.low < shift.ratio.value && shift.ratio.value < shift.ratio.high);
    // Callers are not named for what they call.
    assert!(
        verdict
            .shifts
            .iter()
            .all(|shift| &*shift.function != "main.main")
    );
    // The other way round it became cheaper.
    let verdict = judged(
        &pods(&of(&new), 10, 30_000.0, 0.03, 1),
        &pods(&of(&base), 10, 20_000.0, 0.03, 2),
    );
    assert_eq!(verdict.regressions(0.0).count(), 0, "{verdict:?}");
    assert_eq!(verdict.shifts[0].change, Change::Improvement);
}

#[test]
fn one_much_cheaper_function_makes_no_other_dearer() {
    let base = program();
    let mut new = base.clone();
    new[0].1 /= 5.0;
    let verdict = judged(
        &pods(&of(&base), 10, 30_000.0, 0.03, 3),
        &pods(&of(&new), 10, 30_000.0, 0.03, 4),
    );
    assert_eq!(verdict.regressions(0.0).count(), 0, "{verdict:?}");
    assert_eq!(&*verdict.shifts[0].function, "app/a.f0");
}

#[test]
fn what_moved_or_has_another_name_is_not_dearer() {
    let base = program();
    let mut new = base.clone();
    // Inlined into one of its package; and one renamed.
    let moved = new[5].1;
    new[5].1 = 0.0;
    new[0].1 += moved;
    new[3].0 = "other.renamed".to_owned();
    let verdict = judged(
        &pods(&of(&base), 10, 30_000.0, 0.02, 5),
        &pods(&of(&new), 10, 30_000.0, 0.02, 6),
    );
    assert_eq!(verdict.regressions(0.0).count(), 0, "{verdict:?}");
    let moved = verdict.shifts.iter().filter(|s| s.change == Change::Moved);
    let names: Vec<&str> = moved.map(|shift| &*shift.function).collect();
    for name in ["app/a.f5", "app/a.f0", "app/d.f3", "other.renamed"] {
        assert!(names.contains(&name), "{name}: {verdict:?}");
    }
}

#[test]
fn a_change_spread_over_many_is_blamed_on_their_caller() {
    let mut names = Names::default();
    let mut units = |factor: f64, seed: u64| -> Vec<Unit> {
        let mut random = Seeded(seed);
        let each = (0..10).map(|_| {
            let mut unit = Unit::default();
            let mut below = 0;
            for leaf in 0..300 {
                let mean = 40.0 * factor;
                let count = samples(mean + mean.sqrt() * random.normal());
                below += count;
                let function = format!("lib/leaf.f{leaf}");
                let count = FunctionCount {
                    function: function.as_str(),
                    flat: count,
                    cum: count,
                };
                unit.add([count].into_iter(), 1.0, &mut names);
            }
            for other in 0..20 {
                let count = samples(2_000.0 + 45.0 * random.normal());
                let function = format!("app/other.f{other}");
                let count = FunctionCount {
                    function: function.as_str(),
                    flat: count,
                    cum: count,
                };
                unit.add([count].into_iter(), 1.0, &mut names);
            }
            for (function, cum) in [("app/a.deep", below), ("app/a.shallow", below + 2_000)] {
                let count = FunctionCount {
                    function,
                    flat: 0,
                    cum,
                };
                unit.add([count].into_iter(), 1.0, &mut names);
            }
            unit
        });
        each.collect()
    };
    // Each leaf by 6 %: one alone cannot be told from chance.
    let (base, new) = (units(1.0, 7), units(1.06, 8));
    let mut verdict = judged(&base, &new);
    verdict.shifts.retain(|shift| shift.by == By::Cum);
    assert_eq!(verdict.shifts.len(), 1, "{verdict:?}");
    assert_eq!(&*verdict.shifts[0].function, "app/a.deep");
    assert_eq!(verdict.shifts[0].change, Change::Regression);
}

#[test]
fn two_hundred_deploys_without_a_change_name_hardly_anything() {
    let program = program();
    let mut named = 0;
    for seed in 0..200 {
        let base = pods(&of(&program), 10, 30_000.0, 0.03, 2 * seed + 1_000);
        let new = pods(&of(&program), 10, 30_000.0, 0.03, 2 * seed + 1_001);
        let verdict = judged(&base, &new);
        named += usize::from(!verdict.shifts.is_empty());
    }
    assert!(named <= 10, "{named} of 200 named a function");
}

#[test]
fn little_says_nothing() {
    let program = program();
    let few = pods(&of(&program), 2, 1_000.0, 0.0, 9);
    let enough = pods(&of(&program), 5, 1_000.0, 0.0, 10);
    let verdict = judged(&few, &enough);
    assert_eq!((verdict.tested, verdict.shifts.len()), (0, 0));
    assert!(
        verdict.notes[0].contains("the base has 2"),
        "{:?}",
        verdict.notes
    );
    let verdict = judged(&[], &[]);
    assert_eq!(verdict.tested, 0);
    // Units without a sample.
    let nothing = vec![Unit::default(); 4];
    assert_eq!(judged(&nothing, &nothing).shifts, []);
    assert_eq!(judged(&enough, &nothing).regressions(0.0).count(), 0);
}

#[test]
fn packages_are_those_of_the_language() {
    for (function, expected) in [
        ("main.startSink", Some("main")),
        ("github.com/a/b.(*T).Run", Some("github.com/a/b")),
        ("github.com/a/b.Run.func1", Some("github.com/a/b")),
        ("net/http.(*conn).serve", Some("net/http")),
        ("java.util.HashMap.get", Some("java.util.HashMap")),
        ("tokio::runtime::park", Some("tokio")),
        ("std::vector<int>::push_back(int const&)", Some("std")),
        ("memcpy", None),
        ("", None),
        (".hidden", None),
        ("::f", None),
    ] {
        assert_eq!(package(function), expected, "{function}");
    }
}

#[test]
fn a_verdict_comes_back_from_its_message() {
    let base = program();
    let mut new = base.clone();
    new[5].1 += 0.05;
    new.push(("app/z.new".to_owned(), 0.02));
    let verdict = judged(
        &pods(&of(&base), 5, 30_000.0, 0.01, 11),
        &pods(&of(&new), 5, 30_000.0, 0.01, 12),
    );
    assert!(
        verdict
            .shifts
            .iter()
            .any(|shift| shift.ratio.value.is_infinite())
    );
    assert_eq!(Verdict::from_wire(verdict.to_wire()).unwrap(), verdict);
    let mut damaged = verdict.to_wire();
    damaged.shifts[0].change = 99;
    assert!(Verdict::from_wire(damaged).is_err());
    let mut damaged = verdict.to_wire();
    damaged.base = None;
    assert!(Verdict::from_wire(damaged).is_err());
}
