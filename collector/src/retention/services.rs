//! What single services keep shorter than the longest kept.
//!
//! Rows of such a service are *given up* first, in one durable row each: from then
//! on queries read the coarser rows that stand for them, and a window that comes
//! late is added to those. Some time later, when no query goes on that began
//! before, their keys are erased from the families that others still need. What a
//! restart interrupts between the two goes on from the row.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::window::UnixNanos;
use tracing::info;

use super::{Horizons, Retention};
use crate::directory::Directory;
use crate::rollup::rolled::{Gone, Rolled};
use crate::store::rows::{self, GivenUp};
use crate::store::tier::{Tier, instant};
use crate::store::{Kept, ServiceId, ServiceKey, Store, StoreError, WriteGroup};

/// How long rows that were given up are left for queries that began before: longer
/// than any of them may take.
const ERASE_AFTER: Duration = Duration::from_secs(120);

/// Removes what services keep shorter than others.
#[derive(Debug)]
pub struct Services {
    retention: Retention,
    store: Arc<dyn Store>,
    rolled: Arc<Rolled>,
    directory: Arc<Directory>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Per service and tier: up to where rows are erased, as far as known.
    erased: BTreeMap<(ServiceId, Tier), u64>,
    /// Given up and not erased, since when; earliest first.
    waiting: VecDeque<(UnixNanos, GivenUp)>,
    /// Whether it was read what an earlier run left.
    is_read: bool,
}

impl Services {
    /// Returns what keeps services of `directory` as long as `retention` says.
    pub fn new(
        retention: Retention,
        store: Arc<dyn Store>,
        rolled: Arc<Rolled>,
        directory: Arc<Directory>,
    ) -> Self {
        Self {
            retention,
            store,
            rolled,
            directory,
            state: Mutex::default(),
        }
    }

    /// Gives up what is old, and erases what was given up a while ago. Looks at
    /// the store only when there is something to do.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store fails; the rest comes with the next turn.
    pub fn turn(&self, now: UnixNanos) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_read {
            for row in self.store.catalog()?.given_up {
                state.erased.insert((row.service, row.tier), row.erased_s);
                if row.erased_s < row.before_s {
                    state.waiting.push_back((now, row));
                }
            }
            state.is_read = true;
        }
        if !self.retention.overrides.is_empty() {
            for tier in Tier::ALL {
                self.give_up(tier, now, &mut state)?;
            }
        }
        self.erase(now.saturating_sub(ERASE_AFTER), &mut state)
    }

    /// Gives up the rows of `tier` that services keep no longer and others do.
    fn give_up(&self, tier: Tier, now: UnixNanos, state: &mut State) -> Result<(), StoreError> {
        let longest = self.retention.longest().of(tier);
        let ends: Vec<u64> = self
            .store
            .stretches(Kept::Rows(tier))
            .into_iter()
            .map(|(_, end)| end)
            .collect();
        let gone = self.rolled.gone();
        let mut due = Vec::new();
        for (service, name) in self.directory.all_services() {
            let horizons = self.retention.of(&name);
            if horizons.of(tier) >= longest {
                continue;
            }
            let before_s = last_end(&ends, horizons, tier, now);
            if before_s > gone.before(service, tier) && self.may_go(service, tier, before_s, &gone)
            {
                due.push((service, name, before_s));
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        // Nothing is written meanwhile: a window is either there when its sums are
        // made, or known to have come after its rows were given up.
        let _alone = self.rolled.alone();
        due.retain(|(service, _, before_s)| self.may_go(*service, tier, *before_s, &gone));
        let given_up: Vec<GivenUp> = due
            .iter()
            .map(|(service, _, before_s)| GivenUp {
                service: *service,
                tier,
                before_s: *before_s,
                erased_s: state.erased.get(&(*service, tier)).copied().unwrap_or(0),
            })
            .collect();
        self.write(&given_up)?;
        let of_services: Vec<(ServiceId, u64)> = given_up
            .iter()
            .map(|row| (row.service, row.before_s))
            .collect();
        self.rolled.give_up(tier, &of_services);
        for (_, name, before_s) in &due {
            tell(name, tier, *before_s);
        }
        state
            .waiting
            .extend(given_up.into_iter().map(|row| (now, row)));
        Ok(())
    }

    /// Whether no coarser row depends on the rows of a service before a second.
    fn may_go(&self, service: ServiceId, tier: Tier, before_s: u64, gone: &Gone) -> bool {
        let summed = match tier {
            // Windows and minutes go into hours, hours into days.
            Tier::Window | Tier::Minute => self.rolled.until(Tier::Hour),
            Tier::Import | Tier::Hour | Tier::Day => self.rolled.until(Tier::Day),
        };
        // Minutes are computed from windows.
        let is_computed = tier == Tier::Minute && gone.before(service, Tier::Window) < before_s;
        before_s <= summed && !is_computed && !self.rolled.has_late_of(service, before_s)
    }

    /// Erases what was given up before `time`.
    fn erase(&self, time: UnixNanos, state: &mut State) -> Result<(), StoreError> {
        while let Some((_, row)) = state.waiting.front().filter(|(since, _)| *since <= time) {
            let row = *row;
            let kinds = match row.tier {
                Tier::Window => vec![Kept::Rows(row.tier), Kept::Features],
                Tier::Day => vec![Kept::Rows(row.tier), Kept::Active],
                tier => vec![Kept::Rows(tier)],
            };
            let (from, until) = (instant(row.erased_s), instant(row.before_s));
            for kept in kinds {
                self.store.drop_of(kept, row.service, from, until)?;
            }
            // What was given up since stays so.
            let before_s = self.rolled.gone().before(row.service, row.tier);
            self.write(&[GivenUp {
                before_s: before_s.max(row.before_s),
                erased_s: row.before_s,
                ..row
            }])?;
            state.erased.insert((row.service, row.tier), row.before_s);
            state.waiting.pop_front();
        }
        Ok(())
    }

    fn write(&self, given_up: &[GivenUp]) -> Result<(), StoreError> {
        if given_up.is_empty() {
            return Ok(());
        }
        let group = WriteGroup {
            dictionary: given_up.iter().map(rows::given_up).collect(),
            ..WriteGroup::default()
        };
        Store::write(&*self.store, &group)
    }
}

/// The last end of a stretch that is not to be kept any more; 0 when there is none.
fn last_end(ends: &[u64], horizons: &Horizons, tier: Tier, now: UnixNanos) -> u64 {
    let before = now.saturating_sub(horizons.of(tier)).seconds();
    let before_s = u64::try_from(before).unwrap_or(0);
    let old = ends.iter().filter(|end| **end <= before_s);
    old.max().copied().unwrap_or(0)
}

fn tell(name: &ServiceKey, tier: Tier, before_s: u64) {
    info!(
        namespace = name.namespace,
        service = name.service,
        %tier,
        before_s,
        "rows of a service given up before others"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::Override;
    use crate::store::rocks::RocksStore;
    use crate::store::tier::DAY_S;
    use crate::store::{Active, PtypeId, SeriesId, WindowKey, WriterId};

    const FIRST_S: u64 = 20_600 * DAY_S;
    const SERVICES: [u32; 3] = [1, 2, 3];

    fn days(days: u64) -> Horizons {
        let windows = Duration::from_secs(days * DAY_S);
        Horizons {
            windows,
            hours: windows,
            days: windows,
        }
    }

    fn name(service: u32) -> ServiceKey {
        ServiceKey {
            tenant: "anonymous".to_owned(),
            namespace: "prod".to_owned(),
            service: format!("s{service}"),
        }
    }

    fn key(service: u32, day: u64) -> WindowKey {
        WindowKey {
            tier: Tier::Window,
            ptype: PtypeId(1),
            service: ServiceId(service),
            start_s: FIRST_S + day * DAY_S,
            series: SeriesId(1),
            writer: WriterId(1),
        }
    }

    /// Four days of three services.
    fn fill(store: &dyn Store) {
        let mut group = WriteGroup::default();
        for service in SERVICES {
            group
                .dictionary
                .push(rows::service(ServiceId(service), &name(service)));
            for day in 0..4 {
                group.windows.push((key(service, day), vec![1]));
                group.active.push(Active {
                    service: ServiceId(service),
                    ptype: PtypeId(1),
                    day_s: FIRST_S + day * DAY_S,
                    series: SeriesId(1),
                });
            }
        }
        Store::write(store, &group).unwrap();
    }

    /// Days of which each service has its window.
    fn left(store: &dyn Store) -> [Vec<u64>; 3] {
        let has = |service, day: &u64| Store::window(store, &key(service, *day)).unwrap().is_some();
        SERVICES.map(|service| (0..4).filter(|day| has(service, day)).collect())
    }

    fn services(store: &Arc<RocksStore>, now: UnixNanos) -> (Services, Arc<Rolled>) {
        let store: Arc<dyn Store> = Arc::<RocksStore>::clone(store);
        let rolled = Arc::new(Rolled::open(&*store, now).unwrap());
        for tier in [Tier::Minute, Tier::Hour, Tier::Day] {
            rolled.advance(tier, FIRST_S + 4 * DAY_S);
        }
        let of = |service: u32, horizons| Override {
            namespace: Some("prod".to_owned()),
            service: Some(format!("s{service}")),
            horizons,
        };
        let retention = Retention {
            others: days(2),
            overrides: vec![of(1, days(1)), of(3, days(300))],
        };
        let directory = Arc::new(Directory::open(Arc::clone(&store)).unwrap());
        (
            Services::new(retention, store, Arc::clone(&rolled), directory),
            rolled,
        )
    }

    #[test]
    fn what_a_service_keeps_shorter_goes_later_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(RocksStore::open(folder.path(), 8 << 20).unwrap());
        let store = open();
        fill(&*store);
        let now = instant(FIRST_S + 4 * DAY_S);
        let all = [0, 1, 2, 3].to_vec();
        {
            let (services, rolled) = services(&store, now);
            // A late window of one service keeps its days.
            let late = rows::Late {
                minute_s: FIRST_S + DAY_S,
                service: ServiceId(1),
                ptype: PtypeId(1),
                series: SeriesId(1),
            };
            rolled.mark([], [late]);
            services.turn(now).unwrap();
            assert_eq!(rolled.gone().before(ServiceId(1), Tier::Window), 0);
            rolled.forget_late(&[late]);
            services.turn(now).unwrap();
            // Given up for those who begin now, and there for those who began.
            for (service, expected) in [(1, FIRST_S + 3 * DAY_S), (2, FIRST_S + 2 * DAY_S), (3, 0)]
            {
                let gone = rolled.gone().before(ServiceId(service), Tier::Window);
                assert_eq!(gone, expected, "service {service}");
                let view = rolled.view(ServiceId(service));
                assert_eq!(view.is_dropped(Tier::Window, FIRST_S), expected > 0);
            }
            assert_eq!(left(&*store), [all.clone(), all.clone(), all.clone()]);
        }
        // As after a kill: what was given up is known, and erased in time.
        drop(store);
        let store = open();
        let (services, rolled) = services(&store, now);
        assert_eq!(
            rolled.gone().before(ServiceId(1), Tier::Window),
            FIRST_S + 3 * DAY_S
        );
        services.turn(now).unwrap();
        assert_eq!(left(&*store), [all.clone(), all.clone(), all.clone()]);
        let later = now.saturating_add(ERASE_AFTER);
        services.turn(later).unwrap();
        assert_eq!(left(&*store), [vec![3], vec![2, 3], all.clone()]);
        assert!(
            services.state.lock().unwrap().waiting.is_empty(),
            "nothing is done twice"
        );
        let erased = store.catalog().unwrap().given_up;
        assert!(!erased.is_empty() && erased.iter().all(|row| row.erased_s == row.before_s));
        // Time goes on: the next day, and only that.
        services
            .turn(later.saturating_add(Duration::from_secs(DAY_S)))
            .unwrap();
        assert_eq!(services.state.lock().unwrap().waiting.len(), 2);
        services
            .turn(later.saturating_add(Duration::from_secs(2 * DAY_S)))
            .unwrap();
        assert_eq!(left(&*store), [vec![], vec![3], all]);
    }
}
