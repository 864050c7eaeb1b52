//! `collector timeline`.

use std::time::Duration;

use proto::pb::tepui as pb;
use proto::value_type::{ProfileType, ValueTypeError};
use proto::window::UnixNanos;

use super::CliError;
use super::client::{Client, ClientArgs};
use super::labels::checked_selector;
use super::output::{self, ListFormat, with_spinner};
use crate::answer::temporality_from_wire;
use crate::query::ServiceName;
use crate::render::{RenderContext, timeline as render};
use crate::time_range;
use crate::timeline::{StepValue, Steps, StepsError, Timeline, suited_step};

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

/// Asks for the steps.
///
/// # Errors
///
/// [`CliError`] if the call fails or its answer is damaged.
async fn fetch(client: &mut Client, asked: Asked) -> Result<Timeline, CliError> {
    let window = asked.steps.window();
    let request = pb::TimelineRequest {
        service: asked.service.clone(),
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        profile_type: asked.profile_type.clone(),
        selector: asked.selector.clone(),
        step_nanos: i64::try_from(asked.steps.step().as_nanos()).unwrap_or(i64::MAX),
        group_by: asked.group_by.clone().unwrap_or_default(),
    };
    let what = format!(
        "get the {} of {:?} over time",
        asked.profile_type, asked.service
    );
    let response = client.query.timeline(request).await;
    let response = response
        .map_err(|status| client.failure(&what, &status))?
        .into_inner();
    let profile_type: ProfileType = response
        .profile_type
        .parse()
        .map_err(|error: ValueTypeError| CliError::failed(&error))?;
    let temporality =
        temporality_from_wire(response.temporality).map_err(|error| CliError::failed(&error))?;
    let named = asked.group_by.is_some();
    let groups = response.groups.into_iter().map(|group| {
        let steps = group.sums.iter().zip(&group.observed_nanos);
        let values = steps.map(|(sum, observed)| StepValue {
            value: rounded(*sum),
            observed: Duration::from_nanos(*observed),
        });
        let name = if named { vec![group.value] } else { Vec::new() };
        (name, values.collect())
    });
    Ok(Timeline::new(
        asked.steps,
        profile_type,
        temporality,
        asked.group_by.clone().into_iter().collect(),
        groups,
    ))
}

/// The nearest whole number.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float becomes the nearest number that there is"
)]
fn rounded(value: f64) -> i128 {
    value.round() as i128
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
}
