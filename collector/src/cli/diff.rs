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
use crate::answer::ProfileAnswer;
use crate::diff::{DiffAnswer, Reading};
use crate::query::ServiceName;
use crate::render::diff::{self, DiffFormat, Widths};
use crate::render::{Format, RenderContext, Style};
use crate::time_range;

/// Nodes that are asked for of each side: enough that neither is pruned.
const SIDE_NODES: u32 = 1_000_000;

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
        required_unless_present_any = ["base", "new"]
    )]
    before: Option<Duration>,
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
    #[arg(long, conflicts_with = "absolute")]
    share: bool,
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

/// What is compared with what.
#[derive(Debug)]
struct Asked {
    base: pb::ProfileRequest,
    new: pb::ProfileRequest,
    reading: Reading,
}

fn checked_selector(flag: &str, text: Option<&str>) -> Result<String, CliError> {
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
fn earlier(window: Window, before: Duration) -> Result<Window, CliError> {
    let (start, end) = (window.start(), window.end());
    Window::new(start.saturating_sub(before), end.saturating_sub(before))
        .map_err(|_| CliError::Usage("--before reaches back before 1970".to_owned()))
}

fn asked(args: &Args, window: Window) -> Result<Asked, CliError> {
    let before = args.before.unwrap_or_default();
    let request = |window: Window, selector: String| {
        let mut request = pb::ProfileRequest {
            service: args.service.clone(),
            start_unix_nanos: window.start().get(),
            end_unix_nanos: window.end().get(),
            profile_type: args.profile_type.clone(),
            selector,
            max_nodes: SIDE_NODES,
            ..pb::ProfileRequest::default()
        };
        args.functions.choose(&mut request).map(|()| request)
    };
    Ok(Asked {
        base: request(
            earlier(window, before)?,
            checked_selector("--base", args.base.as_deref())?,
        )?,
        new: request(window, checked_selector("--new", args.new.as_deref())?)?,
        reading: match (args.absolute, args.share) {
            (true, _) => Reading::Absolute,
            (false, true) => Reading::Share,
            (false, false) => Reading::PerTime,
        },
    })
}

/// Asks for both profiles and compares them here.
///
/// This is the one place that knows how a comparison comes about: a call of the
/// collector that compares will replace it and return the same
/// [`DiffAnswer`], pruned on both sides alike ([`DiffAnswer::pruned`]). Until
/// then both whole trees cross the wire.
///
/// # Errors
///
/// [`CliError`] if a call fails or the answers cannot be compared.
async fn fetch(client: &mut Client, asked: Asked) -> Result<DiffAnswer, CliError> {
    let mut sides = Vec::new();
    for (name, request) in [("base", asked.base), ("new", asked.new)] {
        let what = format!(
            "get the {name} {} profile of {:?}",
            request.profile_type, request.service
        );
        let response = client.query.profile(request).await;
        let response = response.map_err(|status| client.failure(&what, &status))?;
        let side = ProfileAnswer::from_wire(response.into_inner());
        sides.push(side.map_err(|error| CliError::failed(&error))?);
    }
    let [base, new] = sides.as_slice() else {
        return Err(CliError::Failed("a side is missing".to_owned()));
    };
    DiffAnswer::new(base, new, asked.reading).map_err(|error| CliError::failed(&error))
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
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let asked = asked(&args, window)?;
    let selectors = match (args.base.is_some(), args.new.is_some()) {
        (false, false) => None,
        _ => Some(format!("{} → {}", asked.base.selector, asked.new.selector)),
    };
    if args.base.is_none() && args.before.is_some_and(|before| before < window.duration()) {
        output::note("the two ranges overlap: --before is shorter than the range")?;
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

    #[test]
    fn the_base_is_a_range_of_the_same_length() {
        let now = UnixNanos::new(1_800_000_000_000_000_000);
        let hour = |hours: u64| now.saturating_sub(Duration::from_secs(hours * 3600)).get();
        for (line, base, new) in [
            ("--before 1h", (2, 1), (1, 0)),
            ("--since 3h --until 1h --before 24h", (27, 25), (3, 1)),
            ("--base {a=\"1\"} --new {a=\"2\"}", (1, 0), (1, 0)),
        ] {
            let args = parse(line).unwrap();
            let window = time_range::window(Some(&args.since), Some(&args.until), now).unwrap();
            let asked = asked(&args, window).unwrap();
            let range =
                |request: &pb::ProfileRequest| (request.start_unix_nanos, request.end_unix_nanos);
            assert_eq!(range(&asked.base), (hour(base.0), hour(base.1)), "{line}");
            assert_eq!(range(&asked.new), (hour(new.0), hour(new.1)), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let window = Window::new(UnixNanos::new(5), UnixNanos::new(9)).unwrap();
        for (line, says) in [
            ("--before 1h", "before 1970"),
            ("--base {a= --new {a=\"2\"}", "--base \"{a=\""),
            ("--base {a=\"2\"} --new a", "--new \"a\""),
        ] {
            let error = asked(&parse(line).unwrap(), window).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn readings_and_formats_are_chosen_by_flags() {
        let window = Window::new(UnixNanos::new(0), UnixNanos::new(9)).unwrap();
        for (line, expected) in [
            ("", Reading::PerTime),
            ("--absolute", Reading::Absolute),
            ("--share", Reading::Share),
        ] {
            let args = parse(&format!("--before 0s {line}")).unwrap();
            assert_eq!(asked(&args, window).unwrap().reading, expected);
        }
        for format in DiffFormat::ALL {
            let args = parse(&format!("--before 1h --format {format}")).unwrap();
            assert_eq!(args.format, Some(format));
        }
    }
}
