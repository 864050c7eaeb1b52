//! `/alerts` and the cards that other pages show alerts in.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use proto::window::UnixNanos;
use serde::Deserialize;

use super::html::{Html, esc};
use super::link::Link;
use super::{PageError, Refresh, page as whole_page};
use crate::alert::AlertFilter;
use crate::auth::Principal;
use crate::http::App;
use crate::http::error::ApiError;
use crate::http::params::{Params, given};
use crate::shapes::AlertShape;
use crate::time_range;

/// How much of an alert a card shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brief {
    Yes,
    No,
}

/// Order on the page: what needs somebody first.
const STATES: [&str; 5] = ["firing", "pending", "stale", "resolved", "ended"];

/// Which alerts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertsParams {
    id: Option<String>,
    service: Option<String>,
}

/// `GET /alerts`.
pub(super) async fn page(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    params: Result<Params<AlertsParams>, ApiError>,
) -> Result<Response, PageError> {
    let Params(params) = params?;
    let now = app.clock.now();
    let service = given(params.service.as_deref())
        .map(str::parse)
        .transpose()?;
    let filter = AlertFilter {
        service,
        id: given(params.id.as_deref()).map(str::to_owned),
        ..AlertFilter::default()
    };
    let mut alerts = app.alert_shapes(&principal.tenant, &filter);
    let rank = |alert: &AlertShape| STATES.iter().position(|state| *state == alert.state);
    alerts.sort_by(|a, b| (rank(a), &b.since).cmp(&(rank(b), &a.since)));
    let mut body = Html::default();
    body.push(format_args!("<h1>Alerts</h1>"));
    if alerts.is_empty() {
        body.push(format_args!(
            "<div class=\"empty\"><p>No alert is known. That is good news, or no agent is connected: see <a href=\"/\">services</a>.</p></div>"
        ));
    }
    for alert in &alerts {
        body.append(card(alert, now, Brief::No));
    }
    Ok(whole_page("Alerts", Refresh::EveryHalfMinute, body))
}

/// An alert as a card.
pub(super) fn card(alert: &AlertShape, now: UnixNanos, brief: Brief) -> Html {
    let mut card = Html::default();
    let link = Link::to("/alerts").with("id", &alert.id);
    let graph = Link::to("/service")
        .with("name", &alert.full_name())
        .with("since", "1h");
    let class = match alert.state.as_str() {
        "firing" => "firing",
        "pending" => "pending",
        _ => "over",
    };
    card.push(format_args!(
        "<section class=\"alert {class}\"><h2><span class=\"badge {class}\">{} {} · {}</span> <a href=\"{}\">{}</a></h2><p class=\"sentence\">{}</p>",
        if class == "firing" { "▲" } else { "△" },
        esc(&alert.kind),
        esc(&alert.state),
        esc(graph.text()),
        esc(&alert.full_name()),
        esc(&alert.summary),
    ));
    if brief == Brief::No && !alert.path.is_empty() {
        card.push(format_args!("<ol class=\"path\">"));
        for frame in &alert.path {
            card.push(format_args!("<li><code>{}</code>", esc(&frame.function)));
            if !frame.file.is_empty() {
                card.push(format_args!(
                    " <span class=\"dim\">{}:{}</span>",
                    esc(&frame.file),
                    frame.line
                ));
            }
            card.push(format_args!("</li>"));
        }
        card.push(format_args!("</ol>"));
    }
    card.push(format_args!("<dl>"));
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            card.push(format_args!(
                "<div><dt>{name}</dt><dd>{}</dd></div>",
                esc(value)
            ));
        }
    };
    if alert.measure.is_none() || alert.cores > 0.0 {
        fact("costs", &format!("{:.2} cores", alert.cores));
    }
    if let Some(baseline) = alert.baseline_cores {
        fact("before", &format!("{baseline:.2} cores"));
    }
    if let Some(share) = alert.wait_share {
        fact("waiting leaves", &format!("{:.0} %", share * 100.0));
    }
    fact("since", &moment(&alert.since, now));
    fact(
        "resolved",
        &moment(alert.resolved_at.as_deref().unwrap_or(""), now),
    );
    fact("version", alert.version.as_deref().unwrap_or(""));
    fact("pods", &pods(&alert.pods));
    card.push(format_args!("</dl><p class=\"links\">"));
    match brief {
        Brief::Yes => card.push(format_args!(
            "<a href=\"{}\">Evidence</a>",
            esc(link.text())
        )),
        Brief::No => card.push(format_args!(
            "<a href=\"{}\">Flame graph</a><code class=\"cli\">collector anomalies show {}</code>",
            esc(graph.text()),
            esc(&alert.id)
        )),
    }
    card.push(format_args!("</p></section>"));
    card
}

/// An RFC 3339 time with how long ago it was.
fn moment(time: &str, now: UnixNanos) -> String {
    match time_range::parse("since", time, now) {
        Ok(parsed) if !time.is_empty() => format!("{time} ({})", time_range::ago(parsed, now)),
        _ => time.to_owned(),
    }
}

fn pods(pods: &[String]) -> String {
    match pods {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => few.join(", "),
    }
}
