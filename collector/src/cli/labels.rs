//! `collector labels`.

use proto::labels::Selector;
use proto::pb::tepui as pb;
use proto::status::chain;
use proto::window::UnixNanos;

use super::CliError;
use super::client::ClientArgs;
use super::output::{self, ListFormat, printable, with_spinner};
use crate::time_range;

/// Flags of `labels`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector labels --service logger
      names of the labels that its series have
  collector labels --service logger --name version --select '{pod=~\"a.*\"}'
      versions of the pods whose name begins with a
  collector labels --service logger --name version --since 24h
      versions that ran since yesterday
  collector labels --service logger --types
      what can be asked for with --type")]
pub struct Args {
    /// Service, or NAMESPACE/SERVICE
    #[arg(long, value_name = "NAME")]
    service: String,
    /// List the values of this label
    #[arg(long, value_name = "LABEL")]
    name: Option<String>,
    /// Only of series that match, such as '{version="1.8"}'
    #[arg(long, value_name = "SELECTOR")]
    select: Option<String>,
    /// Only of series seen since then, by day: 24h, 7d, a date or RFC 3339 [default: ever]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of series seen until then, by day
    #[arg(long, value_name = "TIME", requires = "since")]
    until: Option<String>,
    /// List profile types instead of labels
    #[arg(long, conflicts_with = "name")]
    types: bool,
    /// How the list is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// Returns `text` when it is a selector; all when absent.
///
/// # Errors
///
/// [`CliError::Usage`] if it is none.
pub fn checked_selector(text: Option<String>) -> Result<String, CliError> {
    let Some(text) = text else {
        return Ok(String::new());
    };
    match text.parse::<Selector>() {
        Ok(_) => Ok(text),
        Err(error) => Err(CliError::Usage(format!(
            "--select {text:?}: {}",
            chain(&error)
        ))),
    }
}

/// What is listed.
enum Listed {
    Names,
    Values,
    Types,
}

/// Lists labels or profile types.
///
/// # Errors
///
/// [`CliError`] if a flag cannot be used or the collector does not answer.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let selector = checked_selector(args.select)?;
    let (start_unix_nanos, end_unix_nanos) = match &args.since {
        None => (0, 0),
        Some(since) => {
            let window = time_range::window(Some(since), args.until.as_deref(), now)?;
            (window.start().get(), window.end().get())
        }
    };
    let listed = match (args.types, &args.name) {
        (true, _) => Listed::Types,
        (false, Some(_)) => Listed::Values,
        (false, None) => Listed::Names,
    };
    let mut client = args.client.connect().await?;
    let found = match listed {
        Listed::Types => {
            let request = pb::ProfileTypesRequest {
                service: args.service.clone(),
                selector,
                start_unix_nanos,
                end_unix_nanos,
            };
            let response = client.query.profile_types(request);
            let response = with_spinner("listing profile types", response).await;
            response.map(|response| response.into_inner().profile_types)
        }
        Listed::Names | Listed::Values => {
            let request = pb::LabelsRequest {
                service: args.service.clone(),
                name: args.name.clone().unwrap_or_default(),
                selector,
                start_unix_nanos,
                end_unix_nanos,
            };
            let response = with_spinner("listing labels", client.query.labels(request)).await;
            response.map(|response| response.into_inner().values)
        }
    };
    let what = format!("list labels of {:?}", args.service);
    let found = found.map_err(|status| client.failure(&what, &status))?;
    match (args.format, listed) {
        (ListFormat::Json, Listed::Names) => {
            output::print_json(&serde_json::json!({ "names": found }))
        }
        (ListFormat::Json, Listed::Values) => {
            output::print_json(&serde_json::json!({ "values": found }))
        }
        (ListFormat::Json, Listed::Types) => {
            output::print_json(&serde_json::json!({ "types": found }))
        }
        (ListFormat::Text, Listed::Values) if found.is_empty() => output::note(&format!(
            "no such series has a label {:?}; without --name the labels are listed",
            args.name.unwrap_or_default()
        )),
        (ListFormat::Text, _) => {
            let mut text = String::new();
            for line in &found {
                text.push_str(&printable(line).replace('\n', "\u{fffd}"));
                text.push('\n');
            }
            output::print(text.as_bytes())
        }
    }
}
