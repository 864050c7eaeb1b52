//! Why a Java virtual machine does not record itself, and what changes that.

use std::io;

/// Why a machine cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum JvmError {
    /// The process has no `libjvm.so` in memory.
    #[error("process {pid} is no Java virtual machine")]
    NotAMachine {
        /// The process.
        pid: i32,
    },
    /// Its virtual machine is not HotSpot.
    #[error("the Java virtual machine of process {pid} is OpenJ9, which has no flight recorder")]
    OtherMake {
        /// The process.
        pid: i32,
    },
    /// It belongs to somebody else.
    #[error(
        "the Java virtual machine of process {pid} runs as user {uid} and group {gid} and obeys no \
         other, the agent runs as user {own_uid} and group {own_gid}"
    )]
    OtherUser {
        /// The process.
        pid: i32,
        /// Its effective user.
        uid: u32,
        /// Its effective group.
        gid: u32,
        /// Ours.
        own_uid: u32,
        /// Ours.
        own_gid: u32,
    },
    /// It was started with the flag that forbids attaching.
    #[error(
        "the Java virtual machine of process {pid} was started with -XX:+DisableAttachMechanism"
    )]
    Disabled {
        /// The process.
        pid: i32,
    },
    /// SIGQUIT would end it.
    #[error(
        "the Java virtual machine of process {pid} does not catch SIGQUIT, by which it is asked \
         to listen: it is just starting"
    )]
    DeafToQuit {
        /// The process.
        pid: i32,
    },
    /// It was asked to listen and did not.
    #[error("the Java virtual machine of process {pid} does not open its socket in /tmp")]
    DoesNotListen {
        /// The process.
        pid: i32,
    },
    /// It was built without a flight recorder.
    #[error("the Java virtual machine of process {pid} (JDK {version}) has no flight recorder")]
    NoRecorder {
        /// The process.
        pid: i32,
        /// Its version.
        version: String,
    },
    /// Files cannot be exchanged with it.
    #[error("cannot use /tmp of process {pid}")]
    Tmp {
        /// The process.
        pid: i32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It does not do what it is told.
    #[error("the Java virtual machine of process {pid} refuses {command}: {answer}")]
    Refused {
        /// The process.
        pid: i32,
        /// The command.
        command: String,
        /// What it said.
        answer: String,
    },
    /// It does not answer in time.
    #[error("the Java virtual machine of process {pid} does not answer {command} in time")]
    TooSlow {
        /// The process.
        pid: i32,
        /// The command.
        command: String,
    },
    /// The process is gone.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// Something else failed.
    #[error("cannot {doing} the Java virtual machine of process {pid}")]
    Io {
        /// The process.
        pid: i32,
        /// What was being done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl JvmError {
    /// The line that changes it; empty where there is none.
    pub fn fix(&self) -> String {
        match self {
            Self::OtherUser { uid, gid, .. } => format!(
                "securityContext.runAsUser: {uid} and runAsGroup: {gid} for the agent (the target's)"
            ),
            Self::OtherMake { .. } => "run the service with HotSpot (OpenJDK)".to_owned(),
            Self::Disabled { .. } => {
                "start the service without -XX:+DisableAttachMechanism".to_owned()
            }
            Self::DeafToQuit { .. } => "try again in some seconds".to_owned(),
            Self::NoRecorder { .. } => {
                "take a JDK from 8u262 on, with the module jdk.jfr".to_owned()
            }
            Self::Tmp { .. } => "make /tmp of the target writable for its user".to_owned(),
            Self::NotAMachine { .. }
            | Self::DoesNotListen { .. }
            | Self::Refused { .. }
            | Self::TooSlow { .. }
            | Self::Gone { .. }
            | Self::Io { .. } => String::new(),
        }
    }

    /// Whether trying again may do better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NotAMachine { .. }
            | Self::OtherUser { .. }
            | Self::DeafToQuit { .. }
            | Self::Tmp { .. }
            | Self::Refused { .. }
            | Self::TooSlow { .. }
            | Self::Gone { .. }
            | Self::Io { .. } => true,
            // Another attempt would make it write something.
            Self::OtherMake { .. }
            | Self::Disabled { .. }
            | Self::DoesNotListen { .. }
            | Self::NoRecorder { .. } => false,
        }
    }
}
