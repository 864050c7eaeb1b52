//! Keeps CPU samplers off processes whose CPU the flight recorder samples.

use std::fmt;
use std::time::Duration;

use proto::window::{UnixNanos, Window};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::watch;

use crate::source::{Collected, CpuSampler, OpenSampler, SamplerError};

/// Processes whose CPU the flight recorder samples, and since when. It is always
/// since the border of a window.
pub type Claims = FxHashMap<i32, UnixNanos>;

/// A CPU sampler for all processes but those that are claimed.
///
/// A process that is claimed is given up at the end of the window before, and
/// taken back as soon as it is claimed no longer: nothing counts twice.
pub struct BesideJvm {
    open: OpenSampler,
    claims: watch::Receiver<Claims>,
    inner: Option<Box<dyn CpuSampler>>,
    /// Processes that `inner` does not sample.
    left: FxHashSet<i32>,
}

impl fmt::Debug for BesideJvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BesideJvm")
            .field("inner", &self.inner)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl BesideJvm {
    /// Returns `make` for use beside the flight recorder; `make` gives a new
    /// opener of the sampler that it wraps.
    pub fn opener(
        make: impl Fn() -> Option<OpenSampler> + Send + 'static,
        claims: watch::Receiver<Claims>,
    ) -> OpenSampler {
        Box::new(move |pids| {
            let open = make().ok_or("no cpu is sampled")?;
            let claimed = claims.borrow().clone();
            let (left, others): (Vec<i32>, Vec<i32>) =
                pids.iter().partition(|pid| claimed.contains_key(pid));
            let mut sampler = Self {
                open,
                claims: claims.clone(),
                inner: None,
                left: left.into_iter().collect(),
            };
            if !others.is_empty() {
                sampler.inner = Some((sampler.open)(&others)?);
            }
            Ok(Box::new(sampler))
        })
    }

    /// Takes back processes that are claimed no longer.
    fn take_back(&mut self) {
        if !self.claims.has_changed().unwrap_or(false) {
            return;
        }
        let claims = self.claims.borrow_and_update().clone();
        let back: Vec<i32> = self
            .left
            .iter()
            .copied()
            .filter(|pid| !claims.contains_key(pid))
            .collect();
        for pid in back {
            self.left.remove(&pid);
            if let Err(error) = self.add_process(pid) {
                tracing::debug!(
                    pid,
                    error = &*error as &dyn std::error::Error,
                    "process is not sampled"
                );
            }
        }
    }

    /// Gives up processes that are claimed from `end` on.
    fn give_up(&mut self, end: UnixNanos) {
        let claims = self.claims.borrow().clone();
        for (pid, since) in claims {
            if since <= end
                && self.left.insert(pid)
                && let Some(inner) = &mut self.inner
            {
                inner.remove_process(pid);
            }
        }
        if self
            .inner
            .as_ref()
            .is_some_and(|inner| !inner.has_targets())
        {
            self.inner = None;
        }
    }
}

fn nothing(window: Window) -> Collected {
    Collected {
        window,
        observed_ns: 0,
        lost_samples: 0,
        dropped_labels: 0,
        samples_count: 0,
        groups: Vec::new(),
    }
}

fn is_running(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}/exe")).exists()
}

impl CpuSampler for BesideJvm {
    fn add_process(&mut self, pid: i32) -> Result<(), SamplerError> {
        if self.left.contains(&pid) {
            return Ok(());
        }
        match &mut self.inner {
            Some(inner) => inner.add_process(pid),
            None => {
                self.inner = Some((self.open)(&[pid])?);
                Ok(())
            }
        }
    }

    fn remove_process(&mut self, pid: i32) {
        self.left.remove(&pid);
        if let Some(inner) = &mut self.inner {
            inner.remove_process(pid);
        }
    }

    fn poll(&mut self, timeout: Duration) -> Result<(), SamplerError> {
        self.take_back();
        match &mut self.inner {
            Some(inner) if inner.has_targets() => inner.poll(timeout),
            Some(_) | None => {
                // Unparked by the shutdown, as its caller is.
                std::thread::park_timeout(timeout);
                Ok(())
            }
        }
    }

    fn collect(&mut self, window: Window) -> Collected {
        let collected = match &mut self.inner {
            Some(inner) => inner.collect(window),
            None => nothing(window),
        };
        self.give_up(window.end());
        collected
    }

    fn has_targets(&self) -> bool {
        let has_own = self.inner.as_ref().is_some_and(|inner| inner.has_targets());
        has_own || self.left.iter().any(|pid| is_running(*pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Writes down what it is told.
    #[derive(Debug)]
    struct Fake {
        pids: FxHashSet<i32>,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Fake {
        fn say(&self, what: String) {
            self.log.lock().unwrap().push(what);
        }
    }

    impl CpuSampler for Fake {
        fn add_process(&mut self, pid: i32) -> Result<(), SamplerError> {
            self.pids.insert(pid);
            self.say(format!("add {pid}"));
            Ok(())
        }

        fn remove_process(&mut self, pid: i32) {
            self.pids.remove(&pid);
            self.say(format!("remove {pid}"));
        }

        fn poll(&mut self, _timeout: Duration) -> Result<(), SamplerError> {
            Ok(())
        }

        fn collect(&mut self, window: Window) -> Collected {
            self.say("collect".to_owned());
            nothing(window)
        }

        fn has_targets(&self) -> bool {
            !self.pids.is_empty()
        }
    }

    fn opener(log: &Arc<Mutex<Vec<String>>>, claims: watch::Receiver<Claims>) -> OpenSampler {
        let log = Arc::clone(log);
        let make = move || -> Option<OpenSampler> {
            let log = Arc::clone(&log);
            Some(Box::new(move |pids| {
                let fake = Fake {
                    pids: pids.iter().copied().collect(),
                    log: Arc::clone(&log),
                };
                fake.say(format!("open {pids:?}"));
                Ok(Box::new(fake))
            }))
        };
        BesideJvm::opener(make, claims)
    }

    fn window(start: i64) -> Window {
        Window::new(UnixNanos::new(start), UnixNanos::new(start + 10)).unwrap()
    }

    fn said(log: &Arc<Mutex<Vec<String>>>) -> String {
        std::mem::take(&mut *log.lock().unwrap()).join(", ")
    }

    #[test]
    fn a_claimed_process_is_given_up_at_its_border_and_taken_back() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (claims, claimed) = watch::channel(Claims::default());
        let log = Arc::default();
        let mut sampler = opener(&log, claimed)(&[own, 7]).unwrap();
        assert_eq!(said(&log), format!("open [{own}, 7]"));

        claims.send_modify(|claims| {
            claims.insert(own, UnixNanos::new(20));
        });
        sampler.collect(window(0));
        assert_eq!(said(&log), "collect", "its border is the next one");
        sampler.collect(window(10));
        assert_eq!(said(&log), format!("collect, remove {own}"));
        sampler.add_process(own).unwrap();
        assert_eq!(said(&log), "", "it stays claimed");

        // Without any other process nothing is sampled, but there is a target.
        sampler.remove_process(7);
        sampler.collect(window(20));
        assert_eq!(said(&log), "remove 7, collect");
        assert!(sampler.has_targets());

        claims.send_modify(|claims| {
            claims.remove(&own);
        });
        sampler.poll(Duration::ZERO).unwrap();
        assert_eq!(said(&log), format!("open [{own}]"));
        sampler.remove_process(own);
        assert!(!sampler.has_targets());
    }

    #[test]
    fn what_is_claimed_from_the_start_is_never_opened() {
        let (_claims, claimed) = watch::channel(Claims::from_iter([(7, UnixNanos::new(0))]));
        let log = Arc::default();
        let mut sampler = opener(&log, claimed)(&[7]).unwrap();
        assert!(sampler.collect(window(0)).groups.is_empty());
        assert_eq!(said(&log), "");
        sampler.add_process(8).unwrap();
        assert_eq!(said(&log), "open [8]");
    }
}
