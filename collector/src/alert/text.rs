//! What an alert says: the sentence, the links and the line to type.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proto::window::UnixNanos;

use super::machine::Record;
use super::{Alert, AlertShift, sentence};
use crate::detect::FindingKind;
use crate::detect::shift::Shift;
use crate::time_range::{length, rfc3339};
use crate::verdict::By;

/// Leaf functions that the sentence names.
const LEAVES: usize = 4;
/// Pods that the sentence names.
const PODS: usize = 5;

/// Other functions that the sentence names.
const ALSO: usize = 3;

/// `record` as readers see it.
pub(super) fn view(record: &Record, public_url: &str) -> Alert {
    let evidence = &record.evidence;
    let time = |nanos: i64| rfc3339(UnixNanos::new(nanos));
    Alert {
        id: record.id.clone(),
        tenant: record.tenant.clone(),
        kind: record.kind.clone(),
        state: record.state,
        severity: record.severity().name().to_owned(),
        namespace: record.namespace.clone(),
        service: record.service.clone(),
        path: evidence.path.clone(),
        anchor: evidence.anchor.clone(),
        cores: evidence.cores,
        title: title(record),
        wait_share: (evidence.shift.is_none() && evidence.measure.is_none())
            .then_some(evidence.wait_share),
        progress_share: evidence.progress_share,
        leaf_eff: evidence.leaf_eff,
        throttled_share: evidence.throttled_share,
        top_leaves: evidence.top_leaves.clone(),
        shift: evidence.shift.as_ref().map(shift_view),
        measure: evidence.measure.as_ref().map(sentence::view),
        samples: evidence.samples,
        since: time(record.onset_ns),
        last_seen: time(record.positive_ns),
        fired_at: record.fired_ns.map(time),
        resolved_at: record.closed_ns.map(time),
        acknowledged_at: record.acknowledged.as_ref().map(|known| time(known.at_ns)),
        note: record
            .acknowledged
            .as_ref()
            .map_or_else(String::new, |known| known.note.clone()),
        baseline_cores: record.baseline_cores,
        version: record.version.clone(),
        previous_version: record.previous_version.clone(),
        pods: evidence.pods.clone(),
        summary: summary(record),
        links: links(record, public_url),
    }
}

/// The headline.
fn title(record: &Record) -> String {
    if let Some(measure) = &record.evidence.measure {
        return sentence::title(record, measure);
    }
    let (service, function) = (&record.service, anchor(record));
    let cores = record.evidence.cores;
    let happened = match FindingKind::named(&record.kind) {
        Some(FindingKind::Regression) => "became dearer",
        Some(FindingKind::Improvement) => "became cheaper",
        Some(FindingKind::NewHotFunction) => "is new and hot",
        Some(FindingKind::Drift) => "becomes dearer from day to day",
        Some(
            FindingKind::Spin
            | FindingKind::MemoryLeak
            | FindingKind::ThreadLeak
            | FindingKind::SiblingOutlier
            | FindingKind::Silent
            | FindingKind::GcPressure,
        )
        | None => {
            return format!("{service} spins in {function}: {cores:.2} cores");
        }
    };
    format!("{function} {happened} in {service}: {cores:.2} cores")
}

/// The function that the alert is about.
fn anchor(record: &Record) -> &str {
    match record.evidence.anchor.as_str() {
        "" => "[unknown]",
        anchor => anchor,
    }
}

fn shift_view(shift: &Shift) -> AlertShift {
    let [now, before] = shift.cores;
    AlertShift {
        before: shift.before,
        after: shift.after,
        ratio: shift.ratio,
        inclusive: shift.by == By::Cum,
        cpu_hours_a_day: (now - before) * 24.0,
        also: shift.also.clone(),
    }
}

/// The sentence about a function that became dearer or cheaper.
fn shift_sentence(record: &Record, shift: &Shift) -> String {
    let view = shift_view(shift);
    let [now, before] = shift.cores;
    let calls = if view.inclusive {
        " and what it calls"
    } else {
        ""
    };
    let ratio = match view.ratio {
        Some([ratio, low, high]) => {
            format!("{ratio:.2} times as much for the same work ({low:.2} to {high:.2})")
        }
        None => "there was none of it before".to_owned(),
    };
    let mut text = format!(
        "{}{calls} takes {:.1} % of the service's CPU time, where {:.1} % were expected: {ratio}. \
         {now:.2} cores instead of {before:.2}, {:.1} CPU hours a day {}. Since {}",
        anchor(record),
        view.after * 100.0,
        view.before * 100.0,
        view.cpu_hours_a_day.abs(),
        if view.cpu_hours_a_day < 0.0 {
            "less"
        } else {
            "more"
        },
        rfc3339(UnixNanos::new(record.onset_ns)),
    );
    text.push_str(&version(record));
    text.push('.');
    if record.kind == FindingKind::Drift.name() {
        text.push_str(" It has been growing from day to day, without a step.");
    }
    let named: Vec<&str> = view.also.iter().take(ALSO).map(String::as_str).collect();
    let more = view.also.len().saturating_sub(named.len());
    match (named.is_empty(), more) {
        (true, _) => {}
        (false, 0) => text.push_str(&format!(" Changed with it: {}.", named.join(", "))),
        (false, more) => {
            text.push_str(&format!(
                " Changed with it: {} and {more} more.",
                named.join(", ")
            ));
        }
    }
    text
}

/// The version that ran when it began.
fn version(record: &Record) -> String {
    match (record.version.as_str(), record.previous_version.as_str()) {
        ("", _) => String::new(),
        (version, "") => format!(", version {version}"),
        (version, before) => format!(", version {version} (before: {before})"),
    }
}

fn summary(record: &Record) -> String {
    let evidence = &record.evidence;
    match (&evidence.shift, &evidence.measure) {
        (Some(shift), _) => shift_sentence(record, shift),
        (None, Some(measure)) => sentence::summary(record, measure, &version(record)),
        (None, None) => spin_sentence(record),
    }
}

/// The sentence about a loop that burns CPU time for nothing.
fn spin_sentence(record: &Record) -> String {
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
    text.push_str(&version(record));
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
    // What is measured is of no function.
    let focus = match record.evidence.measure {
        Some(_) => None,
        None => Some(format!("^{}$", regex::escape(anchor(record)))),
    };
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
    let mut query = format!(
        "collector query --service {} --since {since} --until {until}",
        quoted(&service),
    );
    let mut page = vec![("name", service.as_str())];
    if let Some(focus) = &focus {
        query.push_str(&format!(" --focus {}", quoted(focus)));
        page.push(("focus", focus));
    }
    let mut links = BTreeMap::new();
    if record.evidence.shift.is_some() {
        let of = [
            ("service", service.as_str()),
            ("before", "24h"),
            ("format", "svg"),
        ];
        links.insert("diff".to_owned(), url("/api/v1/diff", &of));
    }
    links.extend([
        ("query".to_owned(), query),
        ("flamegraph".to_owned(), url("/service", &page)),
        (
            "pprof".to_owned(),
            url(
                "/api/v1/profile",
                &[("service", &service), ("format", "pprof")],
            ),
        ),
    ]);
    links
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
