//! The attach protocol of HotSpot: lets a program of the same user give
//! commands to a running Java virtual machine, without flags at its start.
//!
//! The machine listens on the socket `/tmp/.java_pidN` once it was asked to: by
//! an empty file `/tmp/.attach_pidN` and the signal SIGQUIT, which ends other
//! programs. It is sent only to a process that has `libjvm.so` in memory, runs
//! as our user, catches it, and has the thread that HotSpot starts to serve it
//! ([`DISPATCHER`]): a program that only holds a machine may mean something else
//! by it. Who answers on the socket must be that very process. All paths are those of the target, reached
//! through `/proc/PID/root`, so that it may be in another mount namespace; `N`
//! is its id in its own PID namespace.
//!
//! Follows `attachListener_posix.cpp` and `VirtualMachineImpl.java` of JDK 17:
//! version 1 of the protocol, which later ones still speak.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
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
/// Name of HotSpot's thread for signals, as the kernel cuts it. With `-Xrs`
/// there is none, and SIGQUIT is the program's own.
const DISPATCHER: &str = "Signal Dispatch";
/// Most threads that are looked at for it; it is one of the first twenty.
const MAX_THREADS: usize = 4096;
/// Variables from which machines take flags.
const FLAG_VARIABLES: [&str; 3] = ["JAVA_TOOL_OPTIONS=", "JDK_JAVA_OPTIONS=", "_JAVA_OPTIONS="];
/// Longest environment that is read.
const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;
/// Age from which on a file that asks to listen is nobody's any more.
const STALE_AFTER: Duration = Duration::from_secs(60);
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
    /// It may not be looked at, and calls itself `java`.
    Hidden,
    None,
}

fn program(pid: i32) -> Program {
    let mappings = match maps::read(pid) {
        Ok(mappings) => mappings,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return match name.trim_end() {
                "java" => Program::Hidden,
                _ => Program::None,
            };
        }
        Err(_) => return Program::None,
    };
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

/// Whether process `pid` has HotSpot's thread for signals.
fn has_dispatcher(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.take(MAX_THREADS).flatten().any(|thread| {
        fs::read_to_string(thread.path().join("comm"))
            .is_ok_and(|name| name.trim_end() == DISPATCHER)
    })
}

/// Whether process `pid` was started with the flag that forbids attaching.
fn is_disabled(pid: i32) -> bool {
    let arguments = command_line(pid);
    if arguments.iter().any(|argument| argument == DISABLED) {
        return true;
    }
    let mut environment = Vec::new();
    if let Ok(file) = fs::File::open(format!("/proc/{pid}/environ")) {
        // What could be read of it will do.
        drop(
            file.take(MAX_ENVIRONMENT_BYTES)
                .read_to_end(&mut environment),
        );
    }
    environment.split(|byte| *byte == 0).any(|variable| {
        let variable = String::from_utf8_lossy(variable);
        let flags = FLAG_VARIABLES
            .iter()
            .find_map(|name| variable.strip_prefix(name));
        flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == DISABLED))
    })
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
            // Whose it is says why it may not be looked at.
            Program::HotSpot | Program::Hidden => {}
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
        if is_disabled(pid) {
            return Err(JvmError::Disabled { pid });
        }
        let tmp = TargetTmp::open(pid).map_err(|source| JvmError::Tmp { pid, source })?;
        let machine = Self {
            pid,
            inner_pid: status.inner_pid,
            tmp,
        };
        let may_be_asked = status.catches_quit && has_dispatcher(pid);
        if !may_be_asked && !machine.listens()? {
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

    /// Connects, and makes sure that it is the machine who listens: the socket
    /// may be a link by now, or another process's.
    async fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self.tmp.path().join(self.socket())).await?;
        let peer = stream.peer_cred()?;
        let is_machine =
            peer.uid() == rustix::process::geteuid().as_raw() && peer.pid() == Some(self.pid);
        match is_machine {
            true => Ok(stream),
            false => Err(io::Error::other("another process listens on its socket")),
        }
    }

    /// Makes the machine listen, if it does not.
    async fn open(&self) -> Result<UnixStream, JvmError> {
        if self.listens()? {
            match self.connect().await {
                Ok(stream) => {
                    Trigger::remove_stale(self);
                    return Ok(stream);
                }
                // Left by another process that had this id.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(self.io("connect to", error)),
            }
        }
        // Nothing is left where there is nobody to be asked.
        self.may_be_asked()?;
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

    /// Whether SIGQUIT is known to make this process listen and nothing else.
    fn may_be_asked(&self) -> Result<(), JvmError> {
        let pid = self.pid;
        let status = Status::read(pid)?;
        let is_same = program(pid) == Program::HotSpot && status.inner_pid == self.inner_pid;
        match is_same && status.catches_quit && has_dispatcher(pid) {
            true => Ok(()),
            false => Err(JvmError::DeafToQuit { pid }),
        }
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
        self.may_be_asked()?;
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
    let shown = line.unwrap_or("(nothing)").chars();
    shown.filter(|c| !c.is_control()).take(200).collect()
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
    /// Whether it is ours to remove.
    is_ours: bool,
}

/// Whether a file is so old that whoever made it is not attaching any more.
fn is_stale(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    // One of the future has no age.
    let age = modified.ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > STALE_AFTER)
}

impl<'a> Trigger<'a> {
    fn name(machine: &Machine) -> String {
        format!(".attach_pid{}", machine.inner_pid)
    }

    /// Removes what an agent left that was killed while it attached: the next machine
    /// with this id would take a signal that asks for its threads for ours.
    fn remove_stale(machine: &'a Machine) {
        let name = Self::name(machine);
        let found = rustix::fs::statat(
            machine.tmp.descriptor(),
            name.as_str(),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        let is_of_us = found.is_ok_and(|found| found.st_uid == rustix::process::geteuid().as_raw());
        if is_of_us && is_stale(&machine.tmp.path().join(&name)) {
            drop(Self {
                machine,
                name,
                is_ours: true,
            });
        }
    }

    fn create(machine: &'a Machine) -> Result<Self, JvmError> {
        let name = Self::name(machine);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let folder = machine.tmp.descriptor();
        let is_ours = match rustix::fs::openat(folder, name.as_str(), flags, mode) {
            Ok(_) => true,
            // Another program is attaching, or was ended while it did.
            Err(rustix::io::Errno::EXIST) => is_stale(&machine.tmp.path().join(&name)),
            Err(error) => {
                return Err(JvmError::Tmp {
                    pid: machine.pid,
                    source: error.into(),
                });
            }
        };
        Ok(Self {
            machine,
            name,
            is_ours,
        })
    }
}

impl Drop for Trigger<'_> {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        let folder = self.machine.tmp.descriptor();
        if let Err(error) = rustix::fs::unlinkat(folder, self.name.as_str(), AtFlags::empty()) {
            tracing::debug!(%error, "attach file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn a_program_without_the_thread_for_signals_is_told_apart() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!has_dispatcher(own));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("Signal Dispatcher".to_owned())
            .spawn(move || stopped.recv().is_err())
            .unwrap();
        while !has_dispatcher(own) {
            std::thread::yield_now();
        }
        drop(stop);
        assert!(thread.join().unwrap());
    }

    #[test]
    fn the_flag_is_found_in_the_environment_too() {
        for (value, expected) in [
            ("-Xmx1g -XX:+DisableAttachMechanism", true),
            ("-XX:+DisableAttachMechanismX", false),
        ] {
            let mut child = std::process::Command::new("sleep")
                .arg("600")
                .env("JAVA_TOOL_OPTIONS", value)
                .spawn()
                .unwrap();
            // The kernel fills it in a little after the program has begun.
            let environment = format!("/proc/{}/environ", child.id());
            while fs::read(&environment).unwrap().is_empty() {
                std::thread::yield_now();
            }
            let found = is_disabled(i32::try_from(child.id()).unwrap());
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn only_the_machine_itself_is_listened_to() {
        // A socket of the right name, of another process than is asked.
        let folder = tempfile::tempdir().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let machine = |pid| Machine {
            pid,
            inner_pid: 7,
            tmp: TargetTmp::at(folder.path()).unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let path = folder.path().join(".java_pid7");
        let _listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        assert!(machine(own).listens().unwrap());
        runtime.block_on(async {
            assert!(machine(own).connect().await.is_ok());
            let refused = machine(own + 1).connect().await.unwrap_err();
            assert!(refused.to_string().contains("another process"));
        });
    }

    #[test]
    fn a_file_of_another_who_attaches_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine {
            pid: 7,
            inner_pid: 7,
            tmp: TargetTmp::at(folder.path()).unwrap(),
        };
        let path = folder.path().join(".attach_pid7");
        drop(Trigger::create(&machine).unwrap());
        assert!(!path.exists(), "our own is removed");
        let file = fs::File::create(&path).unwrap();
        drop(Trigger::create(&machine).unwrap());
        assert!(path.exists());
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - Duration::from_secs(3600))
            .unwrap();
        drop(Trigger::create(&machine).unwrap());
        assert!(!path.exists(), "nobody's is removed");
    }

    #[test]
    fn answers_are_shown_by_their_first_line() {
        assert_eq!(first_line("\n  \nno such command\nat x"), "no such command");
        assert_eq!(first_line(""), "(nothing)");
        assert_eq!(first_line("a\u{1b}[31mb"), "a[31mb");
        assert_eq!(verb("JFR.start name=x"), "JFR.start");
    }

    proptest! {
        #[test]
        fn no_status_file_is_too_much(
            pid: i32,
            text in prop_oneof![
                "\\PC{0,80}",
                "((Uid|Gid|NSpid|SigCgt):[\t 0-9a-f]{0,40}\n){0,6}",
            ],
        ) {
            let status = Status::parse(pid, &text);
            prop_assert!(status.inner_pid == pid || text.contains("NSpid"));
        }
    }
}
