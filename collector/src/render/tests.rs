//! What every format promises, on one profile: a service that spins.

use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use proto::pprof::Pprof;
use proto::stack::{Frame, FrameKind};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

use super::*;
use crate::answer::Coverage;
use crate::tree::CallTree;

/// A frame from `function@file:line`, `function` or `k:function` (kernel).
fn frame(text: &str) -> Frame {
    let (kind, text) = match text.strip_prefix("k:") {
        Some(rest) => (FrameKind::Kernel, rest),
        None => (FrameKind::Go, text),
    };
    match text.split_once('@') {
        None => Frame::named(kind, text),
        Some((name, place)) => {
            let (file, line) = place.rsplit_once(':').unwrap();
            Frame::named(kind, name).at(file, line.parse().unwrap())
        }
    }
}

/// A tree from stacks, root first, frames split by `|`.
pub(super) fn tree(samples: &[(&str, i128)]) -> CallTree {
    let mut tree = CallTree::new();
    for (stack, value) in samples {
        let frames: Vec<Frame> = stack.split('|').map(frame).collect();
        tree.add(frames.iter(), *value);
    }
    tree
}

pub(super) fn answer(tree: CallTree) -> ProfileAnswer {
    let start = UnixNanos::new(1_800_000_000_000_000_000);
    ProfileAnswer {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: 10_101_010,
        window: Window::from_start(start, 600_000_000_000).unwrap(),
        tree,
        coverage: Coverage {
            windows: 60,
            series: 1,
            samples: 61_776,
            lost_samples: 0,
            pruned_nodes: 0,
            observed: Duration::from_secs(600),
            notes: Vec::new(),
        },
    }
}

/// The spin: `startSink` under `selectgo`, beside requests and collection.
fn spin() -> ProfileAnswer {
    const MS: i128 = 1_000_000;
    let mut answer = answer(tree(&[
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|main.startSink@/app/logger/sink.go:42|runtime.selectgo@/go/src/runtime/select.go:121",
            210_400 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|main.startSink@/app/logger/sink.go:42|runtime.selectgo@/go/src/runtime/select.go:165|runtime.sellock@/go/src/runtime/select.go:33",
            171_300 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|main.startSink@/app/logger/sink.go:42|runtime.selectgo@/go/src/runtime/select.go:262|runtime.selunlock@/go/src/runtime/select.go:44",
            118_900 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|main.startSink@/app/logger/sink.go:38",
            71_240 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|main.startSink@/app/logger/sink.go:51|main.post@/app/logger/sink.go:77|compress/gzip.(*Writer).Write@/go/src/compress/gzip/gzip.go:196|compress/flate.(*compressor).deflate@/go/src/compress/flate/deflate.go:422",
            14_330 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2102|net/http.serverHandler.ServeHTTP@/go/src/net/http/server.go:3340|net/http.(*ServeMux).ServeHTTP@/go/src/net/http/server.go:2822|main.(*server).accept@/app/logger/http.go:31|bufio.(*Scanner).Scan@/go/src/bufio/scan.go:215",
            9_870 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2102|net/http.serverHandler.ServeHTTP@/go/src/net/http/server.go:3340|net/http.(*ServeMux).ServeHTTP@/go/src/net/http/server.go:2822|main.(*server).accept@/app/logger/http.go:36|main.(*queue).push@/app/logger/queue.go:58|os.(*File).Write@/go/src/os/file.go:195|syscall.write@/go/src/syscall/zsyscall_linux_amd64.go:964|k:entry_SYSCALL_64|k:vfs_write",
            16_120 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2027|net/http.(*conn).readRequest@/go/src/net/http/server.go:1048",
            1_950 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2027|net/http.newBufioReader@/go/src/net/http/server.go:850",
            1_850 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2027|net/http.(*response).finishRequest@/go/src/net/http/server.go:1700",
            1_750 * MS,
        ),
        (
            "runtime.mcall@/go/src/runtime/asm_amd64.s:459|runtime.park_m@/go/src/runtime/proc.go:4103|runtime.schedule@/go/src/runtime/proc.go:4041|runtime.findRunnable@/go/src/runtime/proc.go:3400",
            4_120 * MS,
        ),
        (
            "runtime.gcBgMarkWorker@/go/src/runtime/mgc.go:1423|runtime.gcDrain@/go/src/runtime/mgcmark.go:1159",
            2_170 * MS,
        ),
    ]));
    answer.coverage.lost_samples = 12;
    answer.coverage.notes = vec!["1 window missing between 08:05:10 and 08:05:20".to_owned()];
    answer
}

fn heap() -> ProfileAnswer {
    let mut heap = answer(tree(&[
        (
            "main.main@/app/logger/main.go:20|main.newQueue@/app/logger/queue.go:12",
            64 << 20,
        ),
        (
            "main.main@/app/logger/main.go:24|main.startSink@/app/logger/sink.go:30|compress/gzip.NewWriterLevel@/go/src/compress/gzip/gzip.go:60|compress/flate.NewWriter@/go/src/compress/flate/deflate.go:680",
            813 << 10,
        ),
    ]));
    heap.profile_type = "memory:inuse_space:bytes:space:bytes".parse().unwrap();
    heap.temporality = Temporality::Gauge;
    heap.period = 524_288;
    heap.coverage.windows = 10;
    heap.coverage.samples = 20;
    heap
}

pub(super) fn context() -> RenderContext {
    RenderContext {
        title: "logger · cpu".to_owned(),
        subtitle: Some("{version=\"1.8\"}".to_owned()),
    }
}

fn text(answer: &ProfileAnswer, format: Format, style: &Style) -> String {
    String::from_utf8(render(answer, format, &context(), style).unwrap()).unwrap()
}

const PIPE: Style = Style {
    color: false,
    width: None,
};

fn terminal(width: u16, color: bool) -> Style {
    Style {
        color,
        width: Some(width),
    }
}

/// `text` with escape codes spelled out, so that goldens can be read.
fn visible(text: &str) -> String {
    text.replace('\u{1b}', "␛")
}

fn without_colors(text: &str) -> String {
    regex::Regex::new("\u{1b}\\[[0-9;]*m")
        .unwrap()
        .replace_all(text, "")
        .into_owned()
}

/// Names that try to break each format.
fn hostile() -> ProfileAnswer {
    answer(tree(&[
        (
            "<script>alert(1)</script>|a & b|\u{1b}[31m\u{7}\n;",
            5_000_000_000,
        ),
        ("]]>|-->|\"'|x 12|y 3.5", 6_000_000_000),
        ("# comment|\u{0}|\u{202e}desrever|\u{ffff}", 7_000_000_000),
        ("| |12", 8_000_000_000),
    ]))
}

#[test]
fn formats_are_found_by_their_name_only() {
    for format in Format::ALL {
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(format.to_string(), format.name());
        assert!(!format.content_type().is_empty() && !format.extension().is_empty());
    }
    assert_eq!(
        "html".parse::<Format>().unwrap_err().to_string(),
        r#"no format is called "html"; use one of top, tree, folded, svg, pprof, json, speedscope"#
    );
}

#[test]
fn top_table_in_a_pipe() {
    check_text(
        &spin(),
        Format::Top,
        PIPE,
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  cpu
            Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            Total: 624s, 1.04 cores
            Data:  60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Note:  1 window missing between 08:05:10 and 08:05:20
            Showing 22 of 27 functions, 98.76% of the total; not those with cum below 0.5%

                 flat   flat%    sum%       cum    cum%  cores  function
              210.40s  33.72%  33.72%   500.60s  80.22%   0.83  runtime.selectgo  /go/src/runtime/select.go:121
              171.30s  27.45%  61.17%   171.30s  27.45%   0.29  runtime.sellock  /go/src/runtime/select.go:33
              118.90s  19.05%  80.22%   118.90s  19.05%   0.20  runtime.selunlock  /go/src/runtime/select.go:44
               71.24s  11.42%  91.64%   586.17s  93.94%   0.98  main.startSink  /app/logger/sink.go:38
               16.12s   2.58%  94.22%    16.12s   2.58%   0.03  vfs_write
               14.33s   2.30%  96.52%    14.33s   2.30%   0.02  compress/flate.(*compressor).deflate  /go/src/compress/flate/deflate.go:422
                9.87s   1.58%  98.10%     9.87s   1.58%   0.02  bufio.(*Scanner).Scan  /go/src/bufio/scan.go:215
                4.12s   0.66%  98.76%     4.12s   0.66%   0.01  runtime.findRunnable  /go/src/runtime/proc.go:3400
                    0      0%  98.76%    14.33s   2.30%   0.02  compress/gzip.(*Writer).Write  /go/src/compress/gzip/gzip.go:196
                    0      0%  98.76%    16.12s   2.58%   0.03  entry_SYSCALL_64
                    0      0%  98.76%    16.12s   2.58%   0.03  main.(*queue).push  /app/logger/queue.go:58
                    0      0%  98.76%    25.99s   4.17%   0.04  main.(*server).accept  /app/logger/http.go:36
                    0      0%  98.76%    14.33s   2.30%   0.02  main.post  /app/logger/sink.go:77
                    0      0%  98.76%    25.99s   4.17%   0.04  net/http.(*ServeMux).ServeHTTP  /go/src/net/http/server.go:2822
                    0      0%  98.76%    31.54s   5.05%   0.05  net/http.(*conn).serve  /go/src/net/http/server.go:2102
                    0      0%  98.76%    25.99s   4.17%   0.04  net/http.serverHandler.ServeHTTP  /go/src/net/http/server.go:3340
                    0      0%  98.76%    16.12s   2.58%   0.03  os.(*File).Write  /go/src/os/file.go:195
                    0      0%  98.76%   617.71s  98.99%   1.03  runtime.goexit  /go/src/runtime/asm_amd64.s:1700
                    0      0%  98.76%     4.12s   0.66%   0.01  runtime.mcall  /go/src/runtime/asm_amd64.s:459
                    0      0%  98.76%     4.12s   0.66%   0.01  runtime.park_m  /go/src/runtime/proc.go:4103
                    0      0%  98.76%     4.12s   0.66%   0.01  runtime.schedule  /go/src/runtime/proc.go:4041
                    0      0%  98.76%    16.12s   2.58%   0.03  syscall.write  /go/src/syscall/zsyscall_linux_amd64.go:964
        "#]],
    );
}

#[test]
fn top_table_at_80_columns() {
    check_text(
        &spin(),
        Format::Top,
        terminal(80, false),
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  cpu
            Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            Total: 624s, 1.04 cores
            Data:  60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Note:  1 window missing between 08:05:10 and 08:05:20
            Showing 22 of 27 functions, 98.76% of the total; not those with cum below 0.5%

                 flat   flat%    sum%       cum    cum%  cores  function
              210.40s  33.72%  33.72%   500.60s  80.22%   0.83  runtime.selectgo
              171.30s  27.45%  61.17%   171.30s  27.45%   0.29  runtime.sellock
              118.90s  19.05%  80.22%   118.90s  19.05%   0.20  runtime.selunlock
               71.24s  11.42%  91.64%   586.17s  93.94%   0.98  main.startSink  sink.go:38
               16.12s   2.58%  94.22%    16.12s   2.58%   0.03  vfs_write
               14.33s   2.30%  96.52%    14.33s   2.30%   0.02  flate.(*compressor).deflate
                9.87s   1.58%  98.10%     9.87s   1.58%   0.02  bufio.(*Scanner).Scan
                4.12s   0.66%  98.76%     4.12s   0.66%   0.01  runtime.findRunnable
                    0      0%  98.76%    14.33s   2.30%   0.02  gzip.(*Writer).Write
                    0      0%  98.76%    16.12s   2.58%   0.03  entry_SYSCALL_64
                    0      0%  98.76%    16.12s   2.58%   0.03  main.(*queue).push
                    0      0%  98.76%    25.99s   4.17%   0.04  main.(*server).accept
                    0      0%  98.76%    14.33s   2.30%   0.02  main.post  sink.go:77
                    0      0%  98.76%    25.99s   4.17%   0.04  http.(*ServeMux).ServeHTTP
                    0      0%  98.76%    31.54s   5.05%   0.05  net/http.(*conn).serve
                    0      0%  98.76%    25.99s   4.17%   0.04  http.serverHandler.ServeHTTP
                    0      0%  98.76%    16.12s   2.58%   0.03  os.(*File).Write
                    0      0%  98.76%   617.71s  98.99%   1.03  runtime.goexit
                    0      0%  98.76%     4.12s   0.66%   0.01  runtime.mcall
                    0      0%  98.76%     4.12s   0.66%   0.01  runtime.park_m  proc.go:4103
                    0      0%  98.76%     4.12s   0.66%   0.01  runtime.schedule
                    0      0%  98.76%    16.12s   2.58%   0.03  syscall.write
        "#]],
    );
}

#[test]
fn top_table_in_colour() {
    check_text(
        &spin(),
        Format::Top,
        terminal(120, true),
        expect![[r#"
            ␛[1mlogger · cpu␛[0m
            {version="1.8"}
            ␛[2mType:  ␛[0mcpu
            ␛[2mTime:  ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            ␛[2mTotal: ␛[0m624s, 1.04 cores
            ␛[2mData:  ␛[0m60 windows of 1 series, 61776 samples (12 lost), observed 10m
            ␛[2mNote:  ␛[0m1 window missing between 08:05:10 and 08:05:20
            ␛[2mShowing 22 of 27 functions, 98.76% of the total; not those with cum below 0.5%␛[0m

            ␛[1m␛[90m     flat   flat%    sum%       cum    cum%  cores  function␛[0m
            ␛[38;5;202m  210.40s  33.72%␛[0m␛[2m  33.72% ␛[0m  500.60s  80.22%   0.83  ␛[1mruntime.selectgo␛[0m  ␛[2m/go/src/runtime/select.go:121␛[0m
            ␛[38;5;202m  171.30s  27.45%␛[0m␛[2m  61.17% ␛[0m  171.30s  27.45%   0.29  ␛[1mruntime.sellock␛[0m  ␛[2m/go/src/runtime/select.go:33␛[0m
            ␛[38;5;172m  118.90s  19.05%␛[0m␛[2m  80.22% ␛[0m  118.90s  19.05%   0.20  ␛[1mruntime.selunlock␛[0m  ␛[2m/go/src/runtime/select.go:44␛[0m
            ␛[38;5;172m   71.24s  11.42%␛[0m␛[2m  91.64% ␛[0m  586.17s  93.94%   0.98  ␛[1mmain.startSink␛[0m  ␛[2m/app/logger/sink.go:38␛[0m
               16.12s   2.58%␛[2m  94.22% ␛[0m   16.12s   2.58%   0.03  vfs_write
               14.33s   2.30%␛[2m  96.52% ␛[0m   14.33s   2.30%   0.02  compress/flate.(*compressor).deflate  ␛[2mdeflate.go:422␛[0m
                9.87s   1.58%␛[2m  98.10% ␛[0m    9.87s   1.58%   0.02  bufio.(*Scanner).Scan  ␛[2m/go/src/bufio/scan.go:215␛[0m
                4.12s   0.66%␛[2m  98.76% ␛[0m    4.12s   0.66%   0.01  runtime.findRunnable  ␛[2m/go/src/runtime/proc.go:3400␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   14.33s   2.30%   0.02  compress/gzip.(*Writer).Write  ␛[2m/go/src/compress/gzip/gzip.go:196␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   16.12s   2.58%   0.03  entry_SYSCALL_64
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   16.12s   2.58%   0.03  main.(*queue).push  ␛[2m/app/logger/queue.go:58␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   25.99s   4.17%   0.04  main.(*server).accept  ␛[2m/app/logger/http.go:36␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   14.33s   2.30%   0.02  main.post  ␛[2m/app/logger/sink.go:77␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   25.99s   4.17%   0.04  net/http.(*ServeMux).ServeHTTP  ␛[2m/go/src/net/http/server.go:2822␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   31.54s   5.05%   0.05  net/http.(*conn).serve  ␛[2m/go/src/net/http/server.go:2102␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   25.99s   4.17%   0.04  net/http.serverHandler.ServeHTTP  ␛[2m/go/src/net/http/server.go:3340␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   16.12s   2.58%   0.03  os.(*File).Write  ␛[2m/go/src/os/file.go:195␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m  617.71s  98.99%   1.03  runtime.goexit  ␛[2m/go/src/runtime/asm_amd64.s:1700␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m    4.12s   0.66%   0.01  runtime.mcall  ␛[2m/go/src/runtime/asm_amd64.s:459␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m    4.12s   0.66%   0.01  runtime.park_m  ␛[2m/go/src/runtime/proc.go:4103␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m    4.12s   0.66%   0.01  runtime.schedule  ␛[2m/go/src/runtime/proc.go:4041␛[0m
            ␛[2m        0      0%␛[0m␛[2m  98.76% ␛[0m   16.12s   2.58%   0.03  syscall.write  ␛[2m/go/src/syscall/zsyscall_linux_amd64.go:964␛[0m
        "#]],
    );
}

#[test]
fn top_table_of_a_gauge_says_average() {
    check_text(
        &heap(),
        Format::Top,
        PIPE,
        expect![[r#"
        logger · cpu
        {version="1.8"}
        Type:  inuse_space (average over time)
        Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
        Total: 64.79MB
        Data:  10 windows of 1 series, 20 samples, observed 10m
        Showing 5 of 5 functions, 100% of the total

             flat   flat%    sum%       cum    cum%  function
             64MB  98.77%  98.77%      64MB  98.77%  main.newQueue  /app/logger/queue.go:12
            813kB   1.23%    100%     813kB   1.23%  compress/flate.NewWriter  /go/src/compress/flate/deflate.go:680
                0      0%    100%     813kB   1.23%  compress/gzip.NewWriterLevel  /go/src/compress/gzip/gzip.go:60
                0      0%    100%   64.79MB    100%  main.main  /app/logger/main.go:20
                0      0%    100%     813kB   1.23%  main.startSink  /app/logger/sink.go:30
    "#]],
    );
}

#[test]
fn tree_in_a_pipe() {
    check_text(
        &spin(),
        Format::Tree,
        PIPE,
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  cpu
            Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            Total: 624s, 1.04 cores
            Data:  60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Note:  1 window missing between 08:05:10 and 08:05:20
            Bars:  ██ the function itself  ░░ what it calls

              100%     624s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  all
             99.0%  617.71s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  ├─ runtime.goexit  /go/src/runtime/asm_amd64.s:1700
             93.9%  586.17s  ░░░░░░░░░░░░░░░░░░░░░░░███    │  ├─ main.startSink  /app/logger/sink.go:42
             80.2%  500.60s  ░░░░░░░░░░░░░█████████        │  │  ├─ runtime.selectgo  /go/src/runtime/select.go:121
             27.5%  171.30s  ████████                      │  │  │  ├─ runtime.sellock  /go/src/runtime/select.go:33
             19.1%  118.90s          █████                 │  │  │  └─ runtime.selunlock  /go/src/runtime/select.go:44
              2.3%   14.33s                        ░       │  │  └─ main.post  /app/logger/sink.go:77
                                                   ░       │  │     compress/gzip.(*Writer).Write  /go/src/compress/gzip/gzip.go:196
                                                   █       │  │     compress/flate.(*compressor).deflate  /go/src/compress/flate/deflate.go:422
              5.1%   31.54s                            ░░  │  └─ net/http.(*conn).serve  /go/src/net/http/server.go:2102
              4.2%   25.99s                            ░   │     ├─ net/http.serverHandler.ServeHTTP  /go/src/net/http/server.go:3340
                                                       ░   │     │  net/http.(*ServeMux).ServeHTTP  /go/src/net/http/server.go:2822
                                                       ░   │     │  main.(*server).accept  /app/logger/http.go:36
              2.6%   16.12s                            ░   │     │  ├─ main.(*queue).push  /app/logger/queue.go:58
                                                       ░   │     │  │  os.(*File).Write  /go/src/os/file.go:195
                                                       ░   │     │  │  syscall.write  /go/src/syscall/zsyscall_linux_amd64.go:964
                                                       ░   │     │  │  entry_SYSCALL_64
                                                       █   │     │  │  vfs_write
              1.6%    9.87s                             █  │     │  └─ bufio.(*Scanner).Scan  /go/src/bufio/scan.go:215
              0.9%    5.55s                             ░  │     └─ … 3 more calls
              0.7%    4.12s                             ░  └─ runtime.mcall  /go/src/runtime/asm_amd64.s:459
                                                        ░     runtime.park_m  /go/src/runtime/proc.go:4103
                                                        ░     runtime.schedule  /go/src/runtime/proc.go:4041
                                                        █     runtime.findRunnable  /go/src/runtime/proc.go:3400
        "#]],
    );
}

#[test]
fn tree_at_80_columns() {
    check_text(
        &spin(),
        Format::Tree,
        terminal(80, false),
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  cpu
            Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            Total: 624s, 1.04 cores
            Data:  60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Note:  1 window missing between 08:05:10 and 08:05:20
            Bars:  ██ the function itself  ░░ what it calls

              100%     624s  ░░░░░░░░░░░░░░░░░░  all
             99.0%  617.71s  ░░░░░░░░░░░░░░░░░░  ├─ runtime.goexit  asm_amd64.s:1700
             93.9%  586.17s  ░░░░░░░░░░░░░░░██   │  ├─ main.startSink  sink.go:42
             80.2%  500.60s  ░░░░░░░░██████      │  │  ├─ runtime.selectgo  select.go:121
             27.5%  171.30s  █████               │  │  │  ├─ runtime.sellock  select.go:33
             19.1%  118.90s       ███            │  │  │  └─ runtime.selunlock  select.go:44
              2.3%   14.33s                ░     │  │  └─ main.post  /app/logger/sink.go:77
                                           ░     │  │     compress/gzip.(*Writer).Write
                                           █     │  │     flate.(*compressor).deflate
              5.1%   31.54s                   ░  │  └─ net/http.(*conn).serve
              4.2%   25.99s                   ░  │     ├─ net/http.serverHandler.ServeHTTP
                                              ░  │     │  net/http.(*ServeMux).ServeHTTP
                                              ░  │     │  main.(*server).accept  http.go:36
              2.6%   16.12s                   ░  │     │  ├─ main.(*queue).push  queue.go:58
                                              ░  │     │  │  os.(*File).Write  file.go:195
                                              ░  │     │  │  syscall.write
                                              ░  │     │  │  entry_SYSCALL_64
                                              █  │     │  │  vfs_write
              1.6%    9.87s                   █  │     │  └─ bufio.(*Scanner).Scan
              0.9%    5.55s                   ░  │     └─ … 3 more calls
              0.7%    4.12s                   ░  └─ runtime.mcall  asm_amd64.s:459
                                              ░     runtime.park_m  proc.go:4103
                                              ░     runtime.schedule  proc.go:4041
                                              █     runtime.findRunnable  proc.go:3400
        "#]],
    );
}

#[test]
fn tree_at_80_columns_in_colour() {
    check_text(
        &spin(),
        Format::Tree,
        terminal(80, true),
        expect![[r#"
            ␛[1mlogger · cpu␛[0m
            {version="1.8"}
            ␛[2mType:  ␛[0mcpu
            ␛[2mTime:  ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            ␛[2mTotal: ␛[0m624s, 1.04 cores
            ␛[2mData:  ␛[0m60 windows of 1 series, 61776 samples (12 lost), observed 10m
            ␛[2mNote:  ␛[0m1 window missing between 08:05:10 and 08:05:20
            ␛[2mBars:  ␛[0m␛[38;5;196m██␛[0m the function itself  ␛[38;5;173m██␛[0m what it calls

            ␛[38;5;196m  100%␛[0m ␛[2m    624s␛[0m  ␛[38;5;173m██████████████████␛[0m  all
            ␛[38;5;196m 99.0%␛[0m ␛[2m 617.71s␛[0m  ␛[38;5;173m██████████████████␛[0m  ␛[2m├─ ␛[0mruntime.goexit  ␛[2masm_amd64.s:1700␛[0m
            ␛[38;5;196m 93.9%␛[0m ␛[2m 586.17s␛[0m  ␛[38;5;173m███████████████␛[0m␛[38;5;196m██␛[0m   ␛[2m│  ├─ ␛[0m␛[1mmain.startSink␛[0m  ␛[2msink.go:42␛[0m
            ␛[38;5;196m 80.2%␛[0m ␛[2m 500.60s␛[0m  ␛[38;5;173m████████␛[0m␛[38;5;196m██████␛[0m      ␛[2m│  │  ├─ ␛[0m␛[1mruntime.selectgo␛[0m  ␛[2mselect.go:121␛[0m
            ␛[38;5;202m 27.5%␛[0m ␛[2m 171.30s␛[0m  ␛[38;5;202m█████␛[0m               ␛[2m│  │  │  ├─ ␛[0m␛[1mruntime.sellock␛[0m  ␛[2mselect.go:33␛[0m
            ␛[38;5;172m 19.1%␛[0m ␛[2m 118.90s␛[0m       ␛[38;5;202m███␛[0m            ␛[2m│  │  │  └─ ␛[0m␛[1mruntime.selunlock␛[0m  ␛[2mselect.go:44␛[0m
              2.3% ␛[2m  14.33s␛[0m                ␛[38;5;180m█␛[0m     ␛[2m│  │  └─ ␛[0mmain.post  ␛[2m/app/logger/sink.go:77␛[0m
                                           ␛[38;5;180m█␛[0m     ␛[2m│  │     ␛[0mcompress/gzip.(*Writer).Write
                                           ␛[38;5;214m█␛[0m     ␛[2m│  │     ␛[0mflate.(*compressor).deflate
            ␛[38;5;172m  5.1%␛[0m ␛[2m  31.54s␛[0m                   ␛[38;5;180m█␛[0m  ␛[2m│  └─ ␛[0mnet/http.(*conn).serve
              4.2% ␛[2m  25.99s␛[0m                   ␛[38;5;180m█␛[0m  ␛[2m│     ├─ ␛[0mnet/http.serverHandler.ServeHTTP
                                              ␛[38;5;180m█␛[0m  ␛[2m│     │  ␛[0mnet/http.(*ServeMux).ServeHTTP
                                              ␛[38;5;180m█␛[0m  ␛[2m│     │  ␛[0mmain.(*server).accept  ␛[2mhttp.go:36␛[0m
              2.6% ␛[2m  16.12s␛[0m                   ␛[38;5;180m█␛[0m  ␛[2m│     │  ├─ ␛[0mmain.(*queue).push  ␛[2mqueue.go:58␛[0m
                                              ␛[38;5;180m█␛[0m  ␛[2m│     │  │  ␛[0mos.(*File).Write  ␛[2mfile.go:195␛[0m
                                              ␛[38;5;180m█␛[0m  ␛[2m│     │  │  ␛[0msyscall.write
                                              ␛[38;5;180m█␛[0m  ␛[2m│     │  │  ␛[0mentry_SYSCALL_64
                                              ␛[38;5;214m█␛[0m  ␛[2m│     │  │  ␛[0mvfs_write
              1.6% ␛[2m   9.87s␛[0m                   ␛[38;5;214m█␛[0m  ␛[2m│     │  └─ ␛[0mbufio.(*Scanner).Scan
              0.9% ␛[2m   5.55s␛[0m                   ␛[38;5;244m█␛[0m  ␛[2m│     └─ ␛[0m␛[2m… 3 more calls␛[0m
              0.7% ␛[2m   4.12s␛[0m                   ␛[38;5;180m█␛[0m  ␛[2m└─ ␛[0mruntime.mcall  ␛[2masm_amd64.s:459␛[0m
                                              ␛[38;5;180m█␛[0m  ␛[2m   ␛[0mruntime.park_m  ␛[2mproc.go:4103␛[0m
                                              ␛[38;5;180m█␛[0m  ␛[2m   ␛[0mruntime.schedule  ␛[2mproc.go:4041␛[0m
                                              ␛[38;5;214m█␛[0m  ␛[2m   ␛[0mruntime.findRunnable  ␛[2mproc.go:3400␛[0m
        "#]],
    );
}

#[test]
fn tree_at_200_columns() {
    check_text(
        &spin(),
        Format::Tree,
        terminal(200, false),
        expect![[r#"
            logger · cpu
            {version="1.8"}
            Type:  cpu
            Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            Total: 624s, 1.04 cores
            Data:  60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Note:  1 window missing between 08:05:10 and 08:05:20
            Bars:  ██ the function itself  ░░ what it calls

              100%     624s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  all
             99.0%  617.71s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   ├─ runtime.goexit  /go/src/runtime/asm_amd64.s:1700
             93.9%  586.17s  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░██████     │  ├─ main.startSink  /app/logger/sink.go:42
             80.2%  500.60s  ░░░░░░░░░░░░░░░░░░░░░░░█████████████████            │  │  ├─ runtime.selectgo  /go/src/runtime/select.go:121
             27.5%  171.30s  ██████████████                                      │  │  │  ├─ runtime.sellock  /go/src/runtime/select.go:33
             19.1%  118.90s                █████████                             │  │  │  └─ runtime.selunlock  /go/src/runtime/select.go:44
              2.3%   14.33s                                          ░           │  │  └─ main.post  /app/logger/sink.go:77
                                                                     ░           │  │     compress/gzip.(*Writer).Write  /go/src/compress/gzip/gzip.go:196
                                                                     █           │  │     compress/flate.(*compressor).deflate  /go/src/compress/flate/deflate.go:422
              5.1%   31.54s                                                 ░░   │  └─ net/http.(*conn).serve  /go/src/net/http/server.go:2102
              4.2%   25.99s                                                 ░░   │     ├─ net/http.serverHandler.ServeHTTP  /go/src/net/http/server.go:3340
                                                                            ░░   │     │  net/http.(*ServeMux).ServeHTTP  /go/src/net/http/server.go:2822
                                                                            ░░   │     │  main.(*server).accept  /app/logger/http.go:36
              2.6%   16.12s                                                 ░    │     │  ├─ main.(*queue).push  /app/logger/queue.go:58
                                                                            ░    │     │  │  os.(*File).Write  /go/src/os/file.go:195
                                                                            ░    │     │  │  syscall.write  /go/src/syscall/zsyscall_linux_amd64.go:964
                                                                            ░    │     │  │  entry_SYSCALL_64
                                                                            █    │     │  │  vfs_write
              1.6%    9.87s                                                  █   │     │  └─ bufio.(*Scanner).Scan  /go/src/bufio/scan.go:215
              0.9%    5.55s                                                   ░  │     └─ … 3 more calls
              0.7%    4.12s                                                   ░  └─ runtime.mcall  /go/src/runtime/asm_amd64.s:459
                                                                              ░     runtime.park_m  /go/src/runtime/proc.go:4103
                                                                              ░     runtime.schedule  /go/src/runtime/proc.go:4041
                                                                              █     runtime.findRunnable  /go/src/runtime/proc.go:3400
        "#]],
    );
}

#[test]
fn tree_at_200_columns_in_colour() {
    check_text(
        &spin(),
        Format::Tree,
        terminal(200, true),
        expect![[r#"
            ␛[1mlogger · cpu␛[0m
            {version="1.8"}
            ␛[2mType:  ␛[0mcpu
            ␛[2mTime:  ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m)
            ␛[2mTotal: ␛[0m624s, 1.04 cores
            ␛[2mData:  ␛[0m60 windows of 1 series, 61776 samples (12 lost), observed 10m
            ␛[2mNote:  ␛[0m1 window missing between 08:05:10 and 08:05:20
            ␛[2mBars:  ␛[0m␛[38;5;196m██␛[0m the function itself  ␛[38;5;173m██␛[0m what it calls

            ␛[38;5;196m  100%␛[0m ␛[2m    624s␛[0m  ␛[38;5;173m██████████████████████████████████████████████████␛[0m  all
            ␛[38;5;196m 99.0%␛[0m ␛[2m 617.71s␛[0m  ␛[38;5;173m█████████████████████████████████████████████████␛[0m   ␛[2m├─ ␛[0mruntime.goexit  ␛[2m/go/src/runtime/asm_amd64.s:1700␛[0m
            ␛[38;5;196m 93.9%␛[0m ␛[2m 586.17s␛[0m  ␛[38;5;173m█████████████████████████████████████████␛[0m␛[38;5;196m██████␛[0m     ␛[2m│  ├─ ␛[0m␛[1mmain.startSink␛[0m  ␛[2m/app/logger/sink.go:42␛[0m
            ␛[38;5;196m 80.2%␛[0m ␛[2m 500.60s␛[0m  ␛[38;5;173m███████████████████████␛[0m␛[38;5;196m█████████████████␛[0m            ␛[2m│  │  ├─ ␛[0m␛[1mruntime.selectgo␛[0m  ␛[2m/go/src/runtime/select.go:121␛[0m
            ␛[38;5;202m 27.5%␛[0m ␛[2m 171.30s␛[0m  ␛[38;5;202m██████████████␛[0m                                      ␛[2m│  │  │  ├─ ␛[0m␛[1mruntime.sellock␛[0m  ␛[2m/go/src/runtime/select.go:33␛[0m
            ␛[38;5;172m 19.1%␛[0m ␛[2m 118.90s␛[0m                ␛[38;5;202m█████████␛[0m                             ␛[2m│  │  │  └─ ␛[0m␛[1mruntime.selunlock␛[0m  ␛[2m/go/src/runtime/select.go:44␛[0m
              2.3% ␛[2m  14.33s␛[0m                                          ␛[38;5;180m█␛[0m           ␛[2m│  │  └─ ␛[0mmain.post  ␛[2m/app/logger/sink.go:77␛[0m
                                                                     ␛[38;5;180m█␛[0m           ␛[2m│  │     ␛[0mcompress/gzip.(*Writer).Write  ␛[2m/go/src/compress/gzip/gzip.go:196␛[0m
                                                                     ␛[38;5;214m█␛[0m           ␛[2m│  │     ␛[0mcompress/flate.(*compressor).deflate  ␛[2m/go/src/compress/flate/deflate.go:422␛[0m
            ␛[38;5;172m  5.1%␛[0m ␛[2m  31.54s␛[0m                                                 ␛[38;5;180m██␛[0m   ␛[2m│  └─ ␛[0mnet/http.(*conn).serve  ␛[2m/go/src/net/http/server.go:2102␛[0m
              4.2% ␛[2m  25.99s␛[0m                                                 ␛[38;5;180m██␛[0m   ␛[2m│     ├─ ␛[0mnet/http.serverHandler.ServeHTTP  ␛[2m/go/src/net/http/server.go:3340␛[0m
                                                                            ␛[38;5;180m██␛[0m   ␛[2m│     │  ␛[0mnet/http.(*ServeMux).ServeHTTP  ␛[2m/go/src/net/http/server.go:2822␛[0m
                                                                            ␛[38;5;180m██␛[0m   ␛[2m│     │  ␛[0mmain.(*server).accept  ␛[2m/app/logger/http.go:36␛[0m
              2.6% ␛[2m  16.12s␛[0m                                                 ␛[38;5;180m█␛[0m    ␛[2m│     │  ├─ ␛[0mmain.(*queue).push  ␛[2m/app/logger/queue.go:58␛[0m
                                                                            ␛[38;5;180m█␛[0m    ␛[2m│     │  │  ␛[0mos.(*File).Write  ␛[2m/go/src/os/file.go:195␛[0m
                                                                            ␛[38;5;180m█␛[0m    ␛[2m│     │  │  ␛[0msyscall.write  ␛[2m/go/src/syscall/zsyscall_linux_amd64.go:964␛[0m
                                                                            ␛[38;5;180m█␛[0m    ␛[2m│     │  │  ␛[0mentry_SYSCALL_64
                                                                            ␛[38;5;214m█␛[0m    ␛[2m│     │  │  ␛[0mvfs_write
              1.6% ␛[2m   9.87s␛[0m                                                  ␛[38;5;214m█␛[0m   ␛[2m│     │  └─ ␛[0mbufio.(*Scanner).Scan  ␛[2m/go/src/bufio/scan.go:215␛[0m
              0.9% ␛[2m   5.55s␛[0m                                                   ␛[38;5;244m█␛[0m  ␛[2m│     └─ ␛[0m␛[2m… 3 more calls␛[0m
              0.7% ␛[2m   4.12s␛[0m                                                   ␛[38;5;180m█␛[0m  ␛[2m└─ ␛[0mruntime.mcall  ␛[2m/go/src/runtime/asm_amd64.s:459␛[0m
                                                                              ␛[38;5;180m█␛[0m  ␛[2m   ␛[0mruntime.park_m  ␛[2m/go/src/runtime/proc.go:4103␛[0m
                                                                              ␛[38;5;180m█␛[0m  ␛[2m   ␛[0mruntime.schedule  ␛[2m/go/src/runtime/proc.go:4041␛[0m
                                                                              ␛[38;5;214m█␛[0m  ␛[2m   ␛[0mruntime.findRunnable  ␛[2m/go/src/runtime/proc.go:3400␛[0m
        "#]],
    );
}

#[test]
fn tree_of_a_gauge_says_average() {
    check_text(
        &heap(),
        Format::Tree,
        terminal(80, false),
        expect![[r#"
        logger · cpu
        {version="1.8"}
        Type:  inuse_space (average over time)
        Time:  2027-01-15 08:00:00 to 08:10:00 UTC (10m)
        Total: 64.79MB
        Data:  10 windows of 1 series, 20 samples, observed 10m
        Bars:  ██ the function itself  ░░ what it calls

          100%  64.79MB  ░░░░░░░░░░░░░░░░░░  all
                         ░░░░░░░░░░░░░░░░░░  main.main  /app/logger/main.go:20
         98.8%     64MB  ██████████████████  ├─ main.newQueue  /app/logger/queue.go:12
          1.2%    813kB                   ░  └─ main.startSink  /app/logger/sink.go:30
                                          ░     compress/gzip.NewWriterLevel  gzip.go:60
                                          █     compress/flate.NewWriter  deflate.go:680
    "#]],
    );
}

#[test]
fn folded_stacks_are_sorted_and_root_first() {
    check_text(
        &spin(),
        Format::Folded,
        PIPE,
        expect![[r#"
        runtime.gcBgMarkWorker;runtime.gcDrain 2170000000
        runtime.goexit;main.startSink 71240000000
        runtime.goexit;main.startSink;main.post;compress/gzip.(*Writer).Write;compress/flate.(*compressor).deflate 14330000000
        runtime.goexit;main.startSink;runtime.selectgo 210400000000
        runtime.goexit;main.startSink;runtime.selectgo;runtime.sellock 171300000000
        runtime.goexit;main.startSink;runtime.selectgo;runtime.selunlock 118900000000
        runtime.goexit;net/http.(*conn).serve;net/http.(*conn).readRequest 1950000000
        runtime.goexit;net/http.(*conn).serve;net/http.(*response).finishRequest 1750000000
        runtime.goexit;net/http.(*conn).serve;net/http.newBufioReader 1850000000
        runtime.goexit;net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;net/http.(*ServeMux).ServeHTTP;main.(*server).accept;bufio.(*Scanner).Scan 9870000000
        runtime.goexit;net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;net/http.(*ServeMux).ServeHTTP;main.(*server).accept;main.(*queue).push;os.(*File).Write;syscall.write;entry_SYSCALL_64;vfs_write 16120000000
        runtime.mcall;runtime.park_m;runtime.schedule;runtime.findRunnable 4120000000
    "#]],
    );
}

#[test]
fn json_is_an_interface() {
    check_text(
        &heap(),
        Format::Json,
        PIPE,
        expect![[r#"
        {"schema":1,"profile_type":"memory:inuse_space:bytes:space:bytes","unit":"bytes","aggregation":"average","period":524288,"start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:10:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000600000000000,"total":67941376,"coverage":{"windows":10,"series":1,"samples":20,"lost_samples":0,"pruned_nodes":0,"observed_ns":600000000000,"notes":[]},"frames":[{"function":"main.main","file":"/app/logger/main.go","line":20,"start_line":0,"kind":"go"},{"function":"main.newQueue","file":"/app/logger/queue.go","line":12,"start_line":0,"kind":"go"},{"function":"main.main","file":"/app/logger/main.go","line":24,"start_line":0,"kind":"go"},{"function":"main.startSink","file":"/app/logger/sink.go","line":30,"start_line":0,"kind":"go"},{"function":"compress/gzip.NewWriterLevel","file":"/go/src/compress/gzip/gzip.go","line":60,"start_line":0,"kind":"go"},{"function":"compress/flate.NewWriter","file":"/go/src/compress/flate/deflate.go","line":680,"start_line":0,"kind":"go"}],"nodes":{"parent":[0,0,1,0,3,4,5],"frame":[null,0,1,2,3,4,5],"self":[0,0,67108864,0,0,0,832512],"total":[67941376,67108864,67108864,832512,832512,832512,832512]},"functions":{"function":["main.newQueue","compress/flate.NewWriter","compress/gzip.NewWriterLevel","main.main","main.startSink"],"file":["/app/logger/queue.go","/go/src/compress/flate/deflate.go","/go/src/compress/gzip/gzip.go","/app/logger/main.go","/app/logger/sink.go"],"line":[12,680,60,20,30],"flat":[67108864,832512,0,0,0],"cum":[67108864,832512,832512,67941376,832512]}}
    "#]],
    );
}

#[test]
fn speedscope_file() {
    check_text(
        &heap(),
        Format::Speedscope,
        PIPE,
        expect![[
            r#"{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"main.main","file":"/app/logger/main.go","line":20},{"name":"main.newQueue","file":"/app/logger/queue.go","line":12},{"name":"main.startSink","file":"/app/logger/sink.go","line":30},{"name":"compress/gzip.NewWriterLevel","file":"/go/src/compress/gzip/gzip.go","line":60},{"name":"compress/flate.NewWriter","file":"/go/src/compress/flate/deflate.go","line":680}]},"profiles":[{"type":"sampled","name":"inuse_space (average over time)","unit":"bytes","startValue":0,"endValue":67941376,"samples":[[0,1],[0,2,3,4]],"weights":[67108864,832512]}],"name":"logger · cpu","activeProfileIndex":0,"exporter":"tepui"}"#
        ]],
    );
}

fn check_text(answer: &ProfileAnswer, format: Format, style: Style, expected: Expect) {
    let text = text(answer, format, &style);
    expected.assert_eq(&visible(&text));
    if let Some(width) = style.width {
        for line in without_colors(&text).lines() {
            assert!(text::width(line) <= usize::from(width), "too wide: {line}");
        }
    }
}

#[test]
fn no_name_breaks_a_terminal_or_its_width() {
    for format in [Format::Top, Format::Tree, Format::Folded] {
        for width in [Some(1), Some(40), Some(80), Some(u16::MAX), None] {
            let plain = text(
                &hostile(),
                format,
                &Style {
                    color: false,
                    width,
                },
            );
            assert!(
                plain.chars().all(|c| c == '\n' || !c.is_control()),
                "{plain:?}"
            );
            assert!(!plain.contains('\u{202e}'));
        }
    }
}

#[test]
fn no_samples_are_an_answer_in_every_format() {
    for format in Format::ALL {
        let bytes = render(&answer(CallTree::new()), format, &context(), &PIPE).unwrap();
        match format {
            Format::Top | Format::Tree | Format::Svg => {
                assert!(String::from_utf8(bytes).unwrap().contains("no samples"));
            }
            Format::Folded => assert!(bytes.is_empty()),
            Format::Pprof => {
                let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
                assert!(read.samples.is_empty());
            }
            Format::Json | Format::Speedscope => {
                serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
            }
        }
    }
}

#[test]
fn extreme_and_negative_values_are_written() {
    let mut extreme = tree(&[
        ("a|b", i128::MAX),
        ("a|c", -5),
        ("d", 1 << 70),
        ("e", i128::MIN),
    ]);
    extreme.add_self(0, 9);
    for tree in [
        extreme,
        tree(&[("a|b", -5)]),
        tree(&[("a", i128::MAX), ("b", 3)]),
    ] {
        for format in Format::ALL {
            for style in [PIPE, terminal(80, true)] {
                let bytes = render(&answer(tree.clone()), format, &context(), &style).unwrap();
                assert!(!bytes.is_empty() || format == Format::Folded);
            }
        }
    }
}

#[test]
fn large_values_saturate_in_pprof_and_say_so() {
    let bytes = pprof::render(&answer(tree(&[
        ("a", 1 << 70),
        ("b", -(1 << 70)),
        ("c", 1),
    ])));
    let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
    let values: Vec<i64> = read.samples.iter().map(|sample| sample.values[0]).collect();
    assert_eq!(values, [i64::MAX, i64::MIN, 1]);
    let raw = proto::codec::gunzip(&bytes, 1 << 20).unwrap();
    assert!(String::from_utf8_lossy(&raw).contains("2 values do not fit in 64 bits"));
}

#[test]
fn json_keeps_every_digit() {
    let json = text(&answer(tree(&[("a", (1 << 70) + 1)])), Format::Json, &PIPE);
    assert!(json.contains("\"total\":1180591620717411303425"));
}

#[test]
fn pprof_keeps_what_a_frame_knows() {
    let mut whole = CallTree::new();
    let frames = [
        Frame {
            start_line: 30,
            build_id: "ab12".into(),
            system_name: "main.startSink.abi0".into(),
            ..frame("main.startSink@/app/sink.go:42")
        },
        frame("std::vec::Vec<T>::push(u8)@vec.rs:7"),
    ];
    whole.add(frames.iter(), 7);
    let read = Pprof::parse(&pprof::render(&answer(whole)), FrameKind::Go).unwrap();
    assert_eq!(read.samples.len(), 1);
    assert_eq!(read.samples[0].values, [7]);
    assert_eq!(read.sample_types, [ProfileType::cpu().sample().clone()]);
    assert_eq!(
        (read.period, read.duration_ns),
        (10_101_010, 600_000_000_000)
    );
    let stack = &read.samples[0].stack;
    assert_eq!(stack[0], frames[1]);
    let root = Frame {
        build_id: "".into(),
        ..frames[0].clone()
    };
    assert_eq!(
        Frame {
            build_id: "".into(),
            ..stack[1].clone()
        },
        root
    );
}

/// A tree of about `count` nodes, deep and wide, always the same.
pub(super) fn large(count: usize) -> CallTree {
    let mut tree = CallTree::new();
    let mut state = 42_u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    while tree.nodes().len() < count {
        let depth = 5 + next(25);
        let frames: Vec<Frame> = (0..depth)
            .map(|level| {
                let id = level * 10 + next(3);
                frame(&format!(
                    "package{}/module.(*Type{id}).method@/src/file{id}.go:{}",
                    id % 17,
                    1 + next(2)
                ))
            })
            .collect();
        tree.add(frames.iter(), i128::from(next(1_000_000_000)));
    }
    tree
}

#[test]
fn rendering_is_deterministic_and_fast() {
    let large = answer(large(3_600));
    for format in Format::ALL {
        let first = render(&large, format, &context(), &terminal(200, true)).unwrap();
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            let again = render(&large, format, &context(), &terminal(200, true)).unwrap();
            best = best.min(started.elapsed());
            assert_eq!(first, again, "{format}");
        }
        println!(
            "{format}: {} nodes, {} bytes, {best:?}",
            large.tree.nodes().len(),
            first.len()
        );
        assert!(best < Duration::from_millis(250), "{format} took {best:?}");
    }
}

#[test]
fn deep_and_wide_trees_stay_within_a_few_hundred_lines() {
    let chain: Vec<Frame> = (0..3_000).map(|at| frame(&format!("f{at}"))).collect();
    let mut deep = CallTree::new();
    deep.add(chain.iter(), 7);
    let mut wide = CallTree::new();
    for at in 0..100_000 {
        let leaf = frame(&format!("leaf{at}"));
        wide.add([&frame("main"), &leaf].into_iter(), 1);
    }
    for (tree, most, says) in [
        (deep, 150, "… 1 more call"),
        (wide, 12, "… 100000 more calls"),
        (large(20_000), 400, "%"),
    ] {
        let drawn = text(&answer(tree), Format::Tree, &terminal(80, false));
        assert!(
            drawn.lines().count() <= most,
            "{} lines",
            drawn.lines().count()
        );
        assert!(drawn.contains(says), "{drawn}");
    }
}

mod diff;
mod groups;
mod outside;
mod sandwich;
mod timeline;
