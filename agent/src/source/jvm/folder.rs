//! The target's folder for temporary files, and a folder of our own in it.
//!
//! Paths are resolved within the target's root, also where they hold symbolic
//! links. Files go into a folder that only our user may enter, under a name
//! that nobody can guess, so that no other user of `/tmp` can put a link in
//! their place. The name tells which agent made it: what an agent that was
//! ended left behind is found and removed by the next.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use procfs::FromRead;
use procfs::process::Stat;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};

/// What names of folders begin with; the mark of their agent and a random number
/// follow.
const PREFIX: &str = ".tepui-agent-";
/// Where a Java virtual machine keeps temporary files, whatever its settings.
const TMP: &str = "tmp";
/// Most entries of it that are looked at.
const MAX_LISTED: usize = 64 * 1024;
/// Most folders of ended agents that are removed at a time.
const MAX_LEFTOVERS: usize = 64;
/// Time without use after which a folder of another PID namespace is nobody's.
const UNUSED_AFTER_S: i64 = 3600;

/// `/tmp` as a process sees it.
#[derive(Debug)]
pub(super) struct TargetTmp(OwnedFd);

/// A folder of our own in a target's `/tmp`; removed when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    tmp: OwnedFd,
    own: OwnedFd,
    name: String,
}

impl TargetTmp {
    /// Opens that of process `pid`.
    pub(super) fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&root, TMP, flags, Mode::empty(), resolve) {
            Ok(tmp) => Ok(Self(tmp)),
            // Kernels before 5.6 and old filters.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                let flags = flags | OFlags::NOFOLLOW;
                Ok(Self(rustix::fs::openat(&root, TMP, flags, Mode::empty())?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens any folder in its place.
    #[cfg(test)]
    pub(super) fn at(path: &std::path::Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A path of ours that leads there.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Names of folders there that agents made which run no longer. Those of
    /// another PID namespace, where `/tmp` is shared, are told by their age: an
    /// agent uses its folder every minute.
    fn leftovers(&self, own: &Folder) -> io::Result<Vec<String>> {
        let now = rustix::fs::fstat(&own.own)?.st_mtime;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(&self.0, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(listed)?.take(MAX_LISTED) {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            let Some(maker) = name.strip_prefix(PREFIX).and_then(Mark::parse) else {
                continue;
            };
            let age_s = || {
                let found = rustix::fs::statat(&self.0, &*name, AtFlags::SYMLINK_NOFOLLOW);
                found.map_or(0, |found| now.saturating_sub(found.st_mtime))
            };
            let is_left = match maker.standing() {
                Standing::Runs => false,
                Standing::Ended => true,
                Standing::Elsewhere => age_s() > UNUSED_AFTER_S,
            };
            if is_left && names.len() < MAX_LEFTOVERS {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// Removes what agents left that run no longer; `own` is in use.
    pub(super) fn remove_leftovers(&self, own: &Folder) -> io::Result<()> {
        for name in self.leftovers(own)? {
            match Folder::enter(&self.0, name) {
                Ok(folder) => drop(folder),
                Err(error) => tracing::debug!(%error, "folder of an ended agent not removed"),
            }
        }
        Ok(())
    }
}

/// Which agent something belongs to: its id, when it started, since the id may
/// be given to another process later, and the PID namespace in which it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pid: i32,
    /// In clock ticks since boot.
    started: u64,
    /// Inode of the PID namespace.
    namespace: u64,
}

/// How it stands with an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It runs, be it this one or another.
    Runs,
    /// It does not.
    Ended,
    /// It is of another PID namespace, so that cannot be told.
    Elsewhere,
}

/// The PID namespace of this process; 0 if that cannot be told.
fn own_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino())
}

/// When a process started, in clock ticks since boot; nothing if there is none.
fn start_of(pid: i32) -> Option<u64> {
    let stat = Stat::from_file(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.starttime)
}

impl Mark {
    /// That of this agent.
    pub(super) fn own() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        Self {
            pid,
            started: start_of(pid).unwrap_or(0),
            namespace: own_namespace(),
        }
    }

    /// Reads the mark at the beginning of `text`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        Some(Self {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            namespace: parts.next()?.parse().ok()?,
        })
    }

    /// How it stands with that agent.
    pub(super) fn standing(&self) -> Standing {
        if self.namespace != own_namespace() {
            return Standing::Elsewhere;
        }
        match start_of(self.pid) == Some(self.started) {
            true => Standing::Runs,
            false => Standing::Ended,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.pid, self.started, self.namespace)
    }
}

impl Folder {
    /// Makes one.
    pub(super) fn create(tmp: &TargetTmp) -> io::Result<Self> {
        let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("{PREFIX}{}-{random:016x}", Mark::own());
        rustix::fs::mkdirat(&tmp.0, name.as_str(), Mode::RWXU)?;
        Self::enter(&tmp.0, name)
    }

    fn enter(tmp: &OwnedFd, name: String) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = rustix::fs::openat(tmp, name.as_str(), flags, Mode::empty())?;
        if rustix::fs::fstat(&own)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self {
            tmp: tmp.try_clone()?,
            own,
            name,
        })
    }

    /// Where the target sees the file called `name`.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("/{TMP}/{}/{name}", self.name)
    }

    /// Writes a file that is not there yet.
    pub(super) fn write(&self, name: &str, content: &str) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.own, name, flags, Mode::RUSR | Mode::WUSR)?;
        std::fs::File::from(file).write_all(content.as_bytes())
    }

    /// Opens a file for reading; it must be an ordinary one.
    pub(super) fn open(&self, name: &str) -> io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.own, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(file.into())
    }

    /// Removes a file; it need not be there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.own, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn clear(&self) -> io::Result<()> {
        for entry in Dir::read_from(&self.own)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                self.remove(&name)?;
            }
        }
        rustix::fs::unlinkat(&self.tmp, self.name.as_str(), AtFlags::REMOVEDIR)?;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::debug!(%error, "folder in the target's /tmp not removed");
        }
    }
}

/// Reads at most `count` bytes, fewer where the file ends.
pub(super) fn read_up_to(file: &mut impl Read, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_removed_at_the_end() {
        let own = i32::try_from(std::process::id()).unwrap();
        let tmp = TargetTmp::open(own).unwrap();
        let folder = Folder::create(&tmp).unwrap();
        let path = PathBuf::from(folder.path_of("x"));
        folder.write("x", "text").unwrap();
        assert!(folder.write("x", "again").is_err(), "it is there");
        let mut file = folder.open("x").unwrap();
        assert_eq!(read_up_to(&mut file, 3).unwrap(), b"tex");
        assert!(path.exists());
        std::os::unix::fs::symlink("/etc/passwd", path.with_file_name("link")).unwrap();
        assert!(folder.open("link").is_err(), "a link is not followed");
        drop(folder);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn folders_of_ended_agents_are_found_by_their_name() {
        let own = i32::try_from(std::process::id()).unwrap();
        let tmp = TargetTmp::open(own).unwrap();
        // No process has this id: it is beyond the kernel's limit.
        let ended = 1 << 23;
        let leave = |namespace: u64| {
            let random = getrandom::u64().unwrap();
            let name = format!("{PREFIX}{ended}-7-{namespace}-{random:016x}");
            rustix::fs::mkdirat(&tmp.0, name.as_str(), Mode::RWXU).unwrap();
            let left = PathBuf::from(format!("/tmp/{name}"));
            std::fs::write(left.join("1.jfr"), "x").unwrap();
            left
        };
        let (left, foreign, old) = (leave(own_namespace()), leave(1), leave(1));
        let used = Folder::create(&tmp).unwrap();
        let now = std::fs::metadata(used.path_of("")).unwrap().modified();
        let before = now.unwrap() - std::time::Duration::from_secs(7200);
        std::fs::File::open(&old)
            .unwrap()
            .set_modified(before)
            .unwrap();
        tmp.remove_leftovers(&used).unwrap();
        assert!(!left.exists() && !old.exists());
        assert!(foreign.exists(), "it may be in use");
        assert!(PathBuf::from(used.path_of("")).exists(), "it is in use");
        std::fs::remove_dir_all(foreign).unwrap();
    }
}
