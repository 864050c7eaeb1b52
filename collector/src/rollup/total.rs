//! What one row of a type holds: vectors, or the facts of windows.

use proto::profile::Facts;

use crate::store::rows;
use crate::store::segment::RangeSum;
use crate::store::{PtypeId, SeriesId, Store, StoreError, SumRequest};

/// A sum over windows or rows.
#[derive(Clone, Debug)]
pub enum Total {
    /// Of a profile type.
    Vectors(RangeSum),
    /// Of [`PtypeId::FACTS`]: the longest window, and what is known together.
    Facts(Option<(u64, Facts)>),
}

impl Total {
    /// Nothing yet of `ptype`.
    pub fn empty(ptype: PtypeId) -> Self {
        match ptype {
            PtypeId::FACTS => Self::Facts(None),
            _ => Self::Vectors(RangeSum::default()),
        }
    }

    /// Adds a selection.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails or a row is damaged.
    pub fn add(&mut self, store: &dyn Store, request: &SumRequest<'_>) -> Result<(), StoreError> {
        match self {
            Self::Vectors(sum) => {
                store.sum(request, sum)?;
                sum.finish();
            }
            Self::Facts(facts) => store.facts(request, &mut |_, span_ns, other| {
                join(facts, span_ns, other);
            })?,
        }
        Ok(())
    }

    /// Adds the stored row of `series` whose bucket starts at `start_s`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if it is none.
    pub fn add_row(
        &mut self,
        series: SeriesId,
        start_s: u64,
        row: &[u8],
    ) -> Result<(), StoreError> {
        let added = match self {
            Self::Vectors(sum) => sum.add(series, start_s, row),
            Self::Facts(facts) => match rows::read_facts(row) {
                Some((span_ns, other)) => {
                    join(facts, span_ns, &other);
                    Ok(())
                }
                None => Err("unreadable facts"),
            },
        };
        added.map_err(|problem| StoreError::damaged(&series.0.to_be_bytes(), problem))
    }

    /// Adds another total of the same type.
    pub fn absorb(&mut self, other: &Self) {
        match (self, other) {
            (Self::Vectors(sum), Self::Vectors(other)) => sum.absorb(other),
            (Self::Facts(facts), Self::Facts(Some((span_ns, other)))) => {
                join(facts, *span_ns, other);
            }
            _ => {}
        }
    }

    /// The stored row of the bucket that starts at `bucket_s`; `None` when
    /// nothing was added.
    pub fn encode(&mut self, bucket_s: u64) -> Option<Vec<u8>> {
        match self {
            Self::Vectors(sum) => {
                sum.finish();
                sum.encode_row(bucket_s)
            }
            Self::Facts(facts) => facts.map(|(span_ns, facts)| rows::facts(span_ns, &facts)),
        }
    }
}

fn join(all: &mut Option<(u64, Facts)>, span_ns: u64, facts: &Facts) {
    *all = Some(match all {
        Some((span, known)) => (span_ns.max(*span), rows::join_facts(known, facts)),
        None => (span_ns, *facts),
    });
}
