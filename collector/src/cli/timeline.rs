//! `collector timeline`.

use std::time::Duration;

use proto::labels::{Matcher, Selector};
use proto::pb::tepui as pb;
use proto::value_type::Temporality;
use proto::window::{UnixNanos, Window};

use super::CliError;
use super::client::{Client, ClientArgs};
use super::labels::checked_selector;
use super::output::{self, ListFormat, with_spinner};
use crate::answer::ProfileAnswer;
use crate::query::ServiceName;
use crate::render::{RenderContext, timeline as render};
use crate::time_range;
use crate::timeline::{StepValue, Steps, StepsError, Timeline, suited_step};

/// Most calls that one timeline may take.
const MAX_CALLS: usize = 2_000;
/// Nodes that are asked for: only the total matters.
const TOTAL_NODES: u32 = 1;

/// Flags of `timeline`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector timeline --service logger --since 24h
      cores that the service kept busy, half an hour per cell
  collector timeline --service logger --since 6h --group-by version
      one line per version
  collector timeline --service logger --type inuse_space --group-by pod --step 1m --format json
      memory in use per pod, minute by minute, for a program")]
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
    /// Time per point in whole seconds, such as 1m [default: by the range]
    #[arg(long, value_name = "LENGTH", value_parser = humantime::parse_duration)]
    step: Option<Duration>,
    /// One line per value of this label
    #[arg(long, value_name = "LABEL")]
    group_by: Option<String>,
    /// What is counted: cpu, inuse_space, alloc_objects, goroutine, …
    #[arg(long = "type", value_name = "TYPE", default_value = "cpu")]
    profile_type: String,
    /// Only series that match, such as '{version="1.8",pod=~"a.*"}'
    #[arg(long, value_name = "SELECTOR")]
    select: Option<String>,
    /// How the timeline is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

impl From<StepsError> for CliError {
    fn from(error: StepsError) -> Self {
        Self::Usage(format!("--step: {error}"))
    }
}

/// What is asked for.
#[derive(Debug)]
struct Asked {
    service: String,
    profile_type: String,
    selector: String,
    group_by: Option<String>,
    steps: Steps,
}

/// A selector that accepts what both accept.
fn both(selector: &str, matcher: Matcher) -> Result<String, CliError> {
    let whole: Selector = selector.parse().map_err(|error| CliError::failed(&error))?;
    if whole.is_empty() {
        return Ok(Selector::new(vec![matcher]).to_string());
    }
    let part = Selector::new(vec![matcher]).to_string();
    let inner = |text: &str| {
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
        text.map(str::to_owned)
    };
    match (inner(&whole.to_string()), inner(&part)) {
        (Some(whole), Some(part)) => Ok(format!("{{{whole}, {part}}}")),
        _ => Err(CliError::Failed("a selector has no braces".to_owned())),
    }
}

/// The groups with the selector of each: one without a label, else one per
/// value of it and one of the series that do not have it.
async fn groups(
    client: &mut Client,
    asked: &Asked,
) -> Result<Vec<(Vec<String>, String)>, CliError> {
    let Some(label) = &asked.group_by else {
        return Ok(vec![(Vec::new(), asked.selector.clone())]);
    };
    let request = pb::LabelsRequest {
        service: asked.service.clone(),
        name: label.clone(),
        selector: asked.selector.clone(),
    };
    let what = format!("list values of the label {label:?}");
    let response = client.query.labels(request).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let mut values = response.into_inner().values;
    values.push(String::new());
    let with_selector = |value: String| {
        let selector = both(&asked.selector, Matcher::equal(label, &value))?;
        Ok((vec![value], selector))
    };
    values.into_iter().map(with_selector).collect()
}

/// The profile of one step of one group, without its tree.
async fn step(
    client: &mut Client,
    asked: &Asked,
    selector: &str,
    window: Window,
) -> Result<ProfileAnswer, CliError> {
    let request = pb::ProfileRequest {
        service: asked.service.clone(),
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        profile_type: asked.profile_type.clone(),
        selector: selector.to_owned(),
        max_nodes: TOTAL_NODES,
        ..pb::ProfileRequest::default()
    };
    let what = format!(
        "get the {} profile of {:?}",
        asked.profile_type, asked.service
    );
    let response = client.query.profile(request).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    ProfileAnswer::from_wire(response.into_inner()).map_err(|error| CliError::failed(&error))
}

/// The sum that an answer stands for: gauges were divided by their seconds.
fn step_value(answer: &ProfileAnswer) -> StepValue {
    let total = answer.tree.total();
    let observed = answer.coverage.observed;
    StepValue {
        value: match answer.temporality {
            Temporality::Delta => total,
            Temporality::Gauge => total.saturating_mul(i128::from(observed.as_secs())),
        },
        observed,
    }
}

/// Asks for each step of each group by itself.
///
/// This is the one place that knows how a timeline comes about: a call of the
/// collector that sums step by step will replace it and return the same
/// [`Timeline`].
///
/// # Errors
///
/// [`CliError`] if a call fails or there would be more than [`MAX_CALLS`].
async fn fetch(client: &mut Client, asked: Asked) -> Result<Timeline, CliError> {
    let groups = groups(client, &asked).await?;
    let calls = groups.len().saturating_mul(asked.steps.count());
    if calls > MAX_CALLS {
        return Err(CliError::Usage(format!(
            "that takes {calls} calls, more than {MAX_CALLS}: use a longer --step or a shorter range, or pick series with --select"
        )));
    }
    let mut kind = None;
    let mut rows = Vec::new();
    for (group, selector) in groups {
        let mut values = Vec::new();
        for window in (0..asked.steps.count()).filter_map(|at| asked.steps.get(at)) {
            let answer = step(client, &asked, &selector, window).await?;
            values.push(step_value(&answer));
            // The type of an answer without windows is a guess.
            if kind.is_none() || answer.coverage.windows > 0 {
                kind = Some((answer.profile_type, answer.temporality));
            }
        }
        rows.push((group, values));
    }
    let known = |values: &[StepValue]| values.iter().any(|value| !value.observed.is_zero());
    rows.retain(|(_, values)| known(values));
    let Some((profile_type, temporality)) = kind else {
        return Err(CliError::Failed("no step was asked for".to_owned()));
    };
    let group_by = asked.group_by.into_iter().collect();
    Ok(Timeline::new(
        asked.steps,
        profile_type,
        temporality,
        group_by,
        rows,
    ))
}

/// Shows a quantity over time.
///
/// # Errors
///
/// [`CliError`] if a flag cannot be used, the collector does not answer, or
/// stdout cannot be written.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let service: ServiceName = args
        .service
        .parse()
        .map_err(|_| CliError::Usage("--service must be NAME or NAMESPACE/NAME".to_owned()))?;
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let asked = Asked {
        service: args.service,
        profile_type: args.profile_type.clone(),
        selector: checked_selector(args.select)?,
        group_by: args.group_by,
        steps: Steps::new(window, args.step.unwrap_or_else(|| suited_step(&window)))?,
    };
    let context = RenderContext {
        title: format!("{service} · {}", args.profile_type),
        subtitle: Some(asked.selector.clone()).filter(|selector| !selector.is_empty()),
    };
    let mut client = args.client.connect().await?;
    let timeline = with_spinner("adding up steps", fetch(&mut client, asked)).await?;
    match args.format {
        ListFormat::Text => {
            output::print(render::render(&timeline, &context, &output::stdout_style()).as_bytes())
        }
        ListFormat::Json => {
            let bytes = render::json(&timeline).map_err(|error| CliError::failed(&error))?;
            output::print(&bytes)
        }
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

    #[test]
    fn flags_are_read() {
        let line = "timeline --service logger --since 6h --step 90s --group-by pod --format json";
        let args = Command::try_parse_from(line.split(' ')).unwrap().args;
        assert_eq!(args.step, Some(Duration::from_secs(90)));
        assert_eq!(args.group_by.as_deref(), Some("pod"));
        assert_eq!(args.format, ListFormat::Json);
        assert!(Command::try_parse_from(["timeline"]).is_err());
    }

    #[test]
    fn a_group_is_picked_within_the_selection() {
        for (selector, value, expected) in [
            ("", "1.8", "{version=\"1.8\"}"),
            ("{}", "", "{version=\"\"}"),
            (
                "{pod=~\"a.*\"}",
                "\"}, x=\"\\\n",
                "{pod=~\"a.*\", version=\"\\\"}, x=\\\"\\\\\\n\"}",
            ),
        ] {
            let found = both(selector, Matcher::equal("version", value)).unwrap();
            assert_eq!(found, expected);
            found.parse::<Selector>().unwrap();
        }
    }
}
