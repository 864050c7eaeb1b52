//! `collector verdict`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use proto::pb::tepui as pb;
use proto::window::UnixNanos;

use super::CliError;
use super::client::{Client, ClientArgs};
use super::diff::{checked_selector, earlier};
use super::output::{self, with_spinner};
use crate::query::ServiceName;
use crate::render::verdict::{self as render, Outcome};
use crate::time_range;
use crate::verdict::Verdict;

/// Flags of `verdict`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector verdict --service logger --base '{version=\"1.7\"}' --new '{version=\"1.8\"}' --fail-on 5%
      did version 1.8 make a function dearer by 5 % of the CPU time? Both versions over the last hour
  collector verdict --service logger --since 30m --before 1d
      the last half hour against the same time yesterday
  collector verdict --service logger --base '{track=\"stable\"}' --new '{track=\"canary\"}' \\
      --since 10m --format markdown -o comment.md
      a canary beside the stable pods, as a comment for a pull request

Each pod is an observation: both sides need three, or their time is cut into minutes. Sides with
different traffic compare, because counts are divided by the size that the median function tells.
A function is named when the sides differ by more than pods differ among each other, with at most
5 % false discoveries among those that are named.

Exit code: 0 nothing became dearer by --fail-on, 3 a function did, 4 there is too little to tell,
1 the collector did not answer, 2 the command line cannot be used.")]
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
    /// Compare with a range of the same length this much earlier; needed without --base and --new
    #[arg(
        long,
        value_name = "LENGTH",
        value_parser = humantime::parse_duration,
        required_unless_present_any = ["base", "new", "base_since"]
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
    /// Compare with series that match, such as '{version="1.7"}'
    #[arg(long, value_name = "SELECTOR", requires = "new")]
    base: Option<String>,
    /// Judge series that match, such as '{version="1.8"}'
    #[arg(long, value_name = "SELECTOR", requires = "base")]
    new: Option<String>,
    /// Fail when a function became dearer by this part of the base's CPU time
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = part)]
    fail_on: f64,
    /// How it is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: VerdictFormat,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// How a verdict is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum VerdictFormat {
    /// For people
    #[default]
    Text,
    /// For a pull request
    Markdown,
    /// For programs
    Json,
}

/// `5%` or `0.05` as a part.
fn part(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no part such as 5% or 0.05");
    let (number, of) = match text.trim().strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text.trim(), 1.0),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let part = number / of;
    match part > 0.0 && part <= 10.0 {
        true => Ok(part),
        false if of == 1.0 && number > 10.0 => Err(format!("{}; did you mean {text}%?", wrong())),
        false => Err(wrong()),
    }
}

fn asked(args: &Args, now: UnixNanos) -> Result<pb::VerdictRequest, CliError> {
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let base = match (&args.base_since, args.before) {
        (Some(since), _) => time_range::window(Some(since), args.base_until.as_deref(), now)?,
        (None, before) => earlier(window, before.unwrap_or_default())?,
    };
    Ok(pb::VerdictRequest {
        new: Some(pb::ProfileRequest {
            service: args.service.clone(),
            start_unix_nanos: window.start().get(),
            end_unix_nanos: window.end().get(),
            profile_type: "cpu".to_owned(),
            selector: checked_selector("--new", args.new.as_deref())?,
            ..pb::ProfileRequest::default()
        }),
        base_service: String::new(),
        base_start_unix_nanos: base.start().get(),
        base_end_unix_nanos: base.end().get(),
        base_selector: checked_selector("--base", args.base.as_deref())?,
    })
}

/// Asks for the verdict.
async fn fetch(client: &mut Client, asked: pb::VerdictRequest) -> Result<Verdict, CliError> {
    let service = asked.new.as_ref().map(|new| new.service.clone());
    let what = format!("judge service {:?}", service.unwrap_or_default());
    let response = client.query.verdict(asked).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    Verdict::from_wire(response.into_inner()).map_err(|error| CliError::failed(&error))
}

/// Judges a change and writes what is found.
///
/// # Errors
///
/// [`CliError`] if a flag cannot be used, the collector does not answer, or the verdict
/// cannot be written.
pub async fn run(args: Args, now: UnixNanos) -> Result<ExitCode, CliError> {
    let _service: ServiceName = args
        .service
        .parse()
        .map_err(|_| CliError::Usage("--service must be NAME or NAMESPACE/NAME".to_owned()))?;
    let asked = asked(&args, now)?;
    let mut client = args.client.connect().await?;
    let verdict = with_spinner("judging", fetch(&mut client, asked)).await?;
    let bytes = match args.format {
        VerdictFormat::Text => render::text(&verdict, args.fail_on).into_bytes(),
        VerdictFormat::Markdown => render::markdown(&verdict, args.fail_on).into_bytes(),
        VerdictFormat::Json => {
            render::json(&verdict, args.fail_on).map_err(|error| CliError::failed(&error))?
        }
    };
    match &args.output {
        Some(path) => output::write_file(path, &bytes)?,
        None => output::print(&bytes)?,
    }
    Ok(match Outcome::of(&verdict, args.fail_on) {
        Outcome::Pass => ExitCode::SUCCESS,
        Outcome::Fail => ExitCode::from(FAILED),
        Outcome::Unknown => ExitCode::from(UNKNOWN),
    })
}

/// Exit codes of a verdict that does not pass.
const FAILED: u8 = 3;
const UNKNOWN: u8 = 4;

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
        let words = ["verdict", "--service", "logger"];
        let words = words.into_iter().chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args)
    }

    #[test]
    fn parts_are_read_as_people_write_them() {
        for (text, expected) in [
            ("5%", 0.05),
            ("0.5 %", 0.005),
            ("0.05", 0.05),
            ("150%", 1.5),
        ] {
            assert!((part(text).unwrap() - expected).abs() < 1e-12, "{text}");
        }
        for text in ["", "%", "-1%", "0", "five", "NaN", "inf", "20"] {
            assert!(part(text).is_err(), "{text}");
        }
        assert!(part("20").unwrap_err().contains("20%"));
    }

    #[test]
    fn two_sides_are_needed() {
        for (line, expected) in [
            ("--before 1h", true),
            ("--base {a=\"1\"} --new {a=\"2\"}", true),
            ("--base-since 2d --base-until 1d", true),
            ("", false),
            ("--base {a=\"1\"}", false),
            ("--base-since 2d --before 1h", false),
            ("--before 1h --fail-on 0", false),
        ] {
            assert_eq!(parse(line).is_ok(), expected, "{line}");
        }
        let now = UnixNanos::new(1_800_000_000_000_000_000);
        let question = asked(&parse("--before 1h").unwrap(), now).unwrap();
        assert_eq!(
            question.base_end_unix_nanos,
            question.new.unwrap().start_unix_nanos
        );
        assert!(asked(&parse("--base {a= --new {a=\"2\"}").unwrap(), now).is_err());
    }
}
