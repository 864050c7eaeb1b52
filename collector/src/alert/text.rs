//! What an alert says: the sentence, the links and the line to type.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proto::window::UnixNanos;

use super::Alert;
use super::machine::Record;
use crate::time_range::{length, rfc3339};

/// Leaf functions that the sentence names.
const LEAVES: usize = 4;
/// Pods that the sentence names.
const PODS: usize = 5;

/// How bad a loop is that burns a core for nothing.
const SEVERITY: &str = "critical";

/// `record` as readers see it.
pub(super) fn view(record: &Record, public_url: &str) -> Alert {
    let evidence = &record.evidence;
    let time = |nanos: i64| rfc3339(UnixNanos::new(nanos));
    Alert {
        id: record.id.clone(),
        tenant: record.tenant.clone(),
        kind: record.kind.clone(),
        state: record.state,
        severity: SEVERITY.to_owned(),
        namespace: record.namespace.clone(),
        service: record.service.clone(),
        path: evidence.path.clone(),
        anchor: evidence.anchor.clone(),
        cores: evidence.cores,
        wait_share: evidence.wait_share,
        progress_share: evidence.progress_share,
        leaf_eff: evidence.leaf_eff,
        throttled_share: evidence.throttled_share,
        top_leaves: evidence.top_leaves.clone(),
        samples: evidence.samples,
        since: time(record.onset_ns),
        last_seen: time(record.positive_ns),
        fired_at: record.fired_ns.map(time),
        resolved_at: record.closed_ns.map(time),
        baseline_cores: record.baseline_cores,
        version: record.version.clone(),
        previous_version: record.previous_version.clone(),
        pods: evidence.pods.clone(),
        summary: summary(record),
        links: links(record, public_url),
    }
}

/// The function that the alert is about.
fn anchor(record: &Record) -> &str {
    match record.evidence.anchor.as_str() {
        "" => "[unknown]",
        anchor => anchor,
    }
}

fn summary(record: &Record) -> String {
    let evidence = &record.evidence;
    let mut text = String::new();
    let baseline = match record.baseline_cores {
        Some(cores) => format!("such a spin before: {cores:.2}"),
        None => "nothing is known from before".to_owned(),
    };
    let progress = match evidence.progress_share {
        Some(share) => format!(
            "; {:.0} % of channel operations got anything",
            share * 100.0
        ),
        None => String::new(),
    };
    let leaves: Vec<&str> = evidence
        .top_leaves
        .iter()
        .take(LEAVES)
        .map(|(function, _)| function.as_str())
        .collect();
    // Writing to a String cannot fail.
    write!(
        text,
        "{} has used {:.2} cores for {} ({baseline}). {:.0} % of it is in {}{progress}. \
         Looks like a loop that polls without waiting, such as a select with an empty default. \
         Since {}",
        anchor(record),
        evidence.cores,
        length(record.lasted()),
        evidence.wait_share * 100.0,
        match leaves.is_empty() {
            true => "functions that wait".to_owned(),
            false => leaves.join(", "),
        },
        rfc3339(UnixNanos::new(record.onset_ns)),
    )
    .unwrap_or_default();
    match (record.version.as_str(), record.previous_version.as_str()) {
        ("", _) => {}
        (version, "") => write!(text, ", version {version}").unwrap_or_default(),
        (version, before) => {
            write!(text, ", version {version} (before: {before})").unwrap_or_default();
        }
    }
    text.push('.');
    if evidence.throttled_share >= 0.01 {
        let percent = evidence.throttled_share * 100.0;
        write!(text, " Throttled {percent:.0} % of the time.").unwrap_or_default();
    }
    let named = evidence.pods.iter().take(PODS).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    match evidence.pods.len().saturating_sub(PODS) {
        _ if named.is_empty() => {}
        0 => write!(text, " Pods: {named}.").unwrap_or_default(),
        more => write!(text, " Pods: {named} and {more} more.").unwrap_or_default(),
    }
    text
}

fn links(record: &Record, public_url: &str) -> BTreeMap<String, String> {
    let service = match record.namespace.as_str() {
        "" => record.service.clone(),
        namespace => format!("{namespace}/{}", record.service),
    };
    let since = rfc3339(UnixNanos::new(record.onset_ns));
    let until = rfc3339(UnixNanos::new(record.positive_ns));
    let focus = format!("^{}$", regex::escape(anchor(record)));
    let url = |path: &str, more: &[(&str, &str)]| {
        let mut link = format!("{}{path}", public_url.trim_end_matches('/'));
        let range = [("since", since.as_str()), ("until", until.as_str())];
        for (place, (name, value)) in more.iter().chain(&range).enumerate() {
            link.push(if place == 0 { '?' } else { '&' });
            link.push_str(name);
            link.push('=');
            encode(value, &mut link);
        }
        link
    };
    let query = format!(
        "collector query --service {} --since {since} --until {until} --focus {}",
        quoted(&service),
        quoted(&focus),
    );
    BTreeMap::from([
        ("query".to_owned(), query),
        (
            "flamegraph".to_owned(),
            url("/service", &[("name", &service), ("focus", &focus)]),
        ),
        (
            "pprof".to_owned(),
            url(
                "/api/v1/profile",
                &[("service", &service), ("format", "pprof")],
            ),
        ),
    ])
}

/// Appends `value` as part of a URL's query.
fn encode(value: &str, link: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            link.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(link, "%{byte:02X}").unwrap_or_default();
        }
    }
}

/// `word` so that a shell reads it as one word, whatever is in it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_one_word_and_one_parameter() {
        for (word, shell, url) in [
            ("prod/logger", "prod/logger", "prod%2Flogger"),
            ("a b", "'a b'", "a%20b"),
            ("'; rm -rf x", r"''\''; rm -rf x'", "%27%3B%20rm%20-rf%20x"),
            ("", "''", ""),
            ("ü&=", "'ü&='", "%C3%BC%26%3D"),
        ] {
            let mut encoded = String::new();
            encode(word, &mut encoded);
            assert_eq!((quoted(word).as_str(), encoded.as_str()), (shell, url));
        }
    }
}
