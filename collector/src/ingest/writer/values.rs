//! What is stored of a window under its keys.

use proto::labels::LabelSet;
use proto::profile::{Column, Facts};
use proto::value_type::Temporality;

use super::Writer;
use super::pending::Pending;
use super::prepare::Refuse;
use crate::ingest::gather::Gather;
use crate::store::segment::{Segment, SegmentKind, Value, seconds_of};
use crate::store::{Epoch, StoreError, WindowKey, rows};

const NANOS: u64 = 1_000_000_000;

impl Writer {
    /// A window as it is to be staged, added to what lies under its key already.
    pub(super) fn put(
        &self,
        key: WindowKey,
        labels: &LabelSet,
        mut value: Value,
        pending: &mut Pending,
    ) -> Result<(WindowKey, Vec<u8>), Refuse> {
        self.put_with(key, labels, pending, |stored| {
            if let Some(stored) = stored {
                let other = Value::decode(stored).map_err(|problem| {
                    StoreError::damaged(&crate::store::keys::encode(&key), problem)
                })?;
                value.add(&other);
            }
            Ok(value.encode())
        })
    }

    pub(super) fn put_facts(
        &self,
        key: WindowKey,
        labels: &LabelSet,
        span_ns: u64,
        facts: &Facts,
        pending: &mut Pending,
    ) -> Result<(WindowKey, Vec<u8>), Refuse> {
        self.put_with(key, labels, pending, |stored| {
            let earlier = stored.and_then(rows::read_facts);
            let (span_ns, facts) = match earlier {
                Some((span, earlier)) => (span_ns.max(span), rows::join_facts(&earlier, facts)),
                None => (span_ns, *facts),
            };
            Ok(rows::facts(span_ns, &facts))
        })
    }

    /// Two windows of one series may start in one second, after a restart of
    /// the target, say: what is stored is made from both.
    pub(super) fn put_with(
        &self,
        key: WindowKey,
        labels: &LabelSet,
        pending: &mut Pending,
        make: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>, StoreError>,
    ) -> Result<(WindowKey, Vec<u8>), Refuse> {
        if pending.coarse.takes(&key) {
            // Only in the batch itself two windows can share a key here.
            let value = make(pending.staged.get(&key).map(Vec::as_slice))?;
            pending
                .coarse
                .prepare(&key, labels, &*self.store, &self.groups)?;
            return Ok((key, value));
        }
        let value = match pending.written(&key) {
            Some(written) => make(Some(written))?,
            None => make(self.store.window(&key)?.as_deref())?,
        };
        Ok((key, value))
    }
}

/// The stored value of a column. A gauge is kept times the seconds it stands
/// for, so that it adds over time like any count.
pub(super) fn value(
    column: &Column,
    epoch: Epoch,
    stacks: &[u32],
    (span_ns, observed_ns): (u64, u64),
    gather: &mut Gather,
) -> Value {
    let (factor, observed_ns) = match column.temporality {
        Temporality::Delta => (1, observed_ns),
        Temporality::Gauge => {
            let seconds = seconds_of(span_ns).max(1);
            (seconds, seconds.saturating_mul(NANOS))
        }
    };
    // Several stacks of the wire may be one of the tree.
    let entries = gather.by_id(stacks, &column.values, factor);
    Value {
        span_ns,
        segments: vec![Segment {
            kind: SegmentKind {
                epoch,
                period: column.period,
                weight: column.weight,
            },
            observed_ns,
            windows: 1,
            entries,
        }],
    }
}
