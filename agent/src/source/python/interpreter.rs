//! The door to py-spy: reads the threads of an interpreter from the memory of
//! its process, which is neither stopped nor attached to.
//!
//! What is read while it changes may make no sense, and a hostile process may
//! show anything. So an error is of one look, and what the library does not
//! expect, down to a panic, ends with that process.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::stack::FrameKind;
use py_spy::config::LockingStrategy;
use py_spy::{Config, PythonSpy, StackTrace};

use super::tally::Place;
use super::{PythonError, permission, recognise};
use crate::source::SamplerError;

/// How long it may take to find an interpreter; a second at most where files answer.
const FIND_TIME: Duration = Duration::from_secs(5);
/// Most threads that are left behind in files that do not answer.
const MAX_LEFT_BEHIND: usize = 4;

/// An interpreter in another process.
pub(super) struct Interpreter {
    spy: PythonSpy,
    knows_holder: bool,
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter")
            .field("pid", &self.spy.pid)
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// A thread of an interpreter.
#[derive(Debug)]
pub(super) struct PythonThread(StackTrace);

impl PythonThread {
    /// Its id as its process knows it, which Python tells since 3.11. After a
    /// fork it may be that of a thread of the parent.
    pub(super) fn id(&self) -> Option<i32> {
        i32::try_from(self.0.os_thread_id?).ok()
    }

    /// Whether it holds the lock without which no thread runs Python code.
    pub(super) fn holds_lock(&self) -> bool {
        self.0.owns_gil
    }

    /// Its frames, leaf first; none when it runs no Python code.
    pub(super) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.0.frames.iter().map(|frame| Place {
            kind: FrameKind::Python,
            function: &frame.name,
            file: &frame.filename,
            line: u32::try_from(frame.line).unwrap_or(0),
        })
    }
}

fn config() -> Config {
    Config {
        blocking: LockingStrategy::NonBlocking,
        collect_thread_names: false,
        // Otherwise each file's folder is searched for packages.
        full_filenames: true,
        ..Config::default()
    }
}

/// Why the threads could not be read.
#[derive(Debug)]
pub(super) enum LookError {
    /// What was read changed meanwhile; the next look may succeed.
    Torn(SamplerError),
    /// No look will succeed.
    Nonsense,
}

/// Runs `call`; a panic in it is an error.
fn contained<T>(call: impl FnOnce() -> Result<T, SamplerError>) -> Result<T, LookError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(LookError::Torn),
        Err(_) => Err(LookError::Nonsense),
    }
}

/// Does `call` on a thread of its own, which is left behind if it takes longer than
/// [`FIND_TIME`]: it opens files of the target by name, and the target can put there
/// what does not answer. `None` then, and while too many are left behind.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    if RUNNING.fetch_add(1, Ordering::Relaxed) >= MAX_LEFT_BEHIND {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("interpreter".to_owned());
    let started = thread.spawn(move || {
        // Nobody waits any more if this took too long.
        let _kept = send.send(call());
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    });
    match started {
        Ok(_running) => receive.recv_timeout(FIND_TIME).ok(),
        Err(_) => {
            RUNNING.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

impl From<LookError> for SamplerError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Torn(error) => error,
            LookError::Nonsense => "what the process shows of itself makes no sense".into(),
        }
    }
}

impl Interpreter {
    /// Finds the interpreter of process `pid`.
    ///
    /// # Errors
    ///
    /// [`PythonError`] says why there is none that can be read.
    pub(super) fn find(pid: i32) -> Result<Self, PythonError> {
        let failure = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => PythonError::TargetGone { pid },
            io::ErrorKind::PermissionDenied => PythonError::NotPermitted {
                pid,
                advice: permission::advice(pid),
                source,
            },
            _ => PythonError::Read {
                pid,
                source: source.into(),
            },
        };
        permission::check(pid).map_err(failure)?;
        if !recognise::has_modest_files(pid).map_err(failure)? {
            return Err(PythonError::Read {
                pid,
                source: "its program is larger than any interpreter".into(),
            });
        }
        let found = in_time(move || contained(|| Ok(PythonSpy::new(pid, &config())?)));
        let found = found.map(|found| found.map_err(SamplerError::from));
        let spy = found
            .unwrap_or_else(|| Err("its files do not answer".into()))
            .map_err(|source| PythonError::Read { pid, source })?;
        Ok(Self {
            knows_holder: spy.addresses.threadstate_address != 0,
            spy,
        })
    }

    /// Its version, such as `3.11.7`.
    pub(super) fn version(&self) -> String {
        self.spy.version.to_string()
    }

    /// The thread that holds the interpreter's lock; reads no other.
    ///
    /// # Errors
    ///
    /// [`LookError`]; most looks that fail are followed by one that succeeds.
    pub(super) fn holder(&mut self) -> Result<Option<PythonThread>, LookError> {
        if !self.knows_holder {
            return Ok(None);
        }
        self.spy.config.gil_only = true;
        let mut threads = self.read()?;
        Ok(threads.pop())
    }

    /// All threads.
    ///
    /// # Errors
    ///
    /// [`LookError`]; most looks that fail are followed by one that succeeds.
    pub(super) fn threads(&mut self) -> Result<Vec<PythonThread>, LookError> {
        self.spy.config.gil_only = false;
        self.read()
    }

    fn read(&mut self) -> Result<Vec<PythonThread>, LookError> {
        let read = contained(|| Ok(self.spy.get_stack_traces()?))?;
        Ok(read.into_iter().map(PythonThread).collect())
    }
}
