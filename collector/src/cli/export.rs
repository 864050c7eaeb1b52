//! `collector export`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
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
            None => write(files, &client, &what, "stdout", io::stdout()).await,
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
    let written = write(files, client, what, &shown, file).await;
    let named = written.and_then(|end| {
        std::fs::rename(&unfinished, path).map_err(failed)?;
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
    loop {
        let next = files.message().await;
        let next = next.map_err(|status| client.failure(what, &status))?;
        match next.and_then(|response| response.body) {
            Some(Body::File(file)) => {
                let bytes = &file.pprof_gz;
                let start = UnixNanos::new(file.start_unix_nanos);
                let (folder, member) = (folder(&file), member(&file));
                let header = tar::header(&folder, &member, bytes.len(), start)
                    .map_err(|error| CliError::failed(&error))?;
                to.write_all(&header)
                    .and_then(|()| to.write_all(bytes))
                    .and_then(|()| to.write_all(tar::padding(bytes.len())))
                    .map_err(failed)?;
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
