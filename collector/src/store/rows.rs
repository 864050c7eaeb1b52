//! Rows of the dictionary: services, profile types, series, writers, and the
//! strings, frames, nodes and stacks of each service's tree.
//!
//! The first byte of a key says what the row is; it is never reused.
//!
//! | byte | key after it | value |
//! |---|---|---|
//! | 1 | | format version u32 |
//! | 2 | service u32 | tenant, namespace, service |
//! | 3 | profile type u16 | temporality u8, text |
//! | 4 | instance 16 | writer u32, sequence, bitmap u64, last seen (s) |
//! | 5 | service u32, series u32 | label pairs |
//! | 6 | service u32, first id u32 | strings |
//! | 7 | service u32, first id u32 | frames |
//! | 8 | service u32, epoch u16, first id u32 | nodes: (node - parent, frame) |
//! | 9 | service u32, epoch u16, first id u32 | stacks: leaf nodes |
//! | 10 | tier u8 | second before which everything was summed up, u64 |
//! | 11 | minute since 1970 u32, service u32, type u16, series u32 | |
//! | 12 | service u32, group u32 | label name, label value |
//! | 13 | tier u8 | second before which rows were dropped, u64 |
//! | 14 | service u32 | tenant, namespace, service; it is being deleted |
//! | 15 | | least id of a service that was never given out, u32 |
//! | 16 | service u32, tier u8 | second before which its rows were given up, u64, and second before which they are erased, u64 |
//! | 17 | service u32, epoch u16 | since when it takes new stacks (s), rules of names |
//! | 18 | service u32, epoch u16, first id u32 | strings of an epoch after the first |
//! | 19 | service u32, epoch u16, first id u32 | frames of an epoch after the first |
//!
//! Rows 6 to 9, 18 and 19 are append-only runs: a run holds ids from its first one on, and
//! the next run begins where it ends. Numbers in keys are big endian.

use proto::labels::LabelSet;
use proto::profile::Facts;
use proto::stack::FrameKind;
use proto::value_type::Temporality;
use proto::window::UnixNanos;

use super::bytes::{Reader, len, put_bytes, put_varint, put_zigzag};
use super::tier::{MINUTE_S, Tier};
use super::{Epoch, PtypeId, SeriesId, ServiceId, ServiceKey, StoredType, WriterId};

/// Version of the database format.
pub const FORMAT: u32 = 3;
/// Version of a facts row.
const FACTS_VERSION: u8 = 1;

pub(super) const FORMAT_ROW: u8 = 1;
pub(super) const SERVICE_ROW: u8 = 2;
pub(super) const TYPE_ROW: u8 = 3;
pub(super) const WRITER_ROW: u8 = 4;
pub(super) const SERIES_ROW: u8 = 5;
pub(super) const STRING_ROW: u8 = 6;
pub(super) const FRAME_ROW: u8 = 7;
pub(super) const NODE_ROW: u8 = 8;
pub(super) const STACK_ROW: u8 = 9;
pub(super) const ROLLED_ROW: u8 = 10;
pub(super) const LATE_ROW: u8 = 11;
pub(super) const GROUP_ROW: u8 = 12;
pub(super) const DROPPED_ROW: u8 = 13;
pub(super) const DOOMED_ROW: u8 = 14;
pub(super) const NEXT_SERVICE_ROW: u8 = 15;
pub(super) const GIVEN_UP_ROW: u8 = 16;
pub(super) const EPOCH_ROW: u8 = 17;
pub(super) const LATER_STRING_ROW: u8 = 18;
pub(super) const LATER_FRAME_ROW: u8 = 19;
/// Rows whose key goes on with their service and that hold nothing else.
pub(super) const ROWS_OF_SERVICES: [u8; 11] = [
    SERVICE_ROW,
    SERIES_ROW,
    STRING_ROW,
    FRAME_ROW,
    NODE_ROW,
    STACK_ROW,
    GROUP_ROW,
    EPOCH_ROW,
    LATER_STRING_ROW,
    LATER_FRAME_ROW,
    GIVEN_UP_ROW,
];
/// Runs of a tree, in the order in which they are read.
pub(super) const RUNS: [u8; 4] = [STRING_ROW, FRAME_ROW, NODE_ROW, STACK_ROW];

/// A row as the store writes it.
pub type Row = (Vec<u8>, Vec<u8>);

/// What is kept of an agent instance, so that a batch counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterRow {
    /// Its dense id.
    pub writer: WriterId,
    /// Highest sequence that was accepted.
    pub sequence: u64,
    /// Bit `n`: sequence `sequence - n` was accepted.
    pub seen: u64,
    /// When it last wrote, in seconds since 1970.
    pub last_s: u64,
}

/// A window came after its minute had been summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Late {
    /// Start of the minute in seconds since 1970.
    pub minute_s: u64,
    /// The service.
    pub service: ServiceId,
    /// The type.
    pub ptype: PtypeId,
    /// The series.
    pub series: SeriesId,
}

/// A version of a service's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// Its number.
    pub epoch: Epoch,
    /// Since when stacks are added to it, in seconds since 1970.
    pub since_s: u64,
    /// What its names are normalised by, as [`Rules::bits`]; `None` if that is not
    /// known.
    ///
    /// [`Rules::bits`]: crate::normalize::Rules::bits
    pub rules: Option<u32>,
}

impl EpochRow {
    /// The first epoch of a service, of which nothing is written down.
    pub const FIRST: Self = Self {
        epoch: Epoch(0),
        since_s: 0,
        rules: None,
    };
}

/// Rows of one tier of one service are kept shorter than those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The service.
    pub service: ServiceId,
    /// The tier.
    pub tier: Tier,
    /// Before this second no row is read or written any more.
    pub before_s: u64,
    /// Before this second no row is left.
    pub erased_s: u64,
}

/// The series of a service that have one value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id, see [`SeriesId::is_group`].
    pub id: SeriesId,
    /// Name of the label.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A frame with its strings as ids of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameRow {
    /// What kind of code it runs.
    pub kind: FrameKind,
    /// Function.
    pub function: u32,
    /// Name in the binary.
    pub system_name: u32,
    /// File.
    pub file: u32,
    /// Line where the function begins.
    pub start_line: u32,
    /// Line that ran.
    pub line: u32,
    /// Build id.
    pub build_id: u32,
    /// Offset in the module's file.
    pub file_offset: u64,
}

fn key(row: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![row];
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Key of the row that holds [`FORMAT`].
pub(super) fn format_key() -> Vec<u8> {
    vec![FORMAT_ROW]
}

/// The row of a service.
pub fn service(id: ServiceId, name: &ServiceKey) -> Row {
    (service_key(id), service_name(name))
}

/// Key of the row of a service.
pub(super) fn service_key(id: ServiceId) -> Vec<u8> {
    key(SERVICE_ROW, &[&id.0.to_be_bytes()])
}

fn service_name(name: &ServiceKey) -> Vec<u8> {
    let mut value = Vec::new();
    for text in [&name.tenant, &name.namespace, &name.service] {
        put_bytes(&mut value, text.as_bytes());
    }
    value
}

/// Id and name of a row of [`service`] or [`doomed`].
pub(super) fn read_service(key: &[u8], value: &[u8]) -> Option<(ServiceId, ServiceKey)> {
    let mut reader = Reader(value);
    let name = ServiceKey {
        tenant: reader.text()?.to_owned(),
        namespace: reader.text()?.to_owned(),
        service: reader.text()?.to_owned(),
    };
    Some((
        ServiceId(u32::from_be_bytes(key.get(1..)?.try_into().ok()?)),
        name,
    ))
}

/// The row that says that a service is being deleted.
pub(super) fn doomed(id: ServiceId, name: &ServiceKey) -> Row {
    (doomed_key(id), service_name(name))
}

/// Key of the row of [`doomed`].
pub(super) fn doomed_key(id: ServiceId) -> Vec<u8> {
    key(DOOMED_ROW, &[&id.0.to_be_bytes()])
}

/// The row that says which ids of services were given out: those below `next`.
pub(super) fn next_service(next: ServiceId) -> Row {
    (vec![NEXT_SERVICE_ROW], next.0.to_be_bytes().to_vec())
}

pub(super) fn read_next_service(value: &[u8]) -> Option<ServiceId> {
    Some(ServiceId(u32::from_be_bytes(value.try_into().ok()?)))
}

/// The service that a row is of, if it is of one.
pub(super) fn service_of(key: &[u8]) -> Option<ServiceId> {
    let kind = *key.first()?;
    if kind == LATE_ROW {
        return read_late(key).map(|late| late.service);
    }
    let id = key.get(1..5)?.try_into().ok()?;
    ROWS_OF_SERVICES
        .contains(&kind)
        .then(|| ServiceId(u32::from_be_bytes(id)))
}

/// The row of a profile type.
pub fn profile_type(id: PtypeId, stored: &StoredType) -> Row {
    let mut value = vec![match stored.temporality {
        Temporality::Delta => 1,
        Temporality::Gauge => 2,
    }];
    put_bytes(&mut value, stored.profile_type.to_string().as_bytes());
    (key(TYPE_ROW, &[&id.0.to_be_bytes()]), value)
}

pub(super) fn read_profile_type(key: &[u8], value: &[u8]) -> Option<(PtypeId, StoredType)> {
    let mut reader = Reader(value);
    let temporality = match reader.byte()? {
        1 => Temporality::Delta,
        2 => Temporality::Gauge,
        _ => return None,
    };
    let profile_type = reader.text()?.parse().ok()?;
    let id = PtypeId(u16::from_be_bytes(key.get(1..)?.try_into().ok()?));
    Some((
        id,
        StoredType {
            profile_type,
            temporality,
        },
    ))
}

/// The row of an agent instance.
pub fn writer(instance: &[u8; 16], row: &WriterRow) -> Row {
    let mut value = Vec::new();
    put_varint(&mut value, row.writer.0.into());
    put_varint(&mut value, row.sequence.into());
    value.extend_from_slice(&row.seen.to_be_bytes());
    put_varint(&mut value, row.last_s.into());
    (writer_key(instance), value)
}

/// Key of the row of an agent instance.
pub fn writer_key(instance: &[u8; 16]) -> Vec<u8> {
    key(WRITER_ROW, &[instance])
}

pub(super) fn read_writer(key: &[u8], value: &[u8]) -> Option<([u8; 16], WriterRow)> {
    let mut reader = Reader(value);
    let row = WriterRow {
        writer: WriterId(reader.number()?),
        sequence: reader.number()?,
        seen: u64::from_be_bytes(reader.array()?),
        last_s: reader.number()?,
    };
    Some((key.get(1..)?.try_into().ok()?, row))
}

/// The row of a series.
pub fn series(service: ServiceId, id: SeriesId, labels: &LabelSet) -> Row {
    let mut value = Vec::new();
    put_varint(&mut value, len(labels.len()));
    for (name, text) in labels.iter() {
        put_bytes(&mut value, name.as_bytes());
        put_bytes(&mut value, text.as_bytes());
    }
    (series_key(service, id), value)
}

/// Key of the row of a series.
pub fn series_key(service: ServiceId, id: SeriesId) -> Vec<u8> {
    let parts = [&service.0.to_be_bytes()[..], &id.0.to_be_bytes()];
    key(SERIES_ROW, &parts)
}

pub(super) fn series_prefix(service: ServiceId) -> Vec<u8> {
    key(SERIES_ROW, &[&service.0.to_be_bytes()])
}

pub(super) fn read_series(key: &[u8], value: &[u8]) -> Option<(SeriesId, LabelSet)> {
    let mut reader = Reader(value);
    let count = reader.length()?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((reader.text()?, reader.text()?));
    }
    let labels = LabelSet::new(pairs).ok()?;
    Some((
        SeriesId(u32::from_be_bytes(key.get(5..)?.try_into().ok()?)),
        labels,
    ))
}

/// The row that says up to which second `tier` was summed up.
pub fn rolled(tier: Tier, until_s: u64) -> Row {
    tier_row(ROLLED_ROW, tier, until_s)
}

/// The row that says up to which second the rows of `tier` were dropped.
pub fn dropped(tier: Tier, until_s: u64) -> Row {
    tier_row(DROPPED_ROW, tier, until_s)
}

fn tier_row(row: u8, tier: Tier, until_s: u64) -> Row {
    (
        key(row, &[&[tier_code(tier)]]),
        until_s.to_be_bytes().to_vec(),
    )
}

fn tier_code(tier: Tier) -> u8 {
    match tier {
        Tier::Window => 0,
        Tier::Import => 4,
        Tier::Minute => 1,
        Tier::Hour => 2,
        Tier::Day => 3,
    }
}

fn tier_of(code: &[u8]) -> Option<Tier> {
    let &[code] = code else {
        return None;
    };
    Tier::ALL.into_iter().find(|tier| tier_code(*tier) == code)
}

/// Tier and second of a row of [`rolled`] or [`dropped`].
pub(super) fn read_tier_row(key: &[u8], value: &[u8]) -> Option<(Tier, u64)> {
    let tier = tier_of(key.get(1..)?)?;
    Some((tier, u64::from_be_bytes(value.try_into().ok()?)))
}

/// The row that says which rows of a service were given up.
pub fn given_up(row: &GivenUp) -> Row {
    let parts = [&row.service.0.to_be_bytes()[..], &[tier_code(row.tier)]];
    let value = [row.before_s.to_be_bytes(), row.erased_s.to_be_bytes()];
    (key(GIVEN_UP_ROW, &parts), value.concat())
}

pub(super) fn read_given_up(key: &[u8], value: &[u8]) -> Option<GivenUp> {
    let (service, rest) = key.get(1..)?.split_first_chunk::<4>()?;
    let (before, erased) = value.split_first_chunk::<8>()?;
    Some(GivenUp {
        service: ServiceId(u32::from_be_bytes(*service)),
        tier: tier_of(rest)?,
        before_s: u64::from_be_bytes(*before),
        erased_s: u64::from_be_bytes(erased.try_into().ok()?),
    })
}

/// The row that says that a window came late.
pub fn late(late: &Late) -> Row {
    let minute = u32::try_from(late.minute_s / MINUTE_S).unwrap_or(u32::MAX);
    let parts = [
        &minute.to_be_bytes()[..],
        &late.service.0.to_be_bytes(),
        &late.ptype.0.to_be_bytes(),
        &late.series.0.to_be_bytes(),
    ];
    (key(LATE_ROW, &parts), Vec::new())
}

pub(super) fn read_late(key: &[u8]) -> Option<Late> {
    let (minute, rest) = key.get(1..)?.split_first_chunk::<4>()?;
    let (service, rest) = rest.split_first_chunk::<4>()?;
    let (ptype, rest) = rest.split_first_chunk::<2>()?;
    Some(Late {
        minute_s: u64::from(u32::from_be_bytes(*minute)) * MINUTE_S,
        service: ServiceId(u32::from_be_bytes(*service)),
        ptype: PtypeId(u16::from_be_bytes(*ptype)),
        series: SeriesId(u32::from_be_bytes(rest.try_into().ok()?)),
    })
}

/// The row of a group of series.
pub fn group(service: ServiceId, group: &Group) -> Row {
    let mut value = Vec::new();
    put_bytes(&mut value, group.name.as_bytes());
    put_bytes(&mut value, group.value.as_bytes());
    let parts = [&service.0.to_be_bytes()[..], &group.id.0.to_be_bytes()];
    (key(GROUP_ROW, &parts), value)
}

pub(super) fn group_prefix(service: ServiceId) -> Vec<u8> {
    key(GROUP_ROW, &[&service.0.to_be_bytes()])
}

pub(super) fn read_group(key: &[u8], value: &[u8]) -> Option<Group> {
    let mut reader = Reader(value);
    Some(Group {
        id: SeriesId(u32::from_be_bytes(key.get(5..)?.try_into().ok()?)),
        name: reader.text()?.to_owned(),
        value: reader.text()?.to_owned(),
    })
}

/// Prefix of the runs of one kind of a service's tree.
pub(super) fn run_prefix(row: u8, service: ServiceId, epoch: Epoch) -> Vec<u8> {
    let row = match row {
        // The first epoch was the only one once.
        STRING_ROW | FRAME_ROW if epoch == Epoch(0) => {
            return key(row, &[&service.0.to_be_bytes()]);
        }
        STRING_ROW => LATER_STRING_ROW,
        FRAME_ROW => LATER_FRAME_ROW,
        row => row,
    };
    key(row, &[&service.0.to_be_bytes(), &epoch.0.to_be_bytes()])
}

/// The row of an epoch.
pub fn epoch(service: ServiceId, row: &EpochRow) -> Row {
    let mut value = Vec::new();
    put_varint(&mut value, row.since_s.into());
    if let Some(rules) = row.rules {
        put_varint(&mut value, rules.into());
    }
    (epoch_key(service, row.epoch), value)
}

pub(super) fn epoch_key(service: ServiceId, epoch: Epoch) -> Vec<u8> {
    let parts = [&service.0.to_be_bytes()[..], &epoch.0.to_be_bytes()];
    key(EPOCH_ROW, &parts)
}

pub(super) fn epoch_prefix(service: ServiceId) -> Vec<u8> {
    key(EPOCH_ROW, &[&service.0.to_be_bytes()])
}

pub(super) fn read_epoch(key: &[u8], value: &[u8]) -> Option<EpochRow> {
    let mut reader = Reader(value);
    Some(EpochRow {
        epoch: Epoch(u16::from_be_bytes(key.get(5..)?.try_into().ok()?)),
        since_s: reader.number()?,
        rules: match reader.is_empty() {
            true => None,
            false => Some(reader.number()?),
        },
    })
}

/// Key of the run that begins with id `first`.
fn run_key(row: u8, service: ServiceId, epoch: Epoch, first: u32) -> Vec<u8> {
    let mut key = run_prefix(row, service, epoch);
    key.extend_from_slice(&first.to_be_bytes());
    key
}

/// First id of the run under `key`.
pub(super) fn run_first(key: &[u8]) -> Option<u32> {
    key.last_chunk::<4>()
        .map(|first| u32::from_be_bytes(*first))
}

/// The run of `strings` that begins with id `first`.
pub fn strings<'a>(
    service: ServiceId,
    epoch: Epoch,
    first: u32,
    strings: impl Iterator<Item = &'a str>,
) -> Row {
    let mut value = Vec::new();
    for text in strings {
        put_bytes(&mut value, text.as_bytes());
    }
    (run_key(STRING_ROW, service, epoch, first), value)
}

/// The run of `frames` that begins with id `first`.
pub fn frames(service: ServiceId, epoch: Epoch, first: u32, frames: &[FrameRow]) -> Row {
    let mut value = Vec::new();
    for frame in frames {
        value.push(frame.kind.code());
        for number in [
            frame.function,
            frame.system_name,
            frame.file,
            frame.start_line,
            frame.line,
            frame.build_id,
        ] {
            put_varint(&mut value, number.into());
        }
        put_varint(&mut value, frame.file_offset.into());
    }
    (run_key(FRAME_ROW, service, epoch, first), value)
}

pub(super) fn read_frame(reader: &mut Reader<'_>) -> Option<FrameRow> {
    Some(FrameRow {
        kind: FrameKind::from_code(reader.byte()?)?,
        function: reader.number()?,
        system_name: reader.number()?,
        file: reader.number()?,
        start_line: reader.number()?,
        line: reader.number()?,
        build_id: reader.number()?,
        file_offset: reader.number()?,
    })
}

/// The run of nodes (parent, frame) that begins with id `first`.
pub fn nodes(service: ServiceId, epoch: Epoch, first: u32, nodes: &[(u32, u32)]) -> Row {
    let mut value = Vec::new();
    for (node, &(parent, frame)) in (first..).zip(nodes) {
        put_varint(&mut value, node.saturating_sub(parent).into());
        put_varint(&mut value, frame.into());
    }
    (run_key(NODE_ROW, service, epoch, first), value)
}

/// The run of stacks, each its leaf node, that begins with id `first`.
pub fn stacks(service: ServiceId, epoch: Epoch, first: u32, leaves: &[u32]) -> Row {
    let mut value = Vec::new();
    for &leaf in leaves {
        put_varint(&mut value, leaf.into());
    }
    (run_key(STACK_ROW, service, epoch, first), value)
}

/// What is known over two windows: amounts add, states take the larger one.
pub fn join_facts(a: &Facts, b: &Facts) -> Facts {
    Facts {
        cpu_ns: a.cpu_ns.saturating_add(b.cpu_ns),
        rss_bytes: a.rss_bytes.max(b.rss_bytes),
        threads_count: a.threads_count.max(b.threads_count),
        processes_count: a.processes_count.max(b.processes_count),
        target_start: a.target_start.max(b.target_start),
        cpu_limit_millicores: a.cpu_limit_millicores.max(b.cpu_limit_millicores),
        throttled_ns: a.throttled_ns.saturating_add(b.throttled_ns),
        coverage_permille: a.coverage_permille.min(b.coverage_permille),
        lost_samples: a.lost_samples.saturating_add(b.lost_samples),
        dropped_labels: a.dropped_labels.saturating_add(b.dropped_labels),
        observed_ns: a.observed_ns.saturating_add(b.observed_ns),
    }
}

/// The value of a facts row of a window of `span_ns`.
pub fn facts(span_ns: u64, facts: &Facts) -> Vec<u8> {
    let mut value = vec![FACTS_VERSION];
    for number in [
        span_ns,
        facts.cpu_ns,
        facts.rss_bytes,
        facts.threads_count.into(),
        facts.processes_count.into(),
        facts.cpu_limit_millicores.into(),
        facts.throttled_ns,
        facts.coverage_permille.into(),
        facts.lost_samples,
        facts.dropped_labels,
        facts.observed_ns,
    ] {
        put_varint(&mut value, number.into());
    }
    put_zigzag(&mut value, facts.target_start.get().into());
    value
}

/// Reads a facts row: the window's length and its facts.
pub fn read_facts(value: &[u8]) -> Option<(u64, Facts)> {
    let mut reader = Reader(value);
    if reader.byte()? != FACTS_VERSION {
        return None;
    }
    let span_ns = reader.number()?;
    let facts = Facts {
        cpu_ns: reader.number()?,
        rss_bytes: reader.number()?,
        threads_count: reader.number()?,
        processes_count: reader.number()?,
        cpu_limit_millicores: reader.number()?,
        throttled_ns: reader.number()?,
        coverage_permille: reader.number()?,
        lost_samples: reader.number()?,
        dropped_labels: reader.number()?,
        observed_ns: reader.number()?,
        target_start: UnixNanos::new(reader.zigzag()?.try_into().ok()?),
    };
    Some((span_ns, facts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let name = ServiceKey {
            tenant: "t".into(),
            namespace: String::new(),
            service: "logger".into(),
        };
        assert_eq!(
            service(ServiceId(1), &name),
            (vec![2, 0, 0, 0, 1], b"\x01t\x00\x06logger".to_vec())
        );
        let labels = LabelSet::new([("service", "l")]).unwrap();
        assert_eq!(
            series(ServiceId(1), SeriesId(2), &labels),
            (
                vec![5, 0, 0, 0, 1, 0, 0, 0, 2],
                b"\x01\x07service\x01l".to_vec()
            )
        );
        let row = WriterRow {
            writer: WriterId(3),
            sequence: 300,
            seen: 1,
            last_s: 5,
        };
        assert_eq!(
            writer(&[7; 16], &row).1,
            [3, 0xac, 0x02, 0, 0, 0, 0, 0, 0, 0, 1, 5]
        );
        assert_eq!(
            nodes(ServiceId(1), Epoch(2), 5, &[(0, 9), (5, 1)]),
            (vec![8, 0, 0, 0, 1, 0, 2, 0, 0, 0, 5], vec![5, 9, 1, 1])
        );
        assert_eq!(
            stacks(ServiceId(1), Epoch(0), 0, &[300]),
            (vec![9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![0xac, 0x02])
        );
        let frame = FrameRow {
            kind: FrameKind::Go,
            function: 1,
            system_name: 0,
            file: 2,
            start_line: 3,
            line: 4,
            build_id: 0,
            file_offset: 0,
        };
        assert_eq!(
            frames(ServiceId(1), Epoch(0), 0, &[frame]).1,
            [2, 1, 0, 2, 3, 4, 0, 0]
        );
        assert_eq!(
            rolled(Tier::Hour, 7),
            (vec![10, 2], vec![0, 0, 0, 0, 0, 0, 0, 7])
        );
        let late_one = Late {
            minute_s: 600,
            service: ServiceId(1),
            ptype: PtypeId(2),
            series: SeriesId(3),
        };
        let late_key = vec![11, 0, 0, 0, 10, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3];
        assert_eq!(late(&late_one), (late_key.clone(), vec![]));
        assert_eq!(read_late(&late_key), Some(late_one));
        let version = Group {
            id: SeriesId::FIRST_GROUP,
            name: "version".to_owned(),
            value: "1".to_owned(),
        };
        let (group_key, group_value) = group(ServiceId(1), &version);
        assert_eq!(group_key, [12, 0, 0, 0, 1, 0x80, 0, 0, 0]);
        assert_eq!(group_value, b"\x07version\x011");
        assert_eq!(read_group(&group_key, &group_value), Some(version));
        assert_eq!(
            strings(ServiceId(1), Epoch(0), 7, ["ab"].into_iter()),
            (vec![6, 0, 0, 0, 1, 0, 0, 0, 7], b"\x02ab".to_vec())
        );
    }

    proptest! {
        #[test]
        fn facts_round_trip(span: u64, cpu: u64, rss: u64, threads: u32, start: i64) {
            let facts_in = Facts { cpu_ns: cpu, rss_bytes: rss, threads_count: threads, target_start: UnixNanos::new(start), ..Facts::default() };
            prop_assert_eq!(read_facts(&facts(span, &facts_in)), Some((span, facts_in)));
        }

        #[test]
        fn labels_round_trip(pairs in proptest::collection::btree_map("[a-z]{1,8}", ".{1,8}", 0..5)) {
            let labels = LabelSet::new(pairs.iter()).unwrap();
            let (key, value) = series(ServiceId(1), SeriesId(9), &labels);
            prop_assert_eq!(read_series(&key, &value), Some((SeriesId(9), labels)));
        }

        #[test]
        fn no_bytes_panic(key: Vec<u8>, value: Vec<u8>) {
            let _rows = (read_service(&key, &value), read_profile_type(&key, &value), read_writer(&key, &value), read_series(&key, &value), read_facts(&value), read_tier_row(&key, &value), read_late(&key), read_group(&key, &value), read_frame(&mut Reader(&value)));
        }
    }
}
