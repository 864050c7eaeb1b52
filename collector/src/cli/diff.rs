//! `collector diff`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use proto::labels::Selector;
use proto::pb::tepui as pb;
use proto::status::chain;
use proto::window::{UnixNanos, Window};

use super::CliError;
use super::client::{Client, ClientArgs};
use super::output::{self, with_spinner};
use super::query::{FunctionArgs, format_of};
use crate::diff::{DiffAnswer, Reading, reading_to_wire};
use crate::query::ServiceName;
use crate::render::diff::{self, DiffFormat, Widths};
use crate::render::{Format, RenderContext, Style};
use crate::time_range;

/// Flags of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector diff --service logger --since 1h --before 1h
      the last hour beside the hour before it: what grew, what shrank
  collector diff --service logger --since 1h --before 7d -o week.svg
      the same hour a week ago, as a differential flame graph
  collector diff --service logger --base '{version=\"1.7\"}' --new '{version=\"1.8\"}' --format top
      two versions over the same hour, by function
  collector diff --service logger --base '{version=\"1.7\"}' --new '{version=\"1.8\"}' --share
      the same by share of the total, when one version runs in more pods
  collector diff --service logger --since 1h --base-since 2026-01-31 --base-until 2026-02-01
      the last hour beside a whole day

More is + and red, less is - and blue. The base is scaled to the observed time of the new side,
so that CPU time compares as cores; --share scales it to the same total, --absolute not at all.")]
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
    /// Compare with a range of the same length this much earlier: 1h, 7d; needed without --base and --new
    #[arg(
        long,
        value_name = "LENGTH",
        value_parser = humantime::parse_duration,
        required_unless_present_any = ["base", "new", "base_since", "base_service"]
    )]
    before: Option<Duration>,
    /// Compare with the range that starts there, of any length
    #[arg(long, value_name = "TIME", conflicts_with = "before")]
    base_since: Option<String>,
    /// End of the range that is compared with
    #[arg(
        long,
        value_name = "TIME",
        requires = "base_since",
        conflicts_with = "before"
    )]
    base_until: Option<String>,
    /// Compare with this service, such as stage/logger
    #[arg(long, value_name = "NAME")]
    base_service: Option<String>,
    /// Compare with series that match, such as '{version="1.7"}'
    #[arg(long, value_name = "SELECTOR", requires = "new")]
    base: Option<String>,
    /// Compare series that match, such as '{version="1.8"}'
    #[arg(long, value_name = "SELECTOR", requires = "base")]
    new: Option<String>,
    /// What is counted: cpu, inuse_space, alloc_objects, goroutine, …
    #[arg(long = "type", value_name = "TYPE", default_value = "cpu")]
    profile_type: String,
    #[command(flatten)]
    functions: FunctionArgs,
    /// tree, top, folded, svg, pprof or json [default: by the name of -o, else tree]
    #[arg(long, value_name = "FORMAT", value_parser = diff_format)]
    format: Option<DiffFormat>,
    /// Compare values as measured
    #[arg(long)]
    absolute: bool,
    /// Compare shares of the total
    #[arg(long, visible_alias = "normalize", conflicts_with = "absolute")]
    share: bool,
    /// Fold all but this many of the largest nodes into "other" [default: the collector's]
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    max_nodes: u32,
    /// Which side the frames of an SVG are as wide as
    #[arg(long, value_name = "SIDE", value_enum, default_value_t)]
    width: Side,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// A side of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Side {
    /// The new side: shows what is new, and not what is gone
    #[default]
    New,
    /// The base: shows what is gone, and not what is new
    Base,
}

impl From<Side> for Widths {
    fn from(side: Side) -> Self {
        match side {
            Side::New => Self::New,
            Side::Base => Self::Base,
        }
    }
}

fn diff_format(text: &str) -> Result<DiffFormat, String> {
    let format: Format = text.parse().map_err(|_| known_formats(text))?;
    DiffFormat::try_from(format).map_err(|_| known_formats(text))
}

fn unknown_ending(path: &Path) -> CliError {
    let endings = DiffFormat::ALL
        .into_iter()
        .filter(|format| *format != DiffFormat::Tree)
        .map(|format| format!(".{}", Format::from(format).extension()))
        .collect::<Vec<_>>();
    CliError::Usage(format!(
        "the name of {} does not say its format: add --format, or let it end in one of {}",
        path.display(),
        endings.join(" ")
    ))
}

fn known_formats(text: &str) -> String {
    let known = DiffFormat::ALL.map(|format| format.to_string()).join(", ");
    format!("no comparison is written as {text:?}; use one of {known}")
}

/// The selector of a flag, once it can be read; all series without one.
pub(super) fn checked_selector(flag: &str, text: Option<&str>) -> Result<String, CliError> {
    let text = text.unwrap_or("");
    match text.parse::<Selector>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(CliError::Usage(format!(
            "{flag} {text:?}: {}",
            chain(&error)
        ))),
    }
}

/// `window`, so much earlier.
pub(super) fn earlier(window: Window, before: Duration) -> Result<Window, CliError> {
    let (start, end) = (window.start(), window.end());
    Window::new(start.saturating_sub(before), end.saturating_sub(before))
        .map_err(|_| CliError::Usage("--before reaches back before 1970".to_owned()))
}

fn asked(args: &Args, format: DiffFormat, now: UnixNanos) -> Result<pb::DiffRequest, CliError> {
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let base = match (&args.base_since, args.before) {
        (Some(since), _) => time_range::window(Some(since), args.base_until.as_deref(), now)?,
        (None, before) => earlier(window, before.unwrap_or_default())?,
    };
    let mut new = pb::ProfileRequest {
        service: args.service.clone(),
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        profile_type: args.profile_type.clone(),
        selector: checked_selector("--new", args.new.as_deref())?,
        max_nodes: match args.max_nodes {
            0 => Format::from(format).max_nodes(),
            asked => asked,
        },
        ..pb::ProfileRequest::default()
    };
    args.functions.choose(&mut new)?;
    let reading = match (args.absolute, args.share) {
        (true, _) => Reading::Absolute,
        (false, true) => Reading::Share,
        (false, false) => Reading::PerTime,
    };
    Ok(pb::DiffRequest {
        new: Some(new),
        base_service: args.base_service.clone().unwrap_or_default(),
        base_start_unix_nanos: base.start().get(),
        base_end_unix_nanos: base.end().get(),
        base_selector: checked_selector("--base", args.base.as_deref())?,
        reading: reading_to_wire(reading).into(),
    })
}

/// Asks for the comparison.
///
/// # Errors
///
/// [`CliError`] if the call fails or its answer is damaged.
async fn fetch(client: &mut Client, asked: pb::DiffRequest) -> Result<DiffAnswer, CliError> {
    let what = match &asked.new {
        Some(new) => format!("compare {} profiles of {:?}", new.profile_type, new.service),
        None => "compare profiles".to_owned(),
    };
    let response = client.query.diff(asked).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    DiffAnswer::from_wire(response.into_inner()).map_err(|error| CliError::failed(&error))
}

/// Whether the two ranges share a time.
fn do_overlap(asked: &pb::DiffRequest) -> bool {
    asked.new.as_ref().is_some_and(|new| {
        asked.base_start_unix_nanos < new.end_unix_nanos
            && new.start_unix_nanos < asked.base_end_unix_nanos
    })
}

/// Compares two profiles and writes the comparison.
///
/// # Errors
///
/// [`CliError`] if a flag cannot be used, the collector does not answer, the
/// profiles cannot be compared, or the comparison cannot be written.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let format = match (args.format, &args.output) {
        (Some(format), _) => format,
        (None, None) => DiffFormat::Tree,
        (None, Some(path)) => {
            let format = format_of(path).ok_or_else(|| unknown_ending(path))?;
            DiffFormat::try_from(format).map_err(|error| CliError::Usage(error.to_string()))?
        }
    };
    if args.output.is_none() && !Format::from(format).is_text() && output::is_terminal() {
        let ending = Format::from(format).extension();
        return Err(CliError::Usage(format!(
            "--format {format} is binary and stdout is a terminal; name a file: -o diff.{ending}"
        )));
    }
    let service: ServiceName = args
        .service
        .parse()
        .map_err(|_| CliError::Usage("--service must be NAME or NAMESPACE/NAME".to_owned()))?;
    let asked = asked(&args, format, now)?;
    let selectors = match (&args.base, &args.new) {
        (None, None) => None,
        (base, new) => {
            let text = |side: &Option<String>| side.clone().unwrap_or_default();
            Some(format!("{} → {}", text(base), text(new)))
        }
    };
    if args.base.is_none() && args.base_service.is_none() && do_overlap(&asked) {
        output::note("the two ranges overlap")?;
    }
    let mut client = args.client.connect().await?;
    let answer = with_spinner("comparing profiles", fetch(&mut client, asked)).await?;
    let context = RenderContext {
        title: format!("{service} · {}", args.profile_type),
        subtitle: selectors,
    };
    let style = match &args.output {
        Some(_) => Style::default(),
        None => output::stdout_style(),
    };
    let bytes = diff::render(&answer, format, &context, args.width.into(), &style)
        .map_err(|error| CliError::failed(&error))?;
    match &args.output {
        Some(path) => output::write_file(path, &bytes),
        None => output::print(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = ["diff", "--service", "logger"];
        let words = words.into_iter().chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args)
    }

    #[test]
    fn a_comparison_needs_an_earlier_range_or_two_selectors() {
        for (line, expected) in [
            ("--before 1h", true),
            ("--since 2h --until 1h --before 7d", true),
            ("--base {a=\"1\"} --new {a=\"2\"}", true),
            ("--base {a=\"1\"} --new {a=\"2\"} --before 1h", true),
            ("--before 1h --absolute", true),
            ("--base-since 2d --base-until 1d", true),
            ("--base-service stage/logger", true),
            ("--base-until 1d --before 1h", false),
            ("--base-since 2d --before 1h", false),
            ("--before 1h --share --width base", true),
            ("", false),
            ("--base {a=\"1\"}", false),
            ("--new {a=\"1\"}", false),
            ("--new {a=\"1\"} --before 1h", false),
            ("--before 1h --absolute --share", false),
            ("--before yesterday", false),
            ("--before 1h --format speedscope", false),
            ("--before 1h --format html", false),
        ] {
            assert_eq!(parse(line).is_ok(), expected, "{line}");
        }
    }

    fn question(line: &str) -> Result<pb::DiffRequest, CliError> {
        let now = UnixNanos::new(1_800_000_000_000_000_000);
        asked(&parse(line).unwrap(), DiffFormat::Tree, now)
    }

    #[test]
    fn the_base_is_a_range_of_the_same_length_or_its_own() {
        let now = UnixNanos::new(1_800_000_000_000_000_000);
        let hour = |hours: u64| now.saturating_sub(Duration::from_secs(hours * 3600)).get();
        for (line, base, new, overlaps) in [
            ("--before 1h", (2, 1), (1, 0), false),
            ("--before 30m --since 2h", (0, 0), (2, 0), true),
            (
                "--since 3h --until 1h --before 24h",
                (27, 25),
                (3, 1),
                false,
            ),
            ("--base {a=\"1\"} --new {a=\"2\"}", (1, 0), (1, 0), true),
            ("--base-since 30h --base-until 6h", (30, 6), (1, 0), false),
            ("--base-since 3h", (3, 0), (1, 0), true),
            ("--base-service stage/logger", (1, 0), (1, 0), true),
        ] {
            let asked = question(line).unwrap();
            let side = asked.new.as_ref().unwrap();
            let found = (side.start_unix_nanos, side.end_unix_nanos);
            assert_eq!(found, (hour(new.0), hour(new.1)), "{line}");
            assert_eq!(do_overlap(&asked), overlaps, "{line}");
            if base != (0, 0) {
                let found = (asked.base_start_unix_nanos, asked.base_end_unix_nanos);
                assert_eq!(found, (hour(base.0), hour(base.1)), "{line}");
            }
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (line, says) in [
            ("--before 100000d", "before 1970"),
            ("--base {a= --new {a=\"2\"}", "--base \"{a=\""),
            ("--base {a=\"2\"} --new a", "--new \"a\""),
            ("--before 1h --hide (", "--hide \"(\""),
            ("--base-since 1m --base-until 1h", "empty"),
        ] {
            let error = question(line).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn readings_and_formats_are_chosen_by_flags() {
        for (line, expected) in [
            ("", pb::DiffReading::PerTime),
            ("--absolute", pb::DiffReading::Absolute),
            ("--share", pb::DiffReading::Share),
            ("--normalize", pb::DiffReading::Share),
        ] {
            let asked = question(&format!("--before 1h {line}")).unwrap();
            assert_eq!(asked.reading, i32::from(expected));
        }
        for format in DiffFormat::ALL {
            let args = parse(&format!("--before 1h --format {format}")).unwrap();
            assert_eq!(args.format, Some(format));
        }
    }
}
