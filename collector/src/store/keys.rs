//! Keys of windows: big endian, so that byte order is logical order.
//!
//! A key prefix is never reused. The finest tier has one column family per
//! day, named by [`fine_family`], with keys of 17 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 2 | profile type |
//! | 4 | service |
//! | 1 | hour of the day |
//! | 4 | series |
//! | 2 | second in the hour at which the window starts |
//! | 4 | writer |

use super::{PtypeId, SeriesId, ServiceId, WindowKey, WriterId};

/// Seconds of a day.
pub const DAY_S: u64 = 86_400;
const HOUR_S: u64 = 3_600;
/// Bytes of a key of the finest tier.
pub const FINE_KEY_BYTES: usize = 17;

/// The day `start_s` lies in, counted from 1970.
pub fn day(start_s: u64) -> u64 {
    start_s / DAY_S
}

/// Column family of the windows of `day`.
pub fn fine_family(day: u64) -> String {
    format!("w10/{day}")
}

/// Column family of the feature rows of `day`.
pub fn feature_family(day: u64) -> String {
    format!("feature/{day}")
}

/// The day of a per-day column family, `None` for any other.
pub fn day_of_family(name: &str) -> Option<u64> {
    let (tier, day) = name.split_once('/')?;
    matches!(tier, "w10" | "feature")
        .then(|| day.parse().ok())
        .flatten()
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
        assert_eq!(fine_family(day(at)), "w10/20585");
    }

    #[test]
    fn families_name_their_day() {
        for (name, day) in [
            ("w10/20585", Some(20_585)),
            ("feature/7", Some(7)),
            ("dictionary", None),
            ("w10/x", None),
            ("p1h/3", None),
        ] {
            assert_eq!(day_of_family(name), day, "{name}");
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
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _key = decode(u64::MAX, &bytes);
        }
    }
}
