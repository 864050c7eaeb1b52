//! What profiles by the value of a label look like.

use super::*;
use crate::groups::{Group, GroupsAnswer, Member};
use crate::render::groups::{GroupsFormat, render};

fn group(member: Member, samples: &[(&str, i128)]) -> Group {
    let answer = answer(tree(samples));
    let rows = crate::top::top(&answer.tree);
    Group {
        member,
        answer,
        top: rows
            .first()
            .map(|row| (std::sync::Arc::clone(&row.function), row.flat)),
    }
}

fn value(text: &str) -> Member {
    Member::Value(text.to_owned())
}

fn versions() -> GroupsAnswer {
    const S: i128 = 1_000_000_000;
    let mut old = group(value("1.7"), &[("main|main.work", 100 * S)]);
    old.answer.coverage.notes = vec!["60 s of 600 s were observed".to_owned()];
    GroupsAnswer {
        label: "version".to_owned(),
        groups: vec![
            group(
                value("1.8"),
                &[
                    ("main|main.startSink|runtime.selectgo", 500 * S),
                    ("main|main.work", 100 * S),
                ],
            ),
            old,
            group(value(""), &[("main", 20 * S)]),
            group(value("a\u{1b}[31m"), &[]),
            group(Member::Rest(17), &[("main|main.rest", 80 * S)]),
        ],
    }
}

fn written(answer: &GroupsAnswer, format: GroupsFormat, style: &Style) -> String {
    String::from_utf8(render(answer, format, &context(), style).unwrap()).unwrap()
}

fn check_table(style: Style, expected: Expect) {
    let text = written(&versions(), GroupsFormat::Top, &style);
    expected.assert_eq(&visible(&text));
}

#[test]
fn groups_are_a_table() {
    check_table(
        PIPE,
        expect![[r#"
        logger · cpu by version
        {version="1.8"}
        Type:  cpu
        Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
        Total: 800s in 5 groups
        Note:  1.7: 60 s of 600 s were observed

            value   share   cores  version             flat%  top function
             600s  75.00%    1.00  1.8                 83.3%  runtime.selectgo
             100s  12.50%    0.17  1.7                  100%  main.work
              20s   2.50%    0.03  (none)               100%  main
                0      0%    0.00  a�[31m
              80s  10.00%    0.13  other (17 values)    100%  main.rest
    "#]],
    );
}

#[test]
fn groups_in_a_narrow_terminal_in_colour() {
    check_table(
        terminal(60, true),
        expect![[r#"
        ␛[1mlogger · cpu by version␛[0m
        {version="1.8"}
        ␛[2mType:  ␛[0mcpu
        ␛[2mTime:  ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m)
        ␛[2mTotal: ␛[0m800s in 5 groups
        ␛[2mNote:  ␛[0m1.7: 60 s of 600 s were observed

        ␛[2m    value   share   cores  version             flat%  top function␛[0m
        ␛[38;5;196m     600s  75.00%    1.00␛[0m  1.8                 83.3%  runtime.selectgo
        ␛[38;5;172m     100s  12.50%    0.17␛[0m  1.7                  100%  main.work
              20s   2.50%    0.03  (none)               100%  main
                0      0%    0.00  a�[31m
        ␛[38;5;172m      80s  10.00%    0.13␛[0m  other (17 values)    100%  main.rest
    "#]],
    );
}

#[test]
fn each_group_has_a_tree() {
    let text = written(&versions(), GroupsFormat::Tree, &PIPE);
    for part in [
        "version: 1.8, 75.00% of all",
        "version: (none)",
        "version: other (17 values)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("Total:").count(), 5);
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn json_of_groups_is_an_interface() {
    let mut answer = versions();
    answer.groups = vec![
        group(value("1.8"), &[("main", 7)]),
        group(Member::Rest(2), &[]),
    ];
    expect![[r#"
        {"schema":1,"label":"version","total":7,"groups":[{"value":"1.8","rest_values":0,"total":7,"top_function":"main","top_flat":7,"profile":{"schema":1,"profile_type":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","unit":"nanoseconds","aggregation":"sum","period":10101010,"start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:10:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000600000000000,"total":7,"coverage":{"windows":60,"series":1,"samples":61776,"lost_samples":0,"pruned_nodes":0,"observed_ns":600000000000,"notes":[]},"frames":[{"function":"main","file":"","line":0,"start_line":0,"kind":"go"}],"nodes":{"parent":[0,0],"frame":[null,0],"self":[0,7],"total":[7,7]},"functions":{"function":["main"],"file":[""],"line":[0],"flat":[7],"cum":[7]}}},{"value":null,"rest_values":2,"total":0,"top_function":null,"top_flat":0,"profile":{"schema":1,"profile_type":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","unit":"nanoseconds","aggregation":"sum","period":10101010,"start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:10:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000600000000000,"total":0,"coverage":{"windows":60,"series":1,"samples":61776,"lost_samples":0,"pruned_nodes":0,"observed_ns":600000000000,"notes":[]},"frames":[],"nodes":{"parent":[0],"frame":[null],"self":[0],"total":[0]},"functions":{"function":[],"file":[],"line":[],"flat":[],"cum":[]}}}]}
    "#]].assert_eq(&written(&answer, GroupsFormat::Json, &PIPE));
}

#[test]
fn no_groups_are_an_answer() {
    let answer = GroupsAnswer {
        label: "version".to_owned(),
        groups: Vec::new(),
    };
    for (format, part) in [
        (GroupsFormat::Top, "no samples"),
        (GroupsFormat::Tree, "no samples"),
        (GroupsFormat::Json, "\"groups\":[]"),
    ] {
        assert!(written(&answer, format, &PIPE).contains(part), "{format:?}");
    }
}
