//! Real files of each tool, hostile ones, and limits.

use std::fmt::Write as _;
use std::path::Path;

use expect_test::Expect;
use proto::stack::FrameKind;

use super::*;

mod folded;
mod hostile;
mod limits;
mod perf_script;
mod pprof;
mod speedscope;

/// A file that a real tool wrote; `tests/data/import/README.md` says how.
fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import");
    std::fs::read(folder.join(name)).unwrap()
}

const FILES: [(&str, Format); 13] = [
    ("go-cpu.pb.gz", Format::Pprof),
    ("go-heap.pb.gz", Format::Pprof),
    ("go-mutex.pb.gz", Format::Pprof),
    ("go-block.pb.gz", Format::Pprof),
    ("perf-cpu.txt", Format::PerfScript),
    ("perf-events.txt", Format::PerfScript),
    ("perf-inlined.txt", Format::PerfScript),
    ("perf-no-callchain.txt", Format::PerfScript),
    ("perf-srcline.txt", Format::PerfScript),
    ("perf-tracepoints.txt", Format::PerfScript),
    ("py-spy.folded", Format::Folded),
    ("py-spy.speedscope.json", Format::Speedscope),
    ("pyinstrument.speedscope.json", Format::Speedscope),
];

fn assumed() -> Assumed {
    Assumed::cpu_samples(NonZeroU32::new(99).unwrap())
}

fn read_as(bytes: &[u8], format: Format) -> Result<Vec<Imported>, ImportError> {
    read(bytes, Some(format), &assumed(), &Limits::default())
}

fn one(bytes: &[u8], format: Format) -> Imported {
    let mut all = read_as(bytes, format).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn failure(bytes: &[u8], format: Format) -> String {
    proto::status::chain(&read_as(bytes, format).unwrap_err())
}

/// Everything an import holds, in lines.
fn text(imported: &Imported) -> String {
    let mut out = String::new();
    let start = imported.start.map(UnixNanos::get);
    writeln!(out, "start {start:?} duration {:?}", imported.duration).unwrap();
    for column in &imported.columns {
        let total: i64 = column.values.iter().sum();
        let Column {
            profile_type,
            temporality,
            period,
            weight,
            ..
        } = column;
        writeln!(
            out,
            "{profile_type} {temporality:?} period {period} weight {weight} total {total}"
        )
        .unwrap();
    }
    for (index, stack) in imported.stacks.iter().enumerate() {
        let frames: Vec<String> = stack
            .iter()
            .rev()
            .map(|frame| {
                format!(
                    "{}!{frame}",
                    frame.kind.language().replace(
                        "native",
                        match frame.kind {
                            FrameKind::Kernel => "kernel",
                            FrameKind::Synthetic => "made",
                            FrameKind::Unsymbolized => "unsymbolized",
                            _ => "native",
                        }
                    )
                )
            })
            .collect();
        let values: Vec<i64> = imported.columns.iter().map(|c| c.values[index]).collect();
        writeln!(out, "{} {values:?}", frames.join(";")).unwrap();
    }
    if let Some(left_out) = imported.left_out.describe() {
        writeln!(out, "left out: {left_out}").unwrap();
    }
    out
}

fn check(name: &str, format: Format, expected: &Expect) {
    let all = read_as(&file(name), format).unwrap();
    let texts: Vec<String> = all.iter().map(text).collect();
    expected.assert_eq(&texts.join("\n"));
}

#[test]
fn every_real_file_tells_its_format_packed_and_not() {
    for (name, format) in FILES {
        let bytes = file(name);
        let unpacked = unpack(&bytes, &Limits::default()).unwrap();
        assert_eq!(Format::detect(&unpacked).unwrap(), format, "{name}");
        let packed = codec::gzip(&unpacked);
        for bytes in [&bytes[..], &unpacked, &packed] {
            let found = read(bytes, None, &assumed(), &Limits::default()).unwrap();
            assert_eq!(found, read_as(bytes, format).unwrap(), "{name}");
        }
    }
}

#[test]
fn what_is_no_profile_is_refused_with_advice() {
    for (bytes, advice) in [
        (&b""[..], "empty"),
        (b"PERFILE2\x68\x00", "perf script -i FILE"),
        (b"FLR\0\0\x02", "convert it"),
        (b"PK\x03\x04\x14", "unpack it"),
        (b"[{\"ph\":\"B\"}]", "speedscope.app"),
        (
            b"hello world\n",
            "--format: pprof, folded, perf-script, speedscope",
        ),
        (b"# only a comment\n", "--format"),
        (b"\x00\x01\x02\x03", "as pprof"),
        (b"{\"traceEvents\":[]}", "as speedscope JSON: line 1 "),
        (b"\x1f\x8b\x08\x00\x00", "unpack"),
    ] {
        let result = read(bytes, None, &assumed(), &Limits::default());
        let message = proto::status::chain(&result.unwrap_err());
        assert!(message.contains(advice), "{message}");
    }
}

#[test]
fn names_of_formats_are_read_back() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    let error = "PPROF".parse::<Format>().unwrap_err().to_string();
    assert!(error.contains("pprof, folded, perf-script"), "{error}");
}

#[test]
fn a_file_beyond_the_limit_is_refused_packed_or_not() {
    let limits = Limits {
        file_bytes: 10,
        ..Limits::default()
    };
    let bytes = b"main;work 1000\n";
    for bytes in [&bytes[..], &codec::gzip(bytes)] {
        let error = read(bytes, None, &assumed(), &limits).unwrap_err();
        assert!(proto::status::chain(&error).contains("10"), "{error:?}");
    }
}

fn total(imported: &Imported) -> i64 {
    imported.columns[0].values.iter().sum()
}

fn folded(text: &str, limits: &Limits) -> Imported {
    let all = read(text.as_bytes(), Some(Format::Folded), &assumed(), limits).unwrap();
    all.into_iter().next().unwrap()
}
