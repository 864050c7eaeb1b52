//! `collector series`.

use proto::pb::tepui as pb;
use proto::window::UnixNanos;

use super::CliError;
use super::client::ClientArgs;
use super::labels::checked_selector;
use super::output::{self, ListFormat, with_spinner};
use super::table::{Align, Table};
use crate::http::api::SERVICES_SINCE;
use crate::render::Style;
use crate::shapes::SeriesShape;
use crate::time_range;

/// Flags of `series`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector series --service logger
      series with a window in the last day
  collector series --service prod/logger --since 1h --select '{version=\"1.8\"}' --format json")]
pub struct Args {
    /// Service, or NAMESPACE/SERVICE; without a namespace every one counts
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Series with a window since then: 1h, 7d, a date or RFC 3339
    #[arg(long, value_name = "TIME", default_value = SERVICES_SINCE)]
    since: String,
    /// … and before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only series that match, such as '{version="1.8"}'
    #[arg(long, value_name = "SELECTOR")]
    select: Option<String>,
    /// How the list is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists series.
///
/// # Errors
///
/// [`CliError`] if a time or selector is none or the collector does not answer.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let window = time_range::window(Some(&args.since), args.until.as_deref(), now)?;
    let selector = checked_selector(args.select)?;
    let mut client = args.client.connect().await?;
    let request = pb::SeriesRequest {
        service: args.service.clone(),
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        selector,
    };
    let response = with_spinner("listing series", client.query.series(request)).await;
    let what = format!("list series of {:?}", args.service);
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let series = response.into_inner().series.into_iter();
    let series: Vec<SeriesShape> = series.map(SeriesShape::from).collect();
    match args.format {
        ListFormat::Json => output::print_json(&serde_json::json!({ "series": series })),
        ListFormat::Text if series.is_empty() => {
            output::note("no series has a window in this range; see --since and --select")
        }
        ListFormat::Text => output::print(text(&series, &output::stdout_style()).as_bytes()),
    }
}

fn text(series: &[SeriesShape], style: &Style) -> String {
    let mut table = Table::new([("SERIES", Align::Right), ("LABELS", Align::Left)]);
    for series in series {
        let labels = series.labels.iter();
        let labels: Vec<String> = labels
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        table.row([series.id.to_string(), format!("{{{}}}", labels.join(", "))]);
    }
    table.text(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_number_and_a_selector() {
        let series = |id, version: &str| {
            let label = |name: &str, value: &str| pb::Label {
                name: name.to_owned(),
                value: value.to_owned(),
            };
            SeriesShape::from(pb::Series {
                id,
                labels: Some(pb::LabelSet {
                    labels: vec![label("version", version), label("service", "logger")],
                }),
            })
        };
        let all = [series(1, "1.8"), series(10_000, "a\"b\u{1b}")];
        expect_test::expect![[r#"
            SERIES  LABELS
                 1  {service="logger", version="1.8"}
             10000  {service="logger", version="a\"b\u{1b}"}
        "#]]
        .assert_eq(&text(&all, &Style::default()));
        expect_test::expect![[r#"
            {
              "id": 1,
              "labels": {
                "service": "logger",
                "version": "1.8"
              }
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&all[0]).unwrap());
    }
}
