//! A command of the operator's: run without a shell, with Alertmanager's JSON
//! on its standard input and the main facts in `TEPUI_ALERT_…` variables.
//!
//! It says by its exit code what came of it: 0 is delivered, 75 (`EX_TEMPFAIL`
//! of sysexits.h) is try again, another is tried again some times. After its
//! time limit it is killed with all of its process group. Of the collector's
//! environment, which may hold secrets, it gets [`INHERITED`] alone.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::http::{Try, shown};
use super::notice::Notice;
use super::payload;
use super::template::Templates;

/// Exit code of a command that should be run again.
const TRY_AGAIN: i32 = 75;
/// Variables that are passed on.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// Longest value of a variable; an environment has little room.
const VALUE_CHARS: usize = 8_192;
/// How much of what it says on its standard error is shown.
const SHOWN_BYTES: usize = 512;

/// How long what it said is read once it ended.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How a command is run.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) timeout: Duration,
}

/// Kills a process group unless its leader was waited for: until then no other
/// group can have its number.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // One that ended by itself is as good.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The variables that tell of `notice`.
fn variables(notice: &Notice, templates: &Templates) -> Vec<(&'static str, String)> {
    let words = templates.words(notice);
    let label = |name: &str| notice.label(name).to_owned();
    let variables = [
        ("TEPUI_ALERT_ID", notice.id.clone()),
        ("TEPUI_ALERT_FINGERPRINT", notice.alert_id.clone()),
        ("TEPUI_ALERT_STATUS", notice.happening.word().to_owned()),
        ("TEPUI_ALERT_KIND", label("kind")),
        ("TEPUI_ALERT_SEVERITY", label("severity")),
        ("TEPUI_ALERT_NAMESPACE", label("namespace")),
        ("TEPUI_ALERT_SERVICE", label("service")),
        ("TEPUI_ALERT_FRAME", label("frame")),
        ("TEPUI_ALERT_TITLE", words.title),
        ("TEPUI_ALERT_TEXT", words.text),
        ("TEPUI_ALERT_STARTS_AT", notice.starts_at.clone()),
        (
            "TEPUI_ALERT_ENDS_AT",
            notice.ends_at.clone().unwrap_or_default(),
        ),
        ("TEPUI_ALERT_URL", notice.flamegraph.clone()),
    ];
    let fitting = |text: String| text.replace('\0', "").chars().take(VALUE_CHARS).collect();
    variables.map(|(name, text)| (name, fitting(text))).to_vec()
}

impl Runner {
    /// Runs it once for `notice`.
    pub(super) async fn run(&self, notice: &Notice, templates: &Templates) -> Try {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| {
                let value = std::env::var_os(name)?;
                Some((name, value))
            }))
            .envs(variables(notice, templates))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Try::Failed(format!("cannot run {:?}: {error}", self.program)),
        };
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let mut group = Group(pid.and_then(Pid::from_raw));
        let body = payload::body(notice, &templates.words(notice));
        let attended = attend(&mut child, &mut group, &body);
        match tokio::time::timeout(self.timeout, attended).await {
            Ok((status, said)) => came(status, &said),
            Err(_elapsed) => Try::Again(
                format!("killed after {} s", self.timeout.as_secs_f64()),
                None,
            ),
        }
    }
}

/// Feeds `child` and waits for it; returns how it ended and what it said last.
async fn attend(
    child: &mut Child,
    group: &mut Group,
    body: &[u8],
) -> (io::Result<ExitStatus>, Vec<u8>) {
    let (input, output) = (child.stdin.take(), child.stderr.take());
    let mut said = Vec::new();
    let status = {
        let feed = async {
            if let Some(mut input) = input {
                // One that does not read its input may well be content.
                let _unread = input.write_all(body).await;
            }
        };
        let listen = async {
            if let Some(mut output) = output {
                let mut chunk = [0; 1_024];
                while let Ok(count @ 1..) = output.read(&mut chunk).await {
                    said.extend_from_slice(chunk.get(..count).unwrap_or(&[]));
                    let surplus = said.len().saturating_sub(SHOWN_BYTES);
                    said.drain(..surplus);
                }
            }
        };
        let talk = async { tokio::join!(feed, listen) };
        tokio::pin!(talk);
        let mut talks = true;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut talk, if talks => talks = false,
            }
        };
        if status.is_ok() {
            // It was waited for: its number may be another's now.
            group.0 = None;
        }
        if talks {
            // What it said is in the pipe by now, but others may hold that open.
            let _open = tokio::time::timeout(LAST_WORDS, talk).await;
        }
        status
    };
    (status, said)
}

/// What an end of the command means.
fn came(status: io::Result<ExitStatus>, said: &[u8]) -> Try {
    let status = match status {
        Ok(status) if status.success() => return Try::Delivered,
        Ok(status) => status,
        Err(error) => return Try::Again(format!("cannot wait for it: {error}"), None),
    };
    let said = shown(&String::from_utf8_lossy(said), SHOWN_BYTES);
    let reason = match said.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {said}"),
    };
    match status.code() {
        Some(TRY_AGAIN) => Try::Again(reason, None),
        _ => Try::Failed(reason),
    }
}
