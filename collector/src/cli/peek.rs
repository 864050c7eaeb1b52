//! `collector query --peek`: one function between its callers and its callees.

use std::path::Path;

use proto::pb::tepui as pb;

use super::CliError;
use super::client::Client;
use super::output::with_spinner;
use crate::render::{Format, RenderContext, Style, sandwich as render};
use crate::sandwich::SandwichAnswer;

/// The formats that it has.
const FORMATS: [Format; 2] = [Format::Tree, Format::Json];

/// The format that is meant: of the flag, else of the file's name, which may
/// also end in `.txt`.
///
/// # Errors
///
/// [`CliError::Usage`] if callers and callees are not written so.
pub(super) fn format(
    flag: Option<Format>,
    by_name: Option<Format>,
    output: Option<&Path>,
) -> Result<Format, CliError> {
    let asked = flag.or(by_name.map(|format| match format {
        Format::Top => Format::Tree,
        format => format,
    }));
    match (asked, output) {
        (Some(format), _) if FORMATS.contains(&format) => Ok(format),
        (None, None) => Ok(Format::Tree),
        (Some(format), _) => Err(CliError::Usage(format!(
            "callers and callees cannot be written as {format}; use --format tree or json with --peek"
        ))),
        (None, Some(path)) => Err(CliError::Usage(format!(
            "the name of {} does not say its format: add --format, or let it end in .txt or .json",
            path.display()
        ))),
    }
}

/// Asks for callers and callees of `function`, and returns them as text or JSON.
///
/// # Errors
///
/// [`CliError`] if the call fails or its answer is damaged.
pub(super) async fn fetch(
    client: &mut Client,
    profile: pb::ProfileRequest,
    function: String,
    format: Format,
    context: &RenderContext,
    style: &Style,
) -> Result<Vec<u8>, CliError> {
    let what = format!("get callers and callees of {function:?}");
    let request = pb::SandwichRequest {
        profile: Some(profile),
        function,
    };
    let response = with_spinner("merging profiles", client.query.sandwich(request)).await;
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let answer = SandwichAnswer::from_wire(response.into_inner())
        .map_err(|error| CliError::failed(&error))?;
    let (whole, subject, sandwich) = (&answer.whole, &answer.subject, &answer.sandwich);
    match format {
        Format::Json => {
            render::json(whole, sandwich, subject).map_err(|error| CliError::failed(&error))
        }
        _ => Ok(render::render(whole, sandwich, subject, context, style).into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_are_written() {
        let some = Some(Path::new("x"));
        for (flag, by_name, output, expected) in [
            (None, None, None, Some(Format::Tree)),
            (Some(Format::Json), None, None, Some(Format::Json)),
            (None, Some(Format::Json), some, Some(Format::Json)),
            (None, Some(Format::Top), some, Some(Format::Tree)),
            (
                Some(Format::Json),
                Some(Format::Svg),
                some,
                Some(Format::Json),
            ),
            (None, Some(Format::Svg), some, None),
            (Some(Format::Top), None, None, None),
            (None, None, some, None),
        ] {
            assert_eq!(
                format(flag, by_name, output).ok(),
                expected,
                "{flag:?} {by_name:?}"
            );
        }
    }
}
