//! The plain way, as a baseline: each window a gzipped pprof file, all of them
//! merged by `go tool pprof`, or packed together by zstd.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use proto::codec;
use proto::pprof::{PprofBuilder, PprofHead};
use proto::profile::Profile;
use proto::value_type::ProfileType;

use crate::corpus::{Corpus, PERIOD_NS, Slot};
use crate::fleet::Grain;
use crate::process;

/// As the `zstd` program's `-3 --long`: level 3, a window of 2^27 bytes.
const FLOOR_LEVEL: i32 = 3;
const FLOOR_WINDOW_LOG: u32 = 27;
/// Largest profile that is unpacked again to be packed with others.
const MAX_PROFILE_BYTES: usize = 64 << 20;

/// `profile` as a gzipped pprof file with nanoseconds of CPU time.
pub fn gzipped(profile: &Profile) -> Vec<u8> {
    let cpu = ProfileType::cpu();
    let window = profile.window();
    let mut builder = PprofBuilder::new(&PprofHead {
        sample_types: vec![cpu.sample().clone()],
        period_type: cpu.period().clone(),
        period: i64::try_from(PERIOD_NS).unwrap_or(i64::MAX),
        time_ns: window.start().get(),
        duration_ns: i64::try_from(window.duration().as_nanos()).unwrap_or(i64::MAX),
        comments: Vec::new(),
    });
    for column in profile.columns() {
        let weight = i64::try_from(column.weight).unwrap_or(i64::MAX);
        for (stack, value) in profile.stacks().iter().zip(&column.values) {
            builder.add(stack.iter(), vec![value.saturating_mul(weight)]);
        }
    }
    builder.finish()
}

/// The window at `slot` of `service` as a gzipped pprof file.
pub fn window(corpus: &Corpus, service: &str, slot: Slot, grain: Grain) -> Vec<u8> {
    let labels = Corpus::labels(service, slot.pod);
    gzipped(&corpus.profile(labels, slot, grain.length_ns))
}

/// What windows take as files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// How many windows.
    pub windows: u64,
    /// Each a gzipped pprof file.
    pub gzip_bytes: u64,
    /// Unpacked, one after the other, packed by `zstd -3 --long`.
    pub floor_bytes: u64,
}

/// Counts what is written to it.
#[derive(Debug, Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Packs the windows at `slots` both ways, until `longest` has passed.
///
/// # Errors
///
/// When zstd has no memory.
pub fn sizes(
    corpus: &Corpus,
    service: &str,
    slots: impl IntoIterator<Item = Slot>,
    longest: Duration,
) -> anyhow::Result<Sizes> {
    let began = Instant::now();
    let mut floor = zstd::stream::write::Encoder::new(Counter::default(), FLOOR_LEVEL)?;
    floor.long_distance_matching(true)?;
    floor.window_log(FLOOR_WINDOW_LOG)?;
    let mut sizes = Sizes::default();
    for slot in slots {
        if began.elapsed() > longest {
            break;
        }
        let packed = window(corpus, service, slot, Grain::FINE);
        sizes.windows += 1;
        sizes.gzip_bytes += u64::try_from(packed.len()).unwrap_or(0);
        floor.write_all(&codec::gunzip(&packed, MAX_PROFILE_BYTES)?)?;
    }
    sizes.floor_bytes = floor.finish()?.0;
    Ok(sizes)
}

/// Writes the windows at `slots` as files of `folder`.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(
    corpus: &Corpus,
    service: &str,
    slots: impl IntoIterator<Item = Slot>,
    folder: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (number, slot) in slots.into_iter().enumerate() {
        let path = folder.join(format!("{number:06}.pb.gz"));
        std::fs::write(&path, window(corpus, service, slot, Grain::FINE))
            .with_context(|| format!("cannot write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// What `go tool pprof` took to merge files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// CPU time of the tool.
    pub cpu: Duration,
    /// How long it took.
    pub wall: Duration,
    /// Bytes of the merged profile.
    pub bytes: u64,
}

/// Merges `files` with `go tool pprof -proto`.
///
/// # Errors
///
/// When there is no Go, or it fails.
pub fn go_merge(files: &[PathBuf], out: &Path) -> anyhow::Result<Merge> {
    // The first call compiles the tool.
    let warm = Command::new("go")
        .args(["tool", "pprof", "-h"])
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    warm.context("cannot run go")?;
    let before = process::children_time()?;
    let began = Instant::now();
    let status = Command::new("go")
        .args(["tool", "pprof", "-symbolize=none", "-proto", "-output"])
        .arg(out)
        .args(files)
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run go tool pprof")?;
    if !status.success() {
        bail!("go tool pprof ended with {status}");
    }
    Ok(Merge {
        cpu: process::children_time()?.saturating_sub(before),
        wall: began.elapsed(),
        bytes: std::fs::metadata(out)?.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Shape;
    use proto::pprof::Pprof;
    use proto::stack::FrameKind;
    use proto::window::UnixNanos;

    fn slots() -> impl Iterator<Item = Slot> {
        (0..8).map(|pod| Slot {
            pod,
            start: UnixNanos::new(1_700_000_000_000_000_000),
            samples: 990,
        })
    }

    #[test]
    fn a_file_holds_every_sample_of_its_window() {
        let corpus = Corpus::new(Shape::LEAN, 1);
        for slot in slots() {
            let read = Pprof::parse(&window(&corpus, "bench", slot, Grain::FINE), FrameKind::Go);
            let values = read
                .unwrap()
                .samples
                .into_iter()
                .map(|sample| sample.values[0]);
            assert_eq!(values.sum::<i64>(), 990 * i64::try_from(PERIOD_NS).unwrap());
        }
    }

    #[test]
    fn packing_together_takes_less_than_file_by_file() {
        let corpus = Corpus::new(Shape::LEAN, 1);
        let sizes = sizes(&corpus, "bench", slots(), Duration::MAX).unwrap();
        assert_eq!(sizes.windows, 8);
        assert!(sizes.floor_bytes > 0 && sizes.floor_bytes < sizes.gzip_bytes);
    }
}
