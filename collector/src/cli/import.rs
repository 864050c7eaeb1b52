//! `collector import`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use prost::Message as _;
use proto::codec;
use proto::dictionary::Encoder;
use proto::labels::{LabelSet, NAMESPACE, SERVICE};
use proto::limits::{INSTANCE_BYTES, PROTOCOL_VERSION};
use proto::pb::tepui as pb;
use proto::pb::tepui::push_request::Body;
use proto::pb::tepui::push_response::Body as Answer;
use proto::profile::Profile;
use proto::status::chain;
use proto::value_type::ProfileType;
use proto::window::{UnixNanos, Window};
use tokio_stream::StreamExt as _;

use super::CliError;
use super::client::{Client, ClientArgs};
use super::output::{self, printable};
use crate::import::{self, Assumed, Format, Imported, Limits};
use crate::query::ServiceName;
use crate::time_range;

/// Samples of CPU a second when neither the file nor the user says; the usual
/// rate of `perf record -F 99`.
const DEFAULT_RATE_HZ: NonZeroU32 = NonZeroU32::new(99).expect("99 is not zero");
/// How long a recording took when neither the file nor the user says: one
/// window of an agent.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// The name that means standard input.
const STDIN: &str = "-";

/// Flags of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector import --service logger cpu.pb.gz heap.pb.gz
      profiles of Go; time, length and types are in the files
  perf script | collector import --service logger --start 10m -
      what perf recorded, which began ten minutes ago
  collector import --service logger --label version=1.8 --start 2026-01-31T08:00:00Z \\
      --duration 30s --rate 100 *.folded
      folded stacks, sampled 100 times a second
  collector import --service logger --start 1h --type memory:alloc_space:bytes:space:bytes a.folded
      folded stacks that count bytes")]
pub struct Args {
    /// Files with pprof, folded stacks, output of perf script or speedscope JSON, gzipped or not; - reads stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Service they are of, or NAMESPACE/SERVICE
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Label of the imported series; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// When the recordings began: 90m, 1h, 7d ago, a date or RFC 3339 [default: as the files say]
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// How long they took, such as 30s [default: as the files say, else 10s]
    #[arg(long, value_name = "LENGTH", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// What is counted in files that do not say: cpu, or NAME:TYPE:UNIT:PERIOD_TYPE:PERIOD_UNIT
    #[arg(long = "type", value_name = "TYPE", default_value = "cpu")]
    profile_type: String,
    /// Samples a second, for cpu in files that do not say [default: 99]
    #[arg(long, value_name = "HZ")]
    rate: Option<NonZeroU32>,
    /// pprof, folded, perf-script or speedscope [default: by what the file holds]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Splits `NAME=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label must read NAME=VALUE".to_owned()),
    }
}

/// What the flags say of every file.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    labels: LabelSet,
    start: Option<UnixNanos>,
    duration: Option<Duration>,
    format: Option<Format>,
    assumed: Assumed,
    limits: Limits,
}

impl Plan {
    fn new(args: &Args, now: UnixNanos) -> Result<Self, CliError> {
        let start = match &args.start {
            Some(text) => Some(time_range::parse("start", text, now)?),
            None => None,
        };
        if args.duration.is_some_and(|length| length.is_zero()) {
            return Err(CliError::Usage(
                "--duration must be longer than 0s".to_owned(),
            ));
        }
        Ok(Self {
            labels: labels(&args.service, &args.labels)?,
            start,
            duration: args.duration,
            format: args.format,
            assumed: assumed(&args.profile_type, args.rate)?,
            limits: Limits::default(),
        })
    }

    /// The profile of one recording.
    fn profile(&self, imported: Imported) -> Result<Profile, CliError> {
        let start = self.start.or(imported.start).ok_or_else(|| {
            CliError::Failed(
                "the file does not say when it was recorded; add --start, such as --start 1h or --start 2026-01-31T08:00:00Z"
                    .to_owned(),
            )
        })?;
        let duration = self.duration.or(imported.duration);
        let length = duration.unwrap_or(DEFAULT_DURATION).as_nanos();
        let window = Window::from_start(start, u64::try_from(length).unwrap_or(u64::MAX))
            .map_err(|error| CliError::failed(&error))?;
        let facts = imported.facts();
        let Imported {
            stacks, columns, ..
        } = imported;
        Profile::new(self.labels.clone(), window, stacks, columns, facts)
            .map_err(|error| CliError::failed(&error))
    }
}

fn labels(service: &str, pairs: &[(String, String)]) -> Result<LabelSet, CliError> {
    let service: ServiceName = service
        .parse()
        .map_err(|_| CliError::Usage("--service must be NAME or NAMESPACE/NAME".to_owned()))?;
    let named = [
        (SERVICE.to_owned(), service.name),
        (NAMESPACE.to_owned(), service.namespace.unwrap_or_default()),
    ];
    LabelSet::new(named.into_iter().chain(pairs.iter().cloned()))
        .map_err(|error| CliError::Usage(format!("--label: {}", chain(&error))))
}

/// What numbers without a type count.
fn assumed(text: &str, rate: Option<NonZeroU32>) -> Result<Assumed, CliError> {
    // Only the short name means samples; the long one means nanoseconds.
    if text == ProfileType::cpu().sample().kind() {
        return Ok(Assumed::cpu_samples(rate.unwrap_or(DEFAULT_RATE_HZ)));
    }
    if rate.is_some() {
        return Err(CliError::Usage(
            "--rate is for --type cpu; numbers of other types are taken as they are".to_owned(),
        ));
    }
    text.parse().map(Assumed::values).map_err(|error| {
        CliError::Usage(format!(
            "--type {text:?} is neither \"cpu\" nor a whole type: {}",
            chain(&error)
        ))
    })
}

/// What one file became.
#[derive(Debug)]
struct ReadFile {
    profiles: Vec<Profile>,
    /// What was left out, for a person.
    left_out: Option<String>,
}

/// Reads the file at `path`; blocks.
fn read_file(path: &Path, plan: &Plan) -> Result<ReadFile, CliError> {
    let bytes = bytes_of(path, plan.limits.file_bytes)
        .map_err(|error| CliError::Failed(format!("cannot read it: {error}")))?;
    let all = import::read(&bytes, plan.format, &plan.assumed, &plan.limits)
        .map_err(|error| CliError::failed(&error))?;
    let left_out: Vec<String> = all
        .iter()
        .filter_map(|imported| imported.left_out.describe())
        .collect();
    let profiles: Result<Vec<Profile>, CliError> = all
        .into_iter()
        .map(|imported| plan.profile(imported))
        .collect();
    Ok(ReadFile {
        profiles: profiles?,
        left_out: (!left_out.is_empty()).then(|| left_out.join("; ")),
    })
}

/// The bytes of a file, at most one more than `limit`: enough to be refused.
fn bytes_of(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let cap = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    match path.as_os_str() == STDIN {
        true => io::stdin().lock().take(cap).read_to_end(&mut bytes)?,
        false => File::open(path)?.take(cap).read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

/// Reads one file and sends what it holds; says what was sent.
async fn import_file(
    path: &Path,
    plan: &Arc<Plan>,
    client: &Client,
    done: &mut Done,
) -> Result<Option<String>, CliError> {
    let (file_path, file_plan) = (path.to_owned(), Arc::clone(plan));
    let reading = tokio::task::spawn_blocking(move || read_file(&file_path, &file_plan));
    let file = reading.await.map_err(|error| CliError::failed(&error))??;
    let mut sent = Done::default();
    for profile in &file.profiles {
        sent.add(profile);
    }
    send(file.profiles, client).await?;
    done.join(sent);
    Ok(file.left_out)
}

/// Sends `profiles` to the collector and waits until it has stored them.
///
/// All are of one service and fit into one batch: a file gives few, and
/// [`Limits`] keeps each within the dictionary of a stream. What is stored under
/// the same series and second is added to, so an unanswered batch may only be
/// sent again under its own instance and sequence.
///
/// # Errors
///
/// [`CliError`] if the collector does not answer, or refuses a window: because
/// it is older than is kept, ahead of its clock, or its labels are not allowed.
async fn send(profiles: Vec<Profile>, client: &Client) -> Result<(), CliError> {
    let failed = |status: &tonic::Status| client.failure("import", status);
    let mut instance = [0; INSTANCE_BYTES];
    getrandom::fill(&mut instance)
        .map_err(|error| CliError::Failed(format!("cannot draw a random number: {error}")))?;
    let body = Encoder::new()
        .encode(&profiles)
        .map_err(|error| CliError::failed(&error))?;
    let body_zstd = codec::zstd(&body.encode_to_vec()).map_err(|error| CliError::failed(&error))?;
    let requests = [
        Body::Hello(pb::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: format!("import {}", env!("CARGO_PKG_VERSION")),
            instance: instance.to_vec(),
            import: true,
            ..pb::Hello::default()
        }),
        Body::Batch(pb::Batch {
            instance: instance.to_vec(),
            sequence: 1,
            body_zstd,
        }),
    ];
    let requests = requests.map(|body| pb::PushRequest { body: Some(body) });
    // The stream stays open until the answers came: it ends when both sides do.
    let sent = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut ingest = client.ingest.clone();
    let answer = ingest.push(sent).await.map_err(|status| failed(&status))?;
    let mut answers = answer.into_inner();
    loop {
        let next = answers.message().await.map_err(|status| failed(&status))?;
        match next.and_then(|response| response.body) {
            Some(Answer::Ack(ack)) => return acked(&ack),
            Some(Answer::Refusal(refusal)) => {
                let why = printable(&refusal.message).into_owned();
                return Err(CliError::Failed(format!("the collector refused it: {why}")));
            }
            Some(Answer::Hello(_)) => {}
            None => {
                let ended = tonic::Status::unavailable("the stream ended without an answer");
                return Err(failed(&ended));
            }
        }
    }
}

/// What a stored batch says of windows that were not.
fn acked(ack: &pb::Ack) -> Result<(), CliError> {
    match ack.refused.first() {
        None => Ok(()),
        Some(refused) => Err(CliError::Failed(format!(
            "the collector refused a profile: {}",
            printable(&refused.message)
        ))),
    }
}

/// What was sent so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    types: BTreeSet<String>,
    span: Option<(UnixNanos, UnixNanos)>,
}

impl Done {
    fn add(&mut self, profile: &Profile) {
        let kinds = profile.columns().iter();
        self.types
            .extend(kinds.map(|column| column.profile_type.sample().kind().to_owned()));
        let window = profile.window();
        self.widen(window.start(), window.end());
    }

    fn widen(&mut self, start: UnixNanos, end: UnixNanos) {
        self.span = Some(match self.span {
            Some((first, last)) => (first.min(start), last.max(end)),
            None => (start, end),
        });
    }

    fn join(&mut self, other: Self) {
        self.types.extend(other.types);
        if let Some((start, end)) = other.span {
            self.widen(start, end);
        }
    }

    /// How to look at it, ready to be pasted.
    fn describe(&self, files: usize, service: &str) -> String {
        let plural = if files == 1 { "file" } else { "files" };
        let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        let mut text = format!("imported {files} {plural}: {}", types.join(", "));
        if let (Some((start, end)), Some(first)) = (self.span, types.first()) {
            // Times are written in whole seconds; the end is not in the range.
            let until = end.saturating_add(Duration::from_secs(1));
            text.push_str(&format!(
                "\nlook at it with: collector query --service {service} --since {} --until {} --type {first}",
                time_range::rfc3339(start),
                time_range::rfc3339(until),
            ));
        }
        printable(&text).into_owned()
    }
}

/// A bar on stderr for many files, when that is a terminal.
fn progress_bar(files: usize) -> ProgressBar {
    match files > 1 && io::stderr().is_terminal() {
        true => ProgressBar::new(u64::try_from(files).unwrap_or(u64::MAX)),
        false => ProgressBar::hidden(),
    }
}

/// Imports files, one after another. A file that cannot be imported is named
/// on stderr and does not stop the others.
///
/// # Errors
///
/// [`CliError`] if a flag cannot be used, no collector answers, or a file was
/// not imported.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let plan = Arc::new(Plan::new(&args, now)?);
    let client = args.client.connect().await?;
    let bar = progress_bar(args.files.len());
    let mut done = Done::default();
    let mut failed = 0_usize;
    for path in &args.files {
        let said = match import_file(path, &plan, &client, &mut done).await {
            Ok(None) => None,
            Ok(Some(left_out)) => Some(format!("{}: {left_out}", path.display())),
            Err(error) => {
                failed = failed.saturating_add(1);
                Some(format!("cannot import {}: {error}", path.display()))
            }
        };
        if let Some(said) = said {
            bar.suspend(|| output::note(&printable(&said)))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let imported = args.files.len().saturating_sub(failed);
    if imported > 0 {
        output::note(&done.describe(imported, &args.service))?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(CliError::Failed(format!(
            "{failed} of {} files were not imported",
            args.files.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// 2026-01-31T08:00:00Z.
    const NOW: UnixNanos = UnixNanos::new(1_769_846_400_000_000_000);

    fn plan(flags: &[&str]) -> Result<Plan, CliError> {
        let line = ["import", "--service", "prod/logger"].iter().chain(flags);
        Plan::new(&Line::try_parse_from(line).unwrap().args, NOW)
    }

    fn folded() -> Imported {
        let plan = plan(&["x"]).unwrap();
        let mut all = import::read(b"a;b 3\n", None, &plan.assumed, &plan.limits).unwrap();
        all.remove(0)
    }

    #[test]
    fn flags_become_labels_and_a_type() {
        let plan = plan(&["--label", "version=1.8", "--rate", "100", "x"]).unwrap();
        assert_eq!(
            plan.labels.to_string(),
            r#"{namespace="prod", service="logger", version="1.8"}"#
        );
        assert_eq!(
            plan.assumed,
            Assumed::cpu_samples(NonZeroU32::new(100).unwrap())
        );
    }

    #[test]
    fn a_time_of_the_file_is_kept_unless_it_is_moved() {
        let at = UnixNanos::new(5_000_000_000);
        let imported = Imported {
            start: Some(at),
            duration: Some(Duration::from_secs(7)),
            ..folded()
        };
        let kept = plan(&["x"]).unwrap().profile(imported.clone()).unwrap();
        assert_eq!(kept.window().start(), at);
        assert_eq!(kept.window().duration(), Duration::from_secs(7));
        let moved = plan(&["--start", "1h", "--duration", "2s", "x"]).unwrap();
        let window = moved.profile(imported).unwrap().window();
        assert_eq!(
            window.start(),
            NOW.saturating_sub(Duration::from_secs(3600))
        );
        assert_eq!(window.duration(), Duration::from_secs(2));
    }

    #[test]
    fn a_file_without_a_time_needs_a_start() {
        let error = plan(&["x"]).unwrap().profile(folded()).unwrap_err();
        assert!(error.to_string().contains("--start"), "{error}");
        let profile = plan(&["--start", "1h", "x"]).unwrap().profile(folded());
        assert_eq!(profile.unwrap().window().duration(), DEFAULT_DURATION);
    }

    #[test]
    fn flags_that_cannot_be_are_refused() {
        for (flags, reason) in [
            (&["--start", "yesterday", "x"][..], "RFC 3339"),
            (&["--duration", "0s", "x"], "--duration"),
            (&["--type", "memory", "x"], "whole type"),
            (&["--type", "a:b:c:d:e", "--rate", "9", "x"], "--rate"),
            (&["--label", "service=other", "x"], "twice"),
        ] {
            let error = plan(flags).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)));
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert!(label("=x").is_err());
        assert!(label("x").is_err());
    }

    #[test]
    fn what_was_imported_is_said_with_a_query() {
        let moved = plan(&["--start", "1h", "x"]).unwrap();
        let mut done = Done::default();
        done.add(&moved.profile(folded()).unwrap());
        assert_eq!(
            done.describe(1, "prod/logger"),
            "imported 1 file: cpu\nlook at it with: collector query --service prod/logger \
             --since 2026-01-31T07:00:00Z --until 2026-01-31T07:00:11Z --type cpu"
        );
    }
}
