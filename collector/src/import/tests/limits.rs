//! What is beyond a limit is pooled, cut or refused, and totals stay.

use expect_test::expect;
use proto::dictionary::Encoder;
use proto::labels::LabelSet;
use proto::profile::Profile;
use proto::window::Window;

use super::*;

#[test]
fn stacks_beyond_the_limit_are_pooled_and_totals_stay() {
    let limits = Limits {
        stacks: 2,
        ..Limits::default()
    };
    let imported = folded("a 1\nb 2\nc 3\nd 4\na 5\n", &limits);
    expect![[r#"
        start None duration None
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 15
        native!a [6]
        native!b [2]
        made![other stacks] [7]
        left out: 2 samples beyond the limit of stacks
    "#]]
    .assert_eq(&text(&imported));
}

#[test]
fn stacks_beyond_the_room_for_names_are_pooled() {
    let lines: String = (0..1000)
        .map(|n| format!("main;function_{n} 1\n"))
        .collect();
    let limits = Limits {
        dictionary_bytes: 10_000,
        ..Limits::default()
    };
    let imported = folded(&lines, &limits);
    assert_eq!(total(&imported), 1000);
    assert!(imported.stacks.len() < 100);
    assert!(imported.left_out.pooled_samples > 900);
}

#[test]
fn deep_stacks_lose_their_root() {
    let limits = Limits {
        depth: 2,
        ..Limits::default()
    };
    let imported = folded("a;b;c;d 1\nc;d 1\n", &limits);
    expect![[r#"
        start None duration None
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 2
        made![truncated];native!c;native!d [1]
        native!c;native!d [1]
        left out: 1 samples with a stack cut at its root
    "#]]
    .assert_eq(&text(&imported));
}

#[test]
fn long_names_are_cut_between_characters() {
    let limits = Limits {
        name_bytes: 4,
        ..Limits::default()
    };
    let imported = folded("abcäö 1\n", &limits);
    assert_eq!(&*imported.stacks[0][0].function, "abc");
    assert_eq!(imported.left_out.cut_texts, 1);
}

#[test]
fn the_largest_import_fits_into_the_dictionary_of_a_stream() {
    type Line = fn(usize) -> String;
    let cases: [(usize, Line); 4] = [
        (70_000, |n| format!("f{n} 1\n")),
        (70_000, |n| format!("a (f{n}.c:1) 1\n")),
        (3_000, |n| {
            let names = (0..40).map(|depth| format!("function_{n}_{depth};"));
            format!("{} 1\n", names.collect::<String>())
        }),
        (700, |n| format!("main;{n}{} 1\n", "x".repeat(20_000))),
    ];
    for (count, line) in cases {
        let lines: String = (0..count).map(line).collect();
        let imported = folded(&lines, &Limits::default());
        assert!(imported.left_out.pooled_samples > 0);
        let window = Window::new(UnixNanos::new(0), UnixNanos::new(1)).unwrap();
        let labels = LabelSet::new([("service", "a")]).unwrap();
        let facts = imported.facts();
        let profile = Profile::new(labels, window, imported.stacks, imported.columns, facts);
        assert!(Encoder::new().encode(&[profile.unwrap()]).is_ok());
    }
}
