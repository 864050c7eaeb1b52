//! Bytes and keys of feature rows.
//!
//! A key is, big endian: kind (1 byte), service id (4), start of the step in
//! seconds since 1970 (8), discriminator (4: series id, or
//! [`version_number`]). A kind is never reused.
//!
//! A value is a format version (1 byte) and then numbers as LEB128 varints
//! (signed ones in zigzag), text and lists with their length before them, real
//! numbers as 8 bytes little endian. Decoding believes no length beyond the
//! bytes at hand and takes nothing after the end.

mod pods;

use proto::profile::Facts;
use proto::stack::FrameKind;
use proto::window::{UnixNanos, Window};
use xxhash_rust::xxh3::xxh3_64;

use super::coarse::Grain;
use super::{FunctionCount, PathFrame, SeriesRow, ServiceRow, SpinCandidate};

/// First key byte of a [`SeriesRow`].
pub const SERIES_ROW: u8 = 1;
/// First key byte of a [`ServiceRow`].
pub const SERVICE_ROW: u8 = 2;
/// First key byte of a [`ServiceRow`] over ten minutes of all versions.
pub const TEN_MINUTES_ROW: u8 = 3;
/// First key byte of a [`ServiceRow`] over an hour of all versions.
pub const HOUR_ROW: u8 = 4;
/// First key byte of a [`super::pods::PodsRow`] over ten minutes.
pub const TEN_MINUTES_PODS: u8 = 5;
/// First key byte of a [`super::pods::PodsRow`] over an hour.
pub const HOUR_PODS: u8 = 6;
/// Bytes of a key.
pub const KEY_BYTES: usize = 17;
/// First key byte of the rows of `grain`.
pub const fn kind_of(grain: Grain) -> u8 {
    match grain {
        Grain::TenMinutes => TEN_MINUTES_ROW,
        Grain::Hour => HOUR_ROW,
    }
}
/// Format of the values written here.
const FORMAT: u8 = 1;

/// Why bytes are no row.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RowError {
    /// Another program version wrote it.
    #[error("feature row has format {found}, this program reads {FORMAT}")]
    Format {
        /// The format it has.
        found: u8,
    },
    /// It is cut short, too long or holds an impossible value.
    #[error("feature row is damaged")]
    Damaged,
}

/// Key of the row of `kind` of a service for the step that begins at `start`.
pub fn key(kind: u8, service: u32, start: UnixNanos, discriminator: u32) -> [u8; KEY_BYTES] {
    let seconds = u64::try_from(start.seconds()).unwrap_or(0);
    let mut key = [0; KEY_BYTES];
    let parts = [kind]
        .into_iter()
        .chain(service.to_be_bytes())
        .chain(seconds.to_be_bytes())
        .chain(discriminator.to_be_bytes());
    for (to, from) in key.iter_mut().zip(parts) {
        *to = from;
    }
    key
}

/// Start of the step that a key is of, in seconds since 1970; `None` if it is no key.
pub fn start_s(key: &[u8]) -> Option<u64> {
    let seconds = key.get(5..13)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*seconds))
}

/// Beginning of every key of `kind` of a service.
pub fn prefix(kind: u8, service: u32) -> [u8; 5] {
    let [a, b, c, d] = service.to_be_bytes();
    [kind, a, b, c, d]
}

/// Beginning of the keys of `kind` of a service for the step that begins at `start`.
pub fn step_prefix(kind: u8, service: u32, start: UnixNanos) -> Vec<u8> {
    let mut prefix = key(kind, service, start, 0).to_vec();
    prefix.truncate(KEY_BYTES - size_of::<u32>());
    prefix
}

/// The discriminator of a version's [`ServiceRow`].
pub fn version_number(version: &str) -> u32 {
    let [a, b, c, d, ..] = xxh3_64(version.as_bytes()).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl SeriesRow {
    /// The bytes that [`SeriesRow::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_window(&mut out, &self.step);
        for text in [
            &self.tenant,
            &self.namespace,
            &self.service,
            &self.pod,
            &self.version,
        ] {
            put_text(&mut out, text);
        }
        for number in [self.series, self.period_ns, self.observed_ns, self.samples] {
            put(&mut out, number);
        }
        put_real(&mut out, self.cores);
        put_facts(&mut out, &self.facts);
        put_len(&mut out, self.candidates.len());
        for candidate in &self.candidates {
            put_candidate(&mut out, candidate);
        }
        out
    }

    /// Reads what [`SeriesRow::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`RowError`] if `bytes` are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut from = body(bytes)?;
        let row = series_row(&mut from).ok_or(RowError::Damaged)?;
        from.end(row)
    }
}

impl ServiceRow {
    /// The bytes that [`ServiceRow::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_window(&mut out, &self.step);
        put_text(&mut out, &self.version);
        for number in [
            self.period_ns,
            self.observed_ns,
            self.samples,
            self.other_flat,
        ] {
            put(&mut out, number);
        }
        put_len(&mut out, self.functions.len());
        for function in &self.functions {
            put_text(&mut out, &function.function);
            put(&mut out, function.flat);
            put(&mut out, function.cum);
        }
        out
    }

    /// Reads what [`ServiceRow::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`RowError`] if `bytes` are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut from = body(bytes)?;
        let row = service_row(&mut from).ok_or(RowError::Damaged)?;
        from.end(row)
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn put_len(out: &mut Vec<u8>, length: usize) {
    put(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_real(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_window(out: &mut Vec<u8>, window: &Window) {
    put_signed(out, window.start().get());
    let length = window.duration().as_nanos();
    put(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn put_facts(out: &mut Vec<u8>, facts: &Facts) {
    for number in [
        facts.cpu_ns,
        facts.rss_bytes,
        u64::from(facts.threads_count),
        u64::from(facts.processes_count),
    ] {
        put(out, number);
    }
    put_signed(out, facts.target_start.get());
    for number in [
        u64::from(facts.cpu_limit_millicores),
        facts.throttled_ns,
        u64::from(facts.coverage_permille),
        facts.lost_samples,
        facts.dropped_labels,
        facts.observed_ns,
    ] {
        put(out, number);
    }
}

fn put_candidate(out: &mut Vec<u8>, candidate: &SpinCandidate) {
    put_len(out, candidate.path.len());
    for frame in &candidate.path {
        put_text(out, &frame.function);
        put_text(out, &frame.file);
        put(out, u64::from(frame.line));
        out.push(frame.kind.code());
    }
    put_len(out, candidate.identity.len());
    for function in &candidate.identity {
        put_text(out, function);
    }
    put(out, candidate.samples);
    put_real(out, candidate.cores);
    put_real(out, candidate.leaf_eff);
    put_real(out, candidate.wait_share);
    match candidate.progress_share {
        None => out.push(0),
        Some(share) => {
            out.push(1);
            put_real(out, share);
        }
    }
    put_len(out, candidate.top_leaves.len());
    for (function, share) in &candidate.top_leaves {
        put_text(out, function);
        put_real(out, *share);
    }
}

/// Reads from front to back; `None` means damaged.
struct Reader<'a>(&'a [u8]);

fn body(bytes: &[u8]) -> Result<Reader<'_>, RowError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => Ok(Reader(rest)),
        Some((&found, _)) => Err(RowError::Format { found }),
        None => Err(RowError::Damaged),
    }
}

impl Reader<'_> {
    fn end<T>(&self, row: T) -> Result<T, RowError> {
        if self.0.is_empty() {
            Ok(row)
        } else {
            Err(RowError::Damaged)
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let moved = bits << shift;
            if moved >> shift != bits {
                return None;
            }
            value |= moved;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn real(&mut self) -> Option<f64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(f64::from_le_bytes(*bytes)).filter(|value| value.is_finite())
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Grown item by item: a length alone allocates nothing.
        let length = self.number()?;
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn window(&mut self) -> Option<Window> {
        let start = self.signed()?;
        Window::from_start(UnixNanos::new(start), self.number()?).ok()
    }
}

fn series_row(from: &mut Reader<'_>) -> Option<SeriesRow> {
    Some(SeriesRow {
        step: from.window()?,
        tenant: from.text()?,
        namespace: from.text()?,
        service: from.text()?,
        pod: from.text()?,
        version: from.text()?,
        series: from.number()?,
        period_ns: from.number()?,
        observed_ns: from.number()?,
        samples: from.number()?,
        cores: from.real()?,
        facts: facts(from)?,
        candidates: from.list(candidate)?,
    })
}

fn facts(from: &mut Reader<'_>) -> Option<Facts> {
    Some(Facts {
        cpu_ns: from.number()?,
        rss_bytes: from.number()?,
        threads_count: from.small()?,
        processes_count: from.small()?,
        target_start: UnixNanos::new(from.signed()?),
        cpu_limit_millicores: from.small()?,
        throttled_ns: from.number()?,
        coverage_permille: from.small()?,
        lost_samples: from.number()?,
        dropped_labels: from.number()?,
        observed_ns: from.number()?,
    })
}

fn candidate(from: &mut Reader<'_>) -> Option<SpinCandidate> {
    Some(SpinCandidate {
        path: from.list(|from| {
            Some(PathFrame {
                function: from.text()?,
                file: from.text()?,
                line: from.small()?,
                kind: FrameKind::from_code(from.byte()?)?,
            })
        })?,
        identity: from.list(Reader::text)?,
        samples: from.number()?,
        cores: from.real()?,
        leaf_eff: from.real()?,
        wait_share: from.real()?,
        progress_share: match from.byte()? {
            0 => None,
            1 => Some(from.real()?),
            _ => return None,
        },
        top_leaves: from.list(|from| Some((from.text()?, from.real()?)))?,
    })
}

fn service_row(from: &mut Reader<'_>) -> Option<ServiceRow> {
    Some(ServiceRow {
        step: from.window()?,
        version: from.text()?,
        period_ns: from.number()?,
        observed_ns: from.number()?,
        samples: from.number()?,
        other_flat: from.number()?,
        functions: from.list(|from| {
            Some(FunctionCount {
                function: from.text()?,
                flat: from.number()?,
                cum: from.number()?,
            })
        })?,
    })
}
