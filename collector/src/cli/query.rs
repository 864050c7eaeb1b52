//! `collector query`.

use std::path::{Path, PathBuf};

use proto::pb::tepui as pb;
use proto::window::UnixNanos;
use regex::Regex;

use super::CliError;
use super::client::{Client, ClientArgs};
use super::labels::checked_selector;
use super::output::{self, with_spinner};
use super::peek;
use crate::answer::ProfileAnswer;
use crate::groups::GroupsAnswer;
use crate::query::ServiceName;
use crate::render::groups::{self, GroupsFormat};
use crate::render::{self, Format, RenderContext, Style};
use crate::time_range;

/// Which samples and frames are meant, by function.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FunctionArgs {
    /// Only samples with a function that matches
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// No samples with a function that matches
    #[arg(long, value_name = "REGEX")]
    ignore: Option<String>,
    /// Leave frames out whose function matches; their value goes to their callers
    #[arg(long, value_name = "REGEX")]
    hide: Option<String>,
}

impl FunctionArgs {
    /// Sets what is meant in `request`.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] if a flag is no regular expression.
    pub fn choose(&self, request: &mut pb::ProfileRequest) -> Result<(), CliError> {
        request.focus = checked_regex("--focus", self.focus.as_deref())?;
        request.ignore = checked_regex("--ignore", self.ignore.as_deref())?;
        request.hide = checked_regex("--hide", self.hide.as_deref())?;
        Ok(())
    }
}

/// Flags of `query`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector query --service logger --since 1h
      the merged flame graph, drawn in the terminal
  collector query --service prod/logger --since 24h --format top
      functions by the CPU they use themselves
  collector query --service logger --since 1h --type inuse_space -o heap.svg
      memory in use as an interactive flame graph; the file's name says the format
  collector query --service logger --since 2026-01-31T08:00:00Z --until 2026-01-31T09:00:00Z \\
      --select '{version=\"1.8\",pod=~\"a.*\"}' --focus startSink -o spin.pb.gz
  go tool pprof -http=: spin.pb.gz
  collector query --service logger --group-by version --format top
      versions by what they take, each with its heaviest function
  collector query --service logger --hide '^runtime\\.'
      the work of the runtime put down to the functions that cause it
  collector query --service logger --peek runtime.selectgo
      who calls one function, and what it calls")]
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
    /// What is counted: cpu, inuse_space, alloc_objects, goroutine, …
    #[arg(long = "type", value_name = "TYPE", default_value = "cpu")]
    profile_type: String,
    /// Only series that match, such as '{version="1.8",pod=~"a.*"}'
    #[arg(long, value_name = "SELECTOR")]
    select: Option<String>,
    #[command(flatten)]
    functions: FunctionArgs,
    /// Callers and callees of one function: its name or, when nothing is called so, a regex
    #[arg(long, value_name = "FUNCTION", visible_alias = "callers")]
    peek: Option<String>,
    /// One profile per value of this label, the largest first
    #[arg(long, value_name = "LABEL", conflicts_with = "peek")]
    group_by: Option<String>,
    /// Groups, at most 100; all others are one called "other" [default: 20]
    #[arg(
        long,
        value_name = "COUNT",
        requires = "group_by",
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    max_groups: Option<u32>,
    /// tree, top, folded, svg, pprof, json or speedscope [default: by the name of -o, else tree]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Fold all but this many of the largest nodes into "other" [default: the collector's]
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    max_nodes: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// The format whose files are named like `path`.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    // "x.speedscope.json" is no plain JSON: the longest ending decides.
    Format::ALL
        .into_iter()
        .filter(|format| *format != Format::Tree)
        .filter(|format| name.ends_with(&format!(".{}", format.extension())))
        .max_by_key(|format| format.extension().len())
}

fn unknown_ending(path: &Path) -> CliError {
    let endings: Vec<String> = Format::ALL
        .into_iter()
        .filter(|format| *format != Format::Tree)
        .map(|format| format!(".{}", format.extension()))
        .collect();
    CliError::Usage(format!(
        "the name of {} does not say its format: add --format, or let it end in one of {}",
        path.display(),
        endings.join(" ")
    ))
}

fn checked_regex(flag: &str, text: Option<&str>) -> Result<String, CliError> {
    let text = text.unwrap_or("");
    match Regex::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(CliError::Usage(format!(
            "{flag} {text:?} is no regular expression: {error}"
        ))),
    }
}

/// Asks for a profile, and returns it in `format`.
///
/// # Errors
///
/// [`CliError`] if the call fails or its answer is damaged.
async fn fetch(
    client: &mut Client,
    request: pb::ProfileRequest,
    format: Format,
    context: &RenderContext,
    style: &Style,
) -> Result<Vec<u8>, CliError> {
    let what = format!(
        "get the {} profile of {:?}",
        request.profile_type, request.service
    );
    let response = with_spinner("merging profiles", client.query.profile(request)).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let answer = ProfileAnswer::from_wire(response.into_inner())
        .map_err(|error| CliError::failed(&error))?;
    render::render(&answer, format, context, style).map_err(|error| CliError::failed(&error))
}

/// Asks for a profile per value of a label, and returns them in `format`.
///
/// # Errors
///
/// [`CliError`] if the call fails or its answer is damaged.
async fn fetch_groups(
    client: &mut Client,
    request: pb::GroupsRequest,
    format: GroupsFormat,
    context: &RenderContext,
    style: &Style,
) -> Result<Vec<u8>, CliError> {
    let what = format!("get profiles by {:?}", request.label);
    let response = with_spinner("merging profiles", client.query.groups(request)).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let answer =
        GroupsAnswer::from_wire(response.into_inner()).map_err(|error| CliError::failed(&error))?;
    groups::render(&answer, format, context, style).map_err(|error| CliError::failed(&error))
}

/// Asks for a profile and writes it.
///
/// # Errors
///
/// [`CliError`] if a flag cannot be used, the collector does not answer, or
/// the answer cannot be written.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let by_name = args.output.as_deref().and_then(format_of);
    let format = match (args.format.or(by_name), &args.output) {
        _ if args.peek.is_some() => peek::format(args.format, by_name, args.output.as_deref())?,
        (Some(format), _) => format,
        (None, None) => Format::Tree,
        (None, Some(path)) => return Err(unknown_ending(path)),
    };
    let by_group = match args.group_by {
        Some(label) => {
            let written = GroupsFormat::try_from(format)
                .map_err(|error| CliError::Usage(error.to_string()))?;
            Some((label, written))
        }
        None => None,
    };
    if args.output.is_none() && !format.is_text() && output::is_terminal() {
        return Err(CliError::Usage(format!(
            "--format {format} is binary and stdout is a terminal; name a file: -o profile.{}",
            format.extension()
        )));
    }
    let service: ServiceName = args
        .service
        .parse()
        .map_err(|_| CliError::Usage("--service must be NAME or NAMESPACE/NAME".to_owned()))?;
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let mut request = pb::ProfileRequest {
        service: args.service.clone(),
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        profile_type: args.profile_type.clone(),
        selector: checked_selector(args.select)?,
        max_nodes: match args.max_nodes {
            0 if by_group.is_some() => 0,
            0 => format.max_nodes(),
            asked => asked,
        },
        ..pb::ProfileRequest::default()
    };
    args.functions.choose(&mut request)?;
    let context = RenderContext {
        title: format!("{service} · {}", args.profile_type),
        subtitle: (!request.selector.is_empty()).then(|| request.selector.clone()),
    };
    let style = match &args.output {
        Some(_) => Style::default(),
        None => output::stdout_style(),
    };
    let mut client = args.client.connect().await?;
    let bytes = match (args.peek, by_group) {
        (Some(function), _) => {
            peek::fetch(&mut client, request, function, format, &context, &style).await?
        }
        (None, Some((label, written))) => {
            let groups = pb::GroupsRequest {
                profile: Some(request),
                label,
                max_groups: args.max_groups.unwrap_or(0),
            };
            fetch_groups(&mut client, groups, written, &context, &style).await?
        }
        (None, None) => fetch(&mut client, request, format, &context, &style).await?,
    };
    match &args.output {
        Some(path) => output::write_file(path, &bytes),
        None => output::print(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_its_format() {
        for (name, expected) in [
            ("a.svg", Some(Format::Svg)),
            ("dir.svg/p.pb.gz", Some(Format::Pprof)),
            ("x.json", Some(Format::Json)),
            ("x.speedscope.json", Some(Format::Speedscope)),
            ("x.folded", Some(Format::Folded)),
            ("x.txt", Some(Format::Top)),
            ("svg", None),
            ("x", None),
        ] {
            assert_eq!(format_of(Path::new(name)), expected, "{name}");
        }
    }
}
