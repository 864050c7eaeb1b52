//! `collector services`.

use proto::pb::tepui as pb;
use proto::window::UnixNanos;

use super::client::ClientArgs;
use super::output::{self, ListFormat};
use super::table::{Align, Table};
use super::{CliError, output::with_spinner};
use crate::http::api::SERVICES_SINCE;
use crate::render::Style;
use crate::shapes::ServiceShape;
use crate::time_range;

/// Flags of `services`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector services
  collector services --since 7d --format json")]
pub struct Args {
    /// Services seen since then: 1h, 7d, a date or RFC 3339
    #[arg(long, value_name = "TIME", default_value = SERVICES_SINCE)]
    since: String,
    /// … and before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How the list is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// Lists services.
///
/// # Errors
///
/// [`CliError`] if a time is none or the collector does not answer.
pub async fn run(args: Args, now: UnixNanos) -> Result<(), CliError> {
    let window = time_range::window(Some(&args.since), args.until.as_deref(), now)?;
    let mut client = args.client.connect().await?;
    let request = pb::ServicesRequest {
        start_unix_nanos: window.start().get(),
        end_unix_nanos: window.end().get(),
    };
    let response = with_spinner("listing services", client.query.services(request)).await;
    let response = response.map_err(|status| client.failure("list services", &status))?;
    let services: Vec<ServiceShape> = response
        .into_inner()
        .services
        .into_iter()
        .map(ServiceShape::from)
        .collect();
    match args.format {
        ListFormat::Json => output::print_json(&serde_json::json!({ "services": services })),
        ListFormat::Text => output::print(text(&services, now, &output::stdout_style()).as_bytes()),
    }
}

fn text(services: &[ServiceShape], now: UnixNanos, style: &Style) -> String {
    if services.is_empty() {
        return "no services in this range; start an agent beside one: agent run --name PROGRAM\n"
            .to_owned();
    }
    let mut table = Table::new([
        ("SERVICE", Align::Left),
        ("CPU", Align::Right),
        ("ALERTS", Align::Right),
        ("SERIES", Align::Right),
        ("LAST SEEN", Align::Left),
        ("TYPES", Align::Left),
    ]);
    for service in services {
        let mut kinds: Vec<&str> = service
            .profile_types
            .iter()
            .filter_map(|text| text.split(':').nth(1))
            .collect();
        kinds.sort_by_key(|kind| (*kind != "cpu", *kind));
        kinds.dedup();
        table.row([
            service.full_name(),
            format!("{:.2}", service.cpu_cores),
            service.firing_alerts.to_string(),
            service.series.to_string(),
            time_range::ago(service.last_window(), now),
            kinds.join(","),
        ]);
    }
    table.text(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_service_costs_and_when_it_was_seen() {
        let service = |namespace: &str, millicores, alerts| {
            ServiceShape::from(pb::Service {
                namespace: namespace.to_owned(),
                name: "logger".to_owned(),
                series: 3,
                last_window_unix_nanos: 1_000_000_000_000,
                cpu_millicores: millicores,
                firing_alerts: alerts,
                profile_types: vec![
                    "memory:inuse_space:bytes:space:bytes".to_owned(),
                    "process_cpu:cpu:nanoseconds:cpu:nanoseconds".to_owned(),
                ],
            })
        };
        let services = [service("", 1_020, 1), service("prod", 40, 0)];
        let now = UnixNanos::new(1_012_000_000_000);
        expect_test::expect![[r"
            SERVICE       CPU  ALERTS  SERIES  LAST SEEN  TYPES
            logger       1.02       1       3  12s ago    cpu,inuse_space
            prod/logger  0.04       0       3  12s ago    cpu,inuse_space
        "]]
        .assert_eq(&text(&services, now, &Style::default()));
        expect_test::expect![[r#"
            {
              "namespace": "prod",
              "name": "logger",
              "series": 3,
              "last_window": "1970-01-01T00:16:40Z",
              "last_window_unix_ns": 1000000000000,
              "cpu_cores": 0.04,
              "firing_alerts": 0,
              "profile_types": [
                "memory:inuse_space:bytes:space:bytes",
                "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&services[1]).unwrap());
    }
}
