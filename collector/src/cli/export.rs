//! `collector export`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use proto::pb::tepui as pb;
use proto::pb::tepui::export_response::Body;
use proto::window::UnixNanos;
use tonic::Streaming;

use super::client::{Client, ClientArgs};
use super::labels::checked_selector;
use super::output::{self, with_spinner};
use super::{CliError, tar};
use crate::time_range::{self, rfc3339};

/// Longest part of a path that comes from a name.
const MAX_PART_CHARS: usize = 70;

/// Flags of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector export --service logger --since 1h -o logger.tar
      a pprof file for each window: logger/2026-01-31T08:00:10Z_7_process_cpu.pb.gz,
      where 7 is the number of the series; its labels: go tool pprof -comments FILE
  collector export --service prod/logger --since 24h --type cpu --select '{pod=\"p-1\"}' | tar -x
  collector import --server http://other:4040 --service logger logger/*.pb.gz
      the same sums in another collector

Only windows that are still kept one by one can be exported, see store.retention.")]
pub struct Args {
    /// Service, or NAMESPACE/SERVICE; without a namespace every one counts
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Start of the range: 90m, 1h, 7d, a date or RFC 3339
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: String,
    /// End of the range
    #[arg(long, value_name = "TIME", default_value = "now")]
    until: String,
    /// Only this type, such as cpu or inuse_space [default: all]
    #[arg(long = "type", value_name = "TYPE")]
    profile_type: Option<String>,
    /// Only series that match, such as '{version="1.8",pod=~"a.*"}'
    #[arg(long, value_name = "SELECTOR")]
    select: Option<String>,
    /// Write the archive to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Writes an archive of raw windows.
///
/// # Errors
///
/// [`CliError`] if a flag is wrong, the collector does not answer, the stream
/// ends early or the archive cannot be written; a file is made only whole.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    if args.output.is_none() && output::is_terminal() {
        return Err(CliError::Usage(
            "an archive is nothing for a terminal; add -o FILE, or pipe it: | tar -x".to_owned(),
        ));
    }
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let selector = checked_selector(args.select)?;
    let mut client = args.client.connect().await?;
    let request = pb::ExportRequest {
        service: args.service.clone(),
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        profile_type: args.profile_type.unwrap_or_default(),
        selector,
    };
    let what = format!("export {:?}", args.service);
    let files = client.query.export(request).await;
    let files = files
        .map_err(|status| client.failure(&what, &status))?
        .into_inner();
    let end = with_spinner("exporting", async {
        match &args.output {
            None => write(files, &client, &what, STDOUT, io::stdout()).await,
            Some(path) => write_file(files, &client, &what, path).await,
        }
    })
    .await?;
    if end.gone_before_unix_nanos > 0 {
        output::note(&format!(
            "windows before {} are kept as sums only and are not in the archive; see store.retention",
            rfc3339(UnixNanos::new(end.gone_before_unix_nanos))
        ))?;
    }
    if end.files == 0 {
        output::note("no window in this range matches; the archive is empty")?;
    }
    Ok(())
}

/// What standard output is called in messages.
const STDOUT: &str = "stdout";

/// Writes the archive beside `path` and then gives it its name.
async fn write_file(
    files: Streaming<pb::ExportResponse>,
    client: &Client,
    what: &str,
    path: &Path,
) -> Result<pb::ExportEnd, CliError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let shown = path.display().to_string();
    let failed = |error: io::Error| cannot_write(&shown, &error);
    let file = File::create(&unfinished).map_err(failed)?;
    let written = tokio::select! {
        written = write(files, client, what, &shown, &file) => written,
        _ = tokio::signal::ctrl_c() => Err(CliError::Failed(
            "interrupted; no archive was written".to_owned(),
        )),
    };
    let named = written.and_then(|end| {
        file.sync_all()
            .and_then(|()| std::fs::rename(&unfinished, path))
            .map_err(failed)?;
        Ok(end)
    });
    if named.is_err() {
        // What is said is why it failed.
        let _left_over = std::fs::remove_file(&unfinished);
    }
    named
}

fn cannot_write(name: &str, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot write {name}: {error}"))
}

/// Writes files as they come; one is in memory at a time.
async fn write(
    mut files: Streaming<pb::ExportResponse>,
    client: &Client,
    what: &str,
    name: &str,
    to: impl Write,
) -> Result<pb::ExportEnd, CliError> {
    let failed = |error: io::Error| cannot_write(name, &error);
    let mut to = BufWriter::new(to);
    let mut names = Names::default();
    loop {
        let next = files.message().await;
        let next = next.map_err(|status| client.failure(what, &status))?;
        match next.and_then(|response| response.body) {
            Some(Body::File(file)) => {
                let bytes = &file.pprof_gz;
                let start = UnixNanos::new(file.start_unix_nanos);
                let (folder, member) = names.of(&file);
                let header = tar::header(&folder, &member, bytes.len(), start)
                    .map_err(|error| CliError::failed(&error))?;
                let written = to
                    .write_all(&header)
                    .and_then(|()| to.write_all(bytes))
                    .and_then(|()| to.write_all(tar::padding(bytes.len())));
                match written {
                    // A reader that went away is no failure.
                    Err(error) if name == STDOUT && error.kind() == ErrorKind::BrokenPipe => {
                        return Ok(pb::ExportEnd {
                            files: 1,
                            ..pb::ExportEnd::default()
                        });
                    }
                    written => written.map_err(failed)?,
                }
            }
            Some(Body::End(end)) => {
                to.write_all(&tar::END)
                    .and_then(|()| to.flush())
                    .map_err(failed)?;
                return Ok(end);
            }
            None => {
                let ended = tonic::Status::unavailable("the stream ended before its end");
                return Err(client.failure(what, &ended));
            }
        }
    }
}

/// A part of a path that no shell or archiver can misread.
fn part(text: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() || "._-".contains(c) {
        true => c,
        false => '_',
    };
    let part: String = text.chars().take(MAX_PART_CHARS).map(plain).collect();
    match part.starts_with(['.', '-']) {
        true => format!("_{part}"),
        false => part,
    }
}

/// Gives every file of an archive a name of its own, though parts of names are
/// cut and replaced.
#[derive(Debug, Default)]
struct Names {
    /// Which service each folder is of.
    folders: HashMap<String, (String, String)>,
    /// How often each name was given out among those of one service and second.
    members: HashMap<String, u32>,
    last: Option<(String, i64)>,
}

impl Names {
    /// The folder of a file, and its name there.
    fn of(&mut self, file: &pb::ExportedFile) -> (String, String) {
        let service = (file.namespace.clone(), file.service.clone());
        let plain = folder(file);
        let mut folder = plain.clone();
        let mut number = 1_u32;
        while *self
            .folders
            .entry(folder.clone())
            .or_insert_with(|| service.clone())
            != service
        {
            number = number.saturating_add(1);
            folder = format!("{plain}_{number}");
        }
        let here = Some((folder.clone(), file.start_unix_nanos));
        if self.last != here {
            self.members.clear();
            self.last = here;
        }
        let member = member(file);
        let again = self.members.entry(member.clone()).or_insert(0);
        *again = again.saturating_add(1);
        let member = match *again {
            1 => member,
            again => member.replace(".pb.gz", &format!("_{again}.pb.gz")),
        };
        (folder, member)
    }
}

fn folder(file: &pb::ExportedFile) -> String {
    match file.namespace.as_str() {
        "" => part(&file.service),
        namespace => format!("{}/{}", part(namespace), part(&file.service)),
    }
}

fn member(file: &pb::ExportedFile) -> String {
    let start = rfc3339(UnixNanos::new(file.start_unix_nanos));
    let profile: String = part(&file.profile).chars().take(40).collect();
    format!("{start}_{}_{profile}.pb.gz", file.series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else_and_fit() {
        let long = "ü".repeat(500);
        for (namespace, service, profile, expected) in [
            (
                "",
                "logger",
                "process_cpu",
                "logger/1970-01-01T00:00:07Z_3_process_cpu.pb.gz",
            ),
            (
                "prod",
                "a/b",
                "memory",
                "prod/a_b/1970-01-01T00:00:07Z_3_memory.pb.gz",
            ),
            (
                "..",
                "../../etc",
                "-",
                "_../_.._.._etc/1970-01-01T00:00:07Z_3__-.pb.gz",
            ),
            ("/", "\u{1b}\n", "", "_/__/1970-01-01T00:00:07Z_3_.pb.gz"),
        ] {
            let file = pb::ExportedFile {
                namespace: namespace.to_owned(),
                service: service.to_owned(),
                series: 3,
                start_unix_nanos: 7_000_000_000,
                profile: profile.to_owned(),
                pprof_gz: Vec::new(),
            };
            assert_eq!(format!("{}/{}", folder(&file), member(&file)), expected);
        }
        let mut names = Names::default();
        for (service, expected) in [
            ("a b", "a_b/1970-01-01T00:00:07Z_3_memory.pb.gz"),
            ("a b", "a_b/1970-01-01T00:00:07Z_3_memory_2.pb.gz"),
            ("a/b", "a_b_2/1970-01-01T00:00:07Z_3_memory.pb.gz"),
        ] {
            let (folder, member) = names.of(&pb::ExportedFile {
                service: service.to_owned(),
                series: 3,
                start_unix_nanos: 7_000_000_000,
                profile: "memory".to_owned(),
                ..pb::ExportedFile::default()
            });
            assert_eq!(format!("{folder}/{member}"), expected);
        }
        let file = pb::ExportedFile {
            namespace: long.clone(),
            service: long.clone(),
            series: u32::MAX,
            start_unix_nanos: i64::MAX,
            profile: long,
            pprof_gz: Vec::new(),
        };
        let time = UnixNanos::default();
        assert!(tar::header(&folder(&file), &member(&file), 1, time).is_ok());
    }
}
