//! `/service`: one service over a range with its flame graph, functions and
//! alerts. `/top`: every function of the same selection.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use proto::value_type::{ProfileType, Temporality};
use serde::Deserialize;

use super::alerts::{self, Brief};
use super::html::{Html, esc};
use super::link::Link;
use super::services::sample_kinds;
use super::{PageError, Refresh, page};
use crate::alert::AlertFilter;
use crate::answer::ProfileAnswer;
use crate::auth::Principal;
use crate::http::App;
use crate::http::api::{compute, range_text};
use crate::http::error::ApiError;
use crate::http::params::{Params, ProfileParams, given};
use crate::metrics::QueryKind;
use crate::top::{self, TopRow};
use crate::tree::CallTree;

/// Ranges to choose from.
const RANGES: [&str; 6] = ["5m", "15m", "1h", "6h", "24h", "7d"];
/// Height of a frame in the flame graph, and of all that is around them.
const GRAPH_FRAME_PIXELS: usize = 16;
const GRAPH_MARGIN_PIXELS: usize = 96;
/// Functions below the flame graph.
const FEW_ROWS: usize = 30;
/// Functions of `/top`.
const MANY_ROWS: usize = 2_000;

/// Parameters of the pages; `service` may be spelt out as the API does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    #[serde(alias = "service")]
    name: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(rename = "type")]
    profile_type: Option<String>,
    select: Option<String>,
    focus: Option<String>,
    ignore: Option<String>,
    hide: Option<String>,
}

fn text(field: &Option<String>) -> &str {
    given(field.as_deref()).unwrap_or("")
}

impl PageParams {
    fn since(&self) -> &str {
        given(self.since.as_deref()).unwrap_or("1h")
    }

    fn profile_type(&self) -> &str {
        given(self.profile_type.as_deref()).unwrap_or("cpu")
    }

    fn api(&self) -> ProfileParams {
        ProfileParams {
            service: self.name.clone(),
            since: Some(self.since().to_owned()),
            until: self.until.clone(),
            profile_type: Some(self.profile_type().to_owned()),
            select: self.select.clone(),
            focus: self.focus.clone(),
            ignore: self.ignore.clone(),
            hide: self.hide.clone(),
            ..ProfileParams::default()
        }
    }

    /// A link to `path` with this selection.
    fn link(&self, path: &'static str, service: &'static str) -> Link {
        Link::to(path)
            .with(service, text(&self.name))
            .with("since", self.since())
            .with("until", text(&self.until))
            .with("type", self.profile_type())
            .with("select", text(&self.select))
            .with("focus", text(&self.focus))
            .with("ignore", text(&self.ignore))
            .with("hide", text(&self.hide))
    }

    /// The same question on the command line.
    fn command(&self) -> String {
        let mut command = "collector query".to_owned();
        for (flag, value) in [
            ("--service", text(&self.name)),
            ("--since", self.since()),
            ("--until", text(&self.until)),
            ("--type", self.profile_type()),
            ("--select", text(&self.select)),
            ("--focus", text(&self.focus)),
            ("--ignore", text(&self.ignore)),
            ("--hide", text(&self.hide)),
        ] {
            if !value.is_empty() {
                command = format!("{command} {flag} {}", shell_quoted(value));
            }
        }
        command
    }
}

/// `text` as one word of a POSIX shell.
fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

type PageInput = Result<Params<PageParams>, ApiError>;

/// What both pages show.
struct Shown {
    answer: ProfileAnswer,
    rows: Vec<TopRow>,
    all_rows: usize,
    /// Height that the flame graph needs.
    graph_pixels: usize,
    kinds: Vec<String>,
}

async fn load(
    app: &App,
    tenant: &str,
    params: &PageParams,
    most_rows: usize,
) -> Result<Shown, ApiError> {
    let now = app.clock.now();
    let request = params.api().request(now)?;
    let (service, window) = (request.service.clone(), request.window);
    let found = app.query.profile(tenant, request).await;
    let answer = app.counted(QueryKind::Profile, found)?;
    let (answer, mut rows, depth) = compute(app, move || {
        let rows = top::top(&answer.tree);
        let depth = depth(&answer.tree);
        Ok((answer, rows, depth))
    })
    .await?;
    let all_rows = rows.len();
    rows.truncate(most_rows);
    let services = app.query.services(tenant, window).await;
    let services = app.counted(QueryKind::Services, services)?;
    let mut types: Vec<String> = services
        .into_iter()
        .filter(|other| other.name == service.name)
        .filter(|other| {
            service
                .namespace
                .as_ref()
                .is_none_or(|n| *n == other.namespace)
        })
        .flat_map(|other| other.profile_types)
        .collect();
    types.push(answer.profile_type.to_string());
    types.sort();
    types.dedup();
    Ok(Shown {
        answer,
        rows,
        all_rows,
        graph_pixels: GRAPH_FRAME_PIXELS * (depth + 1) + GRAPH_MARGIN_PIXELS,
        kinds: sample_kinds(&types),
    })
}

/// Frames of the deepest stack.
fn depth(tree: &CallTree) -> usize {
    let mut depths = vec![0_usize; tree.nodes().len()];
    let mut deepest = 0;
    // A parent comes before its children.
    for (node, call) in tree.nodes().iter().enumerate().skip(1) {
        let parent = usize::try_from(call.parent).ok();
        let above = parent.and_then(|parent| depths.get(parent)).copied();
        let depth = above.unwrap_or(0).saturating_add(1);
        if let Some(slot) = depths.get_mut(node) {
            *slot = depth;
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// `GET /service`.
pub(super) async fn service_page(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    params: PageInput,
) -> Result<Response, PageError> {
    let Params(params) = params?;
    let shown = load(&app, &principal.tenant, &params, FEW_ROWS).await?;
    let service = params.api().service()?;
    let mut body = Html::default();
    head(&mut body, &params, &shown);
    let now = app.clock.now();
    let filter = AlertFilter {
        service: Some(service.clone()),
        ..AlertFilter::default()
    };
    let mut alerts = app.alert_shapes(&principal.tenant, &filter);
    alerts.retain(|alert| matches!(alert.state.as_str(), "firing" | "pending"));
    for alert in &alerts {
        body.append(alerts::card(alert, now, Brief::No));
    }
    tools(&mut body, "/service", &params, &shown);
    facts(&mut body, &shown.answer);
    if shown.answer.tree.total() == 0 {
        body.push(format_args!(
            "<div class=\"empty\"><p>Nothing was measured in this range. Choose a longer one above, or another type.</p></div>"
        ));
    } else {
        let svg = params
            .link("/api/v1/profile", "service")
            .with("format", "svg");
        body.push(format_args!(
            "<div class=\"graph\"><iframe src=\"{0}\" height=\"{1}\" title=\"Flame graph\"></iframe></div>\
             <p class=\"links\"><a href=\"{0}\" target=\"_blank\" rel=\"noopener\">Flame graph alone</a>",
            esc(svg.text()),
            shown.graph_pixels,
        ));
        for (name, format) in [
            ("pprof", "pprof"),
            ("folded", "folded"),
            ("speedscope", "speedscope"),
            ("JSON", "json"),
        ] {
            let link = params
                .link("/api/v1/profile", "service")
                .with("format", format);
            body.push(format_args!("<a href=\"{}\">{name}</a>", esc(link.text())));
        }
        body.push(format_args!("</p><h2>Functions</h2>"));
        table(&mut body, &params, &shown);
        if shown.all_rows > shown.rows.len() {
            body.push(format_args!(
                "<p class=\"links\"><a href=\"{}\">All {} functions</a></p>",
                esc(params.link("/top", "name").text()),
                shown.all_rows
            ));
        }
    }
    body.push(format_args!(
        "<p class=\"same\"><span class=\"dim\">The same in a terminal</span><code class=\"cli\">{}</code></p>",
        esc(&params.command())
    ));
    Ok(page(&service.to_string(), Refresh::Never, body))
}

/// `GET /top`.
pub(super) async fn top_page(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    params: PageInput,
) -> Result<Response, PageError> {
    let Params(params) = params?;
    let shown = load(&app, &principal.tenant, &params, MANY_ROWS).await?;
    let mut body = Html::default();
    head(&mut body, &params, &shown);
    tools(&mut body, "/top", &params, &shown);
    facts(&mut body, &shown.answer);
    table(&mut body, &params, &shown);
    if shown.all_rows > shown.rows.len() {
        let link = params
            .link("/api/v1/profile", "service")
            .with("format", "top");
        body.push(format_args!(
            "<p class=\"links\">{} more functions are in the <a href=\"{}\">plain text</a></p>",
            shown.all_rows - shown.rows.len(),
            esc(link.text())
        ));
    }
    Ok(page("Functions", Refresh::Never, body))
}

fn head(body: &mut Html, params: &PageParams, shown: &Shown) {
    let name = text(&params.name);
    body.push(format_args!(
        "<h1><a href=\"{}\">{}</a> <span class=\"dim\">{}</span></h1>",
        esc(Link::to("/service").with("name", name).text()),
        esc(name),
        esc(shown.answer.profile_type.sample().kind()),
    ));
}

/// Range, type and filters, as links and one form.
fn tools(body: &mut Html, path: &'static str, params: &PageParams, shown: &Shown) {
    let chip = |body: &mut Html, label: &str, link: &Link, chosen: bool| {
        let current = if chosen { " aria-current=\"true\"" } else { "" };
        body.push(format_args!(
            "<a class=\"chip\"{current} href=\"{}\">{}</a>",
            esc(link.text()),
            esc(label)
        ));
    };
    body.push(format_args!(
        "<div class=\"tools\"><div role=\"group\" aria-label=\"Range\">"
    ));
    for range in RANGES {
        let other = PageParams {
            since: Some(range.to_owned()),
            until: None,
            ..params.clone()
        };
        let chosen = params.since() == range && text(&params.until).is_empty();
        chip(body, range, &other.link(path, "name"), chosen);
    }
    body.push(format_args!(
        "</div><div role=\"group\" aria-label=\"Profile type\">"
    ));
    for kind in &shown.kinds {
        let other = PageParams {
            profile_type: Some(kind.clone()),
            ..params.clone()
        };
        let asked = params.profile_type();
        let chosen = *kind == asked
            || shown.answer.profile_type.is_called(kind) && !shown.kinds.iter().any(|k| k == asked);
        chip(body, kind, &other.link(path, "name"), chosen);
    }
    body.push(format_args!(
        "</div><form method=\"get\" action=\"{path}\"><input type=\"hidden\" name=\"name\" value=\"{}\">\
         <input type=\"hidden\" name=\"type\" value=\"{}\">",
        esc(text(&params.name)),
        esc(params.profile_type()),
    ));
    for (name, label, hint, value) in [
        ("since", "Since", "1h, 7d, 2026-01-31", params.since()),
        ("until", "Until", "now", text(&params.until)),
        (
            "select",
            "Labels",
            "{version=\"1.8\"}",
            text(&params.select),
        ),
        ("focus", "Focus", "function regex", text(&params.focus)),
        ("ignore", "Ignore", "function regex", text(&params.ignore)),
        ("hide", "Hide", "function regex", text(&params.hide)),
    ] {
        body.push(format_args!(
            "<label>{label}<input name=\"{name}\" value=\"{}\" placeholder=\"{}\" spellcheck=\"false\" autocapitalize=\"off\"></label>",
            esc(value),
            esc(hint),
        ));
    }
    body.push(format_args!("<button>Show</button></form></div>"));
}

/// What the answer holds and what it rests on.
fn facts(body: &mut Html, answer: &ProfileAnswer) {
    let coverage = &answer.coverage;
    let total = answer.tree.total();
    body.push(format_args!(
        "<p class=\"facts\"><strong>{}</strong>",
        esc(&amount(&answer.profile_type, total))
    ));
    match answer.temporality {
        Temporality::Gauge => body.push(format_args!(" on average")),
        Temporality::Delta => {
            let observed = coverage.observed.as_secs_f64();
            if answer.profile_type.is_called("cpu") && observed > 0.0 {
                let cores = approximate(total) / 1e9 / observed;
                body.push(format_args!(" · <strong>{cores:.2}</strong> cores"));
            }
        }
    }
    body.push(format_args!(
        " <span class=\"dim\">· {} · {} windows of {} series</span></p>",
        esc(&range_text(answer.window)),
        coverage.windows,
        coverage.series,
    ));
    for note in &coverage.notes {
        body.push(format_args!("<p class=\"note\">{}</p>", esc(note)));
    }
    if coverage.pruned_nodes > 0 {
        body.push(format_args!(
            "<p class=\"note\">{} small nodes are folded into \"other\"</p>",
            coverage.pruned_nodes
        ));
    }
}

fn table(body: &mut Html, params: &PageParams, shown: &Shown) {
    let total = shown.answer.tree.total();
    let profile_type = &shown.answer.profile_type;
    body.push(format_args!(
        "<table class=\"top\"><thead><tr><th class=\"n\">Flat</th><th class=\"n\">%</th>\
         <th class=\"n\">Cum</th><th class=\"n\">%</th><th>Function</th></tr></thead><tbody>"
    ));
    for row in &shown.rows {
        let exact = regex::escape(&row.function);
        let focused = PageParams {
            focus: Some(format!("^{exact}$")),
            ..params.clone()
        };
        let peek = params
            .link("/api/v1/sandwich", "service")
            .with("function", &row.function)
            .with("format", "text");
        let place = match (row.file.is_empty(), row.line) {
            (true, _) => String::new(),
            (false, 0) => row.file.to_string(),
            (false, line) => format!("{}:{line}", row.file),
        };
        let share = percent(row.flat, total);
        body.push(format_args!(
            "<tr><td class=\"n\">{}</td><td class=\"n share\"><meter min=\"0\" max=\"100\" value=\"{share:.1}\"></meter>{share:.1}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{:.1}</td>\
             <td class=\"fn\"><a href=\"{}\">{}</a><span class=\"dim\" title=\"{}\">{}</span>\
             <a class=\"peek\" href=\"{}\">callers</a></td></tr>",
            esc(&amount(profile_type, row.flat)),
            esc(&amount(profile_type, row.cum)),
            percent(row.cum, total),
            esc(focused.link("/service", "name").text()),
            esc(&row.function),
            esc(&place),
            esc(short_place(&place)),
            esc(peek.text()),
        ));
    }
    body.push(format_args!("</tbody></table>"));
}

/// The last two parts of a path.
fn short_place(place: &str) -> &str {
    let slash = place.rmatch_indices('/').nth(1);
    slash
        .and_then(|(at, _)| place.get(at + 1..))
        .unwrap_or(place)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a value for people; the exact one is in the API"
)]
fn approximate(value: i128) -> f64 {
    value as f64
}

fn percent(value: i128, total: i128) -> f64 {
    match total {
        0 => 0.0,
        total => approximate(value) / approximate(total) * 100.0,
    }
}

/// `value` for people, in the largest unit in which it is at least one.
fn amount(profile_type: &ProfileType, value: i128) -> String {
    let units: &[(f64, &str)] = match profile_type.sample().unit() {
        "nanoseconds" => &[
            (3.6e12, "h"),
            (1e9, "s"),
            (1e6, "ms"),
            (1e3, "µs"),
            (1.0, "ns"),
        ],
        "bytes" => &[
            (1_099_511_627_776.0, "TB"),
            (1_073_741_824.0, "GB"),
            (1_048_576.0, "MB"),
            (1_024.0, "kB"),
            (1.0, "B"),
        ],
        _ => &[(1.0, "")],
    };
    let size = approximate(value).abs();
    let fitting = units.iter().find(|(unit, _)| size >= *unit);
    match fitting {
        Some((unit, name)) if *unit > 1.0 => format!("{:.2} {name}", approximate(value) / unit),
        Some((_, name)) => format!("{value} {name}").trim_end().to_owned(),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        let cpu = ProfileType::cpu();
        let heap: ProfileType = "memory:inuse_space:bytes:space:bytes".parse().unwrap();
        let count: ProfileType = "goroutine:goroutine:count:goroutine:count".parse().unwrap();
        for (profile_type, value, expected) in [
            (&cpu, 0, "0"),
            (&cpu, 1_500_000_000, "1.50 s"),
            (&cpu, -2_000_000, "-2.00 ms"),
            (&heap, 3_145_728, "3.00 MB"),
            (&heap, 17, "17 B"),
            (&count, 1_234_567, "1234567"),
        ] {
            assert_eq!(amount(profile_type, value), expected);
        }
    }

    #[test]
    fn the_command_line_equivalent_can_be_pasted() {
        let params = PageParams {
            name: Some("prod/logger".to_owned()),
            select: Some("{pod='$(x)'}".to_owned()),
            ..PageParams::default()
        };
        assert_eq!(
            params.command(),
            "collector query --service prod/logger --since 1h --type cpu --select '{pod='\\''$(x)'\\''}'"
        );
    }

    #[test]
    fn places_are_cut_to_two_parts() {
        for (place, expected) in [
            (
                "/usr/lib/go/src/runtime/select.go:12",
                "runtime/select.go:12",
            ),
            ("main.go:1", "main.go:1"),
            ("", ""),
        ] {
            assert_eq!(short_place(place), expected);
        }
    }
}
