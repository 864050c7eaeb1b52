//! What the files of a thread under `/proc` say. Pure; any bytes will do.
//!
//! Follows `man 5 proc_pid_stat`, `proc_pid_syscall` and `proc_pid_wchan`, and
//! the kernel's `Documentation/scheduler/sched-stats.rst` for `schedstat`.

/// Longest name that is kept, in characters; the kernel's own have 15.
const MAX_NAME_CHARS: usize = 64;
/// Fields of `stat` between the state and the time in the program.
const FIELDS_BEFORE_TIMES: usize = 10;

/// What a thread does, as the kernel calls it in `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum State {
    /// On a CPU, or ready to be.
    Running,
    /// It waits and can be woken by a signal.
    Sleeping,
    /// It waits and cannot be, mostly for a disk.
    DiskSleep,
    /// Stopped by a signal.
    Stopped,
    /// Stopped by a debugger.
    TracingStop,
    /// Put aside by the kernel.
    Parked,
    /// A thread of the kernel without work.
    Idle,
    /// It has ended.
    Dead,
}

impl State {
    fn of(letter: u8) -> Option<Self> {
        Some(match letter {
            b'R' => Self::Running,
            b'S' => Self::Sleeping,
            b'D' => Self::DiskSleep,
            b'T' => Self::Stopped,
            b't' => Self::TracingStop,
            b'P' => Self::Parked,
            b'I' => Self::Idle,
            b'X' | b'x' | b'Z' => Self::Dead,
            _ => return None,
        })
    }

    /// Name of its frame.
    pub(super) const fn frame(self) -> &'static str {
        match self {
            Self::Running => "[running]",
            Self::Sleeping => "[sleeping]",
            Self::DiskSleep => "[disk sleep]",
            Self::Stopped => "[stopped]",
            Self::TracingStop => "[tracing stop]",
            Self::Parked => "[parked]",
            Self::Idle => "[idle]",
            Self::Dead => "[dead]",
        }
    }
}

/// What `stat` says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: State,
    /// CPU time so far, in clock ticks.
    pub(super) ticks: u64,
}

/// Reads `stat`. The thread's name in it may hold anything, also brackets and
/// line ends, so what follows is found from the end.
pub(super) fn stat(bytes: &[u8]) -> Option<Stat> {
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = bytes.get(end + 1..)?.strip_prefix(b" ")?;
    let mut fields = rest.split(u8::is_ascii_whitespace);
    let state = match fields.next()? {
        [letter] => State::of(*letter)?,
        _ => return None,
    };
    let mut times = fields.skip(FIELDS_BEFORE_TIMES);
    let (user, system) = (number(times.next()?)?, number(times.next()?)?);
    Some(Stat {
        state,
        ticks: user.saturating_add(system),
    })
}

/// Reads the nanoseconds on a CPU, the first field of `schedstat`.
pub(super) fn schedstat(bytes: &[u8]) -> Option<u64> {
    number(bytes.split(u8::is_ascii_whitespace).next()?)
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// What `syscall` says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syscall {
    /// It runs.
    Running,
    /// It waits within the system call of this number.
    Within(i64),
    /// It waits outside of any, such as for a page.
    Outside,
}

/// Reads `syscall`.
pub(super) fn syscall(bytes: &[u8]) -> Option<Syscall> {
    match bytes.split(u8::is_ascii_whitespace).next()? {
        b"running" => Some(Syscall::Running),
        b"-1" => Some(Syscall::Outside),
        field => {
            let number = i64::try_from(number(field)?).ok()?;
            Some(Syscall::Within(number))
        }
    }
}

/// Reads `wchan`: the kernel's function that a thread waits in, without what
/// the compiler added; nothing where that may not be known.
pub(super) fn wchan(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    let name = text.split('.').next()?;
    let is_name = name.len() <= MAX_NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some(name)
}

/// Reads `comm`, the name of a thread, and makes it one that threads of a kind
/// share; see [`kind`].
pub(super) fn comm(bytes: &[u8]) -> String {
    let name = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    // A character has at most four bytes.
    let name = name.get(..4 * MAX_NAME_CHARS).unwrap_or(name);
    kind(&String::from_utf8_lossy(name))
}

/// The name of a kind of threads: numbers become `N` (`worker-12` is
/// `worker-N`), control characters `?`.
///
/// A number behind a single letter at the beginning of several words names a
/// kind itself: `C2 CompilerThre` and `G1 Conc#0` of Java.
pub(super) fn kind(name: &str) -> String {
    let mut kind = String::new();
    let mut rest = name.chars().take(MAX_NAME_CHARS).peekable();
    let mut letters: usize = 0;
    let mut is_first_word = true;
    while let Some(c) = rest.next() {
        if !c.is_ascii_digit() {
            is_first_word &= c != ' ';
            letters = if c.is_alphabetic() { letters + 1 } else { 0 };
            kind.push(if c.is_control() { '?' } else { c });
            continue;
        }
        let mut digits = String::from(c);
        while let Some(digit) = rest.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        let names_a_kind =
            is_first_word && letters == 1 && kind.chars().count() == 1 && rest.peek() == Some(&' ');
        kind.push_str(if names_a_kind { &digits } else { "N" });
        letters = 0;
    }
    match kind.is_empty() {
        true => "[no name]".to_owned(),
        false => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAIL: &[u8] = b" 1 19 19 0 -1 4194368 12 0 3 0 70 5 0 0 20 0 9 0 4711 1 2\n";

    fn line(name: &[u8], state: u8) -> Vec<u8> {
        let mut line = b"83 (".to_vec();
        line.extend_from_slice(name);
        line.extend_from_slice(b") ");
        line.push(state);
        line.extend_from_slice(TAIL);
        line
    }

    #[test]
    fn the_state_and_the_time_stand_behind_a_name_that_may_hold_anything() {
        let long = vec![b')'; 64 * 1024];
        for name in [
            &b"worker"[..],
            b"a) R 1 2 3 (b",
            b"line\nend) S\n",
            b") R ",
            b"",
            b"\xff\xfe\0",
            &long,
        ] {
            let expected = Stat {
                state: State::Sleeping,
                ticks: 75,
            };
            assert_eq!(stat(&line(name, b'S')), Some(expected));
        }
    }

    #[test]
    fn what_is_cut_or_makes_no_sense_says_nothing() {
        let whole = line(b"worker", b'R');
        let end_of_times = whole.len() - b" 0 0 20 0 9 0 4711 1 2\n".len();
        for length in 0..end_of_times - 1 {
            // A number that is cut is a number, too.
            assert_eq!(stat(&whole[..length]), None, "{length}");
        }
        for (bytes, expected) in [
            (&b"83 (worker) R"[..], None),
            (b"83 (worker)R 1 2 3 4 5 6 7 8 9 10 11 12", None),
            (b"83 (worker) RR 1 2 3 4 5 6 7 8 9 10 11 12", None),
            (b"83 (worker) ? 1 2 3 4 5 6 7 8 9 10 11 12", None),
            (b"83 (worker) R 1 2 3 4 5 6 7 8 9 10 x 12", None),
            (b"83 (worker) R 1 2 3 4 5 6 7 8 9 10 11 12", Some(23)),
        ] {
            assert_eq!(stat(bytes).map(|stat| stat.ticks), expected);
        }
    }

    #[test]
    fn times_and_system_calls_are_read() {
        for (bytes, expected) in [
            (&b"123456789 42 7\n"[..], Some(123_456_789)),
            (b"18446744073709551615 0 0\n", Some(u64::MAX)),
            (b"18446744073709551616 0 0\n", None),
            (b"-1 0 0\n", None),
            (b"\n", None),
            (b"", None),
        ] {
            assert_eq!(schedstat(bytes), expected);
        }
        for (bytes, expected) in [
            (&b"running\n"[..], Some(Syscall::Running)),
            (
                b"202 0x7f 0x80 0x0 0x0 0x0 0x0 0x7ffd 0x7fba\n",
                Some(Syscall::Within(202)),
            ),
            (b"-1 0x7ffd 0x7fba\n", Some(Syscall::Outside)),
            (b"-2 0x0\n", None),
            (b"9223372036854775808 0x0\n", None),
            (b"", None),
            (b"\n", None),
        ] {
            assert_eq!(syscall(bytes), expected);
        }
        for (bytes, expected) in [
            (&b"futex_do_wait"[..], Some("futex_do_wait")),
            (b"pipe_read.isra.0\n", Some("pipe_read")),
            (b"0", None),
            (b"", None),
            (b"odd name", None),
            (b"\xff", None),
            (&[b'a'; 65536], None),
        ] {
            assert_eq!(wchan(bytes), expected);
        }
    }

    #[test]
    fn threads_of_a_kind_share_a_name() {
        for (name, expected) in [
            ("worker-12\n", "worker-N"),
            ("worker-12", "worker-N"),
            ("worker7", "workerN"),
            ("pool-1-thread-10", "pool-N-thread-N"),
            ("t15", "tN"),
            ("C2 CompilerThre", "C2 CompilerThre"),
            ("G1 Conc#0", "G1 Conc#N"),
            ("GC Thread#3", "GC Thread#N"),
            ("is 4 x", "is N x"),
            ("a b1 c", "a bN c"),
            ("two\nlines\n", "two?lines"),
            ("123", "N"),
            ("\n", "[no name]"),
            ("", "[no name]"),
        ] {
            assert_eq!(comm(name.as_bytes()), expected, "{name:?}");
        }
        assert_eq!(comm(&[b'x'; 65536]).len(), MAX_NAME_CHARS);
        assert_eq!(comm(&[0xff; 65536]).chars().count(), MAX_NAME_CHARS);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            stat(&bytes);
            schedstat(&bytes);
            syscall(&bytes);
            wchan(&bytes);
            prop_assert!(comm(&bytes).chars().count() <= MAX_NAME_CHARS);
        }

        #[test]
        fn any_name_leaves_the_rest_as_it_is(
            name in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let read = stat(&line(&name, b'D'));
            prop_assert_eq!(read, Some(Stat { state: State::DiskSleep, ticks: 75 }));
        }

        #[test]
        fn a_kind_is_its_own_kind(name in ".{0,80}") {
            let first = kind(&name);
            prop_assert_eq!(kind(&first), first.clone());
        }
    }
}
