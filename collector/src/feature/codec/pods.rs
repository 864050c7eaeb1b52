//! Bytes of rows of pods.

use super::{FORMAT, Reader, RowError, body, put, put_len, put_signed, put_text, put_window};
use crate::feature::pods::{PodTotals, PodsRow};

impl PodsRow {
    /// The bytes that [`PodsRow::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_window(&mut out, &self.step);
        put_len(&mut out, self.pods.len());
        for pod in &self.pods {
            put(&mut out, pod.series);
            put_text(&mut out, &pod.pod);
            put_text(&mut out, &pod.version);
            put_signed(&mut out, pod.started_ns);
            for number in [
                pod.seen_ns,
                pod.cpu_ns,
                pod.sampled_ns,
                pod.rss_bytes,
                u64::from(pod.threads_count),
            ] {
                put(&mut out, number);
            }
        }
        out
    }

    /// Reads what [`PodsRow::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`RowError`] if `bytes` are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let mut from = body(bytes)?;
        let row = pods_row(&mut from).ok_or(RowError::Damaged)?;
        from.end(row)
    }
}

fn pods_row(from: &mut Reader<'_>) -> Option<PodsRow> {
    Some(PodsRow {
        step: from.window()?,
        pods: from.list(|from| {
            Some(PodTotals {
                series: from.number()?,
                pod: from.text()?,
                version: from.text()?,
                started_ns: from.signed()?,
                seen_ns: from.number()?,
                cpu_ns: from.number()?,
                sampled_ns: from.number()?,
                rss_bytes: from.number()?,
                threads_count: from.small()?,
            })
        })?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::window::{UnixNanos, Window};

    use super::*;

    fn row(pods: Vec<PodTotals>) -> PodsRow {
        let start = UnixNanos::new(1_700_000_400_000_000_000);
        PodsRow {
            step: Window::from_start(start, 600_000_000_000).unwrap(),
            pods,
        }
    }

    fn pod(series: u64, name: &str, started_ns: i64, rss_bytes: u64) -> PodTotals {
        PodTotals {
            series,
            pod: name.to_owned(),
            version: "1.8".to_owned(),
            started_ns,
            seen_ns: 600_000_000_000,
            cpu_ns: 7,
            sampled_ns: 8,
            rss_bytes,
            threads_count: 9,
        }
    }

    #[test]
    fn bytes_do_not_change() {
        let bytes = row(vec![pod(300, "a", -1, 512)]).encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect![
            "018080ad80ebd6ce972f80e0a596bb1101ac02016103312e380180e0a596bb110708800409"
        ]
        .assert_eq(&hex);
    }

    #[test]
    fn other_bytes_are_no_row() {
        let bytes = row(vec![pod(1, "a", 5, 6)]).encode();
        for length in 0..bytes.len() {
            assert!(PodsRow::decode(&bytes[..length]).is_err(), "{length}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(PodsRow::decode(&longer), Err(RowError::Damaged));
        let other = [&[9], &bytes[1..]].concat();
        assert_eq!(PodsRow::decode(&other), Err(RowError::Format { found: 9 }));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            pods in prop::collection::vec((any::<u64>(), ".{0,9}", any::<i64>(), any::<u64>()), 0..9)
        ) {
            let pods = pods.iter().map(|(series, name, started, rss)| pod(*series, name, *started, *rss));
            let row = row(pods.collect());
            prop_assert_eq!(PodsRow::decode(&row.encode()), Ok(row));
        }

        #[test]
        fn any_bytes_are_a_row_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let _any = PodsRow::decode(&bytes);
        }
    }
}
