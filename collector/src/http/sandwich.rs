//! `/api/v1/sandwich`: one function between its callers and its callees.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use proto::status::Kind;
use serde::Deserialize;

use super::App;
use super::api::{compute, context};
use super::error::ApiError;
use super::params::{Params, ProfileParams, given};
use crate::auth::Principal;
use crate::metrics::QueryKind;
use crate::render::{Format, Style, sandwich as render};
use crate::sandwich::Wanted;

/// Which function of which profile, and how it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandwichParams {
    /// Its name or, when nothing is called so, a regular expression.
    pub function: Option<String>,
    /// As in [`ProfileParams`], like all that follow.
    pub service: Option<String>,
    /// Start.
    #[serde(alias = "from")]
    pub since: Option<String>,
    /// End.
    pub until: Option<String>,
    /// Profile type.
    #[serde(rename = "type")]
    pub profile_type: Option<String>,
    /// Which series.
    pub select: Option<String>,
    /// Only samples with a function that matches.
    pub focus: Option<String>,
    /// No samples with a function that matches.
    pub ignore: Option<String>,
    /// Frames of functions that match vanish.
    pub hide: Option<String>,
    /// `json` or `text`; JSON when absent.
    pub format: Option<String>,
    /// Most nodes of each of the two trees.
    pub max_nodes: Option<usize>,
}

/// How a sandwich is written.
enum Written {
    Json,
    Text,
}

impl SandwichParams {
    fn written(&self) -> Result<Written, ApiError> {
        match given(self.format.as_deref()).unwrap_or("json") {
            "json" => Ok(Written::Json),
            "text" => Ok(Written::Text),
            other => {
                let shown: String = other.chars().take(64).collect();
                let message =
                    format!("callers and callees are written as json or text, not {shown:?}");
                Err(ApiError::new(Kind::Invalid, message))
            }
        }
    }

    fn function(&self) -> Result<Wanted, ApiError> {
        let function = given(self.function.as_deref())
            .ok_or_else(|| ApiError::new(Kind::Invalid, "a function is needed: function=NAME"))?;
        Ok(Wanted::new(function))
    }

    fn profile(self) -> ProfileParams {
        ProfileParams {
            service: self.service,
            since: self.since,
            until: self.until,
            profile_type: self.profile_type,
            select: self.select,
            focus: self.focus,
            ignore: self.ignore,
            hide: self.hide,
            max_nodes: self.max_nodes,
            ..ProfileParams::default()
        }
    }
}

/// `GET /api/v1/sandwich`.
pub async fn sandwich(
    State(app): State<App>,
    Extension(principal): Extension<Principal>,
    Params(params): Params<SandwichParams>,
) -> Result<Response, ApiError> {
    let (written, wanted) = (params.written()?, params.function()?);
    let request = params.profile().request(app.clock.now())?;
    let context = context(&request);
    let found = app.query.sandwich(&principal.tenant, request, wanted).await;
    let answer = app.counted(QueryKind::Profile, found)?;
    let (content_type, bytes) = compute(&app, move || {
        let (whole, subject, sandwich) = (&answer.whole, &answer.subject, &answer.sandwich);
        Ok(match written {
            Written::Json => (
                Format::Json.content_type(),
                render::json(whole, sandwich, subject)?,
            ),
            Written::Text => {
                let style = Style::default();
                let text = render::render(whole, sandwich, subject, &context, &style);
                (Format::Tree.content_type(), text.into_bytes())
            }
        })
    })
    .await?;
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    Ok((headers, bytes).into_response())
}
