//! Databases of older formats become this one's when they are opened.
//!
//! A step changes nothing that the format before it needs, and the new format is
//! written down last: a step that was cut short runs again from its beginning.

use rocksdb::WriteBatch;
use tracing::info;

use super::rocks::RocksStore;
use super::tier::{DAY_S, Tier};
use super::{Active, Kept, StoreError, keys};

/// Rows that are written together.
const ROWS: usize = 10_000;

impl RocksStore {
    /// Brings a database of format `found` to the next one.
    pub(super) fn migrate(&self, found: u32) -> Result<u32, StoreError> {
        info!(
            from = found,
            to = found + 1,
            "bringing the database to a newer format"
        );
        if found == 1 {
            self.write_activity()?;
        }
        self.write_format(found + 1)?;
        Ok(found + 1)
    }

    /// Format 2 knows which series had a window on which day. Sums are made
    /// from the windows by the rollup, which begins at the first one.
    fn write_activity(&self) -> Result<(), StoreError> {
        for (start_s, name) in self.families_between(Kept::Rows(Tier::Window), 0, u64::MAX) {
            let mut last = None;
            let mut rows = Vec::new();
            self.visit_family(&name, |key| {
                let key = keys::decode(start_s / DAY_S, key)
                    .ok_or_else(|| StoreError::damaged(key, "not a window's key"))?;
                let active = Active {
                    service: key.service,
                    ptype: key.ptype,
                    day_s: start_s,
                    series: key.series,
                };
                // Windows of a series lie side by side, hour by hour.
                if last.replace(active) != Some(active) {
                    rows.push(active);
                }
                if rows.len() >= ROWS {
                    self.put_activity(&std::mem::take(&mut rows))?;
                }
                Ok(())
            })?;
            self.put_activity(&rows)?;
        }
        Ok(())
    }

    fn put_activity(&self, rows: &[Active]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for active in rows {
            self.put_active(&mut batch, active)?;
        }
        self.write_batch(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proto::labels::LabelSet;
    use proto::value_type::{ProfileType, Temporality};
    use proto::window::{UnixNanos, Window};

    use super::*;
    use crate::store::segment::{RangeSum, Segment, SegmentKind, Value};
    use crate::store::{
        Epoch, PtypeId, SeriesId, ServiceId, ServiceKey, Store, StoredType, SumRequest, WindowKey,
        WriteGroup, WriterId, rows,
    };

    const START_S: u64 = 20_585 * DAY_S + 7_200;

    fn fixture(format: u32) -> PathBuf {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        data.join(format!("format-{format}"))
    }

    /// What every fixture holds: ten windows of two series of one service.
    fn content() -> WriteGroup {
        let service = ServiceKey {
            tenant: "anonymous".into(),
            namespace: "prod".into(),
            service: "logger".into(),
        };
        let stored = StoredType {
            profile_type: ProfileType::cpu(),
            temporality: Temporality::Delta,
        };
        let labels = |pod: &str| LabelSet::new([("service", "logger"), ("pod", pod)]).unwrap();
        let window = |n: u64| {
            let key = WindowKey {
                tier: Tier::Window,
                ptype: PtypeId(1),
                service: ServiceId(1),
                start_s: START_S + n / 2 * 10,
                series: SeriesId(u32::try_from(n % 2).unwrap() + 1),
                writer: WriterId(1),
            };
            let value = Value {
                span_ns: 10_000_000_000,
                segments: vec![Segment {
                    kind: SegmentKind {
                        epoch: Epoch(0),
                        period: 10_000_000,
                        weight: 10_000_000,
                    },
                    observed_ns: 10_000_000_000,
                    windows: 1,
                    entries: vec![(0, 7)],
                }],
            };
            (key, value.encode())
        };
        WriteGroup {
            dictionary: vec![
                rows::service(ServiceId(1), &service),
                rows::profile_type(PtypeId(1), &stored),
                rows::series(ServiceId(1), SeriesId(1), &labels("a")),
                rows::series(ServiceId(1), SeriesId(2), &labels("b")),
            ],
            windows: (0..10).map(window).collect(),
            ..WriteGroup::default()
        }
    }

    /// Makes a missing fixture of the present format. Those of older formats
    /// were made this way when their format was the present one.
    fn make_fixture(format: u32) {
        let store = RocksStore::open(&fixture(format), 8 << 20).unwrap();
        Store::write(&store, &content()).unwrap();
        store.write_format(format).unwrap();
        Store::compact(&store).unwrap();
        drop(store);
        // What the engine writes anew, and what speaks of the machine.
        for file in std::fs::read_dir(fixture(format)).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let kept = name.ends_with(".sst")
                || ["CURRENT", "IDENTITY", "MANIFEST"]
                    .iter()
                    .any(|begin| name.starts_with(begin));
            if !kept {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }

    #[test]
    fn databases_of_every_format_open_and_answer() {
        for format in 1..=rows::FORMAT {
            if !fixture(format).exists() && std::env::var_os("UPDATE_EXPECT").is_some() {
                make_fixture(format);
            }
            let folder = tempfile::tempdir().unwrap();
            copy(&fixture(format), folder.path());
            // Opened twice: the second time it has this format.
            for _ in 0..2 {
                let store = RocksStore::open(folder.path(), 8 << 20).unwrap();
                let at =
                    |seconds: u64| UnixNanos::new(i64::try_from(seconds).unwrap() * 1_000_000_000);
                let request = SumRequest {
                    tier: Tier::Window,
                    ptype: PtypeId(1),
                    service: ServiceId(1),
                    series: None,
                    window: Window::new(at(START_S), at(START_S + 60)).unwrap(),
                };
                let mut sum = RangeSum::default();
                store.sum(&request, &mut sum).unwrap();
                assert_eq!(sum.windows(), 10, "format {format}");
                let total: i128 = sum.sums.values().map(|sum| sum.values.total()).sum();
                assert_eq!(total, 70, "format {format}");
                assert_eq!(store.catalog().unwrap().services.len(), 1);
                assert_eq!(store.series(ServiceId(1)).unwrap().len(), 2);
                if format == 1 {
                    let active = store
                        .active_series(PtypeId(1), ServiceId(1), request.window)
                        .unwrap();
                    assert_eq!(active, [SeriesId(1), SeriesId(2)]);
                }
            }
        }
    }
}
