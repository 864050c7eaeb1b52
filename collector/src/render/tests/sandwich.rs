//! What a function between its callers and callees looks like.

use regex::Regex;

use super::*;
use crate::render::sandwich::{json, render};
use crate::sandwich::{Subject, sandwich};

fn named(name: &str) -> Subject {
    Subject::Named(name.to_owned())
}

fn drawn(answer: &ProfileAnswer, subject: &Subject, style: &Style) -> String {
    render(
        answer,
        &sandwich(&answer.tree, subject),
        subject,
        &context(),
        style,
    )
}

fn check(subject: &Subject, style: Style, expected: Expect) {
    let text = drawn(&spin(), subject, &style);
    expected.assert_eq(&visible(&text));
    if let Some(width) = style.width {
        for line in without_colors(&text).lines() {
            assert!(text::width(line) <= usize::from(width), "too wide: {line}");
        }
    }
}

#[test]
fn a_function_in_a_pipe() {
    check(
        &named("runtime.selectgo"),
        PIPE,
        expect![[r#"
        logger · cpu
        {version="1.8"}
        Type:  cpu
        Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
        Total: 624s, 1.04 cores
        Data:  60 windows of 1 series, 61776 samples (12 lost), observed 10m
        Note:  1 window missing between 08:05:10 and 08:05:20
        Function: runtime.selectgo
        Value:    flat 210.40s (33.72%), cum 500.60s (80.22%), 0.83 cores

        Callers
        Bars:  ██ where stacks begin  ░░ what calls it

          100%  500.60s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  callers of
                         ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  runtime.selectgo  /go/src/runtime/select.go:121
                         ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  main.startSink  /app/logger/sink.go:42
                         ████████████████████████████  runtime.goexit  /go/src/runtime/asm_amd64.s:1700

        Callees
        Bars:  ██ the function itself  ░░ what it calls

          100%  500.60s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  callees of
                         ░░░░░░░░░░░░░░░░████████████  runtime.selectgo  /go/src/runtime/select.go:121
         34.2%  171.30s  ██████████                    ├─ runtime.sellock  /go/src/runtime/select.go:33
         23.8%  118.90s            ██████              └─ runtime.selunlock  /go/src/runtime/select.go:44
    "#]],
    );
}

#[test]
fn a_pattern_at_80_columns_in_colour() {
    let pattern = Subject::Matching(Regex::new(r"^(syscall|bufio)\.").unwrap());
    check(
        &pattern,
        terminal(80, true),
        expect![[r#"
        ␛[1mlogger · cpu␛[0m
        {version="1.8"}
        ␛[2mType:  ␛[0mcpu
        ␛[2mTime:  ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m)
        ␛[2mTotal: ␛[0m624s, 1.04 cores
        ␛[2mData:  ␛[0m60 windows of 1 series, 61776 samples (12 lost), observed 10m
        ␛[2mNote:  ␛[0m1 window missing between 08:05:10 and 08:05:20
        ␛[2mFunction: ␛[0m^(syscall|bufio)\.
        ␛[2mMatches:  ␛[0mbufio.(*Scanner).Scan, syscall.write
        ␛[2mValue:    ␛[0mflat 9.87s (1.58%), cum 25.99s (4.17%), 0.04 cores

        ␛[1mCallers␛[0m
        ␛[2mBars:  ␛[0m␛[38;5;196m██␛[0m where stacks begin  ␛[38;5;173m██␛[0m what calls it

        ␛[38;5;196m  100%␛[0m ␛[2m  25.99s␛[0m  ␛[38;5;173m██████████████████␛[0m  callers of
        ␛[38;5;196m 62.0%␛[0m ␛[2m  16.12s␛[0m  ␛[38;5;173m███████████␛[0m         ␛[2m├─ ␛[0msyscall.write
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mos.(*File).Write  ␛[2m/go/src/os/file.go:195␛[0m
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mmain.(*queue).push  ␛[2mqueue.go:58␛[0m
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mmain.(*server).accept  ␛[2mhttp.go:36␛[0m
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mnet/http.(*ServeMux).ServeHTTP
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mnet/http.serverHandler.ServeHTTP
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mnet/http.(*conn).serve  ␛[2mserver.go:2102␛[0m
                         ␛[38;5;196m███████████␛[0m         ␛[2m│  ␛[0m␛[1mruntime.goexit␛[0m  ␛[2masm_amd64.s:1700␛[0m
        ␛[38;5;202m 38.0%␛[0m ␛[2m   9.87s␛[0m             ␛[38;5;179m███████␛[0m  ␛[2m└─ ␛[0mbufio.(*Scanner).Scan  ␛[2mscan.go:215␛[0m
                                    ␛[38;5;179m███████␛[0m  ␛[2m   ␛[0mmain.(*server).accept  ␛[2mhttp.go:31␛[0m
                                    ␛[38;5;179m███████␛[0m  ␛[2m   ␛[0mnet/http.(*ServeMux).ServeHTTP
                                    ␛[38;5;179m███████␛[0m  ␛[2m   ␛[0mnet/http.serverHandler.ServeHTTP
                                    ␛[38;5;179m███████␛[0m  ␛[2m   ␛[0mnet/http.(*conn).serve  ␛[2mserver.go:2102␛[0m
                                    ␛[38;5;202m███████␛[0m  ␛[2m   ␛[0m␛[1mruntime.goexit␛[0m  ␛[2masm_amd64.s:1700␛[0m

        ␛[1mCallees␛[0m
        ␛[2mBars:  ␛[0m␛[38;5;196m██␛[0m the function itself  ␛[38;5;173m██␛[0m what it calls

        ␛[38;5;196m  100%␛[0m ␛[2m  25.99s␛[0m  ␛[38;5;173m██████████████████␛[0m  callees of
        ␛[38;5;196m 62.0%␛[0m ␛[2m  16.12s␛[0m  ␛[38;5;173m███████████␛[0m         ␛[2m├─ ␛[0msyscall.write
                         ␛[38;5;173m███████████␛[0m         ␛[2m│  ␛[0mentry_SYSCALL_64
                         ␛[38;5;196m███████████␛[0m         ␛[2m│  ␛[0m␛[1mvfs_write␛[0m
        ␛[38;5;202m 38.0%␛[0m ␛[2m   9.87s␛[0m             ␛[38;5;202m███████␛[0m  ␛[2m└─ ␛[0m␛[1mbufio.(*Scanner).Scan␛[0m  ␛[2mscan.go:215␛[0m
    "#]],
    );
}

#[test]
fn json_is_an_interface() {
    let answer = heap();
    let subject = named("main.startSink");
    let bytes = json(&answer, &sandwich(&answer.tree, &subject), &subject).unwrap();
    expect![[r#"
        {"schema":1,"profile_type":"memory:inuse_space:bytes:space:bytes","unit":"bytes","aggregation":"average","start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:10:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000600000000000,"coverage":{"windows":10,"series":1,"samples":20,"lost_samples":0,"pruned_nodes":0,"observed_ns":600000000000,"notes":[]},"subject":{"name":"main.startSink"},"functions":["main.startSink"],"flat":0,"cum":832512,"total":67941376,"cut_callers":0,"callers":{"frames":[{"function":"main.startSink","file":"/app/logger/sink.go","line":30,"start_line":0,"kind":"go"},{"function":"main.main","file":"/app/logger/main.go","line":24,"start_line":0,"kind":"go"}],"parent":[0,0,1],"frame":[null,0,1],"self":[0,0,832512],"total":[832512,832512,832512]},"callees":{"frames":[{"function":"main.startSink","file":"/app/logger/sink.go","line":30,"start_line":0,"kind":"go"},{"function":"compress/gzip.NewWriterLevel","file":"/go/src/compress/gzip/gzip.go","line":60,"start_line":0,"kind":"go"},{"function":"compress/flate.NewWriter","file":"/go/src/compress/flate/deflate.go","line":680,"start_line":0,"kind":"go"}],"parent":[0,0,1,2],"frame":[null,0,1,2],"self":[0,0,0,832512],"total":[832512,832512,832512,832512]}}
    "#]].assert_eq(&String::from_utf8(bytes).unwrap());
}

#[test]
fn a_function_that_is_not_there_is_said() {
    let text = drawn(&spin(), &named("selectgo"), &PIPE);
    assert!(text.contains("no sample has such a function"), "{text}");
}

#[test]
fn many_matches_are_counted() {
    let all = Subject::Matching(Regex::new("^r|^n").unwrap());
    let text = drawn(&spin(), &all, &PIPE);
    assert!(
        text.contains("Matches:  net/http.(*ServeMux).ServeHTTP, "),
        "{text}"
    );
    assert!(text.contains(" more\n"), "{text}");
}

#[test]
fn nothing_hostile_breaks_it() {
    let extreme = answer(tree(&[
        ("f|f", i128::MAX),
        ("a|f", i128::MAX),
        ("f|b", i128::MIN),
    ]));
    let every = Subject::Matching(Regex::new("").unwrap());
    for answer in [hostile(), extreme] {
        for subject in [named("f"), named("a & b"), every.clone()] {
            for width in [Some(1), Some(40), Some(u16::MAX), None] {
                let plain = drawn(
                    &answer,
                    &subject,
                    &Style {
                        color: false,
                        width,
                    },
                );
                assert!(
                    plain.chars().all(|c| c == '\n' || !c.is_control()),
                    "{plain:?}"
                );
            }
            let found = sandwich(&answer.tree, &subject);
            let bytes = json(&answer, &found, &subject).unwrap();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        }
    }
}
