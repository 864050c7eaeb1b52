//! Sums windows up: minutes of services and groups, hours and days of series
//! too. See [`crate::store::tier`] for what is kept.
//!
//! A sum is always computed from finer rows and put whole, so that computing it
//! again changes nothing: after a restart, a failed write, or when a window
//! comes late. What a restart interrupts is found from the second up to which
//! each tier is known to be complete.

pub mod groups;
pub mod plan;
pub mod read;
pub mod rolled;
pub mod total;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::status::chain;
use proto::window::{Clock, UnixNanos};
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::groups::Groups;
use self::rolled::{Marks, MinuteMarks, Rolled};
use self::total::Total;
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::store::rows::{self, Late};
use crate::store::tier::{DAY_S, MINUTE_S, Tier, range};
use crate::store::{
    PtypeId, RowKey, SeriesId, ServiceId, Store, StoreError, SumRequest, WriteGroup,
};

/// How long after its end a minute stays open for stragglers.
const GRACE: Duration = Duration::from_secs(15);
/// Least time between two rounds over late windows, so that many that belong to
/// one sum cost one computation.
const LATE_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether a minute is over.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How soon it is looked again when one was: more may have come meanwhile. Then twice
/// as long each time.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Bytes of rows that are written together.
const WRITE_BYTES: usize = 4 << 20;

/// Groups of a service whose sums are in memory at once.
const MAX_SIDE_BY_SIDE: usize = 16;

/// Groups with their series.
type Members = BTreeMap<SeriesId, Vec<SeriesId>>;

/// Sums windows up.
#[derive(Debug)]
pub struct Rollup {
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    rolled: Arc<Rolled>,
    groups: Arc<Groups>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    late_looked: std::sync::Mutex<UnixNanos>,
}

/// Rows that wait to be written together.
struct Rows<'a> {
    store: &'a dyn Store,
    group: WriteGroup,
    bytes: usize,
}

impl<'a> Rows<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            group: WriteGroup {
                may_be_lost: true,
                ..WriteGroup::default()
            },
            bytes: 0,
        }
    }

    /// Puts a row; returns whether there was something to put.
    fn put(&mut self, key: RowKey, total: &mut Total) -> Result<bool, StoreError> {
        let Some(value) = total.encode(key.start_s) else {
            return Ok(false);
        };
        self.bytes += value.len();
        self.group.rows.push((key, value));
        if self.bytes >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if !self.group.is_empty() {
            Store::write(self.store, &self.group)?;
        }
        self.group.rows.clear();
        self.group.dictionary.clear();
        self.group.forget.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// What rows of one type of one service are computed from.
#[derive(Clone, Copy)]
struct Subject {
    service: ServiceId,
    ptype: PtypeId,
}

impl Subject {
    fn key(self, tier: Tier, series: SeriesId, start_s: u64) -> RowKey {
        RowKey {
            tier,
            ptype: self.ptype,
            service: self.service,
            series,
            start_s,
        }
    }
}

impl Rollup {
    /// Returns what sums up the windows of `store`.
    pub fn new(
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        rolled: Arc<Rolled>,
        groups: Arc<Groups>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            directory,
            rolled,
            groups,
            metrics,
            clock,
            late_looked: std::sync::Mutex::default(),
        }
    }

    /// Sums up until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let rollup = Arc::new(self);
        let mut is_marked = false;
        let mut pause = LOOK_EVERY;
        loop {
            let turn = Arc::clone(&rollup);
            let marked = is_marked;
            let done = tokio::task::spawn_blocking(move || {
                if !marked {
                    turn.mark_stored()?;
                }
                turn.turn()
            })
            .await;
            pause = (2 * pause).min(LOOK_EVERY);
            match done {
                Ok(Ok(was_over)) => {
                    is_marked = true;
                    if was_over {
                        pause = LOOK_AGAIN;
                    }
                }
                Ok(Err(failure)) => {
                    rollup.metrics.store_read_errors.inc();
                    error!(error = chain(&failure), "not summed up; trying again");
                }
                Err(panicked) => error!(error = %panicked, "summing up ended early"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Marks the windows that are stored and not summed up: what an earlier run
    /// left.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails.
    pub fn mark_stored(&self) -> Result<(), StoreError> {
        let from = self.rolled.until(Tier::Minute);
        let end = self.clock.now().saturating_add(Duration::from_secs(DAY_S));
        let until = u64::try_from(end.seconds()).unwrap_or(0);
        let Some(window) = range(from, until.max(from)) else {
            return Ok(());
        };
        for service in self.directory.service_ids() {
            for ptype in self.types() {
                self.store.keys(
                    &SumRequest {
                        tier: Tier::Window,
                        ptype,
                        service,
                        series: None,
                        window,
                    },
                    &mut |key| {
                        let window = (key.service, key.ptype, key.series, key.start_s);
                        self.rolled.mark([window], []);
                    },
                )?;
            }
        }
        Ok(())
    }

    fn types(&self) -> Vec<PtypeId> {
        let types = self.directory.types();
        let ids = types.iter().map(|(id, _)| *id);
        std::iter::once(PtypeId::FACTS).chain(ids).collect()
    }

    /// Sums up everything that is over by now; returns whether there was a minute.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails; what was left comes with the next
    /// turn.
    pub fn turn(&self) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let settled = u64::try_from(now.saturating_sub(GRACE).seconds()).unwrap_or(0);
        let settled = Tier::Minute.bucket(settled);
        if settled > self.rolled.closed() {
            let _alone = self.rolled.alone();
            self.rolled.close(settled);
        }
        let mut was_over = false;
        while let Some((minute, marks)) = self.rolled.take(settled) {
            was_over = true;
            // The hours before it come first, so that a long backlog is summed
            // in the order in which it is dropped.
            let summed = self
                .minute(minute, &marks)
                .and_then(|()| self.coarser(Tier::Minute.bucket(minute)));
            if let Err(failure) = summed {
                self.rolled.put_back(minute, marks);
                return Err(failure);
            }
        }
        if settled > self.rolled.until(Tier::Minute) {
            self.rolled.advance(Tier::Minute, settled);
        }
        self.coarser(self.rolled.until(Tier::Minute))?;
        self.late_windows(now)?;
        Ok(was_over)
    }

    /// Sums one minute of every service that got a window.
    fn minute(&self, minute: u64, marks: &MinuteMarks) -> Result<(), StoreError> {
        let looked_up;
        let marks = match marks {
            MinuteMarks::Known(marks) => marks,
            MinuteMarks::Unknown => {
                looked_up = self.look_up(minute)?;
                &looked_up
            }
        };
        let mut rows = Rows::new(&*self.store);
        for (&(service, ptype), series) in marks {
            let series: Vec<SeriesId> = series.iter().copied().collect();
            let made = self.minute_rows(Subject { service, ptype }, minute, &series, &mut rows);
            self.unless_damaged(made)?;
        }
        let end = minute.saturating_add(MINUTE_S);
        rows.group.dictionary.push(rows::rolled(Tier::Minute, end));
        rows.flush()?;
        self.rolled.advance(Tier::Minute, end);
        Ok(())
    }

    /// A damaged row stays damaged: it is told and counted, and what depends on
    /// it is left out, so that everything else goes on. Of a deleted service
    /// nothing is to be summed.
    fn unless_damaged(&self, made: Result<(), StoreError>) -> Result<(), StoreError> {
        match made {
            Err(StoreError::Deleted) => Ok(()),
            Err(failure @ StoreError::Damaged { .. }) => {
                self.metrics.store_read_errors.inc();
                error!(error = chain(&failure), "left out of the sums");
                Ok(())
            }
            made => made,
        }
    }

    /// The series that have a window in a minute, as the store knows.
    fn look_up(&self, minute: u64) -> Result<Marks, StoreError> {
        let mut marks = Marks::new();
        let Some(window) = range(minute, minute.saturating_add(MINUTE_S)) else {
            return Ok(marks);
        };
        for service in self.directory.service_ids() {
            for ptype in self.types() {
                let request = SumRequest {
                    tier: Tier::Window,
                    ptype,
                    service,
                    series: None,
                    window,
                };
                self.store.keys(&request, &mut |key| {
                    marks
                        .entry((service, ptype))
                        .or_default()
                        .insert(key.series);
                })?;
            }
        }
        Ok(marks)
    }

    /// Puts the minute of a service and of its groups.
    fn minute_rows(
        &self,
        subject: Subject,
        minute: u64,
        series: &[SeriesId],
        rows: &mut Rows<'_>,
    ) -> Result<(), StoreError> {
        let members = self
            .groups
            .members(subject.service, series, &self.directory)?;
        let (members, one_by_one) = few_and_rest(members);
        for (group, series) in one_by_one {
            let mut total = self.total(subject, Tier::Window, &series, minute, MINUTE_S)?;
            rows.put(subject.key(Tier::Minute, group, minute), &mut total)?;
        }
        let mut whole = Total::empty(subject.ptype);
        let mut sums: BTreeMap<SeriesId, Total> = BTreeMap::new();
        // Series of the same groups are summed once, together.
        for (groups, class) in classes(series, &members) {
            let total = self.total(subject, Tier::Window, &class, minute, MINUTE_S)?;
            for group in groups {
                let sum = sums.entry(group);
                sum.or_insert_with(|| Total::empty(subject.ptype))
                    .absorb(&total);
            }
            whole.absorb(&total);
        }
        rows.put(
            subject.key(Tier::Minute, SeriesId::WHOLE, minute),
            &mut whole,
        )?;
        for (group, mut sum) in sums {
            rows.put(subject.key(Tier::Minute, group, minute), &mut sum)?;
        }
        Ok(())
    }

    /// The sum of some series (or rows) over a bucket.
    fn total(
        &self,
        subject: Subject,
        tier: Tier,
        series: &[SeriesId],
        start_s: u64,
        length_s: u64,
    ) -> Result<Total, StoreError> {
        let mut total = Total::empty(subject.ptype);
        if let Some(window) = range(start_s, start_s.saturating_add(length_s)) {
            total.add(
                &*self.store,
                &SumRequest {
                    tier,
                    ptype: subject.ptype,
                    service: subject.service,
                    series: Some(series),
                    window,
                },
            )?;
        }
        Ok(total)
    }

    /// Sums the hours and days that are over when every minute before
    /// `minutes_s` is summed.
    fn coarser(&self, minutes_s: u64) -> Result<(), StoreError> {
        for (tier, complete) in [(Tier::Hour, minutes_s), (Tier::Day, 0)] {
            let complete = match tier {
                Tier::Day => self.rolled.until(Tier::Hour),
                _ => complete,
            };
            let mut bucket = self.rolled.until(tier);
            while bucket.saturating_add(tier.length_s()) <= complete {
                self.bucket(tier, bucket)?;
                bucket = self.rolled.until(tier);
            }
        }
        Ok(())
    }

    /// Sums one hour or day of every service.
    fn bucket(&self, tier: Tier, start_s: u64) -> Result<(), StoreError> {
        let mut rows = Rows::new(&*self.store);
        for service in self.directory.service_ids() {
            for ptype in self.types() {
                let made = self.bucket_rows(Subject { service, ptype }, tier, start_s, &mut rows);
                self.unless_damaged(made)?;
            }
        }
        let end = start_s.saturating_add(tier.length_s());
        rows.group.dictionary.push(rows::rolled(tier, end));
        rows.flush()?;
        self.rolled.advance(tier, end);
        Ok(())
    }

    /// Puts an hour or day of a service, of its series and of its groups.
    fn bucket_rows(
        &self,
        subject: Subject,
        tier: Tier,
        start_s: u64,
        rows: &mut Rows<'_>,
    ) -> Result<(), StoreError> {
        if !self.whole(subject, tier, start_s, rows)? {
            return Ok(());
        }
        let series = self.active(subject, start_s)?;
        let members = self
            .groups
            .members(subject.service, &series, &self.directory)?;
        let (members, one_by_one) = few_and_rest(members);
        for (group, series) in one_by_one {
            let from = below(tier);
            let mut total = self.total(subject, from, &series, start_s, tier.length_s())?;
            rows.put(subject.key(tier, group, start_s), &mut total)?;
        }
        let mut sums: BTreeMap<SeriesId, Total> = BTreeMap::new();
        for (groups, class) in classes(&series, &members) {
            for id in class {
                let mut total =
                    self.total(subject, below(tier), &[id], start_s, tier.length_s())?;
                for group in &groups {
                    let sum = sums.entry(*group);
                    sum.or_insert_with(|| Total::empty(subject.ptype))
                        .absorb(&total);
                }
                rows.put(subject.key(tier, id, start_s), &mut total)?;
            }
        }
        for (group, mut sum) in sums {
            rows.put(subject.key(tier, group, start_s), &mut sum)?;
        }
        Ok(())
    }

    /// Puts an hour or day of a whole service; returns whether it has one.
    fn whole(
        &self,
        subject: Subject,
        tier: Tier,
        start_s: u64,
        rows: &mut Rows<'_>,
    ) -> Result<bool, StoreError> {
        let from = match tier {
            Tier::Day => Tier::Hour,
            _ => Tier::Minute,
        };
        let whole = [SeriesId::WHOLE];
        let mut total = self.total(subject, from, &whole, start_s, tier.length_s())?;
        rows.put(subject.key(tier, SeriesId::WHOLE, start_s), &mut total)
    }

    /// Series that may have a window in a bucket.
    fn active(&self, subject: Subject, start_s: u64) -> Result<Vec<SeriesId>, StoreError> {
        match range(start_s, start_s.saturating_add(1)) {
            Some(window) => self
                .store
                .active_series(subject.ptype, subject.service, window),
            None => Ok(Vec::new()),
        }
    }

    /// Computes again the sums that lack late windows.
    fn late_windows(&self, now: UnixNanos) -> Result<(), StoreError> {
        {
            let mut looked = self
                .late_looked
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if now.since(*looked) < LATE_EVERY {
                return Ok(());
            }
            *looked = now;
        }
        self.sum_late()
    }

    /// Computes again every sum that lacks a late window, now.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails; the windows stay late then.
    pub fn sum_late(&self) -> Result<(), StoreError> {
        let late = self.rolled.late();
        let mut by_subject: BTreeMap<(ServiceId, PtypeId), Vec<Late>> = BTreeMap::new();
        for late in late.keys() {
            let subject = by_subject.entry((late.service, late.ptype));
            subject.or_default().push(*late);
        }
        for ((service, ptype), late) in by_subject {
            let made = self.late_of(Subject { service, ptype }, &late);
            self.unless_damaged(made)?;
        }
        if late.is_empty() {
            return Ok(());
        }
        let _alone = self.rolled.alone();
        let still = self.rolled.still(&late);
        let forget = still.iter().map(|late| rows::late(late).0).collect();
        Store::write(
            &*self.store,
            &WriteGroup {
                forget,
                may_be_lost: true,
                ..WriteGroup::default()
            },
        )?;
        self.rolled.forget_late(&still);
        Ok(())
    }

    fn late_of(&self, subject: Subject, late: &[Late]) -> Result<(), StoreError> {
        let mut rows = Rows::new(&*self.store);
        let minutes: BTreeSet<u64> = late.iter().map(|late| late.minute_s).collect();
        for minute in minutes {
            let series = self.active(subject, minute)?;
            self.minute_rows(subject, minute, &series, &mut rows)?;
        }
        rows.flush()?;
        for tier in [Tier::Hour, Tier::Day] {
            let mut buckets: BTreeMap<u64, BTreeSet<SeriesId>> = BTreeMap::new();
            for late in late {
                let bucket = tier.bucket(late.minute_s);
                if bucket.saturating_add(tier.length_s()) <= self.rolled.until(tier) {
                    buckets.entry(bucket).or_default().insert(late.series);
                }
            }
            for (bucket, changed) in buckets {
                for id in &changed {
                    let mut total =
                        self.total(subject, below(tier), &[*id], bucket, tier.length_s())?;
                    rows.put(subject.key(tier, *id, bucket), &mut total)?;
                }
                self.whole(subject, tier, bucket, &mut rows)?;
                rows.flush()?;
                self.late_groups(subject, tier, bucket, &changed, &mut rows)?;
            }
            rows.flush()?;
        }
        Ok(())
    }

    /// Puts an hour or day of the groups that have a series of `changed`.
    fn late_groups(
        &self,
        subject: Subject,
        tier: Tier,
        bucket: u64,
        changed: &BTreeSet<SeriesId>,
        rows: &mut Rows<'_>,
    ) -> Result<(), StoreError> {
        let series = self.active(subject, bucket)?;
        let members = self
            .groups
            .members(subject.service, &series, &self.directory)?;
        for (group, members) in members {
            if members.iter().any(|id| changed.contains(id)) {
                let mut total = self.total(subject, tier, &members, bucket, tier.length_s())?;
                rows.put(subject.key(tier, group, bucket), &mut total)?;
            }
        }
        Ok(())
    }
}

/// Groups whose sums are made side by side, in memory, and the others, which are
/// read again one by one.
fn few_and_rest(mut members: Members) -> (Members, Members) {
    let rest = match members.keys().nth(MAX_SIDE_BY_SIDE) {
        Some(&first) => members.split_off(&first),
        None => Members::new(),
    };
    (members, rest)
}

/// The tier that rows of a single series are summed from.
fn below(tier: Tier) -> Tier {
    match tier {
        Tier::Day => Tier::Hour,
        _ => Tier::Window,
    }
}

/// Series that are in the same groups, with those groups.
fn classes(series: &[SeriesId], members: &Members) -> BTreeMap<Vec<SeriesId>, Vec<SeriesId>> {
    let mut groups_of: BTreeMap<SeriesId, Vec<SeriesId>> = BTreeMap::new();
    for (group, members) in members {
        for id in members {
            groups_of.entry(*id).or_default().push(*group);
        }
    }
    let mut classes: BTreeMap<Vec<SeriesId>, Vec<SeriesId>> = BTreeMap::new();
    for id in series {
        let groups = groups_of.remove(id).unwrap_or_default();
        classes.entry(groups).or_default().push(*id);
    }
    classes
}

#[cfg(test)]
mod tests;
