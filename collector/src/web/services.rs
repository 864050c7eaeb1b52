//! `/`: services with their state, findings first.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use proto::value_type::ProfileType;
use proto::window::UnixNanos;

use super::alerts::{self, Brief};
use super::html::{Html, esc};
use super::link::Link;
use super::{PageError, Refresh, page as whole_page};
use crate::alert::{AlertFilter, AlertState};
use crate::auth::Principal;
use crate::http::App;
use crate::http::api;
use crate::shapes::ServiceShape;
use crate::time_range;

/// A service is quiet when its latest window is older.
const QUIET: Duration = Duration::from_secs(120);

/// `GET /`.
pub(super) async fn page(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
) -> Result<Response, PageError> {
    let now = app.clock.now();
    let window = time_range::window(Some(api::SERVICES_SINCE), None, now)?;
    let mut services = api::list_services(&app, &principal.tenant, window).await?;
    services.sort_by(|a, b| {
        let rank = |service: &ServiceShape| (service.firing_alerts == 0, service.full_name());
        rank(a).cmp(&rank(b))
    });
    let filter = AlertFilter {
        state: Some(AlertState::Firing),
        ..AlertFilter::default()
    };
    let firing = app.alert_shapes(&principal.tenant, &filter);
    let mut body = Html::default();
    body.push(format_args!("<h1>Services</h1>"));
    for alert in &firing {
        body.append(alerts::card(alert, now, Brief::Yes));
    }
    if services.is_empty() {
        body.push(format_args!(
            "<div class=\"empty\"><p>No service was seen in the last 24 hours.</p>\
             <p>Start an agent beside one:</p>\
             <pre>agent run --name PROGRAM --collector http://THIS-HOST:4040</pre>\
             <p><code>agent doctor</code> tells what can be sampled there.</p></div>"
        ));
    } else {
        body.push(format_args!(
            "<table class=\"list\"><thead><tr><th>Service</th><th>State</th><th class=\"n\">CPU</th>\
             <th class=\"n\">Series</th><th>Last seen</th><th>Profiles</th></tr></thead><tbody>"
        ));
        for service in &services {
            row(&mut body, service, now);
        }
        body.push(format_args!("</tbody></table>"));
    }
    Ok(whole_page("Services", Refresh::EveryHalfMinute, body))
}

fn row(body: &mut Html, service: &ServiceShape, now: UnixNanos) {
    let name = service.full_name();
    let link = Link::to("/service").with("name", &name);
    let namespace = match service.namespace.as_str() {
        "" => String::new(),
        namespace => format!("{namespace}/"),
    };
    body.push(format_args!(
        "<tr><td class=\"name\"><a href=\"{}\"><span class=\"dim\">{}</span>{}</a></td><td>",
        esc(link.text()),
        esc(&namespace),
        esc(&service.name),
    ));
    let quiet = now.since(service.last_window()) > QUIET;
    let (class, word) = match (service.firing_alerts, quiet) {
        (0, false) => ("ok", "● ok".to_owned()),
        (0, true) => ("quiet", "○ no data".to_owned()),
        (1, _) => ("firing", "▲ 1 alert".to_owned()),
        (count, _) => ("firing", format!("▲ {count} alerts")),
    };
    body.push(format_args!(
        "<span class=\"badge {class}\">{word}</span></td>"
    ));
    body.push(format_args!(
        "<td class=\"n\" data-label=\"CPU\">{:.2} cores</td><td class=\"n\" data-label=\"Series\">{}</td>\
         <td data-label=\"Last seen\"><time datetime=\"{}\">{}</time></td><td class=\"types\">",
        service.cpu_cores,
        service.series,
        esc(&service.last_window),
        esc(&time_range::ago(service.last_window(), now)),
    ));
    for kind in sample_kinds(&service.profile_types) {
        let link = Link::to("/service").with("name", &name).with("type", &kind);
        body.push(format_args!(
            "<a class=\"chip\" href=\"{}\">{}</a>",
            esc(link.text()),
            esc(&kind)
        ));
    }
    body.push(format_args!("</td></tr>"));
}

/// Short names of profile types, CPU first, then by name; a sample type that
/// two profiles have keeps its profile's name.
pub(super) fn sample_kinds(profile_types: &[String]) -> Vec<String> {
    let types: Vec<ProfileType> = profile_types
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let mut kinds: Vec<String> = types
        .iter()
        .map(|this| {
            let kind = this.sample().kind();
            match types
                .iter()
                .filter(|other| other.sample().kind() == kind)
                .count()
            {
                0 | 1 => kind.to_owned(),
                _ => format!("{}:{kind}", this.name()),
            }
        })
        .collect();
    kinds.sort_by(|a, b| (a != "cpu", a).cmp(&(b != "cpu", b)));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_short_names_that_tell_them_apart() {
        let types = [
            "mutex:delay:nanoseconds:contentions:count",
            "memory:inuse_space:bytes:space:bytes",
            "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
            "block:delay:nanoseconds:contentions:count",
            "no type",
        ];
        let kinds = sample_kinds(&types.map(str::to_owned));
        assert_eq!(kinds, ["cpu", "block:delay", "inuse_space", "mutex:delay"]);
    }
}
