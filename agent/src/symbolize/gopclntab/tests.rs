//! Real Go programs, read here and asked about themselves; then the same files, damaged.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bytes::{text, u32_at, u64_at, varint};
use super::*;

const ADDRESSES: u64 = 3000;

/// A way to build the sample.
#[derive(Clone, Copy)]
struct Build {
    go: &'static str,
    arch: &'static str,
    flags: &'static [&'static str],
    stripped: bool,
}

const PLAIN: Build = Build {
    go: "go",
    arch: HOST,
    flags: &[],
    stripped: false,
};
const PIE: Build = Build {
    flags: &["-buildmode=pie", "-trimpath"],
    ..PLAIN
};
/// Where Debian puts the last version of the older layout.
const GO_1_19: &str = "/usr/lib/go-1.19/bin/go";
const HOST: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};
const OTHER: &str = if cfg!(target_arch = "aarch64") {
    "amd64"
} else {
    "arm64"
};

/// A built sample: the file to read, and one of the same code that has symbols.
struct Sample {
    build: Build,
    file: PathBuf,
    with_symbols: PathBuf,
    _directory: tempfile::TempDir,
}

fn output(command: &mut Command, input: &str) -> String {
    let program = command.get_program().to_owned();
    let child = command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    let child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!(
            "cannot run {}: {error}; type: apt-get install -y golang-go golang-1.19-go",
            program.display()
        )
    });
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Sample {
    fn new(build: Build) -> Sample {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::write(root.join("main.go"), include_str!("sample.go")).unwrap();
        std::fs::write(root.join("go.mod"), "module sample\n\ngo 1.19\n").unwrap();
        let make = |name: &str, more: &[&str]| {
            let mut go = Command::new(build.go);
            go.current_dir(root)
                .env("GOARCH", build.arch)
                .env("GOFLAGS", "")
                .arg("build");
            output(go.args(build.flags).args(more).args(["-o", name, "."]), "");
            root.join(name)
        };
        let with_symbols = make("with_symbols", &[]);
        let file = if build.stripped {
            make("stripped", &["-ldflags=-s -w"])
        } else {
            with_symbols.clone()
        };
        Sample {
            build,
            file,
            with_symbols,
            _directory: directory,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.file).unwrap()
    }

    fn table(&self) -> GoTable {
        GoTable::parse(self.bytes()).unwrap().expect("a Go program")
    }

    fn symbol(&self, name: &str) -> u64 {
        let symbols = output(
            Command::new(self.build.go)
                .args(["tool", "nm"])
                .arg(&self.with_symbols),
            "",
        );
        let line = symbols
            .lines()
            .find(|line| line.split_whitespace().nth(2) == Some(name))
            .unwrap();
        u64::from_str_radix(line.split_whitespace().next().unwrap(), 16).unwrap()
    }

    /// Addresses spread over all the code, at instruction borders or not.
    fn addresses(&self) -> Vec<u64> {
        let (start, end) = (self.symbol("runtime.text"), self.symbol("runtime.etext"));
        let quantum = if self.build.arch == "arm64" { 4 } else { 1 };
        let at = |index| (start + (end - start) * index / ADDRESSES) / quantum * quantum;
        (0..ADDRESSES).map(at).collect()
    }

    fn run(&self, verb: &str, input: &str) -> String {
        output(
            Command::new(&self.file)
                .arg(verb)
                .arg(format!("{:x}", self.symbol("main.main"))),
            input,
        )
    }
}

fn hex_lines(addresses: &[u64]) -> String {
    addresses
        .iter()
        .map(|address| format!("0x{address:x}\n"))
        .collect()
}

/// Go's tools say `?` or a line below 1 where the table has none.
fn position(file: &str, line: &str) -> (String, u32) {
    match line.parse::<i64>().unwrap() {
        1.. => (file.to_owned(), line.parse().unwrap()),
        _ => (String::new(), 0),
    }
}

#[test]
fn frames_are_those_of_go_itself() {
    let rows = [
        PLAIN,
        Build {
            flags: &["-trimpath"],
            stripped: true,
            ..PLAIN
        },
        PIE,
        Build {
            stripped: true,
            ..PIE
        },
        Build {
            arch: OTHER,
            ..PLAIN
        },
        Build {
            arch: OTHER,
            stripped: true,
            ..PIE
        },
        Build {
            go: GO_1_19,
            ..PLAIN
        },
        Build {
            go: GO_1_19,
            stripped: true,
            ..PLAIN
        },
        Build { go: GO_1_19, ..PIE },
        Build {
            go: GO_1_19,
            stripped: true,
            ..PIE
        },
    ];
    for build in rows {
        let sample = Sample::new(build);
        let table = sample.table();
        let addresses = sample.addresses();
        let found: Vec<_> = addresses
            .iter()
            .map(|&address| table.frames(address).unwrap())
            .collect();
        let inlined = found.iter().filter(|frames| frames.len() > 1).count();
        assert!(inlined > 300, "only {inlined} addresses in inlined code");

        // `go tool addr2line` names the compiled function and gives the innermost position. That of 1.19 cannot read PIE.
        if build.go != GO_1_19 || build.flags != PIE.flags {
            let mut tool = Command::new(build.go);
            tool.args(["tool", "addr2line"]).arg(&sample.with_symbols);
            let answer = output(&mut tool, &hex_lines(&addresses));
            let lines: Vec<_> = answer.lines().collect();
            assert_eq!(lines.len(), 2 * addresses.len());
            for ((address, frames), expected) in addresses.iter().zip(&found).zip(lines.chunks(2)) {
                let (file, line) = expected[1].rsplit_once(':').unwrap();
                let outermost = frames.last().unwrap();
                assert_eq!(
                    outermost.function,
                    shorten_type_arguments(expected[0].to_owned()),
                    "{address:#x}"
                );
                assert_eq!(
                    (frames[0].file.clone(), frames[0].line),
                    position(file, line),
                    "{address:#x} {frames:?}"
                );
            }
        }

        // The runtime names the innermost inlined function.
        if build.arch == HOST {
            let first_name = Lookup {
                bytes: &sample.bytes(),
                layout: &table.layout,
                steps: 0,
            }
            .name(0)
            .unwrap();
            let answer = sample.run("frames", &hex_lines(&addresses));
            assert_eq!(answer.lines().count(), addresses.len());
            for ((address, frames), expected) in addresses.iter().zip(&found).zip(answer.lines()) {
                let [function, file, line] = expected.split('\t').collect::<Vec<_>>()[..] else {
                    panic!("{expected}")
                };
                let (file, line) = position(file, line);
                if frames[0].line == 0 {
                    // Padding: the runtime looks one byte further, which may be the next function.
                    continue;
                }
                // The runtime takes the name at offset 0 for none.
                let function = if function.is_empty() {
                    first_name.as_str()
                } else {
                    function
                };
                let innermost = (
                    frames[0].function.as_str(),
                    frames[0].file.clone(),
                    frames[0].line,
                );
                assert_eq!(innermost, (function, file, line), "{address:#x} {frames:?}");
            }
        }
    }
}

#[test]
fn chains_of_inlined_calls_are_those_of_real_stacks() {
    for build in [
        PLAIN,
        Build {
            stripped: true,
            ..PIE
        },
        Build {
            go: GO_1_19,
            stripped: true,
            ..PLAIN
        },
    ] {
        let sample = Sample::new(build);
        let table = sample.table();
        let stacks = sample.run("stacks", "");
        let mut longest = 0;
        for stack in stacks.split_terminator("\n\n") {
            let logical: Vec<(u64, String)> = stack
                .lines()
                .map(|line| {
                    let (address, rest) = line.split_once('\t').unwrap();
                    (u64::from_str_radix(address, 16).unwrap(), rest.to_owned())
                })
                .collect();
            for (index, (address, _)) in logical.iter().enumerate() {
                let frames = table.frames(*address).unwrap();
                // Go leaves wrappers that the compiler wrote out of its stacks.
                let frames = frames
                    .iter()
                    .filter(|frame| frame.file != "<autogenerated>");
                let found: Vec<_> = frames
                    .map(|f| format!("{}\t{}\t{}", f.function, f.file, f.line))
                    .collect();
                let expected: Vec<_> = logical[index..]
                    .iter()
                    .take(found.len())
                    .map(|(_, frame)| frame.clone())
                    .collect();
                assert_eq!(found, expected, "{address:#x} in\n{stack}");
                longest = longest.max(found.len());
            }
        }
        assert!(longest >= 4, "the longest chain has {longest} frames");
    }
}

#[test]
fn start_line_is_the_line_of_the_declaration() {
    let sample = Sample::new(PLAIN);
    let table = sample.table();
    let mut checked = 0;
    let mut sources = std::collections::HashMap::new();
    for address in sample.addresses() {
        for frame in table.frames(address).unwrap() {
            let source: &String = sources
                .entry(frame.file.clone())
                .or_insert_with(|| std::fs::read_to_string(&frame.file).unwrap_or_default());
            // What the compiler made by itself has no declaration.
            let is_made = [".init", ".map.init", ".deferwrap", ".gowrap"]
                .iter()
                .any(|made| frame.function.contains(made));
            // The compiler sometimes leaves the position of an inlined call on code of its caller.
            let package_end = frame.function.rfind('/').map_or(0, |slash| slash + 1);
            let package = frame.function[package_end..].split('.').next().unwrap();
            let is_own = package == "main" || frame.file.contains(&format!("/{package}/"));
            if !frame.file.ends_with(".go") || is_made || !is_own {
                continue;
            }
            if table.layout.version == Version::Go118 {
                assert_eq!(frame.start_line, 0);
                checked += 1;
                continue;
            }
            let index = usize::try_from(frame.start_line)
                .unwrap()
                .checked_sub(1)
                .unwrap();
            let declaration = source.lines().nth(index).unwrap_or_default();
            assert!(
                declaration.contains("func") || declaration.contains("range"),
                "{frame:?}: {declaration}"
            );
            checked += 1;
        }
    }
    assert!(checked > 2000, "only {checked}");
}

/// A stripped sample in memory, for the tests that damage it.
struct Known {
    bytes: Vec<u8>,
    addresses: Vec<u64>,
    text: Range<u64>,
}

impl Known {
    fn new(build: Build) -> Known {
        let sample = Sample::new(Build {
            stripped: true,
            ..build
        });
        let text = sample.symbol("runtime.text")..sample.symbol("runtime.etext");
        Known {
            bytes: sample.bytes(),
            addresses: sample.addresses(),
            text,
        }
    }

    fn table(&self) -> GoTable {
        GoTable::parse(self.bytes.clone())
            .unwrap()
            .expect("a Go program")
    }

    /// The table after a change to the file.
    fn changed(&self, change: impl Fn(&mut [u8])) -> Result<Option<GoTable>, GoTableError> {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        GoTable::parse(bytes)
    }
}

fn plain() -> &'static Known {
    static PLAIN_FILE: OnceLock<Known> = OnceLock::new();
    PLAIN_FILE.get_or_init(|| Known::new(PLAIN))
}

fn pie() -> &'static Known {
    static PIE_FILE: OnceLock<Known> = OnceLock::new();
    PIE_FILE.get_or_init(|| Known::new(PIE))
}

fn write(bytes: &mut [u8], offset: usize, content: &[u8]) {
    bytes[offset..offset + content.len()].copy_from_slice(content);
}

fn remove_section_headers(bytes: &mut [u8]) {
    write(bytes, 0x28, &[0; 8]);
    write(bytes, 0x3c, &[0; 4]);
}

fn rename_table_section(bytes: &mut [u8]) {
    let name = b".gopclntab\0";
    let at = bytes
        .windows(name.len())
        .rposition(|window| window == name)
        .unwrap();
    write(bytes, at, b".renamed");
}

/// The offset of the first word of `moduledata`.
fn module_at(bytes: &[u8]) -> usize {
    let image = Image::parse(bytes).unwrap();
    let header = image
        .address_of(image.function_table().unwrap().start)
        .unwrap();
    let address = image.pointers_to(header).next().unwrap();
    image.file_range(address).unwrap().start
}

/// Leaves to the relocations what they say anyway, as some linkers do.
fn clear_stored_pointers(bytes: &mut [u8]) {
    let image = Image::parse(bytes).unwrap();
    let relocated = image
        .relative_relocations()
        .filter_map(|(place, _)| image.file_range(place));
    let places: Vec<_> = relocated.map(|range| range.start).collect();
    assert!(places.len() > 1000);
    places
        .into_iter()
        .for_each(|place| write(bytes, place, &[0; 8]));
}

#[test]
fn the_table_is_found_without_headers_names_or_stored_pointers() {
    type Change = fn(&mut [u8]);
    let rows: [(&Known, &[Change]); 6] = [
        (plain(), &[remove_section_headers]),
        (pie(), &[remove_section_headers]),
        (plain(), &[rename_table_section]),
        (pie(), &[rename_table_section]),
        (pie(), &[clear_stored_pointers]),
        (pie(), &[clear_stored_pointers, remove_section_headers]),
    ];
    for (known, changes) in rows {
        let table = known.changed(|bytes| changes.iter().for_each(|change| change(bytes)));
        let table = table.unwrap().expect("a Go program");
        let whole = known.table();
        for &address in &known.addresses {
            assert_eq!(table.frames(address), whole.frames(address));
        }
    }
}

#[test]
fn without_a_description_of_the_module_positions_remain() {
    let table = plain().changed(|bytes| write(bytes, module_at(bytes), &[0; 8]));
    let table = table.unwrap().expect("a Go program");
    assert_eq!(table.layout.funcdata, None);
    let whole = plain().table();
    for &address in &plain().addresses {
        let frames = whole.frames(address).unwrap();
        let position = GoFrame {
            file: frames[0].file.clone(),
            line: frames[0].line,
            ..frames.last().unwrap().clone()
        };
        assert_eq!(table.frames(address), Some(vec![position]));
    }
}

#[test]
fn addresses_outside_go_code_have_no_frames() {
    let table = plain().table();
    for address in [0, plain().text.start - 1, plain().text.end + 16, u64::MAX] {
        assert_eq!(table.frames(address), None, "{address:#x}");
    }
}

#[test]
fn what_cannot_be_read_is_told_apart() {
    let table = Image::parse(&plain().bytes)
        .unwrap()
        .function_table()
        .unwrap()
        .start;
    type Change<'a> = &'a dyn Fn(&mut [u8]);
    let rows: [(Change<'_>, &str); 7] = [
        (
            &|bytes| bytes[0] = 0,
            "cannot read the headers of the ELF file",
        ),
        (
            &|bytes| bytes[4] = 1,
            "unsupported kind of ELF file: 32-bit or big-endian",
        ),
        (
            &|bytes| bytes[5] = 2,
            "unsupported kind of ELF file: 32-bit or big-endian",
        ),
        (
            &|bytes| write(bytes, 0x12, &[8, 0]),
            "unsupported kind of ELF file: machine 8",
        ),
        (
            &|bytes| bytes[table] = 0xfa,
            "unsupported version of Go's function table: magic 0xfffffffa",
        ),
        (
            &|bytes| write(bytes, table + 8, &[0xff; 8]),
            "damaged function table of Go: the number of functions does not fit",
        ),
        (
            &|bytes| write(bytes, table + 32, &[0xff; 8]),
            "damaged function table of Go: its parts are out of order",
        ),
    ];
    for (change, expected) in rows {
        let error = plain().changed(change).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_program_in_another_language_is_none() {
    let tests = std::env::current_exe().unwrap();
    for file in [Path::new("/bin/true"), &tests] {
        assert!(
            matches!(GoTable::parse(std::fs::read(file).unwrap()), Ok(None)),
            "{}",
            file.display()
        );
    }
    assert_eq!(tests.extension(), None::<&OsStr>);
}

#[test]
fn names_are_shortened_as_the_runtime_does() {
    for (name, expected) in [
        ("main.main", "main.main"),
        ("main.F[go.shape.int]", "main.F[...]"),
        (
            "main.(*T[go.shape.[]string]).m.func1",
            "main.(*T[...]).m.func1",
        ),
        ("a]b[c", "a]b[c"),
        ("[", "["),
        ("]", "]"),
        ("", ""),
    ] {
        assert_eq!(shorten_type_arguments(name.to_owned()), expected);
    }
}

#[test]
fn numbers_of_variable_length_are_bounded() {
    for (bytes, expected) in [
        (&[0x05][..], Some(5)),
        (&[0x80, 0x01], Some(128)),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], Some(u32::MAX)),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], None),
        (&[0x80], None),
        (&[], None),
    ] {
        assert_eq!(varint(&mut &*bytes), expected, "{bytes:?}");
    }
    assert_eq!(text(b"ab\0c\xff", 0), Some("ab".to_owned()));
    assert_eq!(text(b"ab\0c\xff", 3), Some("c\u{fffd}".to_owned()));
    assert_eq!(text(b"ab", 3), None);
}

#[test]
fn a_value_table_that_never_advances_ends() {
    // One byte of padding, then steps by one value and no instruction.
    let bytes = [2, 0].repeat(6 << 20);
    let layout = Layout {
        values: 0..bytes.len(),
        ..plain().table().layout
    };
    let mut lookup = Lookup {
        bytes: &bytes,
        layout: &layout,
        steps: MAX_STEPS,
    };
    assert_eq!(lookup.value(2, 1), None);
    assert_eq!(lookup.steps, 0);
}

#[test]
fn an_inlined_call_that_is_its_own_parent_ends() {
    let mut bytes = plain().bytes.clone();
    let table = plain().table();
    let address = plain()
        .addresses
        .iter()
        .copied()
        .find(|&address| table.frames(address).unwrap().len() > 2)
        .unwrap();
    let layout = table.layout.clone();
    let mut lookup = Lookup {
        bytes: &bytes,
        layout: &layout,
        steps: MAX_STEPS,
    };
    let offset = u32::try_from(address - layout.text_start).unwrap();
    let function = lookup.function_at(offset).unwrap();
    let tree = lookup.inline_tree_at(&function).unwrap();
    let values = lookup.extra(&function, PCDATA_INLINE_INDEX).unwrap();
    let index = lookup.value(values, offset - function.entry).unwrap();
    let call = layout.version.inlined_call();
    let entry = layout.funcdata.unwrap().start
        + usize::try_from(tree).unwrap()
        + usize::try_from(index).unwrap() * call.size;
    assert!(u32_at(&bytes, entry + call.parent_pc).is_some());
    write(
        &mut bytes,
        entry + call.parent_pc,
        &(offset - function.entry).to_le_bytes(),
    );
    let frames = GoTable::parse(bytes)
        .unwrap()
        .unwrap()
        .frames(address)
        .unwrap();
    assert_eq!(frames.len(), MAX_INLINED + 1);
}

/// Parses and asks; whatever the answer, it comes soon.
fn survives(bytes: Vec<u8>, addresses: &[u64]) {
    let start = Instant::now();
    if let Ok(Some(table)) = GoTable::parse(bytes) {
        for &address in addresses {
            if let Some(frames) = table.frames(address) {
                assert!((1..=MAX_INLINED + 1).contains(&frames.len()));
            }
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "took {:?}",
        start.elapsed()
    );
}

/// The bytes that decide where a read goes: headers, the table, the description of the module, relocations.
fn parts(bytes: &[u8]) -> Vec<Range<usize>> {
    let image = Image::parse(bytes).unwrap();
    let table = image.function_table().unwrap();
    let layout = Layout::find(bytes).unwrap().unwrap();
    let module = module_at(bytes);
    let sections = usize::try_from(u64_at(bytes, 0x28).unwrap()).unwrap();
    vec![
        0..1024,
        sections..bytes.len().min(sections + 40 * 64),
        table.start..table.start + 72,
        layout.units,
        layout.values,
        layout.functions.start..layout.functions.start + 8 * layout.function_count,
        layout.functions,
        layout.funcdata.unwrap(),
        module..module + 48 * 8,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_survived(
        is_pie: bool,
        damage in prop::collection::vec((0_usize..9, any::<prop::sample::Index>(), any::<[u8; 4]>(), 1_usize..=4), 1..60),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        static PARTS: OnceLock<[Vec<Range<usize>>; 2]> = OnceLock::new();
        let known = if is_pie { pie() } else { plain() };
        let parts = &PARTS.get_or_init(|| [parts(&plain().bytes), parts(&pie().bytes)])[usize::from(is_pie)];
        let addresses: Vec<_> = known.addresses.iter().copied().step_by(30).collect();
        let mut bytes = known.bytes.clone();
        for (part, at, content, length) in damage {
            let part = &parts[part];
            let at = (part.start + at.index(part.len())).min(bytes.len() - 4);
            write(&mut bytes, at, &content[..length]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survives(bytes, &addresses);
    }

    #[test]
    fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        write_if_long(&mut bytes, &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        survives(bytes, &[0, 0x40_1000, u64::MAX]);
    }
}

fn write_if_long(bytes: &mut [u8], content: &[u8]) {
    if bytes.len() >= content.len() {
        write(bytes, 0, content);
    }
}
