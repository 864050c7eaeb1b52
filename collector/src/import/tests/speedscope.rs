//! Speedscope files.

use expect_test::expect;

use super::*;

#[test]
fn threads_of_a_speedscope_file_are_added_up() {
    check(
        "py-spy.speedscope.json",
        Format::Speedscope,
        &expect![[r#"
        start None duration Some(800ms)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 50000000 weight 50000000 total 28
        python!<module> /app/py/work.py:20;python!main /app/py/work.py:17;python!loop /app/py/work.py:12;python!square /app/py/work.py:4;python!square.<locals>.<genexpr> /app/py/work.py:4 [11]
        python!<module> /app/py/work.py:20;python!main /app/py/work.py:17;python!loop /app/py/work.py:12;python!square /app/py/work.py:4 [5]
        python!Thread._bootstrap /usr/local/lib/python3.11/threading.py:1002;python!Thread._bootstrap_inner /usr/local/lib/python3.11/threading.py:1045;python!Thread.run /usr/local/lib/python3.11/threading.py:982;python!loop /app/py/work.py:12;python!cube /app/py/work.py:7;python!cube.<locals>.<genexpr> /app/py/work.py:7 [11]
        python!Thread._bootstrap /usr/local/lib/python3.11/threading.py:1002;python!Thread._bootstrap_inner /usr/local/lib/python3.11/threading.py:1045;python!Thread.run /usr/local/lib/python3.11/threading.py:982;python!loop /app/py/work.py:12;python!cube /app/py/work.py:7 [1]
    "#]],
    );
}

#[test]
fn events_of_a_speedscope_file_give_time_to_open_frames() {
    check(
        "pyinstrument.speedscope.json",
        Format::Speedscope,
        &expect![[r#"
            start None duration Some(1.011070251s)
            process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 0 weight 1 total 998608803
            python!<module> work.py:1;python!main work.py:14;python!loop work.py:9;python!square work.py:3;made![self] [442882724]
            python!<module> work.py:1;python!main work.py:14;python!loop work.py:9;python!square work.py:3;python!<genexpr> work.py:4 [555726079]
        "#]],
    );
}

fn speedscope(profiles: &str) -> String {
    format!(
        r#"{{"$schema":"https://www.speedscope.app/file-format-schema.json","profiles":[{profiles}],
"shared":{{"frames":[{{"name":"a"}},{{"name":"b","file":"b.rb","line":3}},{{"name":"c","line":null}}]}}}}"#
    )
}

fn sampled(name: &str, unit: &str, samples: &str, weights: &str) -> String {
    format!(
        r#"{{"type":"sampled","name":"{name}","unit":"{unit}","startValue":0,"endValue":2,"samples":{samples},"weights":{weights}}}"#
    )
}

fn evented(events: &str) -> String {
    format!(
        r#"{{"type":"evented","name":"e","unit":"milliseconds","startValue":1,"endValue":10,"events":[{events}]}}"#
    )
}

fn event(kind: &str, at: f64, frame: usize) -> String {
    format!(r#"{{"type":"{kind}","at":{at},"frame":{frame}}}"#)
}

#[test]
fn kinds_of_numbers_in_a_speedscope_file_are_kept_apart() {
    let text = speedscope(
        &[
            sampled("one", "seconds", "[[0,1],[0]]", "[1,0.5]"),
            sampled("two", "milliseconds", "[[0,1]]", "[1]"),
            sampled("bare", "none", "[[0,1],[]]", "[3,2]"),
            sampled("bytes", "bytes", "[[2]]", "[64]"),
            sampled("inuse_space (average over time)", "bytes", "[[2]]", "[8]"),
            sampled("goroutine", "none", "[[2]]", "[9]"),
        ]
        .join(","),
    );
    let all = read_as(text.as_bytes(), Format::Speedscope).unwrap();
    let texts: Vec<String> = all.iter().map(self::text).collect();
    expect![[r#"
        start None duration Some(2s)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 0 weight 1 total 1501000000
        native!a;ruby!b b.rb:3 [1001000000]
        native!a [500000000]

        start None duration None
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 10101010 weight 10101010 total 5
        native!a;ruby!b b.rb:3 [3]
         [2]

        start None duration None
        speedscope:weight:bytes:weight:bytes Delta period 0 weight 1 total 64
        native!c [64]

        start None duration None
        memory:inuse_space:bytes:space:bytes Gauge period 0 weight 1 total 8
        native!c [8]

        start None duration None
        goroutine:goroutine:count:goroutine:count Gauge period 0 weight 1 total 9
        native!c [9]
    "#]]
    .assert_eq(&texts.join("\n"));
}

#[test]
fn time_between_events_goes_to_the_innermost_open_frame() {
    let events = [
        event("O", 1.0, 0),
        event("O", 3.0, 1),
        event("C", 4.5, 1),
        event("C", 6.0, 0),
        event("O", 8.0, 2),
    ];
    let text = speedscope(&evented(&events.join(",")));
    expect![[r#"
        start None duration Some(9ms)
        process_cpu:cpu:nanoseconds:cpu:nanoseconds Delta period 0 weight 1 total 7000000
        native!a [3500000]
        native!a;ruby!b b.rb:3 [1500000]
        native!c [2000000]
    "#]]
    .assert_eq(&self::text(&one(text.as_bytes(), Format::Speedscope)));
}

#[test]
fn a_speedscope_file_with_dates_says_when_it_was_taken() {
    let text = speedscope(
        r#"{"type":"sampled","name":"","unit":"seconds","startValue":1700000000.5,"endValue":1700000010,"samples":[],"weights":[]}"#,
    );
    let imported = one(text.as_bytes(), Format::Speedscope);
    assert_eq!(
        imported.start,
        Some(UnixNanos::new(1_700_000_000_500_000_000))
    );
    assert_eq!(imported.duration, Some(Duration::from_millis(9_500)));
}

#[test]
fn contradictory_speedscope_files_are_refused_with_the_reason() {
    for (profiles, reason) in [
        (String::new(), "holds no profiles"),
        (
            sampled("x", "seconds", "[[0]]", "[]"),
            "\"x\" has 0 weights for 1",
        ),
        (
            sampled("x", "seconds", "[[7]]", "[1]"),
            "names frame 7 of 3",
        ),
        (sampled("x", "none", "[[0]]", "[0.5]"), "counts 0.5 none"),
        (sampled("x", "seconds", "[[0]]", "[1e10]"), "64 bits"),
        (sampled("x", "parsecs", "[[0]]", "[1]"), "line 1"),
        (sampled("x", "none", "[[-1]]", "[1]"), "line 1"),
        (sampled("x", "none", "[0]", "[1]"), "line 1"),
        (
            evented(&[event("O", 3.0, 0), event("C", 2.0, 0)].join(",")),
            "event 1 of profile \"e\" lies before",
        ),
        (
            evented(&[event("O", 3.0, 0), event("C", 4.0, 1)].join(",")),
            "closes frame 1",
        ),
        (evented(&event("C", 4.0, 1)), "closes frame 1"),
        (
            evented(&[event("O", 3.0, 9), event("C", 4.0, 9)].join(",")),
            "names frame 9 of 3",
        ),
    ] {
        let message = failure(speedscope(&profiles).as_bytes(), Format::Speedscope);
        assert!(message.contains(reason), "{message}");
    }
    assert!(failure(b"{\"shared\":", Format::Speedscope).contains("line 1"));
}
