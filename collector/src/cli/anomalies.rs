//! `collector anomalies`, and `anomalies show ID`.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::pb::tepui as pb;
use proto::window::{Clock, UnixNanos};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::CliError;
use super::client::{Client, ClientArgs};
use super::output::{self, ListFormat, printable, with_spinner};
use super::table::{Align, Table};
use crate::render::Style;
use crate::shapes::AlertShape;
use crate::time_range;

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Flags of `anomalies`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  collector anomalies
  collector anomalies --service logger --state firing --format json
  collector anomalies --watch
      one line whenever an alert begins or changes, until Ctrl-C
  collector anomalies show ID
      one alert with its frame path and what it is compared with
  collector anomalies replay --service logger --since 14d --functions high
      what would have been told in two weeks, if smaller changes were
  collector anomalies ack ID --note 'the new parser, agreed'
      people know of it; what a function costs now is normal from here on"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only of this service, or NAMESPACE/SERVICE
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only in this state
    #[arg(long, value_name = "STATE", value_parser = ["pending", "firing", "resolved", "stale", "ended"])]
    state: Option<String>,
    /// Stay, and print what changes
    #[arg(long)]
    watch: bool,
    /// How alerts are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show one alert with its evidence
    Show(ShowArgs),
    /// Judge what is stored of a service again: what would have been told
    Replay(ReplayArgs),
    /// Say that you know of an alert; what a function costs becomes normal (role admin)
    Ack(AckArgs),
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    /// Service, or NAMESPACE/SERVICE
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Start of the range: 90m, 1h, 7d, a date or RFC 3339
    #[arg(long, value_name = "TIME", default_value = "14d")]
    since: String,
    /// End of the range
    #[arg(long, value_name = "TIME", default_value = "now")]
    until: String,
    /// How long a finding lasts before it fires [default: the collector's detect.for]
    #[arg(long = "for", value_name = "LENGTH", value_parser = humantime::parse_duration)]
    hold: Option<Duration>,
    /// How small a change of a function is told [default: the collector's detect.functions]
    #[arg(long, value_name = "HOW", value_parser = ["off", "normal", "high"])]
    functions: Option<String>,
    /// How alerts are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
struct AckArgs {
    /// Id of the alert, as the list shows it
    id: String,
    /// For others to read
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    note: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Id of the alert, as the list shows it
    id: String,
    /// How the alert is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// An alert as it came and as it is read.
struct Received {
    json: Value,
    alert: AlertShape,
}

async fn fetch(
    client: &mut Client,
    request: pb::AnomaliesRequest,
) -> Result<Vec<Received>, CliError> {
    let response = client.query.anomalies(request).await;
    let response = response.map_err(|status| client.failure("list alerts", &status))?;
    read_all(&response.into_inner())
}

/// The alerts of an answer.
fn read_all(response: &pb::AnomaliesResponse) -> Result<Vec<Received>, CliError> {
    let read = |text: &String| -> Result<Received, serde_json::Error> {
        Ok(Received {
            json: serde_json::from_str(text)?,
            alert: AlertShape::parse(text)?,
        })
    };
    let read = response.alerts_json.iter().map(read);
    read.collect::<Result<_, _>>().map_err(|error| {
        CliError::Failed(format!("the collector's answer cannot be read: {error}"))
    })
}

/// Lists what would have been told.
async fn run_replay(args: ReplayArgs, now: UnixNanos) -> Result<(), CliError> {
    let window = time_range::window(Some(&args.since), Some(&args.until), now)?;
    let hold = args.hold.unwrap_or_default().as_nanos();
    let request = pb::ReplayRequest {
        service: args.service,
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
        hold_nanos: i64::try_from(hold).unwrap_or(i64::MAX),
        functions: args.functions.unwrap_or_default(),
    };
    let mut client = args.client.connect().await?;
    let response = with_spinner("judging again", client.query.replay(request)).await;
    let response = response.map_err(|status| client.failure("judge again", &status))?;
    show_all(read_all(&response.into_inner())?, args.format, now)
}

/// Acknowledges one alert and shows it.
async fn run_ack(args: AckArgs, now: UnixNanos) -> Result<(), CliError> {
    let mut client = args.client.connect().await?;
    let what = format!("acknowledge alert {:?}", args.id);
    let request = pb::AcknowledgeRequest {
        id: args.id,
        note: args.note,
    };
    let response = client.admin.acknowledge(request).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let alert = AlertShape::parse(&response.into_inner().alert_json).map_err(|error| {
        CliError::Failed(format!("the collector's answer cannot be read: {error}"))
    })?;
    output::print(details(&alert, now, &output::stdout_style()).as_bytes())
}

/// Lists, follows, shows or acknowledges alerts.
///
/// # Errors
///
/// [`CliError`] if the collector does not answer or does not know the id.
pub async fn run(args: Args, clock: &dyn Clock) -> Result<(), CliError> {
    match args.verb {
        Some(Verb::Show(show)) => return run_show(show, clock.now()).await,
        Some(Verb::Replay(replay)) => return run_replay(replay, clock.now()).await,
        Some(Verb::Ack(ack)) => return run_ack(ack, clock.now()).await,
        None => {}
    }
    let request = pb::AnomaliesRequest {
        service: args.service.unwrap_or_default(),
        state: args.state.unwrap_or_default(),
        id: String::new(),
    };
    let mut client = args.client.connect().await?;
    if args.watch {
        return watch(&mut client, request, args.format).await;
    }
    let received = with_spinner("listing alerts", fetch(&mut client, request)).await?;
    show_all(received, args.format, clock.now())
}

fn show_all(received: Vec<Received>, format: ListFormat, now: UnixNanos) -> Result<(), CliError> {
    match format {
        ListFormat::Json => {
            let all: Vec<Value> = received.into_iter().map(|one| one.json).collect();
            output::print_json(&serde_json::json!({ "anomalies": all }))
        }
        ListFormat::Text => {
            let alerts: Vec<AlertShape> = received.into_iter().map(|one| one.alert).collect();
            let text = list(&alerts, now, &output::stdout_style());
            output::print(text.as_bytes())
        }
    }
}

async fn run_show(args: ShowArgs, now: UnixNanos) -> Result<(), CliError> {
    let mut client = args.client.connect().await?;
    let request = pb::AnomaliesRequest {
        id: args.id.clone(),
        ..pb::AnomaliesRequest::default()
    };
    let received = with_spinner("reading the alert", fetch(&mut client, request)).await?;
    let Some(one) = received.into_iter().next() else {
        return Err(CliError::Failed(format!(
            "no alert {:?} is known there; `collector anomalies` lists them",
            args.id
        )));
    };
    match args.format {
        ListFormat::Json => output::print_json(&one.json),
        ListFormat::Text => {
            output::print(details(&one.alert, now, &output::stdout_style()).as_bytes())
        }
    }
}

/// Prints what changes until the process is ended.
async fn watch(
    client: &mut Client,
    request: pb::AnomaliesRequest,
    format: ListFormat,
) -> Result<(), CliError> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let received = fetch(client, request.clone()).await?;
        let mut seen = BTreeMap::new();
        for Received { json, alert } in received {
            let state = alert.state.clone();
            if known.get(&alert.id) != Some(&state) {
                let line = match format {
                    ListFormat::Json => json.to_string(),
                    ListFormat::Text => one_line(&alert),
                };
                output::print(format!("{line}\n").as_bytes())?;
            }
            seen.insert(alert.id, state);
        }
        known = seen;
    }
}

fn one_line(alert: &AlertShape) -> String {
    let line = format!(
        "{:<8} {} {} {}: {}",
        alert.state,
        alert.id,
        alert.kind,
        alert.full_name(),
        alert.summary
    );
    printable(&line).replace('\n', " ")
}

fn since(time: &str, now: UnixNanos) -> String {
    match time_range::parse("since", time, now) {
        Ok(parsed) => time_range::ago(parsed, now),
        Err(_) => time.to_owned(),
    }
}

fn list(alerts: &[AlertShape], now: UnixNanos, style: &Style) -> String {
    if alerts.is_empty() {
        return "no alerts\n".to_owned();
    }
    let mut table = Table::new([
        ("STATE", Align::Left),
        ("ID", Align::Left),
        ("KIND", Align::Left),
        ("SERVICE", Align::Left),
        ("CORES", Align::Right),
        ("SINCE", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for alert in alerts {
        table.row([
            alert.state.clone(),
            alert.id.clone(),
            alert.kind.clone(),
            alert.full_name(),
            match alert.measure {
                Some(_) if alert.cores == 0.0 => "-".to_owned(),
                _ => format!("{:.2}", alert.cores),
            },
            since(&alert.since, now),
            alert.summary.clone(),
        ]);
    }
    table.text(style)
}

fn details(alert: &AlertShape, now: UnixNanos, style: &Style) -> String {
    let (bold, dim, plain) = match style.color {
        true => ("\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m"),
        false => ("", "", ""),
    };
    let mut out = format!(
        "{bold}{} {} in {}{plain}\n{}\n\n",
        printable(&alert.kind),
        printable(&alert.state),
        printable(&alert.full_name()),
        printable(&alert.summary),
    );
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{dim}{name:<10}{plain}{}\n", printable(value)));
        }
    };
    let with_age = |time: &str| match time {
        "" => String::new(),
        time => format!("{time} ({})", since(time, now)),
    };
    fact("id", &alert.id);
    fact("severity", &alert.severity);
    if alert.measure.is_none() || alert.cores > 0.0 {
        fact("cores", &format!("{:.2}", alert.cores));
    }
    let before = alert
        .baseline_cores
        .map(|cores| format!("{cores:.2} cores"));
    fact("before", before.as_deref().unwrap_or(""));
    let waiting = alert
        .wait_share
        .map(|share| format!("{:.0} % of the leaves", share * 100.0));
    fact("waiting", waiting.as_deref().unwrap_or(""));
    fact("since", &with_age(&alert.since));
    fact("fired", &with_age(alert.fired_at.as_deref().unwrap_or("")));
    fact(
        "resolved",
        &with_age(alert.resolved_at.as_deref().unwrap_or("")),
    );
    let known = alert.acknowledged_at.as_deref().unwrap_or("");
    fact("known", &with_age(known));
    fact("note", &alert.note);
    fact("version", alert.version.as_deref().unwrap_or(""));
    fact("pods", &alert.pods.join(", "));
    for (name, link) in &alert.links {
        fact(&printable(name), link.as_str().unwrap_or(""));
    }
    if !alert.path.is_empty() {
        out.push_str(&format!("\n{dim}frame path, root first{plain}\n"));
    }
    for frame in &alert.path {
        let place = match (frame.file.is_empty(), frame.line) {
            (true, _) => String::new(),
            (false, 0) => format!("  {}", frame.file),
            (false, line) => format!("  {}:{line}", frame.file),
        };
        out.push_str(&format!(
            "  {}{dim}{}{plain}\n",
            printable(&frame.function),
            printable(&place)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALERT: &str = r#"{"id":"a1","kind":"spin","state":"firing","severity":"warning",
        "namespace":"prod","service":"logger","cores":0.98,"wait_share":0.97,
        "path":[{"function":"main.main","file":"main.go","line":10},{"function":"runtime.selectgo","file":"","line":0}],
        "since":"1970-01-01T00:16:40Z","fired_at":null,"resolved_at":null,"baseline_cores":0.04,
        "version":"1.8","pods":["a","b"],"summary":"main.startSink spins",
        "links":{"query":"http://127.0.0.1:4040/service?name=prod%2Flogger"},"added_later":1}"#;
    const NOW: UnixNanos = UnixNanos::new(1_300_000_000_000);

    #[test]
    fn a_list_has_a_line_per_alert() {
        let alert = AlertShape::parse(ALERT).unwrap();
        expect_test::expect![[r"
            STATE   ID  KIND  SERVICE      CORES  SINCE   WHAT
            firing  a1  spin  prod/logger   0.98  5m ago  main.startSink spins
        "]]
        .assert_eq(&list(&[alert], NOW, &Style::default()));
        assert_eq!(list(&[], NOW, &Style::default()), "no alerts\n");
    }

    #[test]
    fn an_alert_about_a_number_shows_no_cores_and_no_path() {
        let alert = AlertShape::parse(
            r#"{"id":"a2","kind":"memory_leak","state":"firing","severity":"warning",
            "service":"shop","cores":0.0,"measure":{"quantity":"memory_bytes","now":7e8,"before":5e8,
            "per_hour":5e6,"pod":"a"},"since":"1970-01-01T00:16:40Z","pods":["a"],
            "summary":"Memory of a grew."}"#,
        );
        let alert = alert.unwrap();
        expect_test::expect![[r"
            memory_leak firing in shop
            Memory of a grew.

            id        a2
            severity  warning
            since     1970-01-01T00:16:40Z (5m ago)
            pods      a
        "]]
        .assert_eq(&details(&alert, NOW, &Style::default()));
        expect_test::expect![[r"
            STATE   ID  KIND         SERVICE  CORES  SINCE   WHAT
            firing  a2  memory_leak  shop         -  5m ago  Memory of a grew.
        "]]
        .assert_eq(&list(&[alert], NOW, &Style::default()));
    }

    #[test]
    fn details_hold_the_evidence() {
        let alert = AlertShape::parse(ALERT).unwrap();
        expect_test::expect![[r"
            spin firing in prod/logger
            main.startSink spins

            id        a1
            severity  warning
            cores     0.98
            before    0.04 cores
            waiting   97 % of the leaves
            since     1970-01-01T00:16:40Z (5m ago)
            version   1.8
            pods      a, b
            query     http://127.0.0.1:4040/service?name=prod%2Flogger

            frame path, root first
              main.main  main.go:10
              runtime.selectgo
        "]]
        .assert_eq(&details(&alert, NOW, &Style::default()));
    }

    #[test]
    fn an_alert_of_another_version_is_still_read() {
        let alert = AlertShape::parse("{\"id\":\"x\",\"new\":[1]}").unwrap();
        assert_eq!(alert.id, "x");
        assert!(AlertShape::parse("{\"id\":1}").is_err());
    }
}
