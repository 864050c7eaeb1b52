//! What comparisons promise in every format, on one change: a service that
//! began to spin.

use std::path::Path;
use std::process::Command;

use super::outside::{run, titles, value};
use super::*;
use crate::diff::{Change, DiffAnswer, Reading};
use crate::render::diff::{DiffFormat, Widths, render};

/// The service before it spun: half the time, older lines, another handler.
fn healthy() -> ProfileAnswer {
    const MS: i128 = 1_000_000;
    let mut healthy = answer(tree(&[
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|main.startSink@/app/logger/sink.go:40|main.post@/app/logger/sink.go:71|compress/gzip.(*Writer).Write@/go/src/compress/gzip/gzip.go:196|compress/flate.(*compressor).deflate@/go/src/compress/flate/deflate.go:422",
            7_100 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2102|net/http.serverHandler.ServeHTTP@/go/src/net/http/server.go:3340|net/http.(*ServeMux).ServeHTTP@/go/src/net/http/server.go:2822|main.(*server).accept@/app/logger/http.go:29|bufio.(*Scanner).Scan@/go/src/bufio/scan.go:215",
            9_870 * MS,
        ),
        (
            "runtime.goexit@/go/src/runtime/asm_amd64.s:1700|net/http.(*conn).serve@/go/src/net/http/server.go:2102|net/http.serverHandler.ServeHTTP@/go/src/net/http/server.go:3340|net/http.(*ServeMux).ServeHTTP@/go/src/net/http/server.go:2822|main.(*server).parse@/app/logger/http.go:61|encoding/json.Unmarshal@/go/src/encoding/json/decode.go:97",
            6_030 * MS,
        ),
        (
            "runtime.mcall@/go/src/runtime/asm_amd64.s:459|runtime.park_m@/go/src/runtime/proc.go:4103|runtime.schedule@/go/src/runtime/proc.go:4041|runtime.findRunnable@/go/src/runtime/proc.go:3400",
            2_060 * MS,
        ),
    ]));
    let start = UnixNanos::new(1_799_999_400_000_000_000);
    healthy.window = Window::from_start(start, 300_000_000_000).unwrap();
    healthy.coverage.windows = 30;
    healthy.coverage.samples = 2_480;
    healthy.coverage.observed = Duration::from_secs(300);
    healthy
}

fn compare(reading: Reading) -> DiffAnswer {
    DiffAnswer::new(&healthy(), &spin(), reading).unwrap()
}

fn bytes(answer: &DiffAnswer, format: DiffFormat, style: &Style) -> Vec<u8> {
    render(answer, format, &diff_context(), Widths::New, style).unwrap()
}

fn diff_context() -> RenderContext {
    RenderContext {
        title: "logger · cpu".to_owned(),
        subtitle: Some("{version=\"1.7\"} → {version=\"1.8\"}".to_owned()),
    }
}

fn check(answer: &DiffAnswer, format: DiffFormat, style: Style, expected: Expect) {
    let text = String::from_utf8(bytes(answer, format, &style)).unwrap();
    expected.assert_eq(&visible(&text));
    if let Some(width) = style.width {
        for line in without_colors(&text).lines() {
            assert!(text::width(line) <= usize::from(width), "too wide: {line}");
        }
    }
}

#[test]
fn table_in_a_pipe() {
    check(
        &compare(Reading::PerTime),
        DiffFormat::Top,
        PIPE,
        expect![[r#"
            logger · cpu
            {version="1.7"} → {version="1.8"}
            Type:  cpu
            Base:  2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s
                   30 windows of 1 series, 2480 samples, observed 5m
            New:   2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s
                   60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Scale: base × 2.0000, to the same observed time
            Total: 50.12s → 624s, +573.88s (×12.5), +0.96 cores
            Note:  new: 1 window missing between 08:05:10 and 08:05:20
            Showing 16 of 29 functions by the change of flat; not changes below 0.5%

            flat base  flat new      delta  delta%  cum base   cum new      delta  delta%   cores  function
                    0   210.40s   +210.40s     new         0   500.60s   +500.60s     new   +0.83  runtime.selectgo  /go/src/runtime/select.go:121
                    0   171.30s   +171.30s     new         0   171.30s   +171.30s     new   +0.29  runtime.sellock  /go/src/runtime/select.go:33
                    0   118.90s   +118.90s     new         0   118.90s   +118.90s     new   +0.20  runtime.selunlock  /go/src/runtime/select.go:44
                    0    71.24s    +71.24s     new    14.20s   586.17s   +571.97s   ×41.3   +0.95  main.startSink  /app/logger/sink.go:42
                    0    16.12s    +16.12s     new         0    16.12s    +16.12s     new   +0.03  vfs_write
               12.06s         0    -12.06s    gone    12.06s         0    -12.06s    gone   -0.02  encoding/json.Unmarshal  /go/src/encoding/json/decode.go:97
               19.74s     9.87s     -9.87s  -50.0%    19.74s     9.87s     -9.87s  -50.0%   -0.02  bufio.(*Scanner).Scan  /go/src/bufio/scan.go:215
                    0         0          0      0%       46s   617.71s   +571.71s   ×13.4   +0.95  runtime.goexit  /go/src/runtime/asm_amd64.s:1700
                    0         0          0      0%         0    16.12s    +16.12s     new   +0.03  entry_SYSCALL_64
                    0         0          0      0%         0    16.12s    +16.12s     new   +0.03  main.(*queue).push  /app/logger/queue.go:58
                    0         0          0      0%         0    16.12s    +16.12s     new   +0.03  os.(*File).Write  /go/src/os/file.go:195
                    0         0          0      0%         0    16.12s    +16.12s     new   +0.03  syscall.write  /go/src/syscall/zsyscall_linux_amd64.go:964
                    0         0          0      0%    12.06s         0    -12.06s    gone   -0.02  main.(*server).parse  /app/logger/http.go:61
                    0         0          0      0%    19.74s    25.99s     +6.25s  +31.7%   +0.01  main.(*server).accept  /app/logger/http.go:36
                    0         0          0      0%    31.80s    25.99s     -5.81s  -18.3%   -0.01  net/http.(*ServeMux).ServeHTTP  /go/src/net/http/server.go:2822
                    0         0          0      0%    31.80s    25.99s     -5.81s  -18.3%   -0.01  net/http.serverHandler.ServeHTTP  /go/src/net/http/server.go:3340
        "#]],
    );
}

#[test]
fn table_at_80_columns() {
    let style = terminal(80, false);
    check(
        &compare(Reading::Share),
        DiffFormat::Top,
        style,
        expect![[r#"
            logger · cpu
            {version="1.7"} → {version="1.8"}
            Type:  cpu
            Base:  2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s
                   30 windows of 1 series, 2480 samples, observed 5m
            New:   2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s
                   60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Scale: base × 24.9002, to the same total
            Total: 624s → 624s, 0 (0%)
            Note:  new: 1 window missing between 08:05:10 and 08:05:20
            Showing 24 of 29 functions by the change of flat; not changes below 0.5%

            flat base  flat new      delta  delta%  cum delta  function
              245.77s     9.87s   -235.90s  -96.0%   -235.90s  bufio.(*Scanner).Scan
                    0   210.40s   +210.40s     new   +500.60s  runtime.selectgo
                    0   171.30s   +171.30s     new   +171.30s  runtime.sellock  select.go:33
              176.79s    14.33s   -162.46s  -91.9%   -162.46s  flate.(*compressor).deflate
              150.15s         0   -150.15s    gone   -150.15s  encoding/json.Unmarshal
                    0   118.90s   +118.90s     new   +118.90s  runtime.selunlock
                    0    71.24s    +71.24s     new   +409.38s  main.startSink  sink.go:42
               51.29s     4.12s    -47.17s  -92.0%    -47.17s  runtime.findRunnable
                    0    16.12s    +16.12s     new    +16.12s  vfs_write
                    0         0          0      0%   -369.92s  http.(*ServeMux).ServeHTTP
                    0         0          0      0%   -369.92s  http.serverHandler.ServeHTTP
                    0         0          0      0%   -364.37s  net/http.(*conn).serve
                    0         0          0      0%   -219.78s  main.(*server).accept
                    0         0          0      0%   -162.46s  compress/gzip.(*Writer).Write
                    0         0          0      0%   -162.46s  main.post  sink.go:77
                    0         0          0      0%   -150.15s  main.(*server).parse
                    0         0          0      0%    -47.17s  runtime.mcall
                    0         0          0      0%    -47.17s  runtime.park_m  proc.go:4103
                    0         0          0      0%    -47.17s  runtime.schedule
                    0         0          0      0%       +45s  runtime.goexit
                    0         0          0      0%    +16.12s  entry_SYSCALL_64
                    0         0          0      0%    +16.12s  main.(*queue).push
                    0         0          0      0%    +16.12s  os.(*File).Write  file.go:195
                    0         0          0      0%    +16.12s  syscall.write
        "#]],
    );
}

#[test]
fn table_in_colour() {
    let style = terminal(140, true);
    check(
        &compare(Reading::Absolute),
        DiffFormat::Top,
        style,
        expect![[r#"
            ␛[1mlogger · cpu␛[0m
            {version="1.7"} → {version="1.8"}
            ␛[2mType:  ␛[0mcpu
            ␛[2mBase:  ␛[0m2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s
            ␛[2m       ␛[0m30 windows of 1 series, 2480 samples, observed 5m
            ␛[2mNew:   ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s
            ␛[2m       ␛[0m60 windows of 1 series, 61776 samples (12 lost), observed 10m
            ␛[2mScale: ␛[0mnone: values as measured
            ␛[2mTotal: ␛[0m25.06s → 624s, +598.94s (×24.9)
            ␛[2mNote:  ␛[0mnew: 1 window missing between 08:05:10 and 08:05:20
            ␛[2mNote:  ␛[0mthe sides were observed for different lengths of time, and values are as measured
            ␛[2mShowing 19 of 29 functions by the change of flat; not changes below 0.5%␛[0m

            ␛[1m␛[90mflat base  flat new      delta  delta%  cum base   cum new      delta  delta%  function␛[0m
                    0   210.40s ␛[38;5;196m  +210.40s␛[0m ␛[38;5;196m    new␛[0m         0   500.60s ␛[38;5;196m  +500.60s␛[0m ␛[38;5;196m    new␛[0m  ␛[1mruntime.selectgo␛[0m  ␛[2m/go/src/runtime/select.go:121␛[0m
                    0   171.30s ␛[38;5;196m  +171.30s␛[0m ␛[38;5;196m    new␛[0m         0   171.30s ␛[38;5;196m  +171.30s␛[0m ␛[38;5;196m    new␛[0m  ␛[1mruntime.sellock␛[0m  ␛[2m/go/src/runtime/select.go:33␛[0m
                    0   118.90s ␛[38;5;196m  +118.90s␛[0m ␛[38;5;196m    new␛[0m         0   118.90s ␛[38;5;196m  +118.90s␛[0m ␛[38;5;196m    new␛[0m  ␛[1mruntime.selunlock␛[0m  ␛[2m/go/src/runtime/select.go:44␛[0m
                    0    71.24s ␛[38;5;196m   +71.24s␛[0m ␛[38;5;196m    new␛[0m     7.10s   586.17s ␛[38;5;196m  +579.07s␛[0m ␛[38;5;196m  ×82.6␛[0m  ␛[1mmain.startSink␛[0m  ␛[2m/app/logger/sink.go:42␛[0m
                    0    16.12s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m    new␛[0m         0    16.12s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m    new␛[0m  vfs_write
                7.10s    14.33s ␛[38;5;174m    +7.23s␛[0m ␛[38;5;174m+101.8%␛[0m     7.10s    14.33s ␛[38;5;174m    +7.23s␛[0m ␛[38;5;174m+101.8%␛[0m  compress/flate.(*compressor).deflate  ␛[2mdeflate.go:422␛[0m
                6.03s         0 ␛[38;5;110m    -6.03s␛[0m ␛[38;5;110m   gone␛[0m     6.03s         0 ␛[38;5;110m    -6.03s␛[0m ␛[38;5;110m   gone␛[0m  encoding/json.Unmarshal  ␛[2m/go/src/encoding/json/decode.go:97␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m       23s   617.71s ␛[38;5;196m  +594.71s␛[0m ␛[38;5;196m  ×26.9␛[0m  runtime.goexit  ␛[2m/go/src/runtime/asm_amd64.s:1700␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m         0    16.12s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m    new␛[0m  entry_SYSCALL_64
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m         0    16.12s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m    new␛[0m  main.(*queue).push  ␛[2m/app/logger/queue.go:58␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m     9.87s    25.99s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m+163.3%␛[0m  main.(*server).accept  ␛[2m/app/logger/http.go:36␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m         0    16.12s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m    new␛[0m  os.(*File).Write  ␛[2m/go/src/os/file.go:195␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m         0    16.12s ␛[38;5;174m   +16.12s␛[0m ␛[38;5;174m    new␛[0m  syscall.write  ␛[2m/go/src/syscall/zsyscall_linux_amd64.go:964␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m    15.90s    31.54s ␛[38;5;174m   +15.64s␛[0m ␛[38;5;174m +98.4%␛[0m  net/http.(*conn).serve  ␛[2m/go/src/net/http/server.go:2102␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m    15.90s    25.99s ␛[38;5;174m   +10.09s␛[0m ␛[38;5;174m +63.5%␛[0m  net/http.(*ServeMux).ServeHTTP  ␛[2mserver.go:2822␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m    15.90s    25.99s ␛[38;5;174m   +10.09s␛[0m ␛[38;5;174m +63.5%␛[0m  net/http.serverHandler.ServeHTTP  ␛[2mserver.go:3340␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m     7.10s    14.33s ␛[38;5;174m    +7.23s␛[0m ␛[38;5;174m+101.8%␛[0m  compress/gzip.(*Writer).Write  ␛[2mgzip.go:196␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m     7.10s    14.33s ␛[38;5;174m    +7.23s␛[0m ␛[38;5;174m+101.8%␛[0m  main.post  ␛[2m/app/logger/sink.go:77␛[0m
                    0         0 ␛[2m         0␛[0m ␛[2m     0%␛[0m     6.03s         0 ␛[38;5;110m    -6.03s␛[0m ␛[38;5;110m   gone␛[0m  main.(*server).parse  ␛[2m/app/logger/http.go:61␛[0m
        "#]],
    );
}

#[test]
fn tree_in_a_pipe() {
    check(
        &compare(Reading::PerTime),
        DiffFormat::Tree,
        PIPE,
        expect![[r#"
            logger · cpu
            {version="1.7"} → {version="1.8"}
            Type:  cpu
            Base:  2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s
                   30 windows of 1 series, 2480 samples, observed 5m
            New:   2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s
                   60 windows of 1 series, 61776 samples (12 lost), observed 10m
            Scale: base × 2.0000, to the same observed time
            Total: 50.12s → 624s, +573.88s (×12.5), +0.96 cores
            Note:  new: 1 window missing between 08:05:10 and 08:05:20
            Bars:  -- less  ++ more than the base

              +573.88s   ×12.5             │+++++++++++  all
              +571.71s   ×13.4             │+++++++++++  runtime.goexit  /go/src/runtime/asm_amd64.s:1700
              +571.97s   ×41.3             │+++++++++++  ├─ main.startSink  /app/logger/sink.go:42
              +500.60s     new             │++++++++++   │  runtime.selectgo  /go/src/runtime/select.go:121
              +171.30s     new             │++++         │  ├─ runtime.sellock  /go/src/runtime/select.go:33
              +118.90s     new             │+++          │  └─ runtime.selunlock  /go/src/runtime/select.go:44
                -260ms   -0.8%            -│             └─ net/http.(*conn).serve  /go/src/net/http/server.go:2102
                -5.81s  -18.3%            -│                ├─ net/http.serverHandler.ServeHTTP  /go/src/net/http/server.go:3340
                                          -│                │  net/http.(*ServeMux).ServeHTTP  /go/src/net/http/server.go:2822
                +6.25s  +31.7%             │+               │  ├─ main.(*server).accept  /app/logger/http.go:36
               +16.12s     new             │+               │  │  ├─ main.(*queue).push  /app/logger/queue.go:58
                                           │+               │  │  │  os.(*File).Write  /go/src/os/file.go:195
                                           │+               │  │  │  syscall.write  /go/src/syscall/zsyscall_linux_amd64.go:964
                                           │+               │  │  │  entry_SYSCALL_64
                                           │+               │  │  │  vfs_write
                -9.87s  -50.0%            -│                │  │  └─ bufio.(*Scanner).Scan  /go/src/bufio/scan.go:215
               -12.06s    gone            -│                │  └─ main.(*server).parse  /app/logger/http.go:61
                                          -│                │     encoding/json.Unmarshal  /go/src/encoding/json/decode.go:97
                +5.55s     new             │+               └─ … 3 more calls
        "#]],
    );
}

#[test]
fn tree_at_80_columns_in_colour() {
    let style = terminal(80, true);
    check(
        &compare(Reading::PerTime),
        DiffFormat::Tree,
        style,
        expect![[r#"
            ␛[1mlogger · cpu␛[0m
            {version="1.7"} → {version="1.8"}
            ␛[2mType:  ␛[0mcpu
            ␛[2mBase:  ␛[0m2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s
            ␛[2m       ␛[0m30 windows of 1 series, 2480 samples, observed 5m
            ␛[2mNew:   ␛[0m2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s
            ␛[2m       ␛[0m60 windows of 1 series, 61776 samples (12 lost), observed 10m
            ␛[2mScale: ␛[0mbase × 2.0000, to the same observed time
            ␛[2mTotal: ␛[0m50.12s → 624s, +573.88s (×12.5), +0.96 cores
            ␛[2mNote:  ␛[0mnew: 1 window missing between 08:05:10 and 08:05:20
            ␛[2mBars:  ␛[0m␛[38;5;33m██␛[0m less  ␛[38;5;196m██␛[0m more than the base

            ␛[38;5;196m  +573.88s   ×12.5␛[0m         ␛[2m│␛[0m␛[38;5;196m███████␛[0m  all
            ␛[38;5;196m  +571.71s   ×13.4␛[0m         ␛[2m│␛[0m␛[38;5;196m███████␛[0m  runtime.goexit  ␛[2masm_amd64.s:1700␛[0m
            ␛[38;5;196m  +571.97s   ×41.3␛[0m         ␛[2m│␛[0m␛[38;5;196m███████␛[0m  ␛[2m├─ ␛[0m␛[1mmain.startSink␛[0m  ␛[2m/app/logger/sink.go:42␛[0m
            ␛[38;5;196m  +500.60s     new␛[0m         ␛[2m│␛[0m␛[38;5;196m███████␛[0m  ␛[2m│  ␛[0m␛[1mruntime.selectgo␛[0m  ␛[2mselect.go:121␛[0m
            ␛[38;5;196m  +171.30s     new␛[0m         ␛[2m│␛[0m␛[38;5;196m███␛[0m      ␛[2m│  ├─ ␛[0m␛[1mruntime.sellock␛[0m  ␛[2mselect.go:33␛[0m
            ␛[38;5;196m  +118.90s     new␛[0m         ␛[2m│␛[0m␛[38;5;196m██␛[0m       ␛[2m│  └─ ␛[0m␛[1mruntime.selunlock␛[0m  ␛[2mselect.go:44␛[0m
            ␛[38;5;110m    -260ms   -0.8%␛[0m        ␛[38;5;110m█␛[0m␛[2m│␛[0m         ␛[2m└─ ␛[0mnet/http.(*conn).serve  ␛[2mserver.go:2102␛[0m
            ␛[38;5;110m    -5.81s  -18.3%␛[0m        ␛[38;5;110m█␛[0m␛[2m│␛[0m         ␛[2m   ├─ ␛[0mnet/http.serverHandler.ServeHTTP
                                      ␛[38;5;110m█␛[0m␛[2m│␛[0m         ␛[2m   │  ␛[0mnet/http.(*ServeMux).ServeHTTP
            ␛[38;5;174m    +6.25s  +31.7%␛[0m         ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   │  ├─ ␛[0mmain.(*server).accept  ␛[2mhttp.go:36␛[0m
            ␛[38;5;174m   +16.12s     new␛[0m         ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   │  │  ├─ ␛[0mmain.(*queue).push  ␛[2mqueue.go:58␛[0m
                                       ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   │  │  │  ␛[0mos.(*File).Write  ␛[2mfile.go:195␛[0m
                                       ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   │  │  │  ␛[0msyscall.write
                                       ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   │  │  │  ␛[0mentry_SYSCALL_64
                                       ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   │  │  │  ␛[0mvfs_write
            ␛[38;5;110m    -9.87s  -50.0%␛[0m        ␛[38;5;110m█␛[0m␛[2m│␛[0m         ␛[2m   │  │  └─ ␛[0mbufio.(*Scanner).Scan
            ␛[38;5;110m   -12.06s    gone␛[0m        ␛[38;5;110m█␛[0m␛[2m│␛[0m         ␛[2m   │  └─ ␛[0mmain.(*server).parse  ␛[2mhttp.go:61␛[0m
                                      ␛[38;5;110m█␛[0m␛[2m│␛[0m         ␛[2m   │     ␛[0mencoding/json.Unmarshal
            ␛[38;5;174m    +5.55s     new␛[0m         ␛[2m│␛[0m␛[38;5;174m█␛[0m        ␛[2m   └─ ␛[0m␛[2m… 3 more calls␛[0m
        "#]],
    );
}

#[test]
fn tree_the_other_way_round() {
    let answer = DiffAnswer::new(&spin(), &healthy(), Reading::PerTime).unwrap();
    check(
        &answer,
        DiffFormat::Tree,
        terminal(100, false),
        expect![[r#"
            logger · cpu
            {version="1.7"} → {version="1.8"}
            Type:  cpu
            Base:  2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s
                   60 windows of 1 series, 61776 samples (12 lost), observed 10m
            New:   2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s
                   30 windows of 1 series, 2480 samples, observed 5m
            Scale: base × 0.5000, to the same observed time
            Total: 312s → 25.06s, -286.94s (-92.0%), -0.96 cores
            Note:  base: 1 window missing between 08:05:10 and 08:05:20
            Bars:  -- less  ++ more than the base

              -286.94s  -92.0%  -----------│             all
              -285.86s  -92.6%  -----------│             runtime.goexit  /go/src/runtime/asm_amd64.s:1700
              -285.99s  -97.6%  -----------│             ├─ main.startSink  /app/logger/sink.go:40
              -250.30s    gone   ----------│             │  runtime.selectgo  /go/src/runtime/select.go:121
               -85.65s    gone         ----│             │  ├─ runtime.sellock  /go/src/runtime/select.go:33
               -59.45s    gone          ---│             │  └─ runtime.selunlock  /go/src/runtime/select.go:44
                +130ms   +0.8%             │+            └─ net/http.(*conn).serve  server.go:2102
                +2.90s  +22.4%             │+               ├─ net/http.serverHandler.ServeHTTP  server.go:3340
                                           │+               │  net/http.(*ServeMux).ServeHTTP  server.go:2822
                -3.12s  -24.0%            -│                │  ├─ main.(*server).accept  /app/logger/http.go:29
                -8.06s    gone            -│                │  │  ├─ main.(*queue).push  /app/logger/queue.go:58
                                          -│                │  │  │  os.(*File).Write  /go/src/os/file.go:195
                                          -│                │  │  │  syscall.write  zsyscall_linux_amd64.go:964
                                          -│                │  │  │  entry_SYSCALL_64
                                          -│                │  │  │  vfs_write
                +4.93s +100.0%             │+               │  │  └─ bufio.(*Scanner).Scan  scan.go:215
                +6.03s     new             │+               │  └─ main.(*server).parse  /app/logger/http.go:61
                                           │+               │     encoding/json.Unmarshal  decode.go:97
                -2.77s    gone            -│                └─ … 3 more calls
        "#]],
    );
}

#[test]
fn folded_stacks_have_two_columns() {
    check(
        &compare(Reading::PerTime),
        DiffFormat::Folded,
        PIPE,
        expect![[r#"
            runtime.gcBgMarkWorker;runtime.gcDrain 0 2170000000
            runtime.goexit;main.startSink 0 71240000000
            runtime.goexit;main.startSink;main.post;compress/gzip.(*Writer).Write;compress/flate.(*compressor).deflate 14200000000 14330000000
            runtime.goexit;main.startSink;runtime.selectgo 0 210400000000
            runtime.goexit;main.startSink;runtime.selectgo;runtime.sellock 0 171300000000
            runtime.goexit;main.startSink;runtime.selectgo;runtime.selunlock 0 118900000000
            runtime.goexit;net/http.(*conn).serve;net/http.(*conn).readRequest 0 1950000000
            runtime.goexit;net/http.(*conn).serve;net/http.(*response).finishRequest 0 1750000000
            runtime.goexit;net/http.(*conn).serve;net/http.newBufioReader 0 1850000000
            runtime.goexit;net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;net/http.(*ServeMux).ServeHTTP;main.(*server).accept;bufio.(*Scanner).Scan 19740000000 9870000000
            runtime.goexit;net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;net/http.(*ServeMux).ServeHTTP;main.(*server).accept;main.(*queue).push;os.(*File).Write;syscall.write;entry_SYSCALL_64;vfs_write 0 16120000000
            runtime.goexit;net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;net/http.(*ServeMux).ServeHTTP;main.(*server).parse;encoding/json.Unmarshal 12060000000 0
            runtime.mcall;runtime.park_m;runtime.schedule;runtime.findRunnable 4120000000 4120000000
        "#]],
    );
}

#[test]
fn json_is_an_interface() {
    let mut before = heap();
    before.tree = tree(&[(
        "main.main@/app/logger/main.go:20|main.newQueue@/app/logger/queue.go:11",
        32 << 20,
    )]);
    let answer = DiffAnswer::new(&before, &heap(), Reading::PerTime).unwrap();
    check(
        &answer,
        DiffFormat::Json,
        PIPE,
        expect![[r#"
        {"schema":1,"profile_type":"memory:inuse_space:bytes:space:bytes","unit":"bytes","aggregation":"average","reading":"per_time","base_scale":1.0,"base":{"start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:10:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000600000000000,"period":524288,"total":33554432,"coverage":{"windows":10,"series":1,"samples":20,"lost_samples":0,"pruned_nodes":0,"observed_ns":600000000000,"notes":[]}},"new":{"start":"2027-01-15T08:00:00Z","end":"2027-01-15T08:10:00Z","start_unix_ns":1800000000000000000,"end_unix_ns":1800000600000000000,"period":524288,"total":67941376,"coverage":{"windows":10,"series":1,"samples":20,"lost_samples":0,"pruned_nodes":0,"observed_ns":600000000000,"notes":[]}},"pruned_nodes":0,"notes":[],"frames":[{"function":"main.main","file":"/app/logger/main.go","line":20,"start_line":0,"kind":"go"},{"function":"main.newQueue","file":"/app/logger/queue.go","line":12,"start_line":0,"kind":"go"},{"function":"main.startSink","file":"/app/logger/sink.go","line":30,"start_line":0,"kind":"go"},{"function":"compress/gzip.NewWriterLevel","file":"/go/src/compress/gzip/gzip.go","line":60,"start_line":0,"kind":"go"},{"function":"compress/flate.NewWriter","file":"/go/src/compress/flate/deflate.go","line":680,"start_line":0,"kind":"go"}],"nodes":{"parent":[0,0,1,1,3,4],"frame":[null,0,1,2,3,4],"self":{"base":[0,0,33554432,0,0,0],"new":[0,0,67108864,0,0,832512],"delta":[0,0,33554432,0,0,832512]},"total":{"base":[33554432,33554432,33554432,0,0,0],"new":[67941376,67941376,67108864,832512,832512,832512],"delta":[34386944,34386944,33554432,832512,832512,832512]}},"functions":{"function":["main.newQueue","compress/flate.NewWriter","main.main","compress/gzip.NewWriterLevel","main.startSink"],"file":["/app/logger/queue.go","/go/src/compress/flate/deflate.go","/app/logger/main.go","/go/src/compress/gzip/gzip.go","/app/logger/sink.go"],"line":[12,680,20,60,30],"flat":{"base":[33554432,0,0,0,0],"new":[67108864,832512,0,0,0],"delta":[33554432,832512,0,0,0]},"cum":{"base":[33554432,0,33554432,0,0],"new":[67108864,832512,67941376,832512,832512],"delta":[33554432,832512,34386944,832512,832512]}}}
    "#]],
    );
}

#[test]
fn nothing_changed_is_said() {
    let same = DiffAnswer::new(&spin(), &spin(), Reading::PerTime).unwrap();
    for (format, says) in [
        (DiffFormat::Top, "no function changed by 0.5%"),
        (DiffFormat::Tree, "nothing changed by 0.5%"),
    ] {
        let text = String::from_utf8(bytes(&same, format, &PIPE)).unwrap();
        assert!(text.contains(says), "{text}");
        assert!(text.contains("624s → 624s, 0 (0%), +0.00 cores"), "{text}");
    }
    let svg = String::from_utf8(bytes(&same, DiffFormat::Svg, &PIPE)).unwrap();
    assert!(!svg.contains("rgb(255,") && !svg.contains(",255)"));
}

#[test]
fn changes_in_words_are_short() {
    let answer = |base: i128, new: i128| {
        let side = |value| answer(tree(&[("main", value)]));
        DiffAnswer::new(&side(base), &side(new), Reading::Absolute).unwrap()
    };
    for (base, new, expected) in [
        (200, 100, "-50.0%"),
        (100, 150, "+50.0%"),
        (100, 1_250, "×12.5"),
        (1, i128::MAX, ">×9999"),
        (0, 5, "new"),
        (5, 0, "gone"),
        (-5, 5_000, ">9999%"),
        (5, -5, "-200.0%"),
    ] {
        let text = String::from_utf8(bytes(&answer(base, new), DiffFormat::Top, &PIPE)).unwrap();
        assert!(
            text.contains(&format!("({expected})")),
            "{base} {new}: {text}"
        );
    }
}

#[test]
fn formats_are_those_of_queries_but_one() {
    for format in Format::ALL {
        match DiffFormat::try_from(format) {
            Ok(found) => assert_eq!(Format::from(found), format),
            Err(error) => assert_eq!(
                error.to_string(),
                "a comparison cannot be written as speedscope; use one of top, tree, folded, svg, pprof, json"
            ),
        }
    }
}

#[test]
fn no_samples_are_a_comparison_in_every_format() {
    let empty = || answer(CallTree::new());
    for (base, new) in [(empty(), empty()), (empty(), spin()), (spin(), empty())] {
        let answer = DiffAnswer::new(&base, &new, Reading::PerTime).unwrap();
        let none = answer.tree.total() == Change::default();
        for format in DiffFormat::ALL {
            let bytes = bytes(&answer, format, &terminal(80, true));
            match format {
                DiffFormat::Top | DiffFormat::Tree => {
                    let text = String::from_utf8(bytes).unwrap();
                    assert_eq!(text.contains("no samples"), none, "{text}");
                }
                DiffFormat::Svg => {
                    let text = String::from_utf8(bytes).unwrap();
                    assert_eq!(text.contains("no samples"), answer.tree.total().new == 0);
                }
                DiffFormat::Folded => assert_eq!(bytes.is_empty(), none),
                DiffFormat::Pprof => {
                    let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
                    assert_eq!(read.samples.is_empty(), none);
                }
                DiffFormat::Json => {
                    serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
                }
            }
        }
    }
}

/// Both ends of 128 bits on both sides, in nodes that share frames and not.
fn extremes() -> [ProfileAnswer; 4] {
    let mut bare = tree(&[
        ("a|b", i128::MAX),
        ("a|c", -5),
        ("d", 1 << 70),
        ("e", i128::MIN),
    ]);
    bare.add_self(0, 9);
    [
        answer(bare),
        answer(tree(&[("a|b", i128::MIN), ("a|c", i128::MAX), ("d", 1)])),
        answer(tree(&[("a|b", -5)])),
        answer(tree(&[("a", i128::MAX), ("b", 3)])),
    ]
}

#[test]
fn extreme_and_negative_values_are_written() {
    for base in extremes() {
        for new in extremes() {
            for reading in [Reading::Absolute, Reading::PerTime, Reading::Share] {
                let answer = DiffAnswer::new(&base, &new, reading).unwrap();
                for format in DiffFormat::ALL {
                    for style in [PIPE, terminal(80, true), terminal(1, false)] {
                        assert!(!bytes(&answer, format, &style).is_empty());
                    }
                }
                let svg = render(
                    &answer,
                    DiffFormat::Svg,
                    &diff_context(),
                    Widths::Base,
                    &PIPE,
                );
                assert!(!svg.unwrap().is_empty());
            }
        }
    }
}

#[test]
fn no_name_breaks_a_terminal_or_a_picture() {
    let compared = DiffAnswer::new(&hostile(), &spin(), Reading::PerTime).unwrap();
    for format in [DiffFormat::Top, DiffFormat::Tree, DiffFormat::Folded] {
        for width in [Some(1), Some(40), Some(80), Some(u16::MAX), None] {
            let style = Style {
                color: false,
                width,
            };
            let plain = String::from_utf8(bytes(&compared, format, &style)).unwrap();
            assert!(
                plain.chars().all(|c| c == '\n' || !c.is_control()),
                "{plain:?}"
            );
            assert!(!plain.contains('\u{202e}'));
        }
    }
    let context = RenderContext {
        title: "<&\u{1b}\"]]>".to_owned(),
        subtitle: Some("<&--\u{0}".to_owned()),
    };
    let svg = render(&compared, DiffFormat::Svg, &context, Widths::Base, &PIPE).unwrap();
    let found = titles(&svg);
    for expected in [
        "a & b (5,000 ms, 19.23%; ",
        "y\u{a0}3.5 (6,000 ms, 23.08%; -23.08%)",
    ] {
        assert!(
            found.iter().any(|title| title.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
    let nothing = DiffAnswer::new(&hostile(), &answer(CallTree::new()), Reading::PerTime);
    assert!(titles(&bytes(&nothing.unwrap(), DiffFormat::Svg, &PIPE)).is_empty());
}

/// Title and colour of every frame of a picture.
fn frames(svg: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8(svg.to_vec()).unwrap();
    let frame = regex::Regex::new(r#"<title>([^<]*)</title><rect [^>]*fill="(rgb\([^"]*\))""#);
    let mut found: Vec<(String, String)> = frame
        .unwrap()
        .captures_iter(&text)
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect();
    found.sort();
    found
}

#[test]
fn frames_are_coloured_by_their_own_change() {
    let side = |samples: &[(&str, i128)]| answer(tree(samples));
    const S: i128 = 1_000_000_000;
    let base = side(&[
        ("main", 20 * S),
        ("main|same", 20 * S),
        ("main|gone", 15 * S),
        ("main|less", 15 * S),
    ]);
    let new = side(&[
        ("main|same", 20 * S),
        ("main|less", 5 * S),
        ("main|more|leaf", 25 * S),
    ]);
    let answer = DiffAnswer::new(&base, &new, Reading::Absolute).unwrap();
    let drawn = bytes(&answer, DiffFormat::Svg, &PIPE);
    let frame = |title: &str, color: &str| (title.to_owned(), color.to_owned());
    // Red 255,100,100 is the largest change, drawn or not; the caller of what
    // grew is white.
    assert_eq!(
        frames(&drawn),
        [
            frame("all (50,000 ms, 100%)", "rgb(250,250,250)"),
            frame("leaf (25,000 ms, 50.00%; +50.00%)", "rgb(255,100,100)"),
            frame("less (5,000 ms, 10.00%; -20.00%)", "rgb(190,190,255)"),
            frame("main (50,000 ms, 100.00%; -40.00%)", "rgb(130,130,255)"),
            frame("more (25,000 ms, 50.00%; 0.00%)", "rgb(250,250,250)"),
            frame("same (20,000 ms, 40.00%; 0.00%)", "rgb(250,250,250)"),
        ]
    );
    let text = String::from_utf8(drawn).unwrap();
    assert!(text.contains("not drawn: 15s of the base only"), "{text}");
    let turned = render(
        &answer,
        DiffFormat::Svg,
        &diff_context(),
        Widths::Base,
        &PIPE,
    )
    .unwrap();
    assert_eq!(
        frames(&turned),
        [
            frame("all (70,000 ms, 100%)", "rgb(250,250,250)"),
            frame("gone (15,000 ms, 21.43%; -21.43%)", "rgb(160,160,255)"),
            frame("less (15,000 ms, 21.43%; -14.29%)", "rgb(190,190,255)"),
            frame("main (70,000 ms, 100.00%; -28.57%)", "rgb(130,130,255)"),
            frame("same (20,000 ms, 28.57%; 0.00%)", "rgb(250,250,250)"),
        ]
    );
}

#[test]
fn rendering_is_deterministic_and_fast() {
    let answer =
        DiffAnswer::new(&answer(large(3_600)), &answer(large(5_000)), Reading::Share).unwrap();
    for format in DiffFormat::ALL {
        let started = Instant::now();
        let first = bytes(&answer, format, &terminal(200, true));
        let took = started.elapsed();
        println!("{format}: {} bytes, {took:?}", first.len());
        assert_eq!(
            first,
            bytes(&answer, format, &terminal(200, true)),
            "{format}"
        );
        assert!(took < Duration::from_secs(2), "{format} took {took:?}");
    }
}

#[test]
fn deep_and_wide_trees_stay_within_a_few_hundred_lines() {
    let chain: Vec<Frame> = (0..3_000).map(|at| frame(&format!("f{at}"))).collect();
    let mut deep = CallTree::new();
    deep.add(chain.iter(), 7);
    let mut wide = CallTree::new();
    for at in 0..20_000 {
        let leaf = frame(&format!("leaf{at}"));
        wide.add([&frame("main"), &leaf].into_iter(), 1);
    }
    for (tree, most, says) in [
        (deep, 150, "… 1 more call"),
        (wide, 20, "… 20000 more calls"),
        (large(20_000), 400, "new"),
    ] {
        let empty = answer(CallTree::new());
        let answer = DiffAnswer::new(&empty, &answer(tree), Reading::Absolute).unwrap();
        let drawn = bytes(&answer, DiffFormat::Tree, &terminal(80, false));
        let drawn = String::from_utf8(drawn).unwrap();
        assert!(
            drawn.lines().count() <= most,
            "{} lines",
            drawn.lines().count()
        );
        assert!(drawn.contains(says), "{drawn}");
    }
}

#[test]
fn large_values_saturate_in_pprof_and_say_so() {
    let side = |value| answer(tree(&[("a", value), ("b", 1)]));
    let answer = DiffAnswer::new(&side(i128::MIN), &side(1 << 70), Reading::Absolute).unwrap();
    let bytes = bytes(&answer, DiffFormat::Pprof, &PIPE);
    let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
    let values: Vec<i64> = read.samples.iter().map(|sample| sample.values[0]).collect();
    assert_eq!(values, [i64::MAX, i64::MAX, 1, -1]);
    let raw = proto::codec::gunzip(&bytes, 1 << 20).unwrap();
    assert!(String::from_utf8_lossy(&raw).contains("1 values do not fit in 64 bits"));
}

/// What `go tool pprof` prints for these files, of which the last is the
/// profile and those before it values of options.
fn go_pprof(folder: &Path, options: &[&str]) -> String {
    run(
        Command::new("go")
            .args(["tool", "pprof"])
            .args(options)
            .current_dir(folder)
            .env("PPROF_TMPDIR", folder)
            .env("TZ", "UTC"),
        "install Go 1.19 or newer: apt-get install golang-go",
    )
}

/// The rows of pprof's table: name, flat and cum.
fn rows(report: &str) -> Vec<(String, i128, i128)> {
    let (_, table) = report.split_once("cum%\n").unwrap();
    let mut rows: Vec<_> = table
        .lines()
        .map(|line| {
            let mut rest = line.trim_start();
            let mut cells = Vec::new();
            for _ in 0..5 {
                let (cell, tail) = rest.split_once(' ').unwrap();
                cells.push(cell);
                rest = tail.trim_start();
            }
            (
                rest.to_owned(),
                value(cells[0], "ns"),
                value(cells[3], "ns"),
            )
        })
        .collect();
    rows.sort();
    rows
}

/// The changes of all functions that changed, by name.
fn deltas(answer: &DiffAnswer) -> Vec<(String, i128, i128)> {
    let mut rows: Vec<_> = answer
        .tree
        .functions()
        .into_iter()
        .map(|row| (row.function.to_string(), row.flat.delta(), row.cum.delta()))
        .filter(|(_, flat, cum)| *flat != 0 || *cum != 0)
        .collect();
    rows.sort();
    rows
}

const EXACT: [&str; 4] = ["-top", "-unit=ns", "-nodefraction=0", "-nodecount=0"];

#[test]
fn go_tool_pprof_shows_the_same_changes_to_the_unit() {
    let recursive = |factor: i128| {
        answer(tree(&[
            (
                "main@m.go:1|walk@w.go:3|walk@w.go:3|leaf@l.go:2",
                1_000_000_007 * factor,
            ),
            ("main@m.go:1|walk@w.go:4", 3 + factor),
            ("main@m.go:2|init@b.go:9", 17),
            (
                "std::vec::Vec<T>::push(u8)@vec.rs:7|core::ops::drop<(A, B)>",
                5 * factor * factor,
            ),
        ]))
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for (base, new) in [
        (healthy(), spin()),
        (spin(), healthy()),
        (recursive(3), recursive(7)),
        (answer(large(2_000)), answer(large(2_500))),
    ] {
        for reading in [Reading::Absolute, Reading::PerTime, Reading::Share] {
            let answer = DiffAnswer::new(&base, &new, reading).unwrap();
            write("diff.pb.gz", &bytes(&answer, DiffFormat::Pprof, &PIPE));
            let ours = go_pprof(folder.path(), &[&EXACT[..], &["diff.pb.gz"]].concat());
            assert_eq!(rows(&ours), deltas(&answer), "{reading:?}\n{ours}");
            if reading == Reading::Absolute {
                // Go's own comparison of the two profiles is the same report.
                write("base.pb.gz", &pprof::render(&base));
                write("new.pb.gz", &pprof::render(&new));
                let options = ["-diff_base=base.pb.gz", "new.pb.gz"];
                let theirs = go_pprof(folder.path(), &[&EXACT[..], &options].concat());
                let table = |report: &str| {
                    let from = report.find("Showing nodes").unwrap();
                    report[from..].to_owned()
                };
                assert_eq!(table(&ours), table(&theirs));
            }
        }
    }
}

#[test]
fn go_tool_pprof_says_what_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let answer = compare(Reading::PerTime);
    let file = folder.path().join("diff.pb.gz");
    std::fs::write(&file, bytes(&answer, DiffFormat::Pprof, &PIPE)).unwrap();
    let report = go_pprof(folder.path(), &["-top", "-lines", "diff.pb.gz"]);
    for expected in [
        "base: 2027-01-15 07:50:00 to 07:55:00 UTC (5m): 25.06s",
        "new: 2027-01-15 08:00:00 to 08:10:00 UTC (10m): 624s",
        "scale: base × 2.0000, to the same observed time",
        "new: 1 window missing between 08:05:10 and 08:05:20",
        "main.startSink /app/logger/sink.go:38",
        "of 50.12s total",
    ] {
        assert!(report.contains(expected), "no {expected:?} in\n{report}");
    }
}
