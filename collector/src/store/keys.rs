//! Keys of windows and rows: big endian, so that byte order is logical order.
//!
//! A key prefix is never reused. Windows and minutes have one column family
//! per day, named by [`family`], with keys of 17 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 2 | profile type |
//! | 4 | service |
//! | 1 | hour of the day |
//! | 4 | series |
//! | 2 | second in the hour at which the window starts |
//! | 4 | writer; 0 for a minute |
//!
//! Hours and days have families of thirty and 360 days, with keys of 14 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 2 | profile type |
//! | 4 | service |
//! | 4 | series |
//! | 4 | hour or day since 1970 |
//!
//! Windows that were imported lie in one family, `import/0`, for ever, with keys
//! of 22 bytes: profile type, service, series, start in seconds since 1970 (8),
//! writer.
//!
//! Feature rows have families of a day; their keys begin with a kind (1 byte) and
//! the service, see [`crate::feature::codec`].
//!
//! Which series had a window on which day lies in families of 360 days, with
//! keys of 14 bytes and empty values: service, profile type, day since 1970,
//! series.

pub use super::tier::DAY_S;
use super::tier::{HOUR_S, Tier};
use super::{PtypeId, SeriesId, ServiceId, WindowKey, WriterId};

/// Bytes of a key of the finest tier.
pub const FINE_KEY_BYTES: usize = 17;
/// Tier name of feature rows.
const FEATURE: &str = "feature";
/// Tier name of the rows that say which series had a window.
const ACTIVE: &str = "active";
/// Seconds of a family of such rows.
pub const ACTIVE_FAMILY_S: u64 = 360 * DAY_S;

/// Where a row of a coarser tier lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// Its tier; not [`Tier::Window`].
    pub tier: Tier,
    /// What its values count.
    pub ptype: PtypeId,
    /// The service.
    pub service: ServiceId,
    /// The series, [`SeriesId::WHOLE`] for the service, or a group of series.
    pub series: SeriesId,
    /// Start of its bucket in seconds since 1970.
    pub start_s: u64,
}

/// The day `start_s` lies in, counted from 1970.
pub fn day(start_s: u64) -> u64 {
    start_s / DAY_S
}

/// Column family of the rows of `tier` at `start_s`.
pub fn family(tier: Tier, start_s: u64) -> String {
    format!("{}/{}", tier.family_name(), start_s / tier.family_s())
}

/// Column family of the feature rows of `day`.
pub fn feature_family(day: u64) -> String {
    format!("{FEATURE}/{day}")
}

/// Column family that says which series were active at `start_s`.
pub fn active_family(start_s: u64) -> String {
    format!("{ACTIVE}/{}", start_s / ACTIVE_FAMILY_S)
}

/// The time in seconds since 1970, `[from, until)`, of a family that is kept
/// for a while; `None` for any other.
pub fn span_of_family(name: &str) -> Option<(u64, u64)> {
    let (tier, number) = name.split_once('/')?;
    let length = match tier {
        FEATURE => DAY_S,
        ACTIVE => ACTIVE_FAMILY_S,
        tier => Tier::ALL
            .into_iter()
            .find(|known| known.family_name() == tier)?
            .family_s(),
    };
    let from = number.parse::<u64>().ok()?.checked_mul(length)?;
    Some((from, from.checked_add(length)?))
}

fn low<const N: usize>(value: u64) -> [u8; N] {
    let bytes = value.to_be_bytes();
    let mut out = [0; N];
    for (to, from) in out.iter_mut().rev().zip(bytes.iter().rev()) {
        *to = *from;
    }
    out
}

/// Prefix of the windows of one type and service in one hour of a day.
pub fn hour_prefix(ptype: PtypeId, service: ServiceId, hour: u8) -> [u8; 7] {
    let [p0, p1] = ptype.0.to_be_bytes();
    let [s0, s1, s2, s3] = service.0.to_be_bytes();
    [p0, p1, s0, s1, s2, s3, hour]
}

/// Hour of the day of `start_s`.
pub fn hour(start_s: u64) -> u8 {
    let [hour] = low::<1>(start_s % DAY_S / HOUR_S);
    hour
}

/// The key of a window within the family of its day.
pub fn encode(key: &WindowKey) -> [u8; FINE_KEY_BYTES] {
    let mut out = [0; FINE_KEY_BYTES];
    let parts = hour_prefix(key.ptype, key.service, hour(key.start_s))
        .into_iter()
        .chain(key.series.0.to_be_bytes())
        .chain(low::<2>(key.start_s % HOUR_S))
        .chain(key.writer.0.to_be_bytes());
    for (to, from) in out.iter_mut().zip(parts) {
        *to = from;
    }
    out
}

/// The key of a window within its family.
pub fn encode_window(key: &WindowKey) -> Vec<u8> {
    match key.tier {
        Tier::Import => {
            let mut out = row_prefix(key.ptype, key.service, key.series).to_vec();
            out.extend(key.start_s.to_be_bytes());
            out.extend(key.writer.0.to_be_bytes());
            out
        }
        _ => encode(key).to_vec(),
    }
}

/// The service of a feature row.
pub fn service_of_feature(key: &[u8]) -> Option<ServiceId> {
    let service = key.get(1..5)?.try_into().ok()?;
    Some(ServiceId(u32::from_be_bytes(service)))
}

/// Prefix of everything of one type and service.
pub fn service_prefix(ptype: PtypeId, service: ServiceId) -> [u8; 6] {
    let [p0, p1] = ptype.0.to_be_bytes();
    let [s0, s1, s2, s3] = service.0.to_be_bytes();
    [p0, p1, s0, s1, s2, s3]
}

/// The imported window that `bytes` name.
pub fn decode_import(bytes: &[u8]) -> Option<WindowKey> {
    let (ptype, rest) = bytes.split_first_chunk::<2>()?;
    let (service, rest) = rest.split_first_chunk::<4>()?;
    let (series, rest) = rest.split_first_chunk::<4>()?;
    let (start, rest) = rest.split_first_chunk::<8>()?;
    let writer: &[u8; 4] = rest.try_into().ok()?;
    Some(WindowKey {
        tier: Tier::Import,
        ptype: PtypeId(u16::from_be_bytes(*ptype)),
        service: ServiceId(u32::from_be_bytes(*service)),
        start_s: u64::from_be_bytes(*start),
        series: SeriesId(u32::from_be_bytes(*series)),
        writer: WriterId(u32::from_be_bytes(*writer)),
    })
}

/// The key of a row within its family.
pub fn encode_row(key: &RowKey) -> Vec<u8> {
    match key.tier {
        Tier::Import | Tier::Window | Tier::Minute => encode(&WindowKey {
            tier: Tier::Window,
            ptype: key.ptype,
            service: key.service,
            start_s: key.start_s,
            series: key.series,
            writer: WriterId(0),
        })
        .to_vec(),
        Tier::Hour | Tier::Day => {
            let mut out = row_prefix(key.ptype, key.service, key.series).to_vec();
            out.extend(low::<4>(key.start_s / key.tier.length_s()));
            out
        }
    }
}

/// Prefix of the hours or days of one series.
pub fn row_prefix(ptype: PtypeId, service: ServiceId, series: SeriesId) -> [u8; 10] {
    let mut out = [0; 10];
    let parts = ptype
        .0
        .to_be_bytes()
        .into_iter()
        .chain(service.0.to_be_bytes())
        .chain(series.0.to_be_bytes());
    for (to, from) in out.iter_mut().zip(parts) {
        *to = from;
    }
    out
}

/// Key of the row that says that a series had a window on the day of `at_s`.
pub fn active(service: ServiceId, ptype: PtypeId, at_s: u64, series: SeriesId) -> Vec<u8> {
    let mut out = active_prefix(service, ptype, at_s);
    out.extend(series.0.to_be_bytes());
    out
}

/// Prefix of the series that were active on the day of `at_s`.
pub fn active_prefix(service: ServiceId, ptype: PtypeId, at_s: u64) -> Vec<u8> {
    let mut out = service.0.to_be_bytes().to_vec();
    out.extend(ptype.0.to_be_bytes());
    out.extend(low::<4>(day(at_s)));
    out
}

/// The series that the key of such a row names.
pub fn series_of_active(key: &[u8]) -> Option<SeriesId> {
    let series: &[u8; 4] = key.get(10..)?.try_into().ok()?;
    Some(SeriesId(u32::from_be_bytes(*series)))
}

/// The window that `bytes` name in the family of `day`.
pub fn decode(day: u64, bytes: &[u8]) -> Option<WindowKey> {
    let (ptype, rest) = bytes.split_first_chunk::<2>()?;
    let (service, rest) = rest.split_first_chunk::<4>()?;
    let (&hour, rest) = rest.split_first()?;
    let (series, rest) = rest.split_first_chunk::<4>()?;
    let (second, rest) = rest.split_first_chunk::<2>()?;
    let writer: &[u8; 4] = rest.try_into().ok()?;
    let in_hour = u64::from(u16::from_be_bytes(*second));
    let in_day = u64::from(hour).checked_mul(HOUR_S)?.checked_add(in_hour)?;
    Some(WindowKey {
        tier: Tier::Window,
        ptype: PtypeId(u16::from_be_bytes(*ptype)),
        service: ServiceId(u32::from_be_bytes(*service)),
        start_s: day.checked_mul(DAY_S)?.checked_add(in_day)?,
        series: SeriesId(u32::from_be_bytes(*series)),
        writer: WriterId(u32::from_be_bytes(*writer)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(ptype: u16, service: u32, start_s: u64, series: u32, writer: u32) -> WindowKey {
        WindowKey {
            tier: Tier::Window,
            ptype: PtypeId(ptype),
            service: ServiceId(service),
            start_s,
            series: SeriesId(series),
            writer: WriterId(writer),
        }
    }

    #[test]
    fn golden_bytes() {
        let at = 20_585 * DAY_S + 13 * HOUR_S + 37 * 60 + 20;
        assert_eq!(
            encode(&key(1, 2, at, 3, 4)),
            [0, 1, 0, 0, 0, 2, 13, 0, 0, 0, 3, 0x08, 0xc0, 0, 0, 0, 4]
        );
        assert_eq!(family(Tier::Window, at), "w10/20585");
    }

    #[test]
    fn golden_bytes_of_rows() {
        let row = |tier| RowKey {
            tier,
            ptype: PtypeId(1),
            service: ServiceId(2),
            series: SeriesId(3),
            start_s: 20_585 * DAY_S + 13 * HOUR_S,
        };
        let minute = [0, 1, 0, 0, 0, 2, 13, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode_row(&row(Tier::Minute)), minute);
        let hour = [0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0x07, 0x89, 0xe5];
        assert_eq!(encode_row(&row(Tier::Hour)), hour);
        let day = [0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0x50, 0x69];
        assert_eq!(encode_row(&row(Tier::Day)), day);
        let key = active(
            ServiceId(2),
            PtypeId(1),
            row(Tier::Hour).start_s,
            SeriesId(3),
        );
        assert_eq!(key, [0, 0, 0, 2, 0, 1, 0, 0, 0x50, 0x69, 0, 0, 0, 3]);
        assert_eq!(series_of_active(&key), Some(SeriesId(3)));
    }

    #[test]
    fn families_name_their_time() {
        for (name, span) in [
            ("w10/20585", Some((20_585, 1))),
            ("p1m/20585", Some((20_585, 1))),
            ("p1h/686", Some((20_580, 30))),
            ("p1d/57", Some((20_520, 360))),
            ("active/57", Some((20_520, 360))),
            ("feature/7", Some((7, 1))),
            ("dictionary", None),
            ("w10/x", None),
            ("p1h/-3", None),
            ("w10/18446744073709551615", None),
        ] {
            let expected = span.map(|(day, days)| (day * DAY_S, (day + days) * DAY_S));
            assert_eq!(span_of_family(name), expected, "{name}");
        }
        for tier in Tier::ALL {
            let at = 20_585 * DAY_S + 7;
            let (from, until) = span_of_family(&family(tier, at)).unwrap();
            assert!((from..until).contains(&at), "{tier}");
        }
    }

    proptest! {
        #[test]
        fn keys_round_trip(ptype: u16, service: u32, start_s in 0u64..1 << 40, series: u32, writer: u32) {
            let key = key(ptype, service, start_s, series, writer);
            prop_assert_eq!(decode(day(start_s), &encode(&key)), Some(key));
        }

        #[test]
        fn byte_order_is_type_service_hour_series_start_writer(
            a in (0u16..3, 0u32..3, 0u64..DAY_S, 0u32..3, 0u32..3),
            b in (0u16..3, 0u32..3, 0u64..DAY_S, 0u32..3, 0u32..3),
        ) {
            let logical = |k: &WindowKey| (k.ptype, k.service, hour(k.start_s), k.series, k.start_s, k.writer);
            let (a, b) = (key(a.0, a.1, a.2, a.3, a.4), key(b.0, b.1, b.2, b.3, b.4));
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), logical(&a).cmp(&logical(&b)));
        }

        #[test]
        fn imported_keys_round_trip(ptype: u16, service: u32, start_s: u64, series: u32, writer: u32) {
            let key = WindowKey { tier: Tier::Import, ..key(ptype, service, 0, series, writer) };
            let key = WindowKey { start_s, ..key };
            let bytes = encode_window(&key);
            prop_assert_eq!(bytes.len(), 22);
            prop_assert_eq!(decode_import(&bytes), Some(key));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _import = decode_import(&bytes);
            let _key = decode(u64::MAX, &bytes);
        }
    }
}
