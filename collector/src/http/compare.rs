//! `/api/v1/diff` and `/api/v1/timeline`: profiles beside each other.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use proto::status::{Kind, chain};
use proto::window::Window;

use super::App;
use super::api::{compute, file};
use super::error::ApiError;
use super::params::{
    DiffParams, Params, ProfileParams, TimelineParams, VerdictParams, given, selector,
};
use crate::auth::Principal;
use crate::diff::Reading;
use crate::metrics::QueryKind;
use crate::query::diff::{DiffBase, DiffRequest};
use crate::query::timeline::TimelineRequest;
use crate::render::diff::{DiffFormat, Widths};
use crate::render::{self, Format, RenderContext, Style};
use crate::time_range;
use crate::timeline::{Steps, Timeline, suited_step};

/// The part of the CPU time of a gain that fails a verdict, when the caller does not say.
const DEFAULT_FAIL_ON: f64 = 0.05;

fn length(name: &str, text: Option<&str>) -> Result<Option<Duration>, ApiError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    humantime::parse_duration(text).map(Some).map_err(|error| {
        let shown: String = text.chars().take(64).collect();
        ApiError::new(
            Kind::Invalid,
            format!("{name} = {shown:?} is no length of time such as 24h: {error}"),
        )
    })
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Invalid, message)
}

/// The comparison that is meant.
fn request(params: &DiffParams, app: &App) -> Result<DiffRequest, ApiError> {
    let new = ProfileParams {
        service: params.service.clone(),
        since: params.since.clone(),
        until: params.until.clone(),
        profile_type: params.profile_type.clone(),
        select: params.new.clone(),
        focus: params.focus.clone(),
        ignore: params.ignore.clone(),
        hide: params.hide.clone(),
        max_nodes: params.max_nodes,
        ..ProfileParams::default()
    }
    .request(app.clock.now())?;
    let base = |text: &Option<String>| given(text.as_deref()).map(str::to_owned);
    let before = length("before", params.before.as_deref())?;
    let range = (base(&params.base_since), base(&params.base_until));
    let window = match (before, range) {
        (None, (None, None)) => {
            let others = [&params.base, &params.new, &params.base_service];
            match others.into_iter().any(|text| base(text).is_some()) {
                true => new.window,
                false => earlier(new.window, new.window.duration())?,
            }
        }
        (Some(before), (None, None)) => earlier(new.window, before)?,
        (Some(_), _) => return Err(invalid("before goes without base_since and base_until")),
        (None, (since, until)) => {
            time_range::window(since.as_deref(), until.as_deref(), app.clock.now())?
        }
    };
    Ok(DiffRequest {
        base: DiffBase {
            service: match base(&params.base_service) {
                Some(text) => text.parse()?,
                None => new.service.clone(),
            },
            window,
            selector: selector(params.base.as_deref())?,
        },
        new,
        reading: match (params.absolute, params.share) {
            (Some(true), Some(true)) => {
                return Err(invalid("a comparison is absolute or by share, not both"));
            }
            (Some(true), _) => Reading::Absolute,
            (_, Some(true)) => Reading::Share,
            _ => Reading::default(),
        },
    })
}

/// `window`, so much earlier.
fn earlier(window: Window, before: Duration) -> Result<Window, ApiError> {
    let (start, end) = (window.start(), window.end());
    Window::new(start.saturating_sub(before), end.saturating_sub(before))
        .map_err(|_| invalid("before reaches back before 1970"))
}

/// `GET /api/v1/diff`.
pub async fn diff(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<DiffParams>,
) -> Result<Response, ApiError> {
    let format: Format = given(params.format.as_deref()).unwrap_or("json").parse()?;
    let written = DiffFormat::try_from(format).map_err(|error| invalid(chain(&error)))?;
    let request = request(&params, &app)?;
    let context = RenderContext {
        title: format!("{} · difference", request.new.service),
        subtitle: None,
    };
    let found = app.query.diff(&principal.tenant, request).await;
    let answer = app.counted(QueryKind::Diff, found)?;
    let bytes = compute(&app, move || {
        let style = Style::default();
        let widths = Widths::default();
        Ok(render::diff::render(
            &answer, written, &context, widths, &style,
        )?)
    })
    .await?;
    Ok(file(
        format,
        &format!("difference.{}", format.extension()),
        bytes,
    ))
}

/// `GET /api/v1/verdict`.
pub async fn verdict(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<VerdictParams>,
) -> Result<Response, ApiError> {
    let fail_on = params.fail_on.unwrap_or(DEFAULT_FAIL_ON);
    if !(fail_on > 0.0 && fail_on <= 10.0) {
        return Err(invalid("fail_on is a part of the CPU time such as 0.05"));
    }
    let asked = request(&params.sides(), &app)?;
    let found = app.query.verdict(&principal.tenant, asked).await;
    let verdict = app.counted(QueryKind::Verdict, found)?;
    let (kind, bytes) = match given(params.format.as_deref()).unwrap_or("json") {
        "json" => (
            "application/json",
            render::verdict::json(&verdict, fail_on)?,
        ),
        "markdown" => (
            "text/markdown; charset=utf-8",
            render::verdict::markdown(&verdict, fail_on).into_bytes(),
        ),
        "text" => (
            "text/plain; charset=utf-8",
            render::verdict::text(&verdict, fail_on).into_bytes(),
        ),
        other => {
            let shown: String = other.chars().take(64).collect();
            return Err(invalid(format!(
                "no verdict is written as {shown:?}; use json, markdown or text"
            )));
        }
    };
    Ok(([(CONTENT_TYPE, kind)], bytes).into_response())
}

/// `GET /api/v1/timeline`.
pub async fn timeline(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<TimelineParams>,
) -> Result<Response, ApiError> {
    let service = given(params.service.as_deref())
        .ok_or_else(|| ApiError::new(Kind::Invalid, "a service is needed: service=NAME"))?
        .parse()?;
    let (since, until) = (
        given(params.since.as_deref()),
        given(params.until.as_deref()),
    );
    let window = time_range::window(since, until, app.clock.now())?;
    let step = length("step", params.step.as_deref())?.unwrap_or_else(|| suited_step(&window));
    let steps =
        Steps::new(window, step).map_err(|error| ApiError::new(Kind::Invalid, chain(&error)))?;
    let group_by = given(params.group_by.as_deref()).map(str::to_owned);
    let request = TimelineRequest {
        service,
        steps,
        profile_type: given(params.profile_type.as_deref())
            .unwrap_or("")
            .to_owned(),
        selector: selector(params.select.as_deref())?,
        group_by: group_by.clone(),
    };
    let found = app.query.timeline(&principal.tenant, request).await;
    let found = app.counted(QueryKind::Timeline, found)?;
    let named = group_by.is_some();
    let groups = found.groups.into_iter().map(|(value, values)| {
        let group = if named { vec![value] } else { Vec::new() };
        (group, values)
    });
    let timeline = Timeline::new(
        steps,
        found.profile_type,
        found.temporality,
        group_by.into_iter().collect(),
        groups,
    );
    let json = render::timeline::json(&timeline)?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}
