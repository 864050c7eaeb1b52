//! Which receivers are told of which alerts.

use regex::Regex;

use super::notice::Notice;
use crate::config::MatchConfig;

/// The labels that are looked at.
const LABELS: [&str; 4] = ["service", "namespace", "kind", "severity"];

/// What an alert must be for a receiver to be told of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    /// Per label of [`LABELS`] what its whole value must be like; `None`: anything.
    patterns: [Option<Regex>; LABELS.len()],
}

/// An expression that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("match.{label} cannot be used: {pattern:?} is no regular expression")]
pub(super) struct RouteError {
    label: &'static str,
    pattern: String,
    #[source]
    source: regex::Error,
}

impl Route {
    /// # Errors
    ///
    /// [`RouteError`] if an expression cannot be read.
    pub(super) fn new(config: &MatchConfig) -> Result<Self, RouteError> {
        let mut route = Self::default();
        let lists = [
            &config.service,
            &config.namespace,
            &config.kind,
            &config.severity,
        ];
        for ((label, list), pattern) in LABELS.into_iter().zip(lists).zip(&mut route.patterns) {
            let Some(list) = list else { continue };
            let read = |text: &str| {
                Regex::new(text).map_err(|source| RouteError {
                    label,
                    pattern: text.to_owned(),
                    source,
                })
            };
            // Each by itself, so that none reaches beyond its own parentheses.
            list.iter().try_for_each(|text| read(text).map(drop))?;
            let list: Vec<String> = list.iter().map(|text| format!("(?:{text})")).collect();
            *pattern = Some(read(&format!("^(?:{})$", list.join("|")))?);
        }
        Ok(route)
    }

    /// Whether `notice` goes this way.
    pub(super) fn admits(&self, notice: &Notice) -> bool {
        let mut looked_at = LABELS.iter().zip(&self.patterns);
        looked_at.all(|(label, pattern)| {
            let value = notice.label(label);
            pattern.as_ref().is_none_or(|regex| regex.is_match(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::tests::notice;

    #[test]
    fn each_list_that_is_given_must_have_the_whole_value() {
        let list = |texts: &[&str]| Some(texts.iter().map(|t| (*t).to_owned()).collect());
        // The alert: service logger, namespace prod, kind spin, severity critical.
        for (service, namespace, kind, severity, expected) in [
            (None, None, None, None, true),
            (list(&["logger"]), None, None, None, true),
            (list(&["log"]), None, None, None, false),
            (list(&["log.*"]), None, None, None, true),
            (list(&["pay", "logger"]), None, None, None, true),
            (list(&["pay|logger"]), None, None, None, true),
            (list(&[]), None, None, None, false),
            (
                None,
                list(&["prod"]),
                list(&["spin"]),
                list(&["critical"]),
                true,
            ),
            (
                None,
                list(&["prod"]),
                list(&["leak"]),
                list(&["critical"]),
                false,
            ),
            (None, list(&[""]), None, None, false),
            (None, None, None, list(&["warning", "info"]), false),
        ] {
            let config = MatchConfig {
                service,
                namespace,
                kind,
                severity,
            };
            let route = Route::new(&config).unwrap();
            assert_eq!(route.admits(&notice("00ff", false)), expected, "{config:?}");
        }
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_named() {
        for text in ["(", "a)|(b", "["] {
            let config = MatchConfig {
                service: Some(vec![text.to_owned()]),
                ..MatchConfig::default()
            };
            let error = Route::new(&config).unwrap_err().to_string();
            assert!(error.starts_with("match.service"), "{error}");
        }
    }
}
