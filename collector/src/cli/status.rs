//! `collector status`.

use proto::pb::tepui as pb;
use proto::window::UnixNanos;
use serde::Deserialize;
use serde_json::Value;

use super::CliError;
use super::client::ClientArgs;
use super::output::{self, ListFormat, printable, with_spinner};
use super::table::{Align, Table};
use crate::render::Style;
use crate::status::StatusReport;
use crate::time_range;

/// Flags of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector status
  collector status --format json")]
pub struct Args {
    /// How the state is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// What the table needs of an agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AgentLine {
    version: String,
    labels: Vec<(String, String)>,
    connected: bool,
    clock_skew_ms: i64,
    last_heard_s: i64,
    spooled_windows: u64,
    dropped_windows: u64,
}

/// Shows the state.
///
/// # Errors
///
/// [`CliError`] if the collector does not answer.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let mut client = args.client.connect().await?;
    let asked = client.query.status(pb::StatusRequest {});
    let response = with_spinner("asking the collector", asked).await;
    let response = response.map_err(|status| client.failure("read the state", &status))?;
    let json = response.into_inner().status_json;
    let unread = |error: serde_json::Error| {
        CliError::Failed(format!("the collector's answer cannot be read: {error}"))
    };
    match args.format {
        ListFormat::Json => {
            let value: Value = serde_json::from_str(&json).map_err(unread)?;
            output::print_json(&value)
        }
        ListFormat::Text => {
            let report = serde_json::from_str(&json).map_err(unread)?;
            output::print(text(&report, now, &output::stdout_style()).as_bytes())
        }
    }
}

fn text(report: &StatusReport<AgentLine>, now: UnixNanos, style: &Style) -> String {
    let uptime = time_range::length(std::time::Duration::from_secs(report.uptime_seconds));
    let ingest = &report.ingest;
    let mut out = format!(
        "collector {}, {}, up {uptime}\n\
         ingest     {} streams, {} batches ({} sent twice), {} windows\n\
         refused    {} batches, {} windows\n\
         store      {:.1} MB on disk, {:.1} MB cached, {} failed writes\n\
         alerts     {} firing\n",
        printable(&report.version),
        if report.ready { "ready" } else { "not ready" },
        ingest.streams,
        ingest.batches,
        ingest.duplicate_batches,
        ingest.windows,
        ingest.refused_batches,
        ingest.refused_windows,
        megabytes(report.store.bytes),
        megabytes(report.store.cache_bytes),
        report.store.write_errors,
        report.alerts_firing,
    );
    out.push_str(&receivers(report, style));
    if report.agents.is_empty() {
        out.push_str("\nno agent was heard within a day; start one: agent run --name PROGRAM\n");
        return out;
    }
    let mut table = Table::new([
        ("AGENT OF", Align::Left),
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("SKEW", Align::Right),
        ("SPOOLED", Align::Right),
        ("DROPPED", Align::Right),
        ("LABELS", Align::Left),
    ]);
    for agent in &report.agents {
        let label = |name: &str| agent.labels.iter().find(|(n, _)| n == name);
        let heard = UnixNanos::new(agent.last_heard_s.saturating_mul(1_000_000_000));
        let others: Vec<String> = agent
            .labels
            .iter()
            .filter(|(name, _)| name != "service")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        table.row([
            label("service").map_or_else(|| "?".to_owned(), |(_, value)| value.clone()),
            agent.version.clone(),
            match agent.connected {
                true => "connected".to_owned(),
                false => format!("gone {}", time_range::ago(heard, now)),
            },
            format!("{} ms", agent.clock_skew_ms),
            agent.spooled_windows.to_string(),
            agent.dropped_windows.to_string(),
            others.join(" "),
        ]);
    }
    out.push('\n');
    out.push_str(&table.text(style));
    out
}

/// The receivers of alerts, and what they were not told.
fn receivers<A>(report: &StatusReport<A>, style: &Style) -> String {
    let mut out = String::new();
    if !report.receivers.is_empty() {
        let mut table = Table::new([
            ("RECEIVER", Align::Left),
            ("KIND", Align::Left),
            ("TOLD", Align::Right),
            ("WAITING", Align::Right),
            ("TRIED AGAIN", Align::Right),
            ("GIVEN UP", Align::Right),
        ]);
        for receiver in &report.receivers {
            table.row([
                receiver.receiver.clone(),
                receiver.kind.clone(),
                receiver.delivered.to_string(),
                receiver.waiting.to_string(),
                receiver.retried.to_string(),
                receiver.dropped.to_string(),
            ]);
        }
        out.push('\n');
        out.push_str(&table.text(style));
    }
    if !report.dead_letters.is_empty() {
        let mut table = Table::new([
            ("NOT TOLD", Align::Left),
            ("ALERT", Align::Left),
            ("STATUS", Align::Left),
            ("KIND", Align::Left),
            ("SERVICE", Align::Left),
            ("GIVEN UP AT", Align::Left),
            ("REASON", Align::Left),
        ]);
        for letter in &report.dead_letters {
            table.row([
                letter.receiver.clone(),
                letter.alert.clone(),
                letter.status.clone(),
                letter.kind.clone(),
                letter.service.clone(),
                letter.at.clone(),
                letter.reason.clone(),
            ]);
        }
        out.push('\n');
        out.push_str(&table.text(style));
    }
    out
}

fn megabytes(bytes: i64) -> f64 {
    let kilobytes = i32::try_from(bytes / 1024).unwrap_or(i32::MAX);
    f64::from(kilobytes) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_fits_a_screen() {
        let json = r#"{"version":"0.1.0","ready":true,"started":"x","uptime_seconds":3700,
            "ingest":{"streams":1,"batches":20,"duplicate_batches":2,"windows":40,"refused_batches":0,"refused_windows":3},
            "store":{"bytes":1572864,"cache_bytes":0,"write_errors":0},"alerts_firing":1,
            "receivers":[{"receiver":"oncall","kind":"pagerduty","waiting":1,"delivered":7,"retried":2,"dropped":1}],
            "dead_letters":[{"receiver":"oncall","id":"tepui-00ff-firing-x","alert":"00ff","status":"firing","kind":"spin",
              "service":"prod/logger","reason":"the receiver answered 400 Bad Request","at":"2026-11-24T14:07:15Z"}],
            "agents":[{"instance":"00","version":"0.1.0","labels":[["pod","a"],["service","logger"]],
              "capabilities":[],"connected":false,"clock_skew_ms":-4,"last_heard_s":940,"spooled_windows":0,"dropped_windows":7}]}"#;
        let report = serde_json::from_str(json).unwrap();
        expect_test::expect![[r"
            collector 0.1.0, ready, up 1h 1m
            ingest     1 streams, 20 batches (2 sent twice), 40 windows
            refused    0 batches, 3 windows
            store      1.5 MB on disk, 0.0 MB cached, 0 failed writes
            alerts     1 firing

            RECEIVER  KIND       TOLD  WAITING  TRIED AGAIN  GIVEN UP
            oncall    pagerduty     7        1            2         1

            NOT TOLD  ALERT  STATUS  KIND  SERVICE      GIVEN UP AT           REASON
            oncall    00ff   firing  spin  prod/logger  2026-11-24T14:07:15Z  the receiver answered 400 Bad Request

            AGENT OF  VERSION  STATE         SKEW  SPOOLED  DROPPED  LABELS
            logger    0.1.0    gone 1m ago  -4 ms        0        7  pod=a
        "]]
        .assert_eq(&text(
            &report,
            UnixNanos::new(1_000_000_000_000),
            &Style::default(),
        ));
    }
}
