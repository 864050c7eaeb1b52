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
use super::params::{DiffParams, Params, ProfileParams, TimelineParams, given, selector};
use crate::auth::Principal;
use crate::diff::{DiffAnswer, Reading};
use crate::metrics::QueryKind;
use crate::query::timeline::TimelineRequest;
use crate::query::{DEFAULT_MAX_NODES, ProfileRequest};
use crate::render::diff::{DiffFormat, Widths};
use crate::render::{self, Format, RenderContext, Style};
use crate::time_range;
use crate::timeline::{Steps, Timeline, suited_step};

/// Nodes of each side before they are compared: what is light on one side may
/// be heavy on the other.
const SIDE_NODES: usize = 65_536;

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

/// The two profiles that are compared: the base and the new one.
fn sides(params: &DiffParams, app: &App) -> Result<(ProfileRequest, ProfileRequest), ApiError> {
    let new = ProfileParams {
        service: params.service.clone(),
        since: params.since.clone(),
        until: params.until.clone(),
        profile_type: params.profile_type.clone(),
        select: params.new.clone(),
        focus: params.focus.clone(),
        ignore: params.ignore.clone(),
        hide: params.hide.clone(),
        max_nodes: Some(SIDE_NODES),
        ..ProfileParams::default()
    }
    .request(app.clock.now())?;
    let by_series =
        given(params.base.as_deref()).is_some() || given(params.new.as_deref()).is_some();
    let before = match length("before", params.before.as_deref())? {
        Some(before) => before,
        None if by_series => Duration::ZERO,
        None => new.window.duration(),
    };
    let window = Window::new(
        new.window.start().saturating_sub(before),
        new.window.end().saturating_sub(before),
    );
    let base = ProfileRequest {
        window: window.map_err(|error| ApiError::new(Kind::Invalid, chain(&error)))?,
        selector: selector(params.base.as_deref())?,
        ..new.clone()
    };
    Ok((base, new))
}

/// `GET /api/v1/diff`.
pub async fn diff(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<DiffParams>,
) -> Result<Response, ApiError> {
    let format: Format = given(params.format.as_deref()).unwrap_or("json").parse()?;
    let written = DiffFormat::try_from(format)
        .map_err(|error| ApiError::new(Kind::Invalid, chain(&error)))?;
    let (base, new) = sides(&params, &app)?;
    let service = new.service.to_string();
    let (base, new) = tokio::join!(
        app.query.profile(&principal.tenant, base),
        app.query.profile(&principal.tenant, new),
    );
    let base = app.counted(QueryKind::Diff, base)?;
    let new = new?;
    let reading = match params.absolute {
        Some(true) => Reading::Absolute,
        _ => Reading::default(),
    };
    let max_nodes = match params.max_nodes {
        None | Some(0) => DEFAULT_MAX_NODES,
        Some(asked) => asked.min(SIDE_NODES),
    };
    let bytes = compute(&app, move || {
        let answer = DiffAnswer::new(&base, &new, reading)
            .map_err(|error| ApiError::new(Kind::Invalid, chain(&error)))?
            .pruned(max_nodes);
        let context = RenderContext {
            title: format!("{service} · difference"),
            subtitle: None,
        };
        let style = Style::default();
        Ok(render::diff::render(
            &answer,
            written,
            &context,
            Widths::default(),
            &style,
        )?)
    })
    .await?;
    Ok(file(
        format,
        &format!("difference.{}", format.extension()),
        bytes,
    ))
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
