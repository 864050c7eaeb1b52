//! `collector labels`.

use proto::labels::Selector;
use proto::pb::tepui as pb;
use proto::status::chain;

use super::CliError;
use super::client::ClientArgs;
use super::output::{self, ListFormat, printable, with_spinner};

/// Flags of `labels`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector labels --service logger
      names of the labels that its series have
  collector labels --service logger --name version --select '{pod=~\"a.*\"}'
      versions of the pods whose name begins with a")]
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

/// Lists labels.
///
/// # Errors
///
/// [`CliError`] if the selector is none or the collector does not answer.
pub async fn run(args: Args) -> Result<(), CliError> {
    let selector = checked_selector(args.select)?;
    let mut client = args.client.connect().await?;
    let request = pb::LabelsRequest {
        service: args.service.clone(),
        name: args.name.clone().unwrap_or_default(),
        selector,
    };
    let response = with_spinner("listing labels", client.query.labels(request)).await;
    let what = format!("list labels of {:?}", args.service);
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let values = response.into_inner().values;
    match (args.format, &args.name) {
        (ListFormat::Json, None) => output::print_json(&serde_json::json!({ "names": values })),
        (ListFormat::Json, Some(_)) => output::print_json(&serde_json::json!({ "values": values })),
        (ListFormat::Text, Some(name)) if values.is_empty() => output::note(&format!(
            "no such series has a label {name:?}; without --name the labels are listed"
        )),
        (ListFormat::Text, _) => {
            let mut text = String::new();
            for value in &values {
                text.push_str(&printable(value).replace('\n', "\u{fffd}"));
                text.push('\n');
            }
            output::print(text.as_bytes())
        }
    }
}
