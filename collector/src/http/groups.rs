//! `/api/v1/profile?group_by=LABEL`: one merged profile per value of a label.

use axum::response::Response;
use proto::status::{Kind, chain};

use super::App;
use super::api::{compute, context, file};
use super::error::ApiError;
use super::params::{ProfileParams, given};
use crate::metrics::QueryKind;
use crate::query::groups::{GroupsRequest, MAX_GROUPS};
use crate::render::groups::{GroupsFormat, render};
use crate::render::{Format, Style};

/// Answers with the groups that `params` ask for.
///
/// # Errors
///
/// [`ApiError`] if a parameter cannot be used or there is no answer.
pub(super) async fn profiles(
    app: &App,
    tenant: &str,
    params: &ProfileParams,
    format: Format,
) -> Result<Response, ApiError> {
    let written = GroupsFormat::try_from(format)
        .map_err(|error| ApiError::new(Kind::Invalid, chain(&error)))?;
    let max_groups = params.max_groups.unwrap_or(0);
    if max_groups > MAX_GROUPS {
        let message = format!("max_groups = {max_groups} is more than {MAX_GROUPS}");
        return Err(ApiError::new(Kind::Invalid, message));
    }
    let request = GroupsRequest {
        profile: params.request(app.clock.now())?,
        label: given(params.group_by.as_deref()).unwrap_or("").to_owned(),
        max_groups,
    };
    let context = context(&request.profile);
    let found = app.query.groups(tenant, request).await;
    let answer = app.counted(QueryKind::Profile, found)?;
    let bytes = compute(app, move || {
        Ok(render(&answer, written, &context, &Style::default())?)
    })
    .await?;
    let name = format!("groups.{}", format.extension());
    Ok(file(format, &name, bytes))
}
