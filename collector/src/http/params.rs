//! Query parameters of the HTTP API, read strictly: an unknown one is an error,
//! so that a misspelt filter never widens an answer in silence.

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use proto::labels::Selector;
use proto::status::Kind;
use proto::window::{UnixNanos, Window};
use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::flatten::pattern;
use crate::query::{LabelsRequest, ProfileRequest, ServiceName};
use crate::time_range;

/// Most nodes that a caller may ask for.
pub const MAX_NODES: usize = 1 << 20;

/// The parameters of a request as a `T`, or a JSON error.
#[derive(Clone, Copy, Debug)]
pub struct Params<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|rejection| {
                let text = rejection.body_text();
                let what = text.strip_prefix("Failed to deserialize query string: ");
                let hint = match text.contains("unknown field `seconds`") {
                    true => "; the range is since=30s, not seconds=30",
                    false => "",
                };
                let message = format!("query parameters: {}{hint}", what.unwrap_or(&text));
                ApiError::new(Kind::Invalid, message)
            })
    }
}

/// A range of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeParams {
    /// Start, as [`time_range`] reads it.
    #[serde(alias = "from")]
    pub since: Option<String>,
    /// End.
    pub until: Option<String>,
}

/// Which labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelParams {
    /// Of which service.
    pub service: String,
    /// Values of this label; names when absent.
    pub name: Option<String>,
    /// As in [`SeriesParams`], like all that follow.
    pub select: Option<String>,
    /// Start.
    #[serde(alias = "from")]
    pub since: Option<String>,
    /// End.
    pub until: Option<String>,
}

/// Which series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesParams {
    /// Of which service.
    pub service: String,
    /// Which of them.
    pub select: Option<String>,
    /// Start, as [`time_range`] reads it; without a range all that are known.
    #[serde(alias = "from")]
    pub since: Option<String>,
    /// End.
    pub until: Option<String>,
}

impl SeriesParams {
    /// The series that are meant at `now`.
    ///
    /// # Errors
    ///
    /// [`ApiError`] if a parameter cannot be used.
    pub fn request(&self, now: UnixNanos) -> Result<LabelsRequest, ApiError> {
        let (since, until) = (given(self.since.as_deref()), given(self.until.as_deref()));
        Ok(LabelsRequest {
            service: self.service.parse()?,
            selector: selector(self.select.as_deref())?,
            window: match (since, until) {
                (None, None) => None,
                _ => Some(time_range::window(since, until, now)?),
            },
        })
    }
}

/// Which profiles are compared, and how the comparison is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffParams {
    /// Of which service.
    pub service: Option<String>,
    /// Start of the new range, as [`time_range`] reads it.
    pub since: Option<String>,
    /// End of the new range.
    pub until: Option<String>,
    /// How long before the new range the base lies, such as 24h; its length
    /// when absent, nothing when `base` or `new` is given.
    pub before: Option<String>,
    /// Start of the base, when it is no range of the same length.
    pub base_since: Option<String>,
    /// End of the base.
    pub base_until: Option<String>,
    /// Service of the base; the same when absent.
    pub base_service: Option<String>,
    /// Series of the base.
    pub base: Option<String>,
    /// Series of the new side.
    pub new: Option<String>,
    /// Profile type; CPU when absent.
    #[serde(rename = "type")]
    pub profile_type: Option<String>,
    /// Only samples with a function that matches.
    pub focus: Option<String>,
    /// No samples with a function that matches.
    pub ignore: Option<String>,
    /// Frames of functions that match vanish; their value goes to their callers.
    pub hide: Option<String>,
    /// Whether the base is taken as it is and not scaled to the same time.
    pub absolute: Option<bool>,
    /// Whether the base is scaled to the same total, so that shares compare.
    pub share: Option<bool>,
    /// How it is written; JSON when absent.
    pub format: Option<String>,
    /// Most nodes.
    pub max_nodes: Option<usize>,
}

/// Which profiles are judged, as in [`DiffParams`], and how.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictParams {
    /// Of which service.
    pub service: Option<String>,
    /// Start of the new range.
    pub since: Option<String>,
    /// End of the new range.
    pub until: Option<String>,
    /// How long before the new range the base lies.
    pub before: Option<String>,
    /// Start of the base.
    pub base_since: Option<String>,
    /// End of the base.
    pub base_until: Option<String>,
    /// Series of the base.
    pub base: Option<String>,
    /// Series of the new side.
    pub new: Option<String>,
    /// Profile type; CPU when absent.
    #[serde(rename = "type")]
    pub profile_type: Option<String>,
    /// Part of the base's CPU time that a gain must reach to fail; 0.05 when absent.
    pub fail_on: Option<f64>,
    /// `json`, `markdown` or `text`.
    pub format: Option<String>,
}

impl VerdictParams {
    /// Both sides.
    pub fn sides(&self) -> DiffParams {
        DiffParams {
            service: self.service.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            before: self.before.clone(),
            base_since: self.base_since.clone(),
            base_until: self.base_until.clone(),
            base: self.base.clone(),
            new: self.new.clone(),
            profile_type: self.profile_type.clone(),
            ..DiffParams::default()
        }
    }
}

/// Which quantity over time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineParams {
    /// Of which service.
    pub service: Option<String>,
    /// Start, as [`time_range`] reads it.
    pub since: Option<String>,
    /// End.
    pub until: Option<String>,
    /// Length of a step, such as 30s; suited to the range when absent.
    pub step: Option<String>,
    /// Profile type; CPU when absent.
    #[serde(rename = "type")]
    pub profile_type: Option<String>,
    /// Which series.
    pub select: Option<String>,
    /// Label whose values make groups.
    pub group_by: Option<String>,
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnomalyParams {
    /// Of which service.
    pub service: Option<String>,
    /// In which state.
    pub state: Option<String>,
    /// Only this one.
    pub id: Option<String>,
}

/// Which profile, and how it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileParams {
    /// Of which service: `logger` or `prod/logger`.
    pub service: Option<String>,
    /// Start, as [`time_range`] reads it.
    #[serde(alias = "from")]
    pub since: Option<String>,
    /// End.
    pub until: Option<String>,
    /// Profile type; CPU when absent.
    #[serde(rename = "type")]
    pub profile_type: Option<String>,
    /// Which series.
    pub select: Option<String>,
    /// Only samples with a function that matches.
    pub focus: Option<String>,
    /// No samples with a function that matches.
    pub ignore: Option<String>,
    /// Frames of functions that match vanish; their value goes to their callers.
    pub hide: Option<String>,
    /// Label of whose values each has a profile of its own.
    pub group_by: Option<String>,
    /// The largest of these; the others are one.
    pub max_groups: Option<usize>,
    /// How it is written; JSON when absent.
    pub format: Option<String>,
    /// Most nodes.
    pub max_nodes: Option<usize>,
}

/// `text` without blanks around it, unless it is empty: forms send empty fields.
pub fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

impl ProfileParams {
    /// The range that is meant at `now`.
    ///
    /// # Errors
    ///
    /// [`ApiError`] if it is none.
    pub fn window(&self, now: UnixNanos) -> Result<Window, ApiError> {
        let (since, until) = (given(self.since.as_deref()), given(self.until.as_deref()));
        Ok(time_range::window(since, until, now)?)
    }

    /// The service that is meant.
    ///
    /// # Errors
    ///
    /// [`ApiError`] if none is named.
    pub fn service(&self) -> Result<ServiceName, ApiError> {
        given(self.service.as_deref())
            .ok_or_else(|| ApiError::new(Kind::Invalid, "a service is needed: service=NAME"))?
            .parse()
            .map_err(ApiError::from)
    }

    /// The profile that is meant at `now`.
    ///
    /// # Errors
    ///
    /// [`ApiError`] if a parameter cannot be used.
    pub fn request(&self, now: UnixNanos) -> Result<ProfileRequest, ApiError> {
        let max_nodes = self.max_nodes.unwrap_or(0);
        if max_nodes > MAX_NODES {
            let message = format!("max_nodes = {max_nodes} is more than {MAX_NODES}");
            return Err(ApiError::new(Kind::Invalid, message));
        }
        Ok(ProfileRequest {
            service: self.service()?,
            window: self.window(now)?,
            profile_type: given(self.profile_type.as_deref()).unwrap_or("").to_owned(),
            selector: selector(self.select.as_deref())?,
            focus: function_regex("focus", self.focus.as_deref())?,
            ignore: function_regex("ignore", self.ignore.as_deref())?,
            hide: function_regex("hide", self.hide.as_deref())?,
            max_nodes,
        })
    }
}

/// The selector that is meant; all when absent.
///
/// # Errors
///
/// [`ApiError`] if it is none.
pub fn selector(text: Option<&str>) -> Result<Selector, ApiError> {
    match given(text) {
        Some(text) => Ok(text.parse()?),
        None => Ok(Selector::default()),
    }
}

fn function_regex(name: &str, text: Option<&str>) -> Result<Option<Regex>, ApiError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    pattern(text).map_err(|error| {
        let shown: String = text.chars().take(128).collect();
        let message = format!("{name} = {shown:?} is no regular expression: {error}");
        ApiError::new(Kind::Invalid, message)
    })
}
