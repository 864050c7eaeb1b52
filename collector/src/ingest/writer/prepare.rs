//! From a batch to what is written of it, window by window.

use proto::dictionary::WireWindow;
use proto::pb::tepui::RefusalCode;
use proto::profile::Column;
use proto::status::chain;
use proto::value_type::ProfileType;
use proto::window::UnixNanos;
use tracing::error;

use super::pending::Pending;
use super::values::value;
use super::{CHORE_EVERY, MAX_AHEAD, Names, Outcome, RETRY_AFTER, Submission, Writer};
use crate::ingest::coarse::CoarseError;
use crate::ingest::dedupe::{self, Verdict};
use crate::ingest::resolve::lock;
use crate::store::tier::Tier;
use crate::store::{Active, PtypeId, StoreError, TreeId, WindowKey, WriterId, rows};

/// Why one window of a batch is refused.
pub(super) struct WindowRefusal {
    pub(super) code: RefusalCode,
    pub(super) message: String,
}

pub(super) fn refuse<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, Refuse> {
    Err(Refuse::Window(WindowRefusal {
        code,
        message: message.into(),
    }))
}

/// Why a window was not prepared.
pub(super) enum Refuse {
    /// The window alone.
    Window(WindowRefusal),
    /// The store failed: the batch must come again.
    Store(StoreError),
    /// Too many old sums are being changed: the batch must come again.
    Busy,
    /// The stream must begin anew, and then send the batch again.
    Anew,
}

impl From<CoarseError> for Refuse {
    fn from(error: CoarseError) -> Self {
        match error {
            CoarseError::Store(error) => error.into(),
            CoarseError::Busy => Self::Busy,
        }
    }
}

impl From<StoreError> for Refuse {
    fn from(error: StoreError) -> Self {
        match error {
            // Trying again cannot help, and must not hold up the others.
            StoreError::Damaged { .. } => Self::Window(WindowRefusal {
                code: RefusalCode::Unavailable,
                message: chain(&error),
            }),
            error => Self::Store(error),
        }
    }
}

impl Writer {
    /// Adds a batch to the group.
    pub(super) fn prepare(
        &mut self,
        submission: &Submission,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Outcome {
        if let Some(message) = self.void(submission) {
            return Outcome::Refused {
                code: RefusalCode::DictionaryReset,
                message: message.to_owned(),
                retry_after: Some(RETRY_AFTER),
            };
        }
        let known = pending.writers.get(&submission.instance);
        let known = known.or_else(|| self.writers.get(&submission.instance));
        let row = match known {
            Some(row) => *row,
            None if self.writers.len() + pending.writers.len() >= submission.max_instances => {
                return Outcome::Refused {
                    code: RefusalCode::Overloaded,
                    message: format!(
                        "{} agent instances are known already",
                        submission.max_instances
                    ),
                    retry_after: Some(CHORE_EVERY),
                };
            }
            None => {
                let fresh = dedupe::first(WriterId(self.next_writer));
                self.next_writer = self.next_writer.saturating_add(1);
                fresh
            }
        };
        match dedupe::judge(&row, submission.sequence) {
            Verdict::Fresh => {}
            Verdict::Duplicate => {
                return Outcome::Acked {
                    refused: Vec::new(),
                    duplicate: true,
                };
            }
            Verdict::Unknown => {
                return Outcome::Refused {
                    code: RefusalCode::TooOld,
                    message: format!(
                        "sequence {} is too far behind {}",
                        submission.sequence, row.sequence
                    ),
                    retry_after: None,
                };
            }
        }
        let mut refused = Vec::new();
        let mut written = 0;
        let touched = pending.touched.len();
        for (index, window) in submission.windows.iter().enumerate() {
            let outcome = match window {
                Err(error) => refuse(RefusalCode::Malformed, chain(error)),
                Ok(window) => self.window(submission, window, row.writer, now, pending),
            };
            match outcome {
                Ok(()) => written += 1,
                Err(Refuse::Window(WindowRefusal { code, message })) => {
                    refused.push((index, code, message));
                }
                Err(again) => {
                    let (code, message) = self.again(&again);
                    // The batch comes again whole: nothing of it is kept now.
                    pending.staged.clear();
                    pending.coarse.refuse();
                    pending.touched.truncate(touched);
                    return Outcome::Refused {
                        code,
                        message,
                        retry_after: Some(RETRY_AFTER),
                    };
                }
            }
        }
        pending.accept_staged(&self.active);
        // A batch of which nothing was kept may come again, and is judged again.
        if written > 0 || refused.is_empty() {
            let now_s = u64::try_from(now.seconds()).unwrap_or(0);
            let next = dedupe::accept(&row, submission.sequence, now_s);
            pending
                .group
                .dictionary
                .push(rows::writer(&submission.instance, &next));
            pending.writers.insert(submission.instance, next);
        }
        pending.windows += written;
        Outcome::Acked {
            refused,
            duplicate: false,
        }
    }

    /// Why the ids of a stream hold no more; `None` while they do.
    pub(super) fn void(&self, submission: &Submission) -> Option<&'static str> {
        let mut dictionary = match &submission.names {
            Names::Stream(dictionary) => lock(dictionary),
            Names::Whole(_) => return None,
        };
        if dictionary.is_void() {
            return Some("an earlier write of this stream failed, or a service of it was deleted");
        }
        // What the stream named once may be kept nowhere else.
        if self.directory.has_deleted(dictionary.services()) {
            dictionary.make_void();
            return Some("a service of this stream was deleted");
        }
        // Its ids are of a tree that may be full, or removed one day.
        if dictionary.trees().any(|tree| self.is_followed(tree)) {
            dictionary.make_void();
            return Some("a call tree of this stream was followed by a new one");
        }
        None
    }

    /// Whether stacks are added to another tree by now.
    pub(super) fn is_followed(&self, tree: TreeId) -> bool {
        let current = self.trees.current(tree.service);
        current.is_ok_and(|row| row.epoch != tree.epoch)
    }

    /// Why a batch must come again.
    pub(super) fn again(&self, refuse: &Refuse) -> (RefusalCode, String) {
        match refuse {
            Refuse::Store(error) => {
                error!(error = chain(error), "batch not prepared");
                self.metrics.store_read_errors.inc();
                (RefusalCode::Unavailable, chain(error))
            }
            Refuse::Anew => (
                RefusalCode::DictionaryReset,
                "a new call tree was begun".to_owned(),
            ),
            Refuse::Busy | Refuse::Window(_) => (
                RefusalCode::Overloaded,
                "many old windows came at once".to_owned(),
            ),
        }
    }

    /// Adds a window to the group.
    pub(super) fn window(
        &mut self,
        submission: &Submission,
        window: &WireWindow,
        writer: WriterId,
        now: UnixNanos,
        pending: &mut Pending,
    ) -> Result<(), Refuse> {
        let start = window.window.start();
        if start > now.saturating_add(MAX_AHEAD) {
            let ahead = start.since(now).as_secs();
            return refuse(
                RefusalCode::ClockAhead,
                format!("window starts {ahead} s ahead of this collector's clock"),
            );
        }
        if !submission.is_import && start < now.saturating_sub(self.max_age) {
            let days = now.since(start).as_secs() / 86_400;
            return refuse(
                RefusalCode::TooOld,
                format!("window started {days} days ago, before what is kept"),
            );
        }
        let start_s = u64::try_from(start.seconds()).unwrap_or(0);
        if !submission.is_import && start_s < pending.closed && self.rolled.is_full() {
            return Err(Refuse::Busy);
        }
        let service = self.service(submission, window, pending)?;
        let series = self.series(service, window, now, pending)?;
        let tier = match submission.is_import {
            true => Tier::Import,
            false => Tier::Window,
        };
        let key = |ptype| WindowKey {
            tier,
            ptype,
            service,
            start_s,
            series,
            writer,
        };
        let types = window
            .columns
            .iter()
            .map(|column| self.ptype(column, pending))
            .collect::<Result<Vec<_>, _>>()?;
        let (epoch, stacks) = self.stacks(submission, service, &window.stacks, now, pending)?;
        let span_ns = u64::try_from(window.window.duration().as_nanos()).unwrap_or(u64::MAX);
        // A window is staged whole or not at all.
        let mut made = Vec::with_capacity(types.len() + 1);
        for (column, ptype) in window.columns.iter().zip(types) {
            let observed_ns = window.facts.observed_in(&window.window);
            let time = (span_ns, observed_ns);
            let value = value(column, epoch, &stacks, time, &mut self.gather);
            made.push(self.put(key(ptype), &window.labels, value, pending)?);
        }
        let is_cpu = |column: &Column| column.profile_type.sample() == ProfileType::cpu().sample();
        if window.columns.is_empty() || window.columns.iter().any(is_cpu) {
            let key = key(PtypeId::FACTS);
            made.push(self.put_facts(key, &window.labels, span_ns, &window.facts, pending)?);
            if !submission.is_import {
                pending.touched.push((service, series, start_s));
            }
        }
        pending.staged.extend(made);
        // Live series are counted by their facts, which not every window has.
        pending.note_active(
            Active {
                service,
                ptype: PtypeId::FACTS,
                day_s: Tier::Day.bucket(start_s),
                series,
            },
            &self.active,
        );
        let last = pending.starts.entry(service).or_default();
        *last = start_s.max(*last);
        Ok(())
    }
}
