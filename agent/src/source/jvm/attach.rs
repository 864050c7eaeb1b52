//! The attach protocol of HotSpot: lets a program of the same user give
//! commands to a running Java virtual machine, without flags at its start.
//!
//! The machine listens on the socket `/tmp/.java_pidN` once it was asked to: by
//! an empty file `/tmp/.attach_pidN` and the signal SIGQUIT, which ends other
//! programs. It is sent only to a process that has `libjvm.so` in memory, runs
//! as our user and catches it. All paths are those of the target, reached
//! through `/proc/PID/root`, so that it may be in another mount namespace; `N`
//! is its id in its own PID namespace.
//!
//! Follows `attachListener_posix.cpp` and `VirtualMachineImpl.java` of JDK 17:
//! version 1 of the protocol, which later ones still speak.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::error::JvmError;
use super::folder::TargetTmp;
use crate::symbolize::maps::{self, Mapped};
use crate::target::process::command_line;

/// Time allowed for the machine to begin to listen.
const LISTEN_TIME: Duration = Duration::from_secs(30);
/// Time between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time allowed for one command; the first takes a second, and more where CPU is short.
const COMMAND_TIME: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 256 * 1024;
/// Longest argument that the machine takes.
const MAX_ARGUMENT_BYTES: usize = 1024;
/// Bit of SIGQUIT in the masks of `/proc/PID/status`.
const QUIT_BIT: u64 = 1 << 2;
/// Flag that forbids attaching.
const DISABLED: &str = "-XX:+DisableAttachMechanism";

/// What `/proc/PID/status` says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    uid: u32,
    gid: u32,
    /// The id in its own PID namespace.
    inner_pid: i32,
    catches_quit: bool,
}

impl Status {
    fn parse(pid: i32, text: &str) -> Self {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let effective = |name| {
            let mut ids = field(name)?.split_whitespace();
            ids.nth(1)?.parse().ok()
        };
        let caught = field("SigCgt").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        Self {
            uid: effective("Uid").unwrap_or(u32::MAX),
            gid: effective("Gid").unwrap_or(u32::MAX),
            inner_pid: field("NSpid")
                .and_then(|ids| ids.split_whitespace().last()?.parse().ok())
                .unwrap_or(pid),
            catches_quit: caught.is_some_and(|mask| mask & QUIT_BIT != 0),
        }
    }

    fn read(pid: i32) -> Result<Self, JvmError> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|_| JvmError::Gone { pid })?;
        Ok(Self::parse(pid, &text))
    }
}

/// Which Java virtual machine a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    HotSpot,
    /// Its attach protocol is another one, and SIGQUIT makes it write a dump.
    OpenJ9,
    None,
}

fn program(pid: i32) -> Program {
    // What cannot be read is no machine that could be attached to.
    let mappings = maps::read(pid).unwrap_or_default();
    let has = |wanted: fn(&str) -> bool| {
        mappings.iter().any(|mapping| match &mapping.what {
            Mapped::File { path, .. } => wanted(
                path.rsplit_once('/')
                    .map_or(path.as_str(), |(_, name)| name),
            ),
            Mapped::Vdso | Mapped::Other(_) => false,
        })
    };
    if !has(|name| name == "libjvm.so") {
        Program::None
    } else if has(|name| name.starts_with("libj9vm")) {
        Program::OpenJ9
    } else {
        Program::HotSpot
    }
}

/// Whether process `pid` is a Java virtual machine, of whatever make.
pub(super) fn is_machine(pid: i32) -> bool {
    program(pid) != Program::None
}

/// A Java virtual machine that may be given commands.
#[derive(Debug)]
pub(super) struct Machine {
    pid: i32,
    inner_pid: i32,
    tmp: TargetTmp,
}

impl Machine {
    /// Returns the machine that process `pid` runs, if all that can be seen
    /// from outside allows to attach to it. Nothing of it is touched.
    pub(super) fn of(pid: i32) -> Result<Self, JvmError> {
        match program(pid) {
            Program::HotSpot => {}
            Program::OpenJ9 => return Err(JvmError::OtherMake { pid }),
            Program::None => return Err(JvmError::NotAMachine { pid }),
        }
        let status = Status::read(pid)?;
        let own = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        if (status.uid, status.gid) != own {
            return Err(JvmError::OtherUser {
                pid,
                uid: status.uid,
                gid: status.gid,
                own_uid: own.0,
                own_gid: own.1,
            });
        }
        if command_line(pid)
            .iter()
            .any(|argument| argument == DISABLED)
        {
            return Err(JvmError::Disabled { pid });
        }
        let tmp = TargetTmp::open(pid).map_err(|source| JvmError::Tmp { pid, source })?;
        let machine = Self {
            pid,
            inner_pid: status.inner_pid,
            tmp,
        };
        if !status.catches_quit && !machine.listens()? {
            return Err(JvmError::DeafToQuit { pid });
        }
        Ok(machine)
    }

    /// The process.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// The target's folder for temporary files.
    pub(super) fn tmp(&self) -> &TargetTmp {
        &self.tmp
    }

    fn socket(&self) -> String {
        format!(".java_pid{}", self.inner_pid)
    }

    fn io(&self, doing: &'static str, source: io::Error) -> JvmError {
        JvmError::Io {
            pid: self.pid,
            doing,
            source,
        }
    }

    /// Whether the socket is there, and that of our user.
    fn listens(&self) -> Result<bool, JvmError> {
        match rustix::fs::statat(
            self.tmp.descriptor(),
            self.socket(),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Socket
                && found.st_uid == rustix::process::geteuid().as_raw()),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(self.io("look for the socket of", error.into())),
        }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.tmp.path().join(self.socket())).await
    }

    /// Makes the machine listen, if it does not.
    async fn open(&self) -> Result<UnixStream, JvmError> {
        if self.listens()? {
            match self.connect().await {
                Ok(stream) => return Ok(stream),
                // Left by another process that had this id.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(self.io("connect to", error)),
            }
        }
        let _trigger = Trigger::create(self)?;
        self.send_quit()?;
        let deadline = tokio::time::Instant::now() + LISTEN_TIME;
        while tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.listens()?
                && let Ok(stream) = self.connect().await
            {
                return Ok(stream);
            }
        }
        Err(JvmError::DoesNotListen { pid: self.pid })
    }

    /// Sends SIGQUIT, to this very process and only if it is still one that
    /// waits for it.
    fn send_quit(&self) -> Result<(), JvmError> {
        let gone = JvmError::Gone { pid: self.pid };
        let Some(id) = Pid::from_raw(self.pid) else {
            return Err(gone);
        };
        // The descriptor keeps the id from being given to another process
        // between the look and the signal.
        let process = rustix::process::pidfd_open(id, PidfdFlags::empty());
        let is_same = program(self.pid) == Program::HotSpot
            && Status::read(self.pid)?.catches_quit
            && Status::read(self.pid)?.inner_pid == self.inner_pid;
        if !is_same {
            return Err(JvmError::DeafToQuit { pid: self.pid });
        }
        let sent = match &process {
            Ok(process) => rustix::process::pidfd_send_signal(process, Signal::QUIT),
            Err(rustix::io::Errno::SRCH) => return Err(gone),
            // Kernels and filters without such descriptors.
            Err(_) => rustix::process::kill_process(id, Signal::QUIT),
        };
        sent.map_err(|error| self.io("signal", error.into()))
    }

    /// Gives one command, as `jcmd` does, and returns what is answered.
    pub(super) async fn command(&self, command: &str) -> Result<String, JvmError> {
        if command.len() > MAX_ARGUMENT_BYTES || command.contains('\0') {
            return Err(self.io(
                "send so long a command to",
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        let mut stream = self.open().await?;
        let answered = tokio::time::timeout(COMMAND_TIME, exchange(&mut stream, command)).await;
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.io("talk to", error)),
            Err(_) => {
                return Err(JvmError::TooSlow {
                    pid: self.pid,
                    command: verb(command),
                });
            }
        };
        match answer.split_once('\n') {
            Some(("0", text)) => Ok(text.to_owned()),
            Some((_, text)) => Err(JvmError::Refused {
                pid: self.pid,
                command: verb(command),
                answer: first_line(text),
            }),
            None => Err(JvmError::Refused {
                pid: self.pid,
                command: verb(command),
                answer: first_line(&answer),
            }),
        }
    }
}

/// The first word of a command, which says enough of it.
pub(super) fn verb(command: &str) -> String {
    command.split(' ').next().unwrap_or_default().to_owned()
}

/// What of an answer is shown to people.
pub(super) fn first_line(answer: &str) -> String {
    let line = answer.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("(nothing)").chars().take(200).collect()
}

async fn exchange(stream: &mut UnixStream, command: &str) -> io::Result<String> {
    // Version, the one command that passes on to all others, three arguments.
    let request = format!("1\0jcmd\0{command}\0\0\0");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The file that tells SIGQUIT to mean "listen"; removed when dropped.
struct Trigger<'a> {
    machine: &'a Machine,
    name: String,
}

impl<'a> Trigger<'a> {
    fn create(machine: &'a Machine) -> Result<Self, JvmError> {
        let name = format!(".attach_pid{}", machine.inner_pid);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::openat(machine.tmp.descriptor(), name.as_str(), flags, mode) {
            // Another program may be attaching, or was ended while it did.
            Ok(_) | Err(rustix::io::Errno::EXIST) => Ok(Self { machine, name }),
            Err(error) => Err(JvmError::Tmp {
                pid: machine.pid,
                source: error.into(),
            }),
        }
    }
}

impl Drop for Trigger<'_> {
    fn drop(&mut self) {
        let folder = self.machine.tmp.descriptor();
        if let Err(error) = rustix::fs::unlinkat(folder, self.name.as_str(), AtFlags::empty()) {
            tracing::debug!(%error, "attach file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_file_says_who_may_attach() {
        let text = "Name:\tjava\nUid:\t1\t1000\t1\t1\nGid:\t1\t2000\t1\t1\nNSpid:\t4711\t1\nSigCgt:\t2000000181005ccf\n";
        let status = Status::parse(4711, text);
        assert_eq!(
            status,
            Status {
                uid: 1000,
                gid: 2000,
                inner_pid: 1,
                catches_quit: true,
            }
        );
        let deaf = Status::parse(7, "SigCgt:\t0000000000000003\n");
        assert!(!deaf.catches_quit);
        assert_eq!((deaf.uid, deaf.inner_pid), (u32::MAX, 7));
    }

    #[test]
    fn another_program_is_no_machine_and_gets_no_signal() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_machine(own));
        assert!(matches!(
            Machine::of(own),
            Err(JvmError::NotAMachine { pid }) if pid == own
        ));
    }

    #[test]
    fn answers_are_shown_by_their_first_line() {
        assert_eq!(first_line("\n  \nno such command\nat x"), "no such command");
        assert_eq!(first_line(""), "(nothing)");
        assert_eq!(verb("JFR.start name=x"), "JFR.start");
    }
}
